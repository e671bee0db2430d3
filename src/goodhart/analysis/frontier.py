"""An arm's measure against KL: its points, its envelope, its peak."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from goodhart.analysis.crossfit import Curve, Draws, Term, curve
from goodhart.analysis.envelope import highest, hull
from goodhart.analysis.gap import BUDGETS
from goodhart.analysis.interval import NO_PRIOR, Interval, Prior, of_mean
from goodhart.analysis.table import Checkpoint, Cloud, Matrix, Point


@dataclass(frozen=True)
class FrontierPoint:
    """One (setting, step) of an arm: mean KL (nats) and mean measure over its seeds and prompts."""

    point: Point
    kl: Interval
    value: Interval


@dataclass(frozen=True)
class CheckpointPoint:
    """One seed's checkpoint: the same over its prompts alone."""

    checkpoint: Checkpoint
    kl: Interval
    value: Interval


@dataclass(frozen=True)
class Peak:
    """An arm's best trained point: which it is on all data, and the cross-fitted measure of the best that one finds.

    `value` answers "what will the best of this sweep reach on new seeds and prompts"; `apparent` is the maximum of the
    means, which selection biases upwards. KL in nats.
    """

    point: Point
    kl: Interval
    apparent: float
    value: Interval


def _checkpoints(matrix: Matrix, arm: str, measure: str) -> list[tuple[Checkpoint, Float[np.ndarray, "2 prompt"]]]:
    """The arm's checkpoints with KL and measure on the prompts where both are known."""
    result: list[tuple[Checkpoint, Float[np.ndarray, "2 prompt"]]] = []
    for i, at in enumerate(matrix.checkpoints):
        if at.arm == arm:
            both = np.stack([matrix.columns["kl"][i], matrix.columns[measure][i]])
            result.append((at, np.where(np.isfinite(both).all(axis=0), both, np.nan)))
    return result


def checkpoint_points(matrix: Matrix, arm: str, measure: str) -> tuple[CheckpointPoint, ...]:
    """Every checkpoint of an arm (any arm of the table, the SFT policy too) that has at least two measured prompts."""
    result: list[CheckpointPoint] = []
    for at, both in _checkpoints(matrix, arm, measure):
        known = both[:, np.isfinite(both[0])]
        if known.shape[1] > 1:
            result.append(CheckpointPoint(at, of_mean(known[:1]), of_mean(known[1:])))
    return tuple(result)


def points(matrix: Matrix, arm: str, measure: str) -> tuple[FrontierPoint, ...]:
    """Every (setting, step) of an arm over the seeds that have it and the prompts that all of those have."""
    groups: dict[tuple[str, int], list[tuple[Checkpoint, Float[np.ndarray, "2 prompt"]]]] = {}
    for at, both in _checkpoints(matrix, arm, measure):
        groups.setdefault((at.setting, at.step), []).append((at, both))
    result: list[FrontierPoint] = []
    for runs in groups.values():
        cube = np.stack([both for _, both in runs], axis=1)
        known = cube[:, :, np.isfinite(cube).all(axis=(0, 1))]
        if known.shape[2] > 1:
            at = runs[0][0]
            result.append(
                FrontierPoint(Point(at.setting, at.beta, at.lr, at.step), of_mean(known[0]), of_mean(known[1]))
            )
    return tuple(result)


def envelope(cloud: Cloud, draws: Draws, prior: Prior = NO_PRIOR) -> Curve:
    """The best that the arm can do at each KL budget from its lowest to its largest trained KL, cross-fitted.

    E(k) of `goodhart.analysis.envelope`, with its band; the prior is that of `hull`.
    """
    kl = cloud.kl[cloud.trained].mean(axis=(1, 2))
    budgets = np.linspace(float(kl.min()), float(kl.max()), BUDGETS)
    return curve([Term(cloud, hull, np.arange(len(cloud.points)), budgets, 1.0)], draws, prior)


def peak(cloud: Cloud, draws: Draws, prior: Prior = NO_PRIOR) -> Peak:
    """The best trained point of an arm, at any KL; the prior is that of `highest`."""
    trained = cloud.trained
    result = curve([Term(cloud, highest, trained, np.zeros(1), 1.0)], draws, prior).mean
    at = _best(cloud, trained)
    return Peak(cloud.points[at], of_mean(cloud.kl[at]), float(cloud.value[at].mean()), result)


def _best(cloud: Cloud, among: Int[np.ndarray, " trained"] | Sequence[int]) -> int:
    means = cloud.value[among].mean(axis=(1, 2))
    return int(np.asarray(among)[np.argmax(means)])
