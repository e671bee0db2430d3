"""A finite world in which every optimum is known, learnt through the loop, losses and labels of the language models.

With h = beta rho, soft labels p and pairs iid from mu, the loss (h1 - h2 - 1/2)^2 under its label has the mean
E[(h1 - h2 - (p(y1 > y2) - 1/2))^2] + constant, whose minimum is h(y) = p(y > mu) + constant. So offline IPO ends
at pi = ref exp(p(y > mu) / beta) / Z, and online IPO, whose pairs are from pi itself, where
pi = ref exp(p(y > pi) / beta) / Z: the Nash equilibrium of p(pi > pi') - beta KL(pi || ref) + beta KL(pi' || ref).
"""

from collections import deque
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from torch import nn
from transformers import LlamaConfig
from transformers.modeling_outputs import CausalLMOutput

from goodhart.alignment.batch import Batch
from goodhart.alignment.labellers import DataLabels, JudgeLabels
from goodhart.alignment.policy import LanguagePolicy
from goodhart.alignment.sources import DataSource, DelayedSource, PolicySource
from goodhart.randomness import stream, uniforms
from goodhart.sampling.keyed import KeyedSampler, inverse_cdf
from goodhart.training.alignment import train
from goodhart.training.optimiser import Descent
from goodhart.training.settings import Optimisation
from tiny_models import PAD, prompt
from tiny_pairs import objective


class Table:
    """A policy over one-token responses, the same for every prompt."""

    name = ""

    def __init__(self, law):
        self.logits = nn.Parameter(torch.tensor(np.log(law), dtype=torch.float64))

    @property
    def law(self):
        return self.logits.detach().softmax(0).numpy()

    def parameters(self):
        return iter([self.logits])

    def log_probs(self, prompts, responses):
        return self.logits.log_softmax(0)[torch.tensor([[r[0] for r in row] for row in responses])]

    def frozen(self):
        return Table(self.law)

    def sample(self, prompts, samples, *, seed, purpose, first_sample):
        ids = np.repeat([p.number for p in prompts], samples)
        numbers = (np.array(first_sample)[:, None] + np.arange(samples)).flatten()
        u = torch.from_numpy(uniforms(seed, purpose, ids, numbers, 1)[:, 0])
        tokens = inverse_cdf(self.logits.detach().expand(len(u), -1), u).view(len(prompts), samples)
        return [[[token] for token in row] for row in tokens.tolist()]


class TableModel(nn.Module):
    """The same as a causal language model: every next token has one law, whatever stands before it."""

    def __init__(self, law):
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(np.log(law), dtype=torch.float32))
        self.config = LlamaConfig(num_hidden_layers=1)

    @property
    def law(self):
        return self.logits.detach().softmax(0).numpy()

    def get_input_embeddings(self):
        return nn.Embedding(len(self.logits), 1)

    def forward(self, input_ids, logits_to_keep=0, **_):
        rows, columns = input_ids.shape
        return CausalLMOutput(logits=self.logits.expand(rows, logits_to_keep or columns, -1))


class TableJudge:
    """p(y1 > y2) by a table."""

    def __init__(self, table):
        self.table = table

    def prefer(self, pairs):
        first, second = ([r[0] for r in side] for side in (pairs.first, pairs.second))
        return np.stack([self.table[first, second], self.table[second, first]], axis=1)


def preferences(size, seed):
    """A table with p(a > b) + p(b > a) = 1 that no score explains."""
    upper = np.triu(np.random.default_rng(seed).uniform(size=(size, size)), 1)
    return upper + np.tril(1 - upper.T, -1) + np.eye(size) / 2


def tilted(ref, advantage, beta):
    """ref exp(advantage / beta) / Z."""
    weight = np.log(ref) + advantage / beta
    return np.exp(weight - np.logaddexp.reduce(weight))


def equilibrium(ref, table, beta):
    """The fixed point of pi = tilted(ref, p(y > pi), beta), by damped iteration."""
    law = ref.copy()
    for _ in range(200_000):
        following = tilted(ref, table @ law, beta)
        if np.abs(following - law).max() < 1e-12:
            return law
        law = law**0.98 * following**0.02
        law /= law.sum()
    raise AssertionError("no equilibrium was found")


def distance(first, second):
    """Total variation."""
    return float(np.abs(first - second).sum() / 2)


