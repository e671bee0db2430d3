"""Everything that a report says about a study, computed from its two tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from goodhart.analysis.classification import Classification, Correlation, classify, correlate
from goodhart.analysis.crossfit import Curve
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
from goodhart.analysis.gap import Gap, SettingGaps, at_equal_settings, matched
from goodhart.analysis.interval import Prior
from goodhart.analysis.study_tables import Tables
from goodhart.analysis.table import MEASURES, SFT, Checkpoint, clouds

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
class Summary:
    """Everything: by (split, measure), and per checkpoint."""

    measures: Mapping[tuple[str, str], MeasureSummary]
    classification: tuple[Classification, ...]
    correlations: tuple[Correlation, ...]
    diagnostics: Mapping[str, tuple[Diagnostics, ...]]


def measure_summary(
    tables: Tables, measure: str, arms: Sequence[str], split: str = "held_out", compared: Sequence[str] | None = None
) -> MeasureSummary:
    """One measure on one split; arms that the table does not have give empty frontiers and no comparison.

    The first arm is compared with those of `compared`, or with all others.
    """
    others = [arm for arm in (arms if compared is None else compared) if arm != arms[0]]
    comparisons = (_compared(tables, split, arms[0], other, measure) for other in others)
    return MeasureSummary(
        measure,
        split,
        checkpoint_points(tables.matrix(split), SFT, measure),
        tuple(_frontier(tables, split, arm, measure) for arm in arms),
        tuple(comparison for comparison in comparisons if comparison),
        tables.prior(split, measure, hull),
    )


def _frontier(tables: Tables, split: str, arm: str, measure: str) -> ArmFrontier:
    matrix = tables.matrix(split)
    result = clouds(matrix, [arm], measure)
    curve_, best = None, None
    if result and len(result.prompts) > 1:
        draws = tables.draws(result)
        curve_ = envelope(result.arms[arm], draws, tables.prior(split, measure, hull))
        best = peak(result.arms[arm], draws, tables.prior(split, measure, highest))
    return ArmFrontier(arm, points(matrix, arm, measure), checkpoint_points(matrix, arm, measure), curve_, best)


def _compared(tables: Tables, split: str, first: str, second: str, measure: str) -> Comparison | None:
    """The gaps between two arms; None where they have fewer than two prompts in common."""
    common = clouds(tables.matrix(split), [first, second], measure)
    if common is None or len(common.prompts) < 2:
        return None
    draws, one, two = tables.draws(common), common.arms[first], common.arms[second]
    return Comparison(
        matched(one, two, measure, draws, tables.prior(split, measure, hull)),
        at_equal_settings(
            one, two, measure, draws, lambda among: tables.prior(split, measure, trajectory, among=among)
        ),
        common.seeds,
        len(common.prompts),
        common.left_out_checkpoints,
        common.left_out_prompts,
    )


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
    tables: Tables,
    arms: Sequence[str] = ("online", "offline"),
    compared: Sequence[str] | None = None,
) -> Summary:
    """Summarise a study's ROWS, and the tables that were read from them and the others.

    Correlations are between accuracy on each split's pairs and the held-out golden win rate against the golden policy.

    Raises:
        GoodhartError: the table lacks a column.
    """
    measures = {
        (split, name): measure_summary(tables, name, arms, split, compared)
        for split in SPLITS
        if tables.matrix(split).checkpoints
        for name in MEASURES
    }
    result = tuple(each for split in SPLITS for each in classify(tables.pairs, split))
    judged = measures.get(("held_out", "golden_vs_policy"))
    rates = _win_rates(judged) if judged else {}
    correlations = _correlations(result, rates, arms, tables.resamples, tables.seed)
    return Summary(measures, result, correlations, {split: diagnose(rows, split) for split in SPLITS})
