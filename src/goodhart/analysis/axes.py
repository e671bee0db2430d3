"""Arms along one thing that is changed: what each reaches at equal KL, and at its peak."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from goodhart.analysis.crossfit import Term, curve
from goodhart.analysis.envelope import highest, hull
from goodhart.analysis.gap import Range, budgets
from goodhart.analysis.hypotheses import Axis
from goodhart.analysis.interval import Interval
from goodhart.analysis.study_tables import Tables
from goodhart.analysis.table import clouds, shared_settings


@dataclass(frozen=True)
class Place:
    """One arm of an axis; `x` is None for an arm that stands beside it, `level` where the arms have no KL in common."""

    line: str
    arm: str
    x: float | None
    level: Interval | None
    """Mean of the envelope over the KL that all arms of the axis reached."""
    peak: Interval


@dataclass(frozen=True)
class AxisFound:
    """An axis with what its arms reach."""

    name: str
    axis: Axis
    common: Range
    settings: tuple[str, ...]
    """The settings that the arms share; empty: all, because they share none."""
    places: tuple[Place, ...]


def along(tables: Tables, name: str, axis: Axis, measure: str = "golden_vs_policy") -> AxisFound | None:
    """The arms of an axis on held-out prompts; None where nothing is measured in common."""
    matrix = tables.matrix("held_out")
    settings = shared_settings(matrix, axis.arms)
    result = clouds(matrix, axis.arms, measure, settings)
    if result is None or len(result.prompts) < 2:
        return None
    means = {arm: cloud.kl[cloud.trained].mean(axis=(1, 2)) for arm, cloud in result.arms.items()}
    common = Range(max(float(m.min()) for m in means.values()), min(float(m.max()) for m in means.values()))
    draws = tables.draws(result)
    of_level, of_peak = (tables.prior(matrix.split, measure, rule, settings) for rule in (hull, highest))
    levels: dict[str, Interval | None] = dict.fromkeys(result.arms)
    if not common.empty:
        grid = budgets(common)
        for arm, cloud in result.arms.items():
            levels[arm] = curve([Term(cloud, hull, np.arange(len(cloud.points)), grid, 1.0)], draws, of_level).mean
    peaks = {
        arm: curve([Term(cloud, highest, cloud.trained, np.zeros(1), 1.0)], draws, of_peak).mean
        for arm, cloud in result.arms.items()
    }
    placed = [(line, arm, x) for line, points in axis.lines.items() for arm, x in points.items()]
    every = [*placed, *(("", arm, None) for arm in axis.beside)]
    places = tuple(Place(line, arm, x, levels[arm], peaks[arm]) for line, arm, x in every)
    return AxisFound(name, axis, common, tuple(sorted(settings)), places)
