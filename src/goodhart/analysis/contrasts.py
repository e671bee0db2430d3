"""The estimates of contrasts: one number with its interval for every prediction."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float, Int

from goodhart.analysis.classification import classify, correct, correlate
from goodhart.analysis.crossfit import Draws, Term, curve, draw
from goodhart.analysis.envelope import highest, hull
from goodhart.analysis.frontier import checkpoint_points
from goodhart.analysis.gap import Range, along_settings, budgets, common_range, over_settings
from goodhart.analysis.hypotheses import Contrast
from goodhart.analysis.interval import Interval, around, of_mean
from goodhart.analysis.table import (
    Checkpoint,
    Cloud,
    Clouds,
    Matrix,
    by_checkpoint,
    clouds,
    floats,
    of_split,
    shared_settings,
)

BEST_POSSIBLE = 0.9
"""The quantile over checkpoints that stands for the best that a method can do (arXiv 2405.08448, section 5.5)."""


@dataclass(frozen=True)
class Tables:
    """What contrasts are computed from."""

    matrices: Mapping[str, Matrix]
    """By split."""
    pairs: pa.Table
    """Columns of PAIR_ROWS."""
    budgets: Mapping[Checkpoint, Mapping[str, float]]
    """What each checkpoint took, by the column of BUDGETS."""
    streams: pa.Table
    """Columns of STREAM_ROWS."""
    resamples: int = 1000
    seed: int = 0

    def matrix(self, split: str) -> Matrix:
        """The numbers of one split."""
        return self.matrices[split]

    def draws(self, found: Clouds) -> Draws:
        """The random part of a bootstrap over the clouds."""
        return draw(len(found.seeds), len(found.prompts), self.resamples, self.seed)


@dataclass(frozen=True)
class Estimate:
    """A contrast's interval and what it is over; or why there is none."""

    interval: Interval | None
    over: str


def estimate(tables: Tables, contrast: Contrast) -> Estimate:
    """The number that a contrast asks for."""
    return _STATISTICS[contrast.statistic](tables, contrast)


def read_budgets(table: pa.Table) -> dict[Checkpoint, dict[str, float]]:
    """The table of BUDGETS by checkpoint."""
    names = ("operations", "pairs", "labels", "drift", "drift_spread")
    columns = {name: floats(table, name) for name in names}
    return {at: {name: float(columns[name][rows[0]]) for name in names} for at, rows in by_checkpoint(table)}


def _common(tables: Tables, contrast: Contrast) -> Clouds | None:
    """The arms' clouds at the settings that all of them have, or at all settings where they share none."""
    matrix = tables.matrix(contrast.split)
    found = clouds(matrix, contrast.arms, contrast.measure, shared_settings(matrix, contrast.arms))
    return found if found is not None and len(found.prompts) > 1 else None


def _sides(contrast: Contrast) -> list[tuple[str, str, float]]:
    pairs = [(contrast.first, contrast.second, 1.0)]
    return [*pairs, (contrast.baseline[0], contrast.baseline[1], -1.0)] if contrast.baseline else pairs


def _gap(tables: Tables, contrast: Contrast) -> Estimate:
    """The gap between envelopes, less that of the baseline, each over the budgets that both of its arms reached."""
    found = _common(tables, contrast)
    if found is None:
        return Estimate(None, "nothing is measured in common")
    column = {"gap at equal compute": "operations", "gap at equal pairs": "pairs"}.get(contrast.statistic)
    untrained = [arm for arm in contrast.arms if not any(at.arm == arm for at in tables.budgets)] if column else []
    if untrained:
        return Estimate(None, f"{untrained[0]} is not trained")
    arms = {name: _spending(cloud, found.seeds, tables, column) for name, cloud in found.arms.items()}
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
    return Estimate(curve(terms, tables.draws(found)).mean, "; ".join(_spelled(each, column) for each in ranges))


def _spelled(found: Range, column: str | None) -> str:
    if column == "operations":
        return f"{found.low / 1e12:.2f} to {found.high / 1e12:.2f} Tflop"
    if column == "pairs":
        return f"{found.low:.0f} to {found.high:.0f} pairs"
    return f"KL {found.low:.1f} to {found.high:.1f} nats"


