"""What a method is known for, and what it is compared with lacks: by enumeration, through the loop of every method."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import binom

from goodhart.alignment.batch import Batch
from goodhart.alignment.enumeration import in_expectation
from goodhart.alignment.methods import METHODS
from goodhart.alignment.optimum import best_of, tilted
from goodhart.alignment.references import NoReference
from goodhart.alignment.scores import Scores
from goodhart.alignment.sources import PolicySource
from goodhart.alignment.table_policy import TablePolicy
from goodhart.alignment.terms import log_ratio
from goodhart.recipes.arm import Arm
from goodhart.recipes.parts import objective_of
from goodhart.recipes.tabular_parts import Given, every_pair, parts_of
from goodhart.tasks.tables import Tables
from goodhart.training.alignment import train
from goodhart.training.optimiser import Descent
from goodhart.training.settings import Optimisation
from tiny_models import END, gradients, llama, naive_logp, policy_of, prompt

REWARD = np.array([[1.2, -0.5, 0.4, -1.1], [0.1, 0.9, -0.7, -0.3]])
UNIFORM = np.full(REWARD.shape, 0.25)
REF = np.array([[0.1, 0.4, 0.2, 0.3], [0.3, 0.3, 0.3, 0.1]])
laws = arrays(np.float64, (2, 4), elements=st.floats(-2, 2)).map(lambda h: tilted(UNIFORM, h, 1.0))
betas = st.floats(0.05, 3)


def world(reference, reward=REWARD):
    """Preferences that the rewards explain."""
    wins = 1 / (1 + np.exp(reward[:, None, :] - reward[:, :, None]))
    return Tables(("a", "b"), ("0", "1", "2", "3"), reference, wins, reward)


def arm(name, beta=None, *, steps=1, lr=0.1, **parameters):
    method = METHODS[name].method
    method = replace(method, parameters={**method.parameters, **parameters}, mode="soft")
    still = Optimisation(lr=lr, warmup=1, decay="linear", clip=1e9, beta1=0.0)
    return Arm(method, beta=() if beta is None else (beta,), lr=(lr,), steps=steps, optimisation=still)


def parts_at(one, reference, law):
    """The parts of an arm in a world, and the policy at a law."""
    given_ = Given(world(reference), every_pair(world(reference)), True, 0)
    policy = TablePolicy.of(law)
    return parts_of(one, given_, policy), policy


def gradient(name, law, *, reference=REF, beta=None, **parameters):
    """The mean step's gradient by the logits at a law, by enumeration."""
    parts, policy = parts_at(arm(name, beta, **parameters), reference, law)
    kept = []

    class Keeping(Descent):
        def step(self, step, loss):
            kept.append(policy.logits.grad.clone().numpy())
            return super().step(step, loss)

    descent = Keeping(policy.parameters(), Optimisation(lr=1e-9, warmup=1, clip=1e9), 1)
    list(train(policy, parts.reference, parts.source, parts.labeller, descent, parts.objective, steps=1))
    return kept[0] * len(REWARD)


def ends_at(name, *, reference, beta, start, steps=250, lr=0.15, **parameters):
    """The law after many mean steps."""
    one = arm(name, beta, steps=steps, lr=lr, **parameters)
    parts, policy = parts_at(one, reference, start)
    descent = Descent(policy.parameters(), one.optimisation, steps)
    list(train(policy, parts.reference, parts.source, parts.labeller, descent, parts.objective, steps=steps))
    return policy.law


def numeric(function, law):
    """The gradient of a function of laws by their logits, by central differences."""
    logits, found = np.log(law), np.zeros_like(law)
    for place in np.ndindex(law.shape):
        for sign in (1, -1):
            moved = logits.copy()
            moved[place] += sign * 1e-5
            found[place] += sign * function(tilted(UNIFORM, moved, 1.0)) / 2e-5
    return found


def divergence(law, reference):
    """KL(law || reference), summed over prompts."""
    return float((law * np.log(law / reference)).sum())


