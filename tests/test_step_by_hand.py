"""One step of the alignment loop on given log-probabilities: what it reports, by hand."""

import numpy as np
import pytest
import torch

from goodhart.alignment.batch import Batch
from goodhart.alignment.labellers import DataLabels
from goodhart.alignment.sources import DataSource
from goodhart.training.alignment import train
from goodhart.training.optimiser import Descent
from goodhart.training.settings import Optimisation
from tiny_models import prompt
from tiny_pairs import objective

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
