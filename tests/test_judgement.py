"""How well a preference model judges, by hand on given probabilities."""

from math import log

import numpy as np
import pytest

from goodhart.alignment.batch import Batch
from goodhart.models.preference import PreferenceModel
from goodhart.training import preference
from goodhart.training.preference import judge_quality
from tiny_models import llama, prompt

MODEL = PreferenceModel(llama(layers=1), "pairwise", 15, 0, "plain")
"""Asked by name only."""


def quality(monkeypatch, r, label):
    """The quality of a judge that gives r(first, second) and r(second, first) of each pair."""

    class Judge:
        def __init__(self, model):
            pass

        def prefer(self, pairs):
            return np.array(r)

    monkeypatch.setattr(preference, "ModelJudge", Judge)
    number = len(r)
    pairs = Batch.of_pairs([prompt(i, 2) for i in range(number)], [[3, 1]] * number, [[4, 1]] * number, np.array(label))
    return judge_quality(MODEL, pairs)


def test_loss_accuracy_and_flips_by_hand(monkeypatch):
    """By the orders' difference the first wins, the second, nobody, the first; in the last both orders say first."""
    found, agreed = quality(monkeypatch, [[0.8, 0.4], [0.3, 0.6], [0.5, 0.5], [0.9, 0.7]], [1.0, 0.0, 1.0, 0.5])
    losses = [
        -(log(0.8) + log(0.6)) / 2,
        -(log(0.7) + log(0.6)) / 2,
        log(2),
        -(log(0.9) + log(0.1) + log(0.7) + log(0.3)) / 4,
    ]
    assert found.loss == pytest.approx(sum(losses) / 4)
    assert agreed.tolist() == [1.0, 1.0, 0.5, 0.5]
    assert (found.pairs, found.accuracy, found.flips) == (4, 0.75, 0.25)


@pytest.mark.parametrize(("r", "label"), [([[1.0, 0.0]], [0.0]), ([[0.0, 1.0]], [1.0])])
def test_certainty_that_is_wrong_costs_much_and_not_without_end(monkeypatch, r, label):
    """log 10^12, since probabilities are told apart from 0 and 1 by 10^-12."""
    assert quality(monkeypatch, r, label)[0].loss == pytest.approx(12 * log(10), rel=1e-4)


def test_certainty_that_is_right_costs_nothing(monkeypatch):
    found, agreed = quality(monkeypatch, [[1.0, 0.0], [0.0, 1.0]], [1.0, 0.0])
    assert (found.loss, found.accuracy, found.flips) == (pytest.approx(0.0, abs=1e-11), 1.0, 0.0)
    assert agreed.tolist() == [1.0, 1.0]
