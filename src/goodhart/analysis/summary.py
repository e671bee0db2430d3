"""Everything that a report says about a study, computed from its two tables."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from goodhart.analysis.classification import Classification, Correlation, classify, correlate
from goodhart.analysis.crossfit import Curve, draw
from goodhart.analysis.diagnostics import Diagnostics, diagnose
from goodhart.analysis.envelope import highest, hull, trajectory
from goodhart.analysis.frontier import (
    CheckpointPoint,
    FrontierPoint,
    Peak,
    checkpoint_points,
    envelope,
    peak,
    points,
)
from goodhart.analysis.gap import Gap, Setting, SettingGaps, at_equal_settings, matched
from goodhart.analysis.interval import Prior
from goodhart.analysis.prior import each_alone, prior
from goodhart.analysis.table import MEASURES, Checkpoint, Clouds, Matrix, clouds, read

SPLITS = ("held_out", "train")
"""The splits of ROWS and PAIR_ROWS."""


@dataclass(frozen=True)
class ArmFrontier:
    """One arm by one measure; envelope and peak are None where no seed or prompt is measured."""

    arm: str
    points: tuple[FrontierPoint, ...]
    checkpoints: tuple[CheckpointPoint, ...]
    envelope: Curve | None
    peak: Peak | None


@dataclass(frozen=True)
class Comparison:
    """Two arms by one measure: the gap between envelopes, and at equal settings; what was left out to compare them."""

    gap: Gap
    settings: SettingGaps
    seeds: tuple[int, ...]
    prompts: int
    left_out_checkpoints: int
    left_out_prompts: int


@dataclass(frozen=True)
class MeasureSummary:
    """One measure on one split: the frontier of every arm, and the comparison of the first arm with every other."""

    measure: str
    split: str
    sft: tuple[CheckpointPoint, ...]
    arms: tuple[ArmFrontier, ...]
    comparisons: tuple[Comparison, ...]
    prior: Prior
    """How much the seeds of an arm's envelope differ: a part of its intervals and of those of gaps at equal KL."""


@dataclass(frozen=True)
class Priors:
    """What all trained arms of a study show of the variance between seeds, by the rule of a statistic."""

    envelope: Prior
    peak: Prior
    along: Callable[[Collection[Setting]], Prior]


def priors(matrix: Matrix, measure: str, seed: int, untrained: Collection[str] = ()) -> Priors:
    """The priors of one measure on one split, from every arm that has trained checkpoints but the untrained ones."""
    arms = [each.arms[arm] for arm, each in each_alone(matrix, measure, untrained).items()]

    @functools.cache
    def along(among: frozenset[Setting]) -> Prior:
        return prior(arms, trajectory, seed, among)

    return Priors(prior(arms, hull, seed), prior(arms, highest, seed), lambda among: along(frozenset(among)))


@dataclass(frozen=True)
class Summary:
    """Everything: by (split, measure), and per checkpoint."""

    measures: Mapping[tuple[str, str], MeasureSummary]
    classification: tuple[Classification, ...]
    correlations: tuple[Correlation, ...]
    diagnostics: Mapping[str, tuple[Diagnostics, ...]]


def _frontier(matrix: Matrix, arm: str, measure: str, resamples: int, seed: int, known: Priors) -> ArmFrontier:
    result = clouds(matrix, [arm], measure)
    curve_, best = None, None
    if result and len(result.prompts) > 1:
        draws = draw(len(result.seeds), len(result.prompts), resamples, seed)
        curve_ = envelope(result.arms[arm], draws, known.envelope)
        best = peak(result.arms[arm], draws, known.peak)
    return ArmFrontier(arm, points(matrix, arm, measure), checkpoint_points(matrix, arm, measure), curve_, best)


def compare(
    given: Clouds, first: str, second: str, measure: str, resamples: int, seed: int, known: Priors
) -> Comparison:
    """The gaps between two arms of the clouds."""
    draws = draw(len(given.seeds), len(given.prompts), resamples, seed)
    one, two = given.arms[first], given.arms[second]
    return Comparison(
        matched(one, two, measure, draws, known.envelope),
        at_equal_settings(one, two, measure, draws, known.along),
        given.seeds,
        len(given.prompts),
        given.left_out_checkpoints,
        given.left_out_prompts,
    )


def measure_summary(
    matrix: Matrix,
    measure: str,
    arms: Sequence[str],
    resamples: int = 1000,
    seed: int = 0,
    compared: Sequence[str] | None = None,
    untrained: Collection[str] = (),
) -> MeasureSummary:
    """One measure on one split; arms that the table does not have give empty frontiers and no comparison.

    The first arm is compared with those of `compared`, or with all others. The seeds of all arms of the matrix but the
    `untrained` are evidence of how much seeds differ.
    """
    known = priors(matrix, measure, seed, untrained)
    comparisons: list[Comparison] = []
    for other in (arm for arm in (arms if compared is None else compared) if arm != arms[0]):
        result = clouds(matrix, [arms[0], other], measure)
        if result and len(result.prompts) > 1:
            comparisons.append(compare(result, arms[0], other, measure, resamples, seed, known))
    frontiers = tuple(_frontier(matrix, arm, measure, resamples, seed, known) for arm in arms)
    sft = checkpoint_points(matrix, "sft", measure)
    return MeasureSummary(measure, matrix.split, sft, frontiers, tuple(comparisons), known.envelope)


def _win_rates(summary: MeasureSummary) -> dict[Checkpoint, float]:
    return {at.checkpoint: at.value.estimate for arm in summary.arms for at in arm.checkpoints}


def _correlations(
    classifications: Sequence[Classification],
    rates: Mapping[Checkpoint, float],
    arms: Sequence[str],
    resamples: int,
    seed: int,
) -> tuple[Correlation, ...]:
    groups = {**{arm: [arm] for arm in arms}, "all arms": list(arms)}
    every = (
        correlate(
            [c for c in classifications if c.split == split],
            rates,
            arms=members,
            name=name,
            resamples=resamples,
            seed=seed,
        )
        for split in SPLITS
        for name, members in groups.items()
    )
    return tuple(each for each in every if each)


def summarise(
    rows: pa.Table,
    pair_rows: pa.Table,
    arms: Sequence[str] = ("online", "offline"),
    resamples: int = 1000,
    seed: int = 0,
    anchors: Mapping[str, str] | None = None,
    compared: Sequence[str] | None = None,
    untrained: Collection[str] = (),
) -> Summary:
    """Summarise a study's ROWS and PAIR_ROWS.

    Correlations are between accuracy on each split's pairs and the held-out golden win rate against the golden policy.

    Raises:
        GoodhartError: a table lacks a column, or a checkpoint has rows without a finite KL.
    """
    matrices = [read(rows, split, anchors=anchors) for split in SPLITS]
    measures = {
        (matrix.split, name): measure_summary(matrix, name, arms, resamples, seed, compared, untrained)
        for matrix in matrices
        if matrix.checkpoints
        for name in MEASURES
    }
    result = tuple(each for split in SPLITS for each in classify(pair_rows, split))
    judged = measures.get(("held_out", "golden_vs_policy"))
    correlations = _correlations(result, _win_rates(judged) if judged else {}, arms, resamples, seed)
    return Summary(measures, result, correlations, {split: diagnose(rows, split) for split in SPLITS})
