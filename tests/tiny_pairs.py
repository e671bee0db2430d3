"""Five labelled pairs, and a judge that costs nothing."""

import numpy as np

from goodhart.alignment.batch import Batch
from goodhart.alignment.losses import LOSSES
from goodhart.alignment.method import KINDS
from goodhart.training.alignment import Objective
from tiny_models import END, prompt

PROMPTS = [prompt(100 + i, *tokens) for i, tokens in enumerate([[2, 3], [4], [5, 6, 7], [8, 9], [10]])]
DATA = Batch.of_pairs(
    PROMPTS,
    [[11, 12, END], [13, END], [14, 2, 3, 4], [5, END], [6, 7, END]],
    [[8, END], [9, 10, 11, END], [12, END], [13, 14, 15, 2, 3], [END]],
    np.array([1.0, 0.0, 0.5, 0.25, 1.0]),
)


def objective(loss, *, reduction="sum", **parameters):
    """The objective of a loss without extra terms; of the parameters what the loss reads."""
    read = KINDS[loss].parameters
    return Objective(LOSSES[loss], {name: parameters[name] for name in read}, reduction)


class LengthJudge:
    """The longer response is the better one, with a bias towards the first, so that the orders differ."""

    def prefer(self, pairs):
        gap = np.array([len(a) - len(b) for a, b in pairs.responses])
        return np.stack([1 / (1 + np.exp(-gap - 0.3)), 1 / (1 + np.exp(gap - 0.3))], axis=1)
