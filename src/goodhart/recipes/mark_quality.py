"""How well a judge does on responses that stand alone, good or bad."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from goodhart.alignment.batch import Batch
from goodhart.alignment.judge import PairJudge
from goodhart.training.marks import auc_interval
from goodhart.training.preference import quality_of_marks

TRAIN_MARKS = 256
"""Training marks that are measured beside the held-out ones."""


def marks_quality(model: PairJudge, train: Batch, test: Batch) -> dict[str, Any]:
    """How well a judge does on marks, of which the held-out ones are of different prompts.

    `exchanged` has each held-out prompt with the next one's response, which its mark is not of: what is told of the
    mark there comes of the prompt alone.
    """
    parts = {"train": train, "test": test}
    parts["exchanged"] = replace(test, responses=[*test.responses[1:], *test.responses[:1]])
    return {name: _mark_quality(model, part) for name, part in parts.items() if has_both(part)}


def has_both(marks: Batch) -> bool:
    """Whether some responses are good and some bad."""
    assert marks.mark is not None
    return bool(0 < marks.mark.sum() < len(marks))


def _mark_quality(model: PairJudge, marks: Batch) -> dict[str, Any]:
    """The AUC with its 95% interval as `accuracy`, and the loss."""
    assert marks.mark is not None
    quality, good = quality_of_marks(model, marks), int(marks.mark.sum())
    low, high = auc_interval(quality.accuracy, good, len(marks) - good)
    return {**asdict(quality), "low": low, "high": high, "good": good}