def every_pair(counts):
    """All ordered pairs of a population in which response i stands counts[i] times: pairs iid from mu, exactly."""
    population = np.repeat(np.arange(len(counts)), counts).tolist()
    both = [(a, b) for a in population for b in population]
    return Batch.of_pairs([prompt(i, 0) for i in range(len(both))], [[a] for a, _ in both], [[b] for _, b in both])


def descend(policy, ref, source, labeller, *, beta, loss="ipo", steps=120, lr=0.1, momentum=0.9):
    settings = Optimisation(lr=lr, warmup=1, decay="linear", clip=10.0, beta1=momentum)
    descent = Descent(policy.parameters(), settings, steps)
    return deque(train(policy, ref, source, labeller, descent, objective(loss, beta=beta), steps=steps), maxlen=1)[0]


REF = np.array([0.3, 0.1, 0.2, 0.15, 0.05, 0.2])
COUNTS = [1, 2, 1, 1, 2, 1]
MU = np.array(COUNTS) / sum(COUNTS)
TABLE = preferences(6, seed=16)
BETA = 0.25


def offline(table, *, beta=BETA, counts=COUNTS, mode="soft", start=REF, ref=REF, **how):
    policy, data = Table(start), every_pair(counts)
    last = descend(
        policy, Table(ref), DataSource(data, len(data), 0), JudgeLabels(TableJudge(table), mode, 0), beta=beta, **how
    )
    return policy.law, last


@cache
def plainly_offline():
    return offline(TABLE, steps=250)


def online(table, *, beta=BETA, start=REF, ref=REF, mode="soft", batch=128, steps=100, refresh=1, loss="ipo"):
    policy = Table(start)
    source = DelayedSource(PolicySource([prompt(i, 0) for i in range(batch)], batch, 0), refresh)
    labeller = JudgeLabels(TableJudge(table), mode, 0)
    descend(policy, Table(ref), source, labeller, beta=beta, loss=loss, steps=steps, momentum=0.0)
    return policy.law


def test_offline_ipo_ends_at_the_reference_tilted_by_the_preference_over_the_data():
    law, last = plainly_offline()
    optimum = tilted(REF, TABLE @ MU, BETA)
    np.testing.assert_allclose(law, optimum, atol=1e-5)
    assert distance(optimum, REF) > 0.2
    h = TABLE @ MU
    gap = (h[:, None] - h[None, :] - (TABLE - 0.5)) ** 2 + TABLE * (1 - TABLE)
    assert last.loss == pytest.approx(MU @ gap @ MU, rel=1e-6)
    assert last.gradient_norm < 1e-4


@pytest.mark.parametrize("wrong", [BETA / 2, BETA * 2])
def test_the_constant_in_front_of_beta_is_seen(wrong):
    assert distance(plainly_offline()[0], tilted(REF, TABLE @ MU, wrong)) > 0.1


def test_the_law_of_the_data_matters_offline():
    law, _ = offline(TABLE, counts=[4, 1, 1, 1, 1, 1])
    np.testing.assert_allclose(law, tilted(REF, TABLE @ np.array([4, 1, 1, 1, 1, 1]) / 9, BETA), atol=1e-3)
    assert distance(law, tilted(REF, TABLE @ MU, BETA)) > 0.05


def test_coins_with_the_preference_as_their_bias_have_the_same_optimum():
    law, _ = offline(TABLE, mode="bernoulli", counts=[2 * c for c in COUNTS], momentum=0.0, beta=0.5)
    assert distance(law, tilted(REF, TABLE @ MU, 0.5)) < 0.02
    assert distance(law, REF) > 0.1


def test_hard_labels_have_the_optimum_of_the_sign():
    law, _ = offline(TABLE, mode="hard")
    np.testing.assert_allclose(law, tilted(REF, (np.sign(TABLE - 0.5) + 1) / 2 @ MU, BETA), atol=1e-3)


def test_labels_of_the_data_set_do_what_a_judge_does():
    data = every_pair(COUNTS)
    label = np.array([TABLE[a[0], b[0]] for a, b in data.responses])
    policy = Table(REF)
    descend(policy, Table(REF), DataSource(data.labelled(label), len(data), 0), DataLabels(), beta=BETA, steps=40)
    np.testing.assert_allclose(policy.law, offline(TABLE, steps=40)[0], atol=1e-9)


