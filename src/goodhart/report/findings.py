"""A study's contents with the analysis of them: what figures, tables and sentences are made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from goodhart.analysis.axes import AxisFound, along
from goodhart.analysis.diagnostics import Diagnostics
from goodhart.analysis.frontier import CheckpointPoint, FrontierPoint, checkpoint_points
from goodhart.analysis.interval import Interval
from goodhart.analysis.league import Standings, rank
from goodhart.analysis.rulings import Ruling, rule
from goodhart.analysis.study_tables import Tables, read_budgets
from goodhart.analysis.summary import SPLITS, ArmFrontier, Comparison, MeasureSummary, Summary, summarise
from goodhart.analysis.table import MEASURES, SFT, Point, read
from goodhart.report.contents import Contents, read_contents

GOLDEN_POLICY = "golden policy"
BASELINES = (GOLDEN_POLICY, SFT)
"""The arms of the tables that no study file names."""
MAIN = "golden_vs_policy"
"""The measure of the headline: golden win rate against the golden policy."""


@dataclass(frozen=True)
class Findings:
    """Everything that the report says."""

    contents: Contents
    summary: Summary
    golden_policy: Mapping[str, CheckpointPoint | None]
    """The last checkpoint of the golden policy on held-out prompts, by measure."""
    tables: Tables
    rulings: tuple[Ruling, ...]
    """The verdicts on the study's hypotheses."""
    axes: tuple[AxisFound, ...]
    league: Standings | None
    """The ranking of its methods, where it has one."""

    @property
    def shown(self) -> tuple[str, ...]:
        """The arms that the figures of all arms draw: of many, those of the first hypothesis."""
        return self.contents.few

    def held_out(self, measure: str) -> MeasureSummary | None:
        """One measure on held-out prompts; None where there is none."""
        return self.summary.measures.get(("held_out", measure))

    def measured(self, measure: str) -> bool:
        """Whether any checkpoint has the measure."""
        result = self.held_out(measure)
        return result is not None and any(arm.points for arm in result.arms)

    def frontier(self, measure: str, arm: str) -> ArmFrontier | None:
        """One arm by one measure."""
        result = self.held_out(measure)
        return next((each for each in result.arms if each.arm == arm), None) if result else None

    def comparisons(self, measure: str, split: str = "held_out") -> tuple[Comparison, ...]:
        """The first arm against each of the others."""
        result = self.summary.measures.get((split, measure))
        first = self.contents.arms[0]
        return tuple(c for c in result.comparisons if c.gap.first == first) if result else ()

    def start(self, measure: str) -> CheckpointPoint | None:
        """The SFT policy by a measure."""
        result = self.held_out(measure)
        return result.sft[0] if result and result.sft else None

    def at(self, measure: str, arm: str, point: Point) -> Interval | None:
        """An arm's measure at one (setting, step)."""
        result = self.frontier(measure, arm)
        return next((p.value for p in result.points if _same(p, point)), None) if result else None

    def diagnostics(self, arm: str, point: Point | None = None) -> list[Diagnostics]:
        """The held-out diagnostics of an arm's checkpoints, or of its seeds at one (setting, step)."""
        own = [d for d in self.summary.diagnostics.get("held_out", ()) if d.checkpoint.arm == arm]
        return [
            d for d in own if point is None or (d.checkpoint.setting, d.checkpoint.step) == (point.setting, point.step)
        ]


def spoken(arm: str) -> str:
    """An arm's name for readers."""
    return "SFT policy" if arm == SFT else arm


def _same(frontier_point: FrontierPoint, point: Point) -> bool:
    return (frontier_point.point.setting, frontier_point.point.step) == (point.setting, point.step)


def tables_of(contents: Contents) -> Tables:
    """What contrasts are computed from."""
    matrices = {split: read(contents.rows, split, anchors=contents.anchors) for split in SPLITS}
    resamples = int(contents.record["study"]["resamples"])
    budgets = read_budgets(contents.budgets)
    return Tables(matrices, contents.pairs, budgets, contents.streams, resamples, untrained=contents.untrained)


def ruled(folder: Path) -> tuple[Ruling, ...]:
    """The verdicts on a study's hypotheses alone. Raises GoodhartError as `analyse` does."""
    contents = read_contents(folder)
    return rule(tables_of(contents), contents.hypotheses, contents.plan)


def analyse(folder: Path) -> Findings:
    """Read a study's folder and compute everything that its report says.

    Raises:
        GoodhartError: a file, a column, or a section of the record is missing or unreadable; it is named.
    """
    return analysed(read_contents(folder))


def analysed(contents: Contents) -> Findings:
    """The same of a folder that has been read."""
    tables = tables_of(contents)
    summary = summarise(contents.rows, tables, contents.arms, contents.few)
    baseline = {name: checkpoint_points(tables.matrix("held_out"), GOLDEN_POLICY, name) for name in MEASURES}
    last = {name: max(result, key=lambda p: p.checkpoint.step, default=None) for name, result in baseline.items()}
    axes = (along(tables, name, axis) for name, axis in contents.axes.items())
    rulings = rule(tables, contents.hypotheses, contents.plan)
    league = rank(tables, contents.league, contents.best_of_n(contents.league.baseline)) if contents.league else None
    return Findings(contents, summary, last, tables, rulings, tuple(result for result in axes if result), league)
