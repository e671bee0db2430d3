"""Losses in expectation: every tuple of responses is in the batch, and each counts by its probability."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from goodhart.alignment.losses import Loss, Nats
from goodhart.alignment.scores import Scores
from goodhart.training.alignment import Facts, Objective, score

_WEIGHT = "weight of a tuple"


def weight(facts: Facts) -> Mapping[str, np.ndarray]:
    """Of each tuple its probability times their number, so that the mean over the batch is the mean over prompts.

    The probability is the product of the writers', without gradient: the gradient is that of samples, in expectation.
    """
    writer = facts.batch.writer
    if writer is None or np.isnan(writer).any():
        now = score(facts.policy, facts.batch)
        writer = now if writer is None else np.where(np.isnan(writer), now, writer)
    tuples = len(facts.batch) / len({prompt.id for prompt in facts.batch.prompts})
    return {_WEIGHT: tuples * np.exp(writer.sum(1))}


def in_expectation(objective: Objective) -> Objective:
    """The objective whose mean over all tuples is the expectation of the given one over sampled batches.

    A statistic of a batch (REINFORCE's baseline) is then over all tuples of the other prompts as they stand: a baseline
    stays one.
    """
    inner: Loss = objective.loss

    def loss(s: Scores, **parameters: Any) -> Nats:
        return s.statistics[_WEIGHT] * inner(s, **parameters)

    return replace(objective, loss=loss, statistics=[*objective.statistics, weight])
