"""Cross-fitted curves and their bootstrap: what is picked on some seeds and prompts is valued on the others.

A maximum over noisy means is biased upwards, and more for the bigger sweep. Here the points, weights and prices of
`envelope.py` are picked on all seeds but one and all folds of prompts but one, and valued on the seed and fold left
out; the estimate is the mean over all of these cells (cross-fitting: Chernozhukov et al. 2018, arXiv 1608.00060,
definition 3.1). Its mean cannot exceed the truth; where the pick is clear it equals it. One seed is not left out.

The variance is V = V_0 + a max(V_bootstrap - V_fixed, 0) with a = (1 + r)/2, r the seeds' share of V_fixed. V_0 and
V_fixed hold the picks (`interval.combine`, with the study's prior and its sides, and without) and so miss that two
cells are dependent through each other's picks; V_bootstrap picks again in every replicate, drawing prompts jointly for
all arms and seeds and a new effect for each seed, and overstates it, because observed differences between points are
larger than true ones. For a statistic of second order V_fixed holds half of the variance and a resampled variance two
to three times it (Efron and Stein 1981, Annals of Statistics 9(3), for the excess of the jackknife), so the truth lies
between. The weight is this project's own, chosen in simulated worlds; it is no theorem, and `benchmarks/coverage.py`
measures what it gives.

Drawing S seeds with replacement gives (S - 1)/S of their variance and counts the prompts' noise again (Owen 2007,
arXiv 0712.1111), so the new effects are Gaussian combinations of the observed ones, scaled to the seeds' variance
component. The interval is the estimate -+ t sqrt(V), with the Satterthwaite degrees of freedom of V_0; the band of a
whole curve has a smaller tail of t (`band_quantile`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from goodhart.analysis.envelope import Choice, Rule, evaluate
from goodhart.analysis.interval import LEVEL, NO_PRIOR, Components, Interval, Prior, Side, around, components, side
from goodhart.analysis.table import Cloud
from goodhart.randomness import permutation, stream
from goodhart.special import special

FOLDS = 4
"""Parts that the prompts are cut into."""

BAND_DRAWS = 4000
"""Gaussian curves that a band's quantile is of: its Monte Carlo error is about 1%."""

_CHUNK = 4096
"""Batch rows (replicate, seed, fold) that are worked on at once, so that they stay in the cache."""


@dataclass(frozen=True)
class Draws:
    """The prompts' folds and counts and the seeds' mixing of every replicate, shared by all arms and measures."""

    fold: Int[np.ndarray, " prompt"]
    prompts: Float[np.ndarray, "resample prompt"]
    seeds: Float[np.ndarray, "resample seed seed"]
    seed: int = 0
    """What the draws of a band are keyed by."""


@dataclass(frozen=True)
class Term:
    """One arm's share in a statistic: its cloud, the rule that picks, the points allowed, budgets (nats), a weight."""

    cloud: Cloud
    rule: Rule
    points: Int[np.ndarray, " allowed"]
    budgets: Float[np.ndarray, " budget"]
    weight: float
    crossfit: bool = True


@dataclass(frozen=True)
class Band:
    """The ends of a band that contains the whole curve with 95%, at each budget."""

    low: Float[np.ndarray, " budget"]
    high: Float[np.ndarray, " budget"]


@dataclass(frozen=True)
class Curve:
    """A statistic at each budget (nats) and its mean over them; an interval at one budget, and a band for all."""

    budgets: Float[np.ndarray, " budget"]
    pointwise: tuple[Interval, ...]
    simultaneous: Band
    mean: Interval


def draw(seeds: int, prompts: int, resamples: int, seed: int) -> Draws:
    """The random part of a bootstrap."""
    rng = stream(seed, "analysis/bootstrap", seeds, prompts)
    counts = rng.multinomial(prompts, np.full(prompts, 1.0 / prompts), size=resamples).astype(np.float64)
    mixing = rng.standard_normal((resamples, seeds, seeds)) / np.sqrt(max(seeds - 1, 1))
    return Draws(folds(prompts, seed), counts, mixing, seed)


