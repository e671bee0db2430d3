"""Where the noise of a finished study's contrasts comes from: seeds, prompts, responses, and the choice of points."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from goodhart.analysis.contrasts import estimate
from goodhart.analysis.crossfit import Term, contributions, folds
from goodhart.analysis.envelope import highest, hull
from goodhart.analysis.gap import along_settings, budgets, common_range
from goodhart.analysis.hypotheses import Contrast
from goodhart.analysis.interval import Interval
from goodhart.analysis.power import Design, Variances, forecast, key, pooled, sides
from goodhart.analysis.prior import trained
from goodhart.analysis.study_tables import Tables, settings_of
from goodhart.analysis.table import Clouds, clouds

Sides = dict[str, Float[np.ndarray, "seed prompt"]]
"""What each seed and prompt adds to a contrast, by arm; their sum is the whole."""


@dataclass(frozen=True)
class FinishedContrast:
    """A contrast of a finished study: its interval, and the variances behind it where they can be told apart."""

    contrast: Contrast
    interval: Interval
    variances: Variances
    design: Design

    def ratio(self, known: Variances) -> float:
        """The forecast standard error over the interval's own."""
        expected = forecast(known, self.design, sides(self.contrast))
        return expected.se / self.interval.se if self.interval.se > 0 else 0.0


def finished_contrasts(
    tables: Tables, contrasts: Iterable[Contrast], single: Sequence[Tables]
) -> list[FinishedContrast]:
    """The contrasts that have an interval over two seeds or more.

    `single` are the same tables with one response to each prompt; none where there is no more than one.
    """
    arms = len(trained(tables.matrix("held_out"), tables.untrained))
    made: list[FinishedContrast] = []
    for contrast in contrasts:
        interval = estimate(tables, contrast).interval
        if interval is not None and interval.seeds > 1 and interval.prompts > 1 and np.isfinite(interval.se):
            parts = _parts(tables, contrast, single)
            design = Design(interval.seeds, interval.prompts, max(len(single), 1), arms)
            made.append(FinishedContrast(contrast, interval, parts or _seeds_alone(contrast, interval), design))
    return made


def by_statistic(made: Iterable[FinishedContrast]) -> dict[str, Variances]:
    """One entry for each statistic and measure: the mean over its contrasts.

    The factor is the median over them of the interval's variance over the one that is expected with fixed picks.
    """
    groups: dict[str, list[FinishedContrast]] = {}
    for each in made:
        groups.setdefault(key(each.contrast), []).append(each)
    entries: dict[str, Variances] = {}
    for name, own in sorted(groups.items()):
        mean = pooled([each.variances for each in own])
        ratios = [each.ratio(mean) for each in own]
        entries[name] = replace(mean, factor=float(np.median([ratio**-2 for ratio in ratios if ratio > 0] or [1.0])))
    return entries


def _seeds_alone(contrast: Contrast, interval: Interval) -> Variances:
    """All of the noise as the seeds', of a statistic whose parts are not known."""
    return Variances(interval.se**2 * interval.seeds / (2 * sides(contrast)), 0.0, 0.0, 0.0)


def _parts(tables: Tables, contrast: Contrast, single: Sequence[Tables]) -> Variances | None:
    """The mean squares of the two-way table of seeds and prompts, taken apart.

    Of S seeds, P prompts, K responses: MS_SP = sigma_I^2 + sigma_R^2 / K, and with one response sigma_I^2 + sigma_R^2;
    MS_P / S = sigma_P^2 + MS_SP / S; the variance of an arm's seed means is tau^2 + (its MS_SP) / P.
    """
    cells = _sides(tables, contrast)
    if cells is None:
        return None
    whole, differences = np.sum(list(cells.values()), axis=0), sides(contrast)
    seeds, prompts = whole.shape
    mixed = _mean_square(whole)
    tau = sum(float(own.mean(axis=1).var(ddof=1)) - _mean_square(own) / prompts for own in cells.values())
    by_prompt = float(whole.mean(axis=0).var(ddof=1)) - mixed / seeds
    one = [_mean_square(np.sum(list(own.values()), axis=0)) for each in single if (own := _sides(each, contrast))]
    number = len(single)
    response = max(float(np.mean(one)) - mixed, 0.0) * number / (number - 1) if one and number > 1 else 0.0
    rest = max(mixed - response / max(number, 1), 0.0)
    scale = 1 / differences
    return Variances(max(tau, 0.0) * scale / 2, max(by_prompt, 0.0) * scale, rest * scale, response * scale)


def _mean_square(cells: Float[np.ndarray, "seed prompt"]) -> float:
    residual = cells - cells.mean(axis=0, keepdims=True) - cells.mean(axis=1, keepdims=True) + cells.mean()
    return float((residual**2).sum() / ((cells.shape[0] - 1) * (cells.shape[1] - 1)))


def _sides(tables: Tables, contrast: Contrast) -> Sides | None:
    """The arms' parts of a gap or a peak; None for another statistic, or where nothing is measured in common."""
    matrix = tables.matrix(contrast.split)
    if contrast.statistic not in ("gap at equal KL", "gap at equal setting", "peak"):
        return None
    common = clouds(matrix, contrast.arms, contrast.measure, settings_of(tables, contrast))
    if common is None or len(common.prompts) < 2 or len(common.seeds) < 2:
        return None
    terms, fold = _terms(common, contrast), folds(len(common.prompts), tables.seed)
    cells: Sides = {}
    for term in terms:
        own = term.weight * contributions(term, fold).mean(axis=0)
        cells[term.cloud.arm] = cells[term.cloud.arm] + own if term.cloud.arm in cells else own
    return cells or None


def _terms(common: Clouds, contrast: Contrast) -> list[Term]:
    pairs = [(contrast.first, contrast.second, 1.0)]
    pairs += [(contrast.baseline[0], contrast.baseline[1], -1.0)] if contrast.baseline else []
    return [term for one, two, weight in pairs for term in _pair(common, contrast.statistic, one, two, weight)]


def _pair(common: Clouds, statistic: str, first: str, second: str, weight: float) -> list[Term]:
    arms = common.arms[first], common.arms[second]
    if statistic == "gap at equal setting":
        own = [terms for _, terms in along_settings(*arms).values() if terms]
        return [replace(term, weight=weight * term.weight / len(own)) for terms in own for term in terms]
    signed = list(zip(arms, (weight, -weight), strict=True))
    if statistic == "peak":
        return [Term(cloud, highest, cloud.trained, np.zeros(1), sign) for cloud, sign in signed]
    shared = common_range(*arms)
    if shared.empty:
        return []
    grid = budgets(shared)
    return [Term(cloud, hull, np.arange(len(cloud.points)), grid, sign) for cloud, sign in signed]