def _spending(cloud: Cloud, seeds: Sequence[int], tables: Tables, column: str | None) -> Cloud:
    """The cloud with another budget in the place of KL; the SFT policy has spent none of it."""
    if column is None:
        return cloud
    cost = np.zeros(cloud.kl.shape[:2])
    for i in cloud.trained:
        point = cloud.points[int(i)]
        for j, seed in enumerate(seeds):
            at = Checkpoint(cloud.arm, point.setting, point.beta, point.lr, seed, point.step)
            cost[i, j] = tables.budgets[at][column]
    return replace(cloud, kl=np.broadcast_to(cost[:, :, None], cloud.kl.shape))


def _equal_setting(tables: Tables, contrast: Contrast) -> Estimate:
    """The mean gap at equal setting, less that of the baseline, over the settings at which both can be computed."""
    found = _common(tables, contrast)
    if found is None:
        return Estimate(None, "nothing is measured in common")
    sides = [(along_settings(found.arms[one], found.arms[two]), weight) for one, two, weight in _sides(contrast)]
    shared = [name for name in sides[0][0] if all(name in at and not at[name][0].empty for at, _ in sides)]
    if not shared:
        return Estimate(None, "no setting with a KL in common")
    gaps = [[replace(term, weight=weight * term.weight) for at, weight in sides for term in at[s][1]] for s in shared]
    over = _over(len(shared), [[at[s][0] for s in shared] for at, _ in sides])
    return Estimate(over_settings(gaps, tables.draws(found)), over)


def _over(settings: int, sides: Sequence[Sequence[Range]]) -> str:
    """How many settings, and the KL that they span, for each side of a difference of differences."""
    spans = [Range(min(each.low for each in side), max(each.high for each in side)) for side in sides]
    return f"{settings} setting{'s' * (settings > 1)}, {'; '.join(_spelled(span, None) for span in spans)}"


def _peak(tables: Tables, contrast: Contrast) -> Estimate:
    found = _common(tables, contrast)
    if found is None:
        return Estimate(None, "nothing is measured in common")
    terms = [
        Term(found.arms[name], highest, found.arms[name].trained, np.zeros(1), sign * weight)
        for first, second, weight in _sides(contrast)
        for name, sign in ((first, 1.0), (second, -1.0))
    ]
    return Estimate(curve(terms, tables.draws(found)).mean, "at any KL")


def _best_possible(tables: Tables, contrast: Contrast) -> Estimate:
    """The ratio of the 90% quantiles over checkpoints, less 1; less the baseline's, where there is one.

    The standard error is a bootstrap's over seeds and prompts, its variance times S/(S - 1) for S seeds.
    """
    found = _common(tables, contrast)
    if found is None or len(found.seeds) < 2:
        return Estimate(None, "it needs two seeds that are measured in common")
    draws = tables.draws(found)
    seeds, prompts = len(found.seeds), len(found.prompts)
    mixing = np.random.Generator(np.random.Philox(key=tables.seed)).multinomial(
        seeds, np.full(seeds, 1 / seeds), size=len(draws.prompts)
    )
    weights = np.concatenate([np.ones((1, prompts)), draws.prompts])
    counts = np.concatenate([np.ones((1, seeds), dtype=np.int64), mixing])
    values = np.zeros(len(weights))
    for first, second, sign in _sides(contrast):
        top = [_quantiles(found.arms[name], weights, counts) for name in (first, second)]
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


def _classified(tables: Tables, contrast: Contrast) -> Estimate:
    """The difference of the arms' means over golden pairs at each run's last checkpoint, by seed and prompt."""
    settings = shared_settings(tables.matrix(contrast.split), contrast.arms)
    sides = [_pair_cells(tables, arm, contrast, settings) for arm in (contrast.first, contrast.second)]
    seeds = sorted(set(sides[0]) & set(sides[1]))
    prompts = sorted(set.intersection(*(set(side[seed]) for side in sides for seed in seeds))) if seeds else []
    if len(prompts) < 2:
        return Estimate(None, "no pairs in common")
    cells = np.array([[sides[0][s][p] - sides[1][s][p] for p in prompts] for s in seeds])
    return Estimate(of_mean(cells), f"{len(prompts)} prompts of {contrast.split.replace('_', '-')} pairs")


