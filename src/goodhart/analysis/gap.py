"""The difference between two arms at the same KL."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int

from goodhart.analysis.crossfit import Curve, Draws, Term, curve
from goodhart.analysis.envelope import hull, trajectory
from goodhart.analysis.interval import NO_PRIOR, Interval, Prior
from goodhart.analysis.table import Cloud

BUDGETS = 25
"""Midpoints of equal parts of the common range at which a gap is computed."""

Setting = str
"""The name of a point of an arm's sweep, which is the same for two arms at the same values."""


@dataclass(frozen=True)
class Range:
    """KL from low to high, nats."""

    low: float
    high: float

    @property
    def empty(self) -> bool:
        """Whether the arms have no KL in common."""
        return not self.low < self.high


@dataclass(frozen=True)
class Gap:
    """First arm less second at equal KL, over the range that both reached; None where they have none in common."""

    first: str
    second: str
    measure: str
    common: Range
    curve: Curve | None

    @property
    def mean(self) -> Interval | None:
        """The gap averaged over the common range."""
        return self.curve.mean if self.curve else None


@dataclass(frozen=True)
class SettingGap:
    """The gap between two arms at one setting."""

    setting: Setting
    gap: Gap


@dataclass(frozen=True)
class SettingGaps:
    """The gaps at every setting that both arms have, and their mean over those with a common range."""

    each: tuple[SettingGap, ...]
    mean: Interval | None


def common_range(
    first: Cloud, second: Cloud, at: tuple[Int[np.ndarray, " first"], Int[np.ndarray, " second"]] | None = None
) -> Range:
    """From the larger of the two lowest trained KLs to the smaller of the two largest, of means over seeds."""
    chosen = at or (first.trained, second.trained)
    means = [cloud.kl[points].mean(axis=(1, 2)) for cloud, points in zip((first, second), chosen, strict=True)]
    return Range(max(float(m.min()) for m in means), min(float(m.max()) for m in means))


def budgets(common: Range) -> Float[np.ndarray, " budget"]:
    """The grid on a range: midpoints of equal parts, so that its plain mean is the mean over the range."""
    return common.low + (common.high - common.low) * (np.arange(BUDGETS) + 0.5) / BUDGETS


def matched(first: Cloud, second: Cloud, measure: str, draws: Draws, prior: Prior = NO_PRIOR) -> Gap:
    """The gap between the arms' envelopes, each cross-fitted.

    gap = mean over k in the common range of E_first(k) - E_second(k); the prior is that of `hull`.
    """
    common = common_range(first, second)
    if common.empty:
        return Gap(first.arm, second.arm, measure, common, None)
    grid = budgets(common)
    terms = [
        Term(cloud, hull, np.arange(len(cloud.points)), grid, sign) for cloud, sign in ((first, 1.0), (second, -1.0))
    ]
    return Gap(first.arm, second.arm, measure, common, curve(terms, draws, prior))


def settings(cloud: Cloud) -> dict[Setting, Int[np.ndarray, " trained"]]:
    """The trained points of each setting of an arm."""
    result: dict[Setting, list[int]] = {}
    for i in cloud.trained:
        result.setdefault(cloud.points[int(i)].setting, []).append(int(i))
    return {name: np.array(at) for name, at in result.items()}


def along(cloud: Cloud, points: Int[np.ndarray, " trained"], common: Range, weight: float) -> Term:
    """An arm along its own trajectory, from the SFT policy on."""
    allowed = np.concatenate([np.arange(int(cloud.anchored)), points])
    return Term(cloud, trajectory, allowed, budgets(common), weight, crossfit=False)


def along_settings(first: Cloud, second: Cloud) -> dict[Setting, tuple[Range, tuple[Term, ...]]]:
    """At each setting of both arms, their common range and the terms of their gap; no terms where it is empty."""
    ours, theirs = settings(first), settings(second)
    result: dict[Setting, tuple[Range, tuple[Term, ...]]] = {}
    points = {name: first.points[int(at[0])] for name, at in ours.items() if name in theirs}
    for name in sorted(
        points, key=lambda name: (points[name].beta is None, points[name].beta or 0.0, points[name].lr or 0.0, name)
    ):
        common = common_range(first, second, (ours[name], theirs[name]))
        terms = (along(first, ours[name], common, 1.0), along(second, theirs[name], common, -1.0))
        result[name] = common, () if common.empty else terms
    return result


def over_settings(gaps: Sequence[Sequence[Term]], draws: Draws, prior: Prior = NO_PRIOR) -> Interval | None:
    """The mean of gaps at several settings; None where there are none."""
    parts = [replace(term, weight=term.weight / len(gaps)) for gap in gaps for term in gap]
    return curve(parts, draws, prior).mean if parts else None


def at_equal_settings(
    first: Cloud,
    second: Cloud,
    measure: str,
    draws: Draws,
    prior: Callable[[Collection[Setting]], Prior] = lambda among: NO_PRIOR,  # noqa: ARG005
) -> SettingGaps:
    """The gap at each setting of both arms, matched by KL along the arms' own trajectories; nothing is selected.

    `prior` gives that of `trajectory` over the settings it is asked for.
    """
    result = along_settings(first, second)
    gaps = {name: curve(terms, draws, prior([name])) if terms else None for name, (_, terms) in result.items()}
    each = tuple(
        SettingGap(name, Gap(first.arm, second.arm, measure, common, gaps[name]))
        for name, (common, _) in result.items()
    )
    kept = {name: terms for name, (_, terms) in result.items() if terms}
    return SettingGaps(each, over_settings(list(kept.values()), draws, prior(kept)))