def folds(prompts: int, seed: int) -> Int[np.ndarray, " prompt"]:
    """The fold of every prompt."""
    return permutation(prompts, seed, "analysis/folds") % min(FOLDS, prompts)


@dataclass(frozen=True)
class _Sums:
    """Sums over each fold's prompts, and the number of prompts in them, per replicate."""

    kl: Float[np.ndarray, "resample point seed fold"]
    value: Float[np.ndarray, "resample point seed fold"]
    count: Float[np.ndarray, "resample fold"]


def _sums(term: Term, fold: Int[np.ndarray, " prompt"], counts: Float[np.ndarray, "resample prompt"]) -> _Sums:
    folds = int(fold.max()) + 1
    shape = (len(counts), len(term.points), term.cloud.kl.shape[1], folds)
    kl, value, count = np.empty(shape), np.empty(shape), np.empty((len(counts), folds))
    for i in range(folds):
        inside = fold == i
        weight = counts[:, inside]
        count[:, i] = weight.sum(axis=1)
        for target, cube in ((kl, term.cloud.kl), (value, term.cloud.value)):
            flat = cube[term.points][:, :, inside].reshape(-1, int(inside.sum()))
            target[..., i] = (weight @ flat.T).reshape(shape[:3])
    return _Sums(kl, value, count)


def _with_new_seeds(term: Term, sums: _Sums, mixing: Float[np.ndarray, "resample seed seed"], share: float) -> _Sums:
    """Replace `share` (a ratio of standard deviations) of the seeds' observed effects by newly drawn ones."""

    def renewed(
        cube: Float[np.ndarray, "point seed prompt"], total: Float[np.ndarray, "resample allowed seed fold"]
    ) -> Float[np.ndarray, "resample allowed seed fold"]:
        means = cube[term.points].mean(axis=-1)
        effects = share * (means - means.mean(axis=-1, keepdims=True))
        change = np.einsum("bst,jt->bjs", mixing, effects) - effects[None]
        return total + change[..., None] * sums.count[:, None, None, :]

    return _Sums(renewed(term.cloud.kl, sums.kl), renewed(term.cloud.value, sums.value), sums.count)


def _by_cell(cells: Float[np.ndarray, "resample point seed fold"]) -> Float[np.ndarray, "batch point"]:
    return cells.transpose(0, 2, 3, 1).reshape(-1, cells.shape[1])


def _picking(
    total: Float[np.ndarray, "resample point seed fold"], count: Float[np.ndarray, "resample fold"], crossfit: bool
) -> Float[np.ndarray, "batch point"]:
    """Means to pick by: one row per (replicate, seed, fold) left out; without cross-fitting one per replicate."""
    seeds = total.shape[2]
    if not crossfit:
        return total.sum(axis=(2, 3)) / (seeds * count.sum(axis=1))[:, None]
    others = total.sum(axis=2, keepdims=True) - total if seeds > 1 else total
    rest = others.sum(axis=3, keepdims=True) - others
    number = max(seeds - 1, 1) * (count.sum(axis=1, keepdims=True) - count)
    return _by_cell(rest / np.maximum(number, 1.0)[:, None, None, :])


def _replicates(term: Term, sums: _Sums) -> Float[np.ndarray, "resample budget"]:
    """The term's value in every replicate at every budget."""
    resamples, _, seeds, folds = sums.kl.shape
    kl, value = (_picking(total, sums.count, term.crossfit) for total in (sums.kl, sums.value))
    if not term.crossfit:
        return evaluate(term.rule(kl, value, term.budgets), kl, value, term.budgets)
    number = np.maximum(sums.count, 1.0)[:, None, None, :]
    held_kl, held_value = _by_cell(sums.kl / number), _by_cell(sums.value / number)
    result = np.empty((len(kl), len(term.budgets)))
    for start in range(0, len(result), _CHUNK):
        part = slice(start, start + _CHUNK)
        choice = term.rule(kl[part], value[part], term.budgets)
        result[part] = evaluate(choice, held_kl[part], held_value[part], term.budgets)
    by_fold = result.reshape(resamples, seeds, folds, -1).mean(axis=1)
    return np.einsum("bfk,bf->bk", by_fold, sums.count / sums.count.sum(axis=1, keepdims=True))


