"""The estimates of contrasts: one number with its interval for every prediction."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float, Int

from goodhart.analysis.crossfit import Term, curve
from goodhart.analysis.envelope import Rule, highest, hull, trajectory
from goodhart.analysis.gap import Range, Setting, along_settings, budgets, common_range, over_settings
from goodhart.analysis.hypotheses import Contrast
from goodhart.analysis.interval import Prior, around
from goodhart.analysis.pair_contrasts import classified, correlation, stream_accuracy
from goodhart.analysis.study_tables import Estimate, Tables, settings_of, spending
from goodhart.analysis.table import (
    Cloud,
    Clouds,
    clouds,
)

BEST_POSSIBLE = 0.9
"""The quantile over checkpoints that stands for the best that a method can do (arXiv 2405.08448, section 5.5)."""


def estimate(tables: Tables, contrast: Contrast) -> Estimate:
    """The number that a contrast asks for."""
    return _STATISTICS[contrast.statistic](tables, contrast)


def _common(tables: Tables, contrast: Contrast) -> Clouds | None:
    """The arms' clouds at the settings that all of them have, or at all settings where they share none."""
    result = clouds(tables.matrix(contrast.split), contrast.arms, contrast.measure, settings_of(tables, contrast))
    return result if result is not None and len(result.prompts) > 1 else None


def _known(
    tables: Tables, contrast: Contrast, rule: Rule, among: Collection[Setting] = (), column: str | None = None
) -> Prior:
    return tables.prior(contrast.split, contrast.measure, rule, settings_of(tables, contrast), among, column)


def _sides(contrast: Contrast) -> list[tuple[str, str, float]]:
    pairs = [(contrast.first, contrast.second, 1.0)]
    return [*pairs, (contrast.baseline[0], contrast.baseline[1], -1.0)] if contrast.baseline else pairs


def _gap(tables: Tables, contrast: Contrast) -> Estimate:
    """The gap between envelopes, less that of the baseline, each over the budgets that both of its arms reached."""
    result = _common(tables, contrast)
    if result is None:
        return Estimate(None, "nothing is measured in common")
    column = {"gap at equal compute": "operations", "gap at equal pairs": "pairs"}.get(contrast.statistic)
    untrained = [arm for arm in contrast.arms if not any(at.arm == arm for at in tables.budgets)] if column else []
    if untrained:
        return Estimate(None, f"{untrained[0]} is not trained")
    arms = {name: spending(cloud, result.seeds, tables, column) for name, cloud in result.arms.items()}
    terms: list[Term] = []
    ranges: list[Range] = []
    for first, second, weight in _sides(contrast):
        common = common_range(arms[first], arms[second])
        if common.empty:
            return Estimate(None, f"{first} and {second} have no budget in common")
        ranges.append(common)
        grid = budgets(common)
        terms += [
            Term(arms[name], hull, np.arange(len(arms[name].points)), grid, sign * weight)
            for name, sign in ((first, 1.0), (second, -1.0))
        ]
    interval = curve(terms, tables.draws(result), _known(tables, contrast, hull, column=column)).mean
    return Estimate(interval, "; ".join(_spelled(each, column) for each in ranges))


def _spelled(given: Range, column: str | None) -> str:
    if column == "operations":
        return f"{given.low / 1e12:.2f} to {given.high / 1e12:.2f} Tflop"
    if column == "pairs":
        return f"{given.low:.0f} to {given.high:.0f} pairs"
    return f"KL {given.low:.1f} to {given.high:.1f} nats"


