"""One step of the alignment loop on given log-probabilities: what it reports, by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from goodhart.alignment.batch import Batch
from goodhart.alignment.labellers import DataLabels
from goodhart.alignment.sources import DataSource
from goodhart.alignment.terms import Extra, log_ratio
from goodhart.training.alignment import train
from goodhart.training.optimiser import Descent
from goodhart.training.settings import Optimisation
from tiny_models import llama, policy_of, prompt
from tiny_pairs import DATA, objective

POLICY = [[-1.0, -3.0], [-2.0, -3.0], [-6.0, -3.0], [-9.0, -5.0]]
REFERENCE = [[-2.0, -2.0], [-4.0, -4.0], [-5.0, -5.0], [-6.0, -6.0]]
"""Log-ratios (1, -1), (2, 1), (-1, 2) and (-3, 1): margins of 2, 1, -3 and -4."""
LABEL = [1.0, 0.0, 0.5, 0.75]
WRITER = [[-1.5, -3.0], [np.nan, np.nan], [-6.0, -4.0], [-9.0, -5.0]]


class Scores:
    """Fixed log-probabilities, found by the first token of the prompt, and one parameter that adds to the first."""

    name = ""

    def __init__(self, table):
        self.table = torch.tensor(table)
        self.shift = torch.nn.Parameter(torch.zeros(1))

    def parameters(self):
        return iter([self.shift])

    def log_probs(self, prompts, responses):
        shown = self.table[torch.tensor([p[0] for p in prompts])]
        return shown + torch.cat([self.shift, torch.zeros(1)])

    def sample(self, prompts, samples, *, seed, purpose, first_sample=0):
        raise AssertionError("a data set asks no policy")

    def frozen(self):
        return self


def one_step(label=LABEL, writer=WRITER, micro_batch=0, loss="ipo", beta=0.5):
    policy, number = Scores(POLICY), len(label)
    prompts = [prompt(i, i) for i in range(number)]
    first, second = [[7, 1]] * number, [[7, 7, 7, 1]] * number
    own = None if writer is None else np.array(writer)[:number]
    data = Batch.of_pairs(prompts, first, second, np.array(label), writer=own)
    descent = Descent(policy.parameters(), Optimisation(lr=0.1, warmup=0, micro_batch=micro_batch, clip=99.0), 1)
    source = DataSource(data, number, 0)
    (step,) = train(policy, Scores(REFERENCE), source, DataLabels(), descent, objective(loss, beta=beta), steps=1)
    return policy, step


@pytest.mark.parametrize("micro_batch", [0, 1, 3])
def test_what_a_step_reports(micro_batch):
    _, step = one_step(micro_batch=micro_batch)
    assert step.step == 1
    assert step.margin == pytest.approx((2 - 1 - 4) / 3), "the tie is left out"
    assert step.accuracy == pytest.approx((1 + 0 + 0.5 + 0) / 4), "the tie is one half"
    assert step.tokens == 3.0
    # policy less writer: 0.5, 0, the policy's own twice, 0, 1, 0, 0
    assert step.drift == pytest.approx(1.5 / 8)
    assert step.drift_spread == pytest.approx((1.25 / 8 - (1.5 / 8) ** 2) ** 0.5)
    # z = 1, 0.5, -1.5, -2: p (z - 0.5)^2 + (1 - p) (-z - 0.5)^2
    values = [0.25, 1.0, (4 + 1) / 2, 0.75 * 6.25 + 0.25 * 2.25]
    assert step.loss == pytest.approx(sum(values) / 4)
    # slopes 2 beta (z - (p - 0.5)) of the first log-probabilities, over 4 pairs
    assert step.gradient_norm == pytest.approx(abs((0.5 + 1.0 - 1.5 - 2.25) / 4))


def test_a_step_hands_on_its_pairs_with_all_that_is_known_of_them():
    _, step = one_step()
    order = [p.tokens[0] for p in step.batch.prompts]
    assert sorted(order) == [0, 1, 2, 3]
    np.testing.assert_allclose(step.batch.reference, np.array(REFERENCE)[order])
    expected = np.array([WRITER[0], POLICY[1], WRITER[2], WRITER[3]])[order]
    np.testing.assert_allclose(step.batch.writer, expected)
    assert step.batch.label.tolist() == [LABEL[i] for i in order]


def test_the_parameters_move_against_the_slope():
    policy, _ = one_step()
    assert policy.shift.item() == pytest.approx(0.1, rel=1e-3), "the slope is below 0"


def test_ties_alone_have_no_margin_and_an_accuracy_of_one_half():
    _, step = one_step(label=[0.5, 0.5], writer=None)
    assert (step.margin, step.accuracy) == (0.0, 0.5)
    assert (step.drift, step.drift_spread) == (0.0, 0.0)


class Noting:
    """A learner that keeps what it is given."""

    def __init__(self):
        self.given = []

    def statistics(self, facts):
        return {}

    def learn(self, facts, logp, step):
        self.given.append((facts, logp, step))


def rewarded(writer=WRITER):
    prompts = [prompt(i, i) for i in range(4)]
    own = None if writer is None else np.array(writer)
    reward = np.array([[1.0, 0.0], [2.0, 2.0], [0.0, 3.0], [1.0, 1.0]])
    return Batch(prompts, [[[7, 1], [7, 7, 7, 1]]] * 4, reward=reward, writer=own)


class Given:
    """The same batch at every step, with its supervision."""

    def __init__(self, batch):
        self.batch = batch

    def draw(self, step, policy):
        return self.batch

    def label(self, batch, step):
        return batch


def steps_on(batch, objective_, steps=1, epochs=1):
    policy = Scores(POLICY)
    descent = Descent(policy.parameters(), Optimisation(lr=0.1, warmup=0, clip=99.0), steps)
    given = Given(batch)
    objective_ = replace(objective_, epochs=epochs)
    return policy, list(train(policy, Scores(REFERENCE), given, given, descent, objective_, steps=steps))


def test_a_step_on_rewards_says_their_mean_and_no_accuracy():
    _, (step,) = steps_on(rewarded(), objective("rloo", kl=0.0, clip=0.2))
    assert step.reward == pytest.approx(10.0 / 8)
    assert step.margin is None
    assert step.accuracy is None
    assert "accuracy" not in step.plain()


def test_ratios_are_to_who_wrote():
    """Advantages +-1, 0, -+3, 0 and log-ratios (.5, 0), none, (0, 1), none: of c A the worse of clipped and not."""
    _, (step,) = steps_on(rewarded(), objective("rloo", kl=0.0, clip=0.2))
    first = -(min(np.exp(0.5), 1.2) * 1 + 1 * -1) / 2
    third = -(1 * -3 + min(np.exp(1.0), 1.2) * 3) / 2
    assert step.loss == pytest.approx((first + third) / 4)


def test_with_several_epochs_ratios_are_to_the_policy_before_the_first():
    """Without a known writer the second epoch's ratio is exp(shift), whatever the shift's sign not 1."""
    policy, (step,) = steps_on(rewarded(writer=None), objective("rloo", kl=0.0, clip=0.2), epochs=2)
    assert float(policy.shift.detach()) != 0
    once, _ = steps_on(rewarded(writer=None), objective("rloo", kl=0.0, clip=0.2))
    c = float(np.exp(once.shift.detach()))
    values = [-(min(c * a, float(np.clip(c, 0.8, 1.2)) * a) - a) / 2 for a in (1, 0, -3, 0)]
    assert step.loss == pytest.approx(np.mean(values), abs=1e-7)


def test_a_learner_has_the_facts_the_log_probabilities_before_the_step_and_its_number():
    learner = Noting()
    _, steps = steps_on(rewarded(), replace(objective("rloo", kl=0.0, clip=0.2), learner=learner), steps=2)
    assert [step for _, _, step in learner.given] == [0, 1]
    facts, logp, _ = learner.given[0]
    assert facts.batch is steps[0].batch or facts.batch.reward is steps[0].batch.reward
    np.testing.assert_allclose(logp, POLICY)
    np.testing.assert_allclose(facts.known, REFERENCE)


@pytest.mark.parametrize("loss", ["grpo", "ppo"])
def test_tokens_of_a_micro_batch_are_the_batchs_own(loss):
    """Responses of different lengths stand in tables of different widths."""
    found = []
    for micro_batch in (0, 1, 2):
        model = llama(seed=4)
        policy = policy_of(model)
        drawn = replace(DATA, label=None, reward=np.arange(10, dtype=np.float64).reshape(5, 2) ** 1.5)
        parameters = {"kl": 0.1, "clip": 0.2}
        extra = {"learner": Advantages()} if loss == "ppo" else {}
        objective_ = replace(objective(loss, **parameters), tokenwise=True, **extra)
        settings = Optimisation(lr=0.0, warmup=0, clip=1e9, micro_batch=micro_batch)
        given = Given(drawn)
        reference = policy_of(llama(seed=5))
        descent = Descent(policy.parameters(), settings, 1)
        (step,) = train(policy, reference, given, given, descent, objective_, steps=1)
        found.append((step.loss, step.gradient_norm))
    np.testing.assert_allclose(found, [found[0]] * 3, rtol=1e-4)


class Advantages(Noting):
    """One for each token that differs from its neighbours."""

    def statistics(self, facts):
        width = facts.before.shape[2]
        return {"advantage": np.tile(np.arange(width, dtype=np.float64), (*facts.before.shape[:2], 1))}


class Written:
    """A law of two prompts with a response each, whatever the step."""

    def __init__(self):
        self.asked = []

    def draw(self, now):
        self.asked.append((now.step, len(now.batch)))
        return Batch([prompt(0, 0), prompt(2, 2)], [[[7, 1], [7, 1]]] * 2)


@pytest.mark.parametrize("micro_batch", [0, 1])
def test_an_extra_term_is_its_coefficient_times_its_mean_and_its_gradient(micro_batch):
    """rho of the first responses is 1 and -1 and of the second -1 and 2, means 0 and .5; only the first has a slope."""
    law, loss = Written(), objective("rloo", kl=0.0, clip=0.2)
    found = {}
    for coefficient in (0.0, 3.0, -2.0):
        policy = Scores(POLICY)
        extra = Extra(coefficient, law, log_ratio)
        settings = Optimisation(lr=0.1, warmup=0, clip=99.0, micro_batch=micro_batch)
        given = Given(rewarded())
        both = replace(loss, extras=[extra])
        descent = Descent(policy.parameters(), settings, 1)
        kept = []
        descent.step = lambda step, value, kept=kept, descent=descent: (
            kept.append(float(descent.parameters[0].grad)) or Descent.step(descent, step, value)
        )
        (step,) = train(policy, Scores(REFERENCE), given, given, descent, both, steps=1)
        found[coefficient] = (step.loss, kept[0])
    (loss_0, slope_0), *others = (found[c] for c in (0.0, 3.0, -2.0))
    for coefficient, (value, slope) in zip((3.0, -2.0), others, strict=True):
        assert value - loss_0 == pytest.approx(coefficient * 0.25)
        assert slope - slope_0 == pytest.approx(coefficient * 0.5)
    assert law.asked == [(0, 4), (0, 4)], "a coefficient of 0 draws nothing"