def test_dpo_on_bradley_terry_preferences_ends_at_the_reference_tilted_by_the_reward():
    reward = np.array([0.0, 1.0, -0.5, 0.3, 2.0, -1.0])
    table = 1 / (1 + np.exp(reward[None, :] - reward[:, None]))
    law, _ = offline(table, beta=0.5, loss="dpo", steps=150)
    np.testing.assert_allclose(law, tilted(REF, reward, 0.5), atol=3e-3)


def test_a_language_model_descends_as_the_table_does():
    """The same run through LanguagePolicy, its masked log-probabilities and float32."""
    model = TableModel(REF)
    policy = LanguagePolicy.of(model, KeyedSampler(99, PAD, 1), PAD)
    data = every_pair(COUNTS)
    source, labeller = DataSource(data, len(data), 0), JudgeLabels(TableJudge(TABLE), "soft", 0)
    reference = LanguagePolicy.of(TableModel(REF), KeyedSampler(99, PAD, 1), PAD)
    descend(policy, reference, source, labeller, beta=BETA, steps=100)
    np.testing.assert_allclose(model.law, offline(TABLE, steps=100)[0], atol=1e-4)
    np.testing.assert_allclose(model.law, tilted(REF, TABLE @ MU, BETA), atol=3e-3)


def test_online_ipo_ends_at_the_regularised_nash_equilibrium():
    nash = equilibrium(REF, TABLE, BETA)
    law = online(TABLE)
    assert distance(law, nash) < 0.02
    assert distance(nash, REF) > 0.2
    assert distance(nash, tilted(REF, TABLE @ MU, BETA)) > 0.2  # where the offline arm ends
    assert distance(nash, tilted(REF, TABLE @ REF, BETA)) > 0.06  # where one on samples of the reference would end
    best = BETA * np.log((REF * np.exp(TABLE @ law / BETA)).sum())
    payoff = 0.5 - BETA * float((law * np.log(law / REF)).sum())
    assert 0 <= best - payoff < 1e-3  # nats by which the best response would gain


def test_a_policy_that_never_samples_itself_ends_where_offline_data_of_the_reference_would():
    stale = online(TABLE, refresh=0)
    assert distance(stale, tilted(REF, TABLE @ REF, BETA)) < 0.03
    assert distance(stale, equilibrium(REF, TABLE, BETA)) > 0.05


def test_a_delay_of_a_few_steps_has_the_same_end():
    assert distance(online(TABLE, refresh=5), equilibrium(REF, TABLE, BETA)) < 0.03


def test_online_coins_end_there_too():
    assert distance(online(TABLE, mode="bernoulli", beta=0.5), equilibrium(REF, TABLE, 0.5)) < 0.03


def test_a_language_model_finds_the_equilibrium_with_its_own_samples():
    model, reference = TableModel(REF), TableModel(REF)
    policy, fixed = (LanguagePolicy.of(m, KeyedSampler(99, PAD, 1), PAD) for m in (model, reference))
    source = PolicySource([prompt(i, 0) for i in range(64)], 64, 0)
    descend(policy, fixed, source, JudgeLabels(TableJudge(TABLE), "soft", 0), beta=BETA, steps=80, momentum=0.0)
    assert distance(model.law, equilibrium(REF, TABLE, BETA)) < 0.05


@pytest.mark.parametrize("run", [lambda *a, **k: offline(*a, **k)[0], online], ids=["offline", "online"])
def test_where_nothing_is_preferred_the_policy_returns_to_the_reference(run):
    start = REF[::-1].copy()
    assert distance(start, REF) > 0.1
    assert distance(run(np.full((6, 6), 0.5), start=start), REF) < 1e-3


def test_a_symmetric_cycle_settles_at_the_uniform_law():
    cycle = np.array([[0.5, 0.9, 0.1], [0.1, 0.5, 0.9], [0.9, 0.1, 0.5]])
    law = online(cycle, start=np.array([0.7, 0.2, 0.1]), ref=np.full(3, 1 / 3))
    assert distance(law, np.full(3, 1 / 3)) < 0.02