class TestReferenceThatIsOptimalAlready:
    """TYPO's property: a reference with the Bradley-Terry-optimal law stays where it is, whatever the weight."""

    OPTIMAL = tilted(UNIFORM, REWARD, 1.0)

    @given(st.floats(0, 10))
    def test_typo_stays(self, pull):
        found = gradient("typo", self.OPTIMAL, reference=self.OPTIMAL, beta=1.0, pull=pull)
        np.testing.assert_allclose(found, 0, atol=1e-12)

    @pytest.mark.parametrize("beta", [0.1, 1.0, 10.0])
    def test_dpo_leaves(self, beta):
        assert np.abs(gradient("dpo", self.OPTIMAL, reference=self.OPTIMAL, beta=beta)).max() > 1e-3
        law = ends_at("dpo", reference=self.OPTIMAL, beta=max(beta, 0.5), start=self.OPTIMAL)
        assert np.abs(law - self.OPTIMAL).max() > 0.02

    def test_typo_goes_from_the_rewards_law_to_the_reference_as_its_weight_grows(self):
        near, far = (ends_at("typo", reference=REF, beta=1.0, start=REF, pull=p) for p in (0.0, 50.0))
        np.testing.assert_allclose(near, self.OPTIMAL, atol=1e-3)
        np.testing.assert_allclose(far, REF, atol=0.01)
        between = ends_at("typo", reference=REF, beta=1.0, start=REF, pull=0.2)
        assert 0 < divergence(between, REF) < divergence(near, REF)


class TestScoreFunctions:
    """A sampled gradient whose mean over all responses is that of what it is said to descend on."""

    @given(laws, st.floats(0.01, 2))
    def test_the_mean_gradient_of_hypo_is_dpos_and_that_of_the_divergence(self, law, pull):
        added = gradient("hypo", law, beta=0.3, pull=pull) - gradient("dpo", law, beta=0.3)
        slope = numeric(lambda moved: divergence(moved, REF), law)
        np.testing.assert_allclose(added, pull * slope, atol=1e-6)

    def test_without_its_pull_hypo_is_dpo_bit_for_bit(self):
        law = tilted(REF, REWARD, 2.0)
        assert (gradient("hypo", law, beta=0.3, pull=0.0) == gradient("dpo", law, beta=0.3)).all()

    @given(laws, st.floats(0, 2))
    def test_the_mean_gradient_of_reinforce_is_that_of_reward_less_divergence(self, law, kl):
        def value(moved):
            return float((moved * REWARD).sum()) - kl * divergence(moved, REF)

        np.testing.assert_allclose(gradient("reinforce", law, kl=kl), -numeric(value, law), atol=1e-6)

    @given(laws, st.floats(0, 2))
    def test_that_of_leave_one_out_is_the_same(self, law, kl):
        found, other = (gradient(name, law, kl=kl) for name in ("rloo", "reinforce"))
        np.testing.assert_allclose(found, other, atol=1e-9)


class TestBestOfN:
    """BOND descends on divergences to and from the law of the best of N."""

    @given(laws)
    def test_forward_it_is_the_divergence_from_the_best_of_n(self, law):
        best = best_of(REF, REWARD, 4)
        slope = numeric(lambda moved: float((best * np.log(best / moved)).sum()), law)
        np.testing.assert_allclose(gradient("bond", law, mix=0.0), slope, atol=1e-6)

    @given(laws)
    def test_backward_it_is_the_divergence_to_the_reference_tilted_by_the_estimated_quantile(self, law):
        no_better = np.einsum("xij,xj->xi", (REWARD[:, :, None] >= REWARD[:, None, :]).astype(float), REF)
        counts = np.arange(5)
        chance = binom.pmf(counts, 4, no_better[..., None])
        quantile = (chance * np.log((1 + counts) / 5)).sum(-1)

        def value(moved):
            return divergence(moved, REF) - 3 * float((moved * quantile).sum())

        np.testing.assert_allclose(gradient("bond", law, mix=1.0), numeric(value, law), atol=1e-6)

    def test_the_best_of_one_is_the_law_itself_and_of_many_the_best_response(self):
        np.testing.assert_allclose(best_of(REF, REWARD, 1), REF)
        assert (best_of(REF, REWARD, 10**4).argmax(1) == REWARD.argmax(1)).all()
        np.testing.assert_allclose(best_of(best_of(REF, REWARD, 3), REWARD, 5), best_of(REF, REWARD, 15))

    def test_equals_share_what_is_theirs(self):
        tied = np.array([[1.0, 1.0, 0.0, 0.0], [2.0, 2.0, 2.0, 2.0]])
        found = best_of(REF, tied, 2)
        np.testing.assert_allclose(found[0], [0.2 * 0.75, 0.8 * 0.75, 0.4 * 0.25, 0.6 * 0.25])
        np.testing.assert_allclose(found[1], REF[1])