def contributions(term: Term, fold: Int[np.ndarray, " prompt"]) -> Float[np.ndarray, "budget seed prompt"]:
    """What each seed and prompt adds to the estimate: its Lagrangian under the choice made without it."""
    seeds, prompts = term.cloud.kl.shape[1:]
    sums = _sums(term, fold, np.ones((1, prompts)))
    kl, value = (_picking(total, sums.count, term.crossfit) for total in (sums.kl, sums.value))
    choice = term.rule(kl, value, term.budgets)
    cell = np.arange(seeds)[:, None] * sums.count.shape[1] + fold if term.crossfit else np.zeros((seeds, prompts), int)
    at = cell.reshape(-1)
    each = Choice(choice.left[at], choice.right[at], choice.share[at], choice.price[at])
    rows_kl, rows_value = (
        cube[term.points].transpose(1, 2, 0).reshape(seeds * prompts, -1) for cube in (term.cloud.kl, term.cloud.value)
    )
    return evaluate(each, rows_kl, rows_value, term.budgets).T.reshape(-1, seeds, prompts)


def seeds_share(fixed: Components) -> float:
    """How much of a seed's observed effect is the seed's own, in the last of some statistics: a ratio of deviations."""
    own, between = float(fixed.seeds[-1]), float(fixed.between_seeds[-1])
    return float(np.sqrt(own / between)) if between > 0 else 0.0


def replicates(term: Term, draws: Draws, share: float) -> Float[np.ndarray, "resample budget"]:
    """The term in every replicate, without its weight; `share` of each seed's effect is drawn anew."""
    return _replicates(term, _with_new_seeds(term, _sums(term, draws.fold, draws.prompts), draws.seeds, share))


def curve(terms: Sequence[Term], draws: Draws, prior: Prior = NO_PRIOR) -> Curve:
    """The weighted sum of the terms at every budget and on average over the budgets, with intervals and a band.

    Terms have equally many budgets; the curve is labelled with those of the first. The prior is that of the same rule.

    Raises:
        GoodhartError: fewer than two prompts.
    """
    arms = _by_arm(terms, draws.fold)
    every = np.sum(list(arms.values()), axis=0)
    fixed = components(every)
    share = seeds_share(fixed)
    drawn_again = np.zeros((len(draws.prompts), len(terms[0].budgets)))
    for term in terms:
        drawn_again += term.weight * replicates(term, draws, share)
    drawn = np.concatenate([drawn_again, drawn_again.mean(axis=1, keepdims=True)], axis=1)
    sides: list[Side] = [side(cells, _scale(terms, arm)) for arm, cells in arms.items()]
    parts = components(every, sides, prior.each(len(terms[0].budgets)), prior.freedom)
    *pointwise, mean = _intervals(every, parts, fixed, drawn.var(axis=0, ddof=1))
    return Curve(terms[0].budgets, tuple(pointwise), _band(pointwise, drawn_again, draws.seed), mean)


def _by_arm(
    terms: Sequence[Term], fold: Int[np.ndarray, " prompt"]
) -> dict[str, Float[np.ndarray, "budget_and_mean seed prompt"]]:
    """Each arm's weighted contributions at every budget and, last, their mean."""
    result: dict[str, Float[np.ndarray, "budget seed prompt"]] = {}
    for term in terms:
        cells = term.weight * contributions(term, fold)
        result[term.cloud.arm] = result[term.cloud.arm] + cells if term.cloud.arm in result else cells
    return {arm: np.concatenate([cells, cells.mean(axis=0, keepdims=True)]) for arm, cells in result.items()}