def _pair_cells(tables: Tables, arm: str, contrast: Contrast, settings: frozenset[str]) -> dict[int, dict[str, float]]:
    """By seed and prompt, the mean over the last checkpoints of the arm's settings."""
    table = of_split(tables.pairs, contrast.split)
    found = [(at, rows) for at, rows in by_checkpoint(table) if at.arm == arm and at.step > 0]
    found = [(at, rows) for at, rows in found if not settings or at.setting in settings]
    last: dict[tuple[str, int], int] = {}
    for at, _ in found:
        last[at.setting, at.seed] = max(at.step, last.get((at.setting, at.seed), 0))
    label, rho_w, rho_l = (floats(table, name) for name in ("label", "rho_w", "rho_l"))
    values = {"accuracy": correct(label, rho_w, rho_l), "winner shift": rho_w, "loser shift": rho_l}[contrast.statistic]
    kept = np.ones(len(label), dtype=bool) if contrast.statistic == "accuracy" else label != 0.5
    names = table.column("prompt").to_pylist()
    gathered: dict[int, dict[str, list[float]]] = {}
    for at, rows in found:
        if at.step == last[at.setting, at.seed]:
            for row in rows[kept[rows]]:
                gathered.setdefault(at.seed, {}).setdefault(names[row], []).append(float(values[row]))
    return {seed: {p: float(np.mean(v)) for p, v in own.items()} for seed, own in gathered.items()}


def _stream_accuracy(tables: Tables, contrast: Contrast) -> Estimate:
    """Agreement with golden on the recorded pairs, the first classifier's less the second's, by seed and prompt."""
    by: dict[str, dict[tuple[str, int, int, str], tuple[str, float]]] = {}
    for row in tables.streams.filter(pc.field("arm") == contrast.stream).to_pylist():
        pair = (row["setting"], row["seed"], row["step"], row["pair"])
        by.setdefault(row["classifier"], {})[pair] = row["prompt"], row["correct"]
    first, second = (by.get(name, {}) for name in (contrast.first, contrast.second))
    # A classifier may lack a setting of the stream, so only the pairs that both classified are compared.
    gathered: dict[tuple[int, str], list[float]] = {}
    for pair in sorted(set(first) & set(second)):
        prompt, answer = first[pair]
        gathered.setdefault((pair[1], prompt), []).append(answer - second[pair][1])
    keys = sorted(gathered)
    if len(keys) < 2:
        return Estimate(None, "the study keeps no classified stream of them")
    difference = np.array([np.mean(gathered[key]) for key in keys])
    seeds = len({seed for seed, _ in keys})
    clusters = [difference[[i for i, (seed, _) in enumerate(keys) if seed == s]] for s in sorted({s for s, _ in keys})]
    between = float(np.var([c.mean() for c in clusters], ddof=1) / seeds) if seeds > 1 else 0.0
    within = float(difference.var(ddof=1) / len(difference))
    se, freedom = float(np.sqrt(max(between, within))), float(seeds - 1 if between > within else len(keys) - 1)
    interval = around(float(difference.mean()), se, freedom, seeds=seeds, prompts=len(keys))
    return Estimate(interval, f"{len(keys)} pairs along the stream")


def _correlation(tables: Tables, contrast: Contrast) -> Estimate:
    matrix = tables.matrix("held_out")
    arms = contrast.arms
    rates = {
        at.checkpoint: at.value.estimate for arm in arms for at in checkpoint_points(matrix, arm, contrast.measure)
    }
    found = correlate(
        classify(tables.pairs, contrast.split),
        rates,
        arms=arms,
        name=" ".join(arms),
        resamples=tables.resamples,
        seed=tables.seed,
    )
    if found is None or not np.isfinite(found.low + found.high):
        return Estimate(None, "too few checkpoints")
    interval = Interval(found.estimate, found.low, found.high, found.se, float(found.runs - 1), found.runs, 0)
    return Estimate(interval, f"{found.checkpoints} checkpoints of {found.runs} runs")


_STATISTICS: dict[str, Callable[[Tables, Contrast], Estimate]] = {
    "gap at equal KL": _gap,
    "gap at equal compute": _gap,
    "gap at equal pairs": _gap,
    "gap at equal setting": _equal_setting,
    "peak": _peak,
    "best possible": _best_possible,
    "accuracy": _classified,
    "winner shift": _classified,
    "loser shift": _classified,
    "stream accuracy": _stream_accuracy,
    "correlation": _correlation,
}