class TestCalibration:
    """VPO's identity: the log-ratios under a law tell the best value of rewards whose mean under that law is 0."""

    @given(arrays(np.float64, (2, 4), elements=st.floats(-3, 3)), laws, laws, betas)
    def test_the_best_value_is_minus_beta_times_the_mean_log_ratio(self, reward, reference, calibration, beta):
        reward = reward - (calibration * reward).sum(1, keepdims=True)
        best = tilted(reference, reward, beta)
        value = (best * reward).sum(1) - beta * (best * np.log(best / reference)).sum(1)
        columns = [torch.from_numpy(np.log(law).reshape(-1, 1)) for law in (best, reference, calibration)]
        s = Scores(columns[0], columns[1], torch.ones_like(columns[0]), written=columns[2])
        term = in_expectation(log_ratio, 4)(s).numpy().reshape(2, 4).mean(1)
        np.testing.assert_allclose(-beta * term, value, atol=1e-9)

    @pytest.mark.parametrize(("name", "base"), [("vpo-offline", "dpo"), ("vpo-online", "online-dpo")])
    def test_at_the_reference_the_term_moves_nothing_in_the_mean(self, name, base):
        moved = gradient(name, REF, beta=0.2, alpha=0.7)
        np.testing.assert_allclose(moved, gradient(base, REF, beta=0.2), atol=1e-12)

    def test_optimism_leaves_the_reference_and_pessimism_comes_back(self):
        law = tilted(REF, REWARD, 1.0)
        away = numeric(lambda moved: divergence(REF, moved), law)
        for name, base, sign in (("vpo-offline", "dpo", 1), ("vpo-online", "online-dpo", -1)):
            added = gradient(name, law, beta=0.2, alpha=0.7) - gradient(base, law, beta=0.2)
            np.testing.assert_allclose(added, sign * 0.7 * 0.2 * away, atol=1e-6)


class Ones:
    """A critic that finds every token equally good."""

    def statistics(self, facts):
        return {"advantage": np.ones(facts.before.shape)}

    def learn(self, facts, logp, step):
        pass


class TestForcedTokens:
    """DR-PO: what was forced has no gradient of its own; it is only what the rest is written behind."""

    DATA = Batch.of_pairs(
        [prompt(i, 2 + i, 5) for i in range(5)],
        [[7, 8, 9, 6, END], [9, 9, 4, 4, 3], [6, 5, 7, 7, 8, END], [8, 3, 2, 9, END], [END]],
        [[END]] * 5,
        np.ones(5),
    )

    def batch(self, share, policy):
        source = PolicySource(self.DATA.prompts, 5, 0, ("policy", "policy"), data=self.DATA, prefix=share, longest=6)
        return source.draw(0, policy)

    def test_the_step_is_that_of_the_written_tokens_alone(self):
        model = llama(seed=3)
        policy = policy_of(model)
        drawn = self.batch(1.0, policy)
        assert max(map(len, drawn.prefixes)) > 1
        parameters = METHODS["dr-po"].method.parameters
        ours = objective_of(METHODS["dr-po"].method, parameters, [], Ones())
        labelled = replace(drawn, reward=drawn.lengths)
        kept = []

        class Keeping(Descent):
            def step(self, step, loss):
                kept.append(torch.cat([p.grad.flatten().clone() for p in model.parameters()]))
                return super().step(step, loss)

        class Fixed:
            def draw(self, step, policy):
                return labelled

        class Silent:
            def label(self, batch, step):
                return batch

        descent = Keeping(policy.parameters(), Optimisation(lr=0.0, warmup=1, clip=1e9), 1)
        list(train(policy, NoReference(), Fixed(), Silent(), descent, ours, steps=1))

        def by_hand(*, with_forced):
            total = torch.zeros(())
            for one, prefix, row in zip(drawn.prompts, drawn.prefixes, drawn.responses, strict=True):
                for written in row:
                    logp = naive_logp(model, one.tokens, [*prefix, *written])
                    own = logp if with_forced else logp[len(prefix) :]
                    total = total - own.sum() / max(len(written), 1) / 10
            return gradients(model, total)

        torch.testing.assert_close(kept[0], by_hand(with_forced=False), rtol=1e-3, atol=1e-5)
        assert (by_hand(with_forced=True) - kept[0]).abs().max() > 1e-2

    def test_a_share_of_0_draws_what_ppo_draws(self):
        policy = policy_of(llama(seed=3))
        plain = PolicySource(self.DATA.prompts, 5, 0, ("policy", "policy"), longest=6).draw(0, policy)
        assert self.batch(0.0, policy).responses == plain.responses
        assert self.batch(0.0, policy).prefixes is None

    def test_forced_and_written_fit_the_longest_response(self):
        drawn = self.batch(1.0, policy_of(llama(seed=3)))
        texts = dict(zip([p.id for p in self.DATA.prompts], self.DATA.first, strict=True))
        for one, prefix, row in zip(drawn.prompts, drawn.prefixes, drawn.responses, strict=True):
            text = texts[one.id]
            assert list(prefix) == list(text[: len(prefix)])
            assert len(prefix) < len(text)
            assert (len(prefix) == 0) == (text == [END])
            assert all(len(prefix) + len(written) <= 6 for written in row)