def _scale(terms: Sequence[Term], arm: str) -> float:
    """How many times the variance of an arm's seeds its terms have: (sum of weights > 0)^2 + (sum of weights < 0)^2.

    Weights of one sign belong to points that may share a run; those of opposite signs are never taken to cancel, but
    where they belong to the same term.
    """
    weights: dict[tuple[object, ...], float] = {}
    for term in terms:
        if term.cloud.arm == arm:
            name = (term.rule, term.crossfit, term.points.tobytes(), term.budgets.tobytes())
            weights[name] = weights.get(name, 0.0) + term.weight
    signed = np.array(list(weights.values()))
    return float(signed[signed > 0].sum() ** 2 + signed[signed < 0].sum() ** 2)


def _intervals(
    cells: Float[np.ndarray, "budget seed prompt"],
    parts: Components,
    fixed: Components,
    drawn: Float[np.ndarray, " budget"],
) -> list[Interval]:
    """The interval at each budget, from the variances with the picks fixed and with the picks drawn again."""
    variance = with_picks(parts, fixed, drawn, fixed.seeds + fixed.prompts)
    se, centre = np.sqrt(variance), cells.mean(axis=(1, 2))
    size = {"seeds": cells.shape[1], "prompts": cells.shape[2]}
    return [around(float(centre[i]), float(se[i]), float(parts.freedom[i]), **size) for i in range(len(cells))]


def with_picks(
    parts: Components,
    fixed: Components,
    drawn: Float[np.ndarray, "*batch"],
    held: Float[np.ndarray, "*batch"],
) -> Float[np.ndarray, "*batch"]:
    """The variance V of the module's head: V_0 of `parts`, r of `fixed`, V_bootstrap `drawn` and V_fixed `held`."""
    whole = fixed.seeds + fixed.prompts
    weight = (1 + fixed.seeds / np.where(whole > 0, whole, 1.0)) / 2
    return parts.seeds + parts.prompts + np.maximum(weight * (drawn - held), 0.0)


def band_quantile(replicates: Float[np.ndarray, "resample budget"], freedom: float, seed: int) -> float:
    """The 95% quantile of max_k |G_k| / sqrt(chi2_f / f), G Gaussian with the replicates' correlation (sup-t).

    A band of so many standard errors contains the whole curve with 95% where estimates are Gaussian and f is that of
    all standard errors together (Montiel Olea and Plagborg-Moller 2019, doi 10.1002/jae.2656, here with an
    estimated scale). Budgets at which the replicates do not vary have no part.
    """
    centred = replicates - replicates.mean(axis=0)
    norm = np.sqrt((centred**2).sum(axis=0))
    unit = centred[:, norm > 0] / norm[norm > 0]
    if not unit.shape[1]:
        return 0.0
    _, size, axes = np.linalg.svd(unit, full_matrices=False)
    rng = stream(seed, "analysis/band", unit.shape[1])
    highest = np.abs(rng.standard_normal((BAND_DRAWS, len(size))) @ (size[:, None] * axes)).max(axis=1)
    return float(np.quantile(highest / np.sqrt(rng.chisquare(freedom, BAND_DRAWS) / freedom), LEVEL))


def _band(pointwise: Sequence[Interval], replicates: Float[np.ndarray, "resample budget"], seed: int) -> Band:
    """The curve's band, with the same tail of t at every budget whatever its degrees of freedom.

    The tail is that of `band_quantile` with the median of the degrees of freedom; where they are all equal the band is
    that many standard errors wide.
    """
    median = float(np.median([at.freedom for at in pointwise]))
    tail = min(float(special.stdtr(median, -band_quantile(replicates, median, seed))), (1 - LEVEL) / 2)
    half = [float(special.stdtrit(at.freedom, 1 - tail)) * at.se for at in pointwise]
    centre = np.array([at.estimate for at in pointwise])
    return Band(centre - half, centre + half)