def _equal_setting(tables: Tables, contrast: Contrast) -> Estimate:
    """The mean gap at equal setting, less that of the baseline, over the settings at which both can be computed."""
    result = _common(tables, contrast)
    if result is None:
        return Estimate(None, "nothing is measured in common")
    sides = [(along_settings(result.arms[one], result.arms[two]), weight) for one, two, weight in _sides(contrast)]
    shared = [name for name in sides[0][0] if all(name in at and not at[name][0].empty for at, _ in sides)]
    if not shared:
        return Estimate(None, "no setting with a KL in common")
    gaps = [[replace(term, weight=weight * term.weight) for at, weight in sides for term in at[s][1]] for s in shared]
    over = _over(len(shared), [[at[s][0] for s in shared] for at, _ in sides])
    return Estimate(over_settings(gaps, tables.draws(result), _known(tables, contrast, trajectory, shared)), over)


def _over(settings: int, sides: Sequence[Sequence[Range]]) -> str:
    """How many settings, and the KL that they span, for each side of a difference of differences."""
    spans = [Range(min(each.low for each in side), max(each.high for each in side)) for side in sides]
    return f"{settings} setting{'s' * (settings > 1)}, {'; '.join(_spelled(span, None) for span in spans)}"


def _peak(tables: Tables, contrast: Contrast) -> Estimate:
    result = _common(tables, contrast)
    if result is None:
        return Estimate(None, "nothing is measured in common")
    terms = [
        Term(result.arms[name], highest, result.arms[name].trained, np.zeros(1), sign * weight)
        for first, second, weight in _sides(contrast)
        for name, sign in ((first, 1.0), (second, -1.0))
    ]
    return Estimate(curve(terms, tables.draws(result), _known(tables, contrast, highest)).mean, "at any KL")


def _best_possible(tables: Tables, contrast: Contrast) -> Estimate:
    """The ratio of the 90% quantiles over checkpoints, less 1; less the baseline's, where there is one.

    The standard error is a bootstrap's over seeds and prompts, its variance times S/(S - 1) for S seeds.
    """
    result = _common(tables, contrast)
    if result is None or len(result.seeds) < 2:
        return Estimate(None, "it needs two seeds that are measured in common")
    draws = tables.draws(result)
    seeds, prompts = len(result.seeds), len(result.prompts)
    mixing = np.random.Generator(np.random.Philox(key=tables.seed)).multinomial(
        seeds, np.full(seeds, 1 / seeds), size=len(draws.prompts)
    )
    weights = np.concatenate([np.ones((1, prompts)), draws.prompts])
    counts = np.concatenate([np.ones((1, seeds), dtype=np.int64), mixing])
    values = np.zeros(len(weights))
    for first, second, sign in _sides(contrast):
        top = [_quantiles(result.arms[name], weights, counts) for name in (first, second)]
        if not top[1].all():
            return Estimate(None, f"{second} wins nothing, so there is no ratio to it")
        values += sign * (top[0] / top[1] - 1)
    se = float(np.sqrt(values[1:].var(ddof=1) * seeds / (seeds - 1)))
    interval = around(float(values[0]), se, float(seeds - 1), seeds=seeds, prompts=prompts)
    return Estimate(interval, "90% quantile over checkpoints")


def _quantiles(
    cloud: Cloud, weights: Float[np.ndarray, "resample prompt"], counts: Int[np.ndarray, "resample seed"]
) -> Float[np.ndarray, " resample"]:
    """The 90% quantile over (point, seed) of means over weighted prompts, seeds repeated as they are counted."""
    cube = cloud.value[cloud.trained]
    means = np.einsum("psq,bq->bps", cube, weights) / weights.sum(axis=1)[:, None, None]
    return np.array(
        [np.quantile(np.repeat(mean, count, axis=1), BEST_POSSIBLE) for mean, count in zip(means, counts, strict=True)]
    )


_STATISTICS: dict[str, Callable[[Tables, Contrast], Estimate]] = {
    "gap at equal KL": _gap,
    "gap at equal compute": _gap,
    "gap at equal pairs": _gap,
    "gap at equal setting": _equal_setting,
    "peak": _peak,
    "best possible": _best_possible,
    "accuracy": classified,
    "winner shift": classified,
    "loser shift": classified,
    "stream accuracy": stream_accuracy,
    "correlation": correlation,
}