def test_online_finds_the_condorcet_winner_and_offline_the_borda_winner():
    """Response 0 beats each other one narrowly; response 1 beats the average most clearly."""
    table = np.array([[0.5, 0.6, 0.6], [0.4, 0.5, 1.0], [0.4, 0.0, 0.5]])
    uniform, beta = np.full(3, 1 / 3), 0.05
    sampled = online(table, beta=beta, start=uniform, ref=uniform, steps=120)
    fixed, _ = offline(table, beta=beta, start=uniform, ref=uniform, counts=[2, 2, 2])
    assert int(np.argmax(sampled)) == 0
    assert int(np.argmax(fixed)) == 1
    assert distance(sampled, equilibrium(uniform, table, beta)) < 0.03
    np.testing.assert_allclose(fixed, tilted(uniform, table @ uniform, beta), atol=5e-3)


def test_the_equilibrium_is_one():
    """The oracle itself: no deviation drawn at random gains on it."""
    nash = equilibrium(REF, TABLE, BETA)
    draw = stream(0, "deviations")
    for _ in range(200):
        other = draw.dirichlet(np.ones(6) * 3)
        gain = other @ TABLE @ nash - BETA * (other * np.log(other / REF)).sum()
        assert gain <= 0.5 - BETA * (nash * np.log(nash / REF)).sum()


def test_offline_best_of_2_ends_at_the_law_of_the_winners_whatever_the_reference():
    """The winner of two draws from mu has the law 2 mu(y) p(y > mu), a tie or soft label counting its share of each."""
    winners = 2 * MU * (TABLE @ MU)
    assert winners.sum() == pytest.approx(1)
    for ref in (REF, REF[::-1].copy()):
        law, last = offline(TABLE, loss="best-of-2", beta=None, ref=ref, steps=150)
        np.testing.assert_allclose(law, winners, atol=2e-3)
        assert last.loss == pytest.approx(-float(winners @ np.log(winners / ref)), abs=1e-3)
    assert distance(winners, tilted(REF, TABLE @ MU, BETA)) > 0.1


def test_online_best_of_2_drives_all_probability_to_the_condorcet_winner():
    """Its mean step raises y by pi(y) (2 p(y > pi) - 1): only where nothing beats the policy does it rest."""
    reward = np.array([0.0, 1.0, -0.5, 0.3, 2.5, -1.0])
    table = 1 / (1 + np.exp(reward[None, :] - reward[:, None]))
    short, long = (online(table, loss="best-of-2", beta=None, steps=steps) for steps in (10, 100))
    before, early, late = (float(law @ table @ REF) for law in (REF, short, long))
    assert before == pytest.approx(0.5)
    assert before + 0.05 < early < late
    assert REF[4] == REF.min()
    assert long[4] > 0.9


@pytest.mark.parametrize("start", [REF, MU], ids=["reference", "writer"])
def test_the_drift_of_offline_data_is_their_divergence_from_the_policy(start):
    """Mean of log pi(y) - log mu(y) over y from mu: -KL(mu || pi)."""
    data = every_pair(COUNTS)
    data = replace(data, writer=np.log(MU)[np.array(data.responses)[:, :, 0]])
    policy = Table(start)
    labeller = JudgeLabels(TableJudge(TABLE), "soft", 0)
    step = descend(policy, Table(REF), DataSource(data, len(data), 0), labeller, beta=BETA, steps=1)
    ratio = np.log(start / MU)
    assert step.drift == pytest.approx(MU @ ratio, abs=1e-12)
    assert step.drift_spread == pytest.approx(np.sqrt(MU @ (ratio - MU @ ratio) ** 2), abs=1e-7)
    assert (abs(step.drift) > 0.1) == (start is REF)


def test_draws_for_prompts_that_are_distinct_are_the_recorded_ones():
    """An epoch ends within the second step and within the third; numbers that were drawn once are drawn for ever."""
    source, policy = PolicySource([prompt(i, 2, 3 + i) for i in range(4)], 3, 5), Table(np.array([0.1, 0.2, 0.3, 0.4]))
    drawn = [source.draw(step, policy) for step in range(3)]
    assert [[p.number for p in pairs.prompts] for pairs in drawn] == [[3, 2, 1], [0, 3, 1], [2, 0, 0]]
    assert [pairs.responses for pairs in drawn] == [
        [([1], [1]), ([3], [2]), ([0], [1])],
        [([3], [3]), ([2], [3]), ([3], [2])],
        [([3], [3]), ([1], [1]), ([3], [1])],
    ]
