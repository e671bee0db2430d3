"""Where a proxy's labels depart from the data's: the classifiers notice, and the weights say so."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from goodhart.alignment.batch import Batch
from goodhart.alignment.labellers import DataLabels
from goodhart.alignment.losses import LOSSES
from goodhart.alignment.scores import Scores
from goodhart.alignment.sources import DataSource, MixtureSource
from goodhart.randomness import stream
from goodhart.training.alignment import Facts
from goodhart.training.channel import LabelChannel, States
from goodhart.training.settings import Optimisation
from tiny_models import END, llama, policy_of, prompt, t5
from tiny_pairs import DATA

POLICY = policy_of(llama())


@dataclass(frozen=True)
class Places:
    """The first token of a response as a vector of length one."""

    size: int = 16

    def describe(self, contexts, responses):
        return torch.eye(self.size)[torch.tensor([[text[0] for text in row] for row in responses])]


def world(step, *, lying):
    """Half of a batch is data, half the policy's. A larger token is preferred; of tokens from 8 on the proxy lies."""
    draw = stream(0, "pairs", step)
    first, second = draw.integers(2, 8, 64), draw.integers(2, 8, 64)
    high = draw.random(64) < 0.5
    first, second = first + 6 * high, second + 6 * high
    label = np.where(first == second, 0.5, (first > second).astype(float))
    real = (np.arange(64) < 32).astype(float)
    label = np.where((real == 0) & high & lying, 1 - label, label)
    prompts = [prompt(i, 2) for i in range(64)]
    return Batch.of_pairs(prompts, [[int(t), END] for t in first], [[int(t), END] for t in second], label, real=real)


def facts(batch):
    return Facts(batch, np.zeros((len(batch), 2)), POLICY, POLICY)


def channel(describing=None, lr=0.01, steps=300, seed=0):
    settings = Optimisation(lr=lr, warmup=1, decay="constant")
    return LabelChannel(describing or Places(), settings, steps, seed)


def taught(*, lying, steps=300):
    one = channel(steps=steps)
    for step in range(steps):
        one.learn(facts(world(step, lying=lying)), np.zeros((64, 2)), step)
    return one


def weights(one, batch):
    return one.statistics(facts(batch))["belief"]


def of_kind(batch, *, high):
    """Pairs of the policy that differ, of low or high tokens."""
    tokens = np.array([[text[0] for text in row] for row in batch.responses])
    return (batch.real == 0) & (tokens[:, 0] != tokens[:, 1]) & ((tokens[:, 0] >= 8) == high)


def test_labels_that_the_data_would_not_have_given_weigh_less():
    one, batch = taught(lying=True), world(10**6, lying=True)
    found = weights(one, batch)
    assert (found[batch.real == 1] == 1).all()
    assert np.median(found[of_kind(batch, high=True)]) < 0.1
    assert np.median(found[of_kind(batch, high=False)]) > 0.6
    honest = world(10**6, lying=False)
    assert np.median(weights(one, honest)[of_kind(honest, high=True)]) > 0.9


def test_labels_that_agree_keep_their_weight():
    batch = world(10**6, lying=False)
    found = weights(taught(lying=False), batch)
    assert found.min() >= 0
    assert found.max() <= 1
    assert found[of_kind(batch, high=True)].mean() > 0.75


def test_before_anything_is_learnt_every_pair_has_its_whole_weight():
    assert (weights(channel(), world(0, lying=True)) == 1).all()


def test_exchanging_responses_and_label_changes_nothing():
    one, batch = taught(lying=True, steps=40), world(7, lying=True)
    np.testing.assert_allclose(weights(one, batch), weights(one, batch.swapped()), atol=1e-6)


def test_its_state_goes_on_bit_for_bit():
    whole, half = taught(lying=True, steps=40), channel(steps=40)
    for step in range(20):
        half.learn(facts(world(step, lying=True)), np.zeros((64, 2)), step)
    again = channel(steps=40, seed=1)
    again.restore(half.state())
    for step in range(20, 40):
        again.learn(facts(world(step, lying=True)), np.zeros((64, 2)), step)
    assert (weights(again, world(99, lying=True)) == weights(whole, world(99, lying=True))).all()


def test_the_global_generator_is_left_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    channel()
    assert (torch.get_rng_state() == before).all()


def test_what_it_needs_and_does_not_get_is_named():
    batch = world(0, lying=True)
    plain = batch.take(range(64))
    with pytest.raises(ValueError, match="no pair says"):
        weights(channel(), Batch(plain.prompts, plain.responses, label=plain.label))
    with pytest.raises(ValueError, match="has none"):
        weights(channel(), Batch(plain.prompts, plain.responses, real=plain.real))


@pytest.mark.parametrize("make", [llama, t5])
def test_a_language_models_vectors_do_not_depend_on_the_batch(make):
    states = States(policy_of(make()))
    found = states.describe(DATA.contexts, DATA.responses)
    assert found.shape == (5, 2, states.size)
    assert not found.requires_grad
    alone = torch.cat([states.describe([x], [row]) for x, row in zip(DATA.contexts, DATA.responses, strict=True)])
    torch.testing.assert_close(found, alone, rtol=1e-4, atol=1e-5)
    assert (found[0, 0] - found[0, 1]).abs().max() > 0.01


def test_a_weight_scales_its_pairs_loss():
    logp = torch.tensor([[-1.0, -2.0], [-1.0, -2.0]], requires_grad=True)
    s = Scores(
        logp,
        torch.zeros(2, 2),
        torch.ones(2, 2),
        label=torch.ones(2),
        statistics={"belief": torch.tensor([1.0, 0.25])},
    )
    full, weighed = LOSSES["ipo"](s, beta=0.1), LOSSES["weighed"](s, beta=0.1)
    torch.testing.assert_close(weighed, full * torch.tensor([1.0, 0.25]))


def test_a_mixture_says_which_pairs_are_the_datas():
    data = DATA.labelled(DATA.label)
    real = DataSource(Batch.of_pairs(DATA.prompts, DATA.first, DATA.second, DATA.label, real=np.ones(5)), 2, 0)
    drawn = MixtureSource([(DataSource(data, 3, 0), DataLabels()), (real, DataLabels())]).draw(0, policy_of(llama()))
    assert drawn.real.tolist() == [0, 0, 0, 1, 1]
    assert drawn.take([4, 0]).real.tolist() == [1, 0]
    assert drawn[3:].real.tolist() == [1, 1]
