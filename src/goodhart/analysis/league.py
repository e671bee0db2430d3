"""A league: methods by what each wins on average over one range of KL, and the confidence set of every rank.

A method's value is the mean of its cross-fitted envelope E(k) (`envelope.py`) over budgets k that are the same for all,
so values compare and differences add up. Its rank is 1 + the number of methods of greater value. Of K methods, one is
shown to be better than another where Holm's method over all K (K - 1) one-sided tests rejects that it is not. With 95%
no such claim is wrong, whatever the truth; then every rank lies in

    [1 + number shown to be better, K - number shown to be worse],

all K at once (Mogstad, Romano, Shaikh and Wilhelm 2024, Review of Economic Studies 91(1), doi 10.1093/restud/rdad006).
They take the quantile of the largest statistic, which knows how the tests depend on one another; Holm's method does
not, so these sets are the wider, conservative ones.

Every difference has the variance of `crossfit.curve`, except that each method's replicates are drawn once, with its own
share of new seeds' effects, and serve all of its differences: what picking again adds is V_bootstrap less the variance
that fixed picks have under the same draws, var_s(a_1 m_1s - a_2 m_2s) / S + that of the prompts, with m_s a seed's mean
and a the share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from goodhart.analysis.crossfit import Draws, Term, contributions, curve, replicates, seeds_share, with_picks
from goodhart.analysis.envelope import highest, hull
from goodhart.analysis.gap import Range, budgets
from goodhart.analysis.hypotheses import League
from goodhart.analysis.interval import LEVEL, Interval, Prior, around, components, side
from goodhart.analysis.looks import holm
from goodhart.analysis.study_tables import Tables
from goodhart.analysis.table import Cloud, Clouds, Matrix, clouds
from goodhart.special import special

MEASURE, SPLIT = "golden_vs_policy", "held_out"
"""What methods are ranked by: golden win rate against the golden policy, on held-out prompts."""


@dataclass(frozen=True)
class Lead:
    """A method's value less the baseline's."""

    found: Interval
    p: float
    """Two-sided."""
    adjusted: float
    """By Holm's method over all methods but the baseline."""


@dataclass(frozen=True)
class Place:
    """A ranked method; all numbers are golden win rates or their differences."""

    method: str
    ranks: tuple[int, int]
    """The confidence set of its rank: from the best to the worst."""
    value: Interval
    """Mean of the envelope over the budget."""
    end: Interval
    """The envelope at the budget's end."""
    lead: Lead | None
    """None for the baseline, and where the baseline is not ranked."""
    over_best_of_n: Interval | None
    """Its envelope less that of best-of-n, over `Standings.shared`."""


@dataclass(frozen=True)
class Unranked:
    """A method that the ranking leaves out, and why."""

    method: str
    why: str
    reached: Range | None
    """The KL that it reached in every seed, nats; None where nothing of it is measured."""
    peak: Interval | None
    """Its cross-fitted best checkpoint, at any KL."""


@dataclass(frozen=True)
class Standings:
    """A league's methods, the greatest value first, and those that are not ranked, in the order of the study file."""

    league: League
    places: tuple[Place, ...]
    unranked: tuple[Unranked, ...]
    seeds: tuple[int, ...]
    prompts: int
    left_out_prompts: int
    best_of_n: str
    """The arm of best-of-n; empty where the study has none."""
    shared: Range | None
    """The part of the budget that best-of-n has too, nats."""


@dataclass(frozen=True)
class Statistics:
    """Estimates with their standard errors and degrees of freedom."""

    estimate: Float[np.ndarray, " statistic"]
    se: Float[np.ndarray, " statistic"]
    freedom: Float[np.ndarray, " statistic"]
    seeds: int
    prompts: int

    def intervals(self) -> list[Interval]:
        """The t interval of each."""
        size = {"seeds": self.seeds, "prompts": self.prompts}
        each = zip(self.estimate, self.se, self.freedom, strict=True)
        return [around(float(estimate), float(se), float(freedom), **size) for estimate, se, freedom in each]

    def above(self) -> Float[np.ndarray, " statistic"]:
        """One-sided p-values against values of 0 or less."""
        t = self.estimate / np.where(self.se > 0, self.se, 1.0)
        exact = np.where(self.estimate == 0, 0.5, (self.estimate < 0).astype(np.float64))
        return np.where(self.se > 0, special.stdtr(self.freedom, -t), exact)


@dataclass(frozen=True)
class Means:
    """Several methods' envelopes averaged over some budgets: by seed and prompt, and in every replicate."""

    cells: Float[np.ndarray, "method seed prompt"]
    drawn: Float[np.ndarray, "method resample"]
    share: Float[np.ndarray, " method"]
    """Of each seed's observed effect, what its replicates draw anew."""

    def at(self, places: Int[np.ndarray, " some"]) -> Means:
        """Some of the methods."""
        return Means(self.cells[places], self.drawn[places], self.share[places])


def rank(tables: Tables, league: League, best_of_n: str = "") -> Standings:
    """The ranking of a league, whose methods are named, beside an arm of best-of-n."""
    matrix = tables.matrix(SPLIT)
    alone = {arm: clouds(matrix, [arm], MEASURE) for arm in league.methods}
    seeds = tuple(sorted({seed for result in alone.values() if result for seed in result.seeds}))
    why = {arm: _why_not(result, league, seeds) for arm, result in alone.items()}
    ranked = tuple(arm for arm in league.methods if not why[arm])
    beside = (best_of_n,) if best_of_n and set(seeds) <= _seeds(matrix, best_of_n) else ()
    result = clouds(matrix, [*ranked, *beside], MEASURE) if ranked else None
    if result is None or len(result.prompts) < 2:
        why = {arm: reason or "it has no prompt in common with the others" for arm, reason in why.items()}
        left = tuple(_unranked(tables, arm, alone[arm], reason) for arm, reason in why.items())
        return Standings(league, (), left, seeds, 0, 0, "", None)
    shared = _shared(result.arms[best_of_n], league) if beside else None
    left = tuple(_unranked(tables, arm, alone[arm], why[arm]) for arm in league.methods if why[arm])
    places = _places(tables, league, result, ranked, best_of_n, shared)
    size = (seeds, len(result.prompts), result.left_out_prompts)
    return Standings(league, places, left, *size, best_of_n if beside else "", shared)


def _seeds(matrix: Matrix, arm: str) -> set[int]:
    return {at.seed for at in matrix.checkpoints if at.arm == arm}


def _reached(cloud: Cloud) -> Range:
    """The range of trained KL that every seed spans."""
    means = cloud.kl[cloud.trained].mean(axis=2)
    return Range(float(means.min(axis=0).max()), float(means.max(axis=0).min()))


def _why_not(given: Clouds | None, league: League, seeds: Sequence[int]) -> str:
    """Why a method is not ranked; empty where it is."""
    if given is None or len(given.prompts) < 2:
        return "nothing of it is measured"
    if given.seeds != seeds:
        return f"it has the seeds {', '.join(map(str, given.seeds))} of {', '.join(map(str, seeds))}"
    (cloud,) = given.arms.values()
    reached, (low, high) = _reached(cloud), league.budget
    if reached.low > low:
        return f"in some seed its first checkpoint is beyond KL {low:g}"
    return f"in some seed it does not reach KL {high:g}" if reached.high < high else ""


def _unranked(tables: Tables, arm: str, given: Clouds | None, why: str) -> Unranked:
    if given is None or len(given.prompts) < 2:
        return Unranked(arm, why, None, None)
    cloud, known = given.arms[arm], tables.prior(SPLIT, MEASURE, highest)
    peak = curve([Term(cloud, highest, cloud.trained, np.zeros(1), 1.0)], tables.draws(given), known).mean
    return Unranked(arm, why, _reached(cloud), peak)


def _shared(best: Cloud, league: League) -> Range | None:
    reached = _reached(best)
    result = Range(max(league.budget[0], reached.low), min(league.budget[1], reached.high))
    return None if result.empty else result


def _places(
    tables: Tables, league: League, given: Clouds, ranked: Sequence[str], best_of_n: str, shared: Range | None
) -> tuple[Place, ...]:
    low, high = league.budget
    grids = [budgets(Range(low, high)), np.array([high]), *([budgets(shared)] if shared else [])]
    arms = [*ranked, *([best_of_n] if shared else [])]
    mean, end, *rest = averaged([given.arms[arm] for arm in arms], grids, tables.draws(given))
    known, own = tables.prior(SPLIT, MEASURE, hull), np.arange(len(ranked))
    values, ends = statistics(mean.at(own), known).intervals(), statistics(end.at(own), known, single=True).intervals()
    sets = rank_sets(better(pairwise(mean.at(own), known)))
    leads = _leads(mean, ranked, league.baseline, known)
    over: Sequence[Interval | None] = [None] * len(ranked)
    if rest:
        over = statistics(rest[0].at(own), known, rest[0].at(np.full(len(ranked), len(ranked)))).intervals()
    places = [Place(arm, sets[i], values[i], ends[i], leads.get(arm), over[i]) for i, arm in enumerate(ranked)]
    return tuple(sorted(places, key=lambda place: (-place.value.estimate, place.method)))


def _leads(mean: Means, ranked: Sequence[str], baseline: str, known: Prior) -> dict[str, Lead]:
    others = [arm for arm in ranked if arm != baseline]
    if baseline not in ranked or not others:
        return {}
    at = np.array([ranked.index(arm) for arm in others])
    result = statistics(mean.at(at), known, mean.at(np.full(len(at), ranked.index(baseline))))
    p = [float(2 * min(one, 1 - one)) for one in result.above()]
    each = zip(others, result.intervals(), p, holm(p), strict=True)
    return {arm: Lead(interval, alone, adjusted) for arm, interval, alone, adjusted in each}


def averaged(arms: Sequence[Cloud], grids: Sequence[Float[np.ndarray, " _"]], draws: Draws) -> list[Means]:
    """The envelopes' means over each grid of budgets (nats), the same draws for all; shares are of the first grid."""
    every, ends = np.concatenate(grids), np.cumsum([len(grid) for grid in grids])[:-1]
    cells: list[list[Float[np.ndarray, "seed prompt"]]] = []
    drawn: list[list[Float[np.ndarray, " resample"]]] = []
    share: list[float] = []
    for cloud in arms:
        term = Term(cloud, hull, np.arange(len(cloud.points)), every, 1.0)
        cells.append([part.mean(axis=0) for part in np.split(contributions(term, draws.fold), ends)])
        share.append(seeds_share(components(cells[-1][0][None])))
        drawn.append([part.mean(axis=1) for part in np.split(replicates(term, draws, share[-1]), ends, axis=1)])
    shares = np.array(share)
    return [
        Means(np.stack([own[i] for own in cells]), np.stack([own[i] for own in drawn]), shares)
        for i in range(len(grids))
    ]


def statistics(first: Means, prior: Prior, second: Means | None = None, single: bool = False) -> Statistics:
    """Each of the first, less its partner of the second where there are some; `single` if they are of one budget."""
    every = first.cells - second.cells if second else first.cells
    seeds, prompts = every.shape[1:]
    fixed, sides = components(every), [side(each.cells) for each in (first, second) if each]
    parts = components(every, sides, prior.at_budget if single else prior.variance, prior.freedom)
    moved, drawn = _renewed(first), first.drawn
    if second:
        moved, drawn = moved - _renewed(second), drawn - second.drawn
    held = fixed.prompts + (moved.var(axis=1, ddof=1) / seeds if seeds > 1 else 0.0)
    variance = with_picks(parts, fixed, drawn.var(axis=1, ddof=1), held)
    return Statistics(every.mean(axis=(1, 2)), np.sqrt(variance), parts.freedom, seeds, prompts)


def _renewed(means: Means) -> Float[np.ndarray, "method seed"]:
    return means.share[:, None] * means.cells.mean(axis=2)


def pairwise(means: Means, prior: Prior) -> Float[np.ndarray, "method method"]:
    """One-sided p-values against "row is not better than column"; 1 on the diagonal."""
    number = len(means.cells)
    rows, columns = np.triu_indices(number, 1)
    p = np.ones((number, number))
    if len(rows):
        p[rows, columns] = statistics(means.at(rows), prior, means.at(columns)).above()
        p[columns, rows] = 1 - p[rows, columns]
    return p


def better(p: Float[np.ndarray, "method method"]) -> Bool[np.ndarray, "method method"]:
    """Where Holm's method over all that is off the diagonal shows that the row is better than the column."""
    number = len(p)
    apart = ~np.eye(number, dtype=bool)
    result = np.zeros((number, number), dtype=bool)
    result[apart] = np.array(holm(list(p[apart])), dtype=np.float64) <= 1 - LEVEL
    return result


def rank_sets(better: Bool[np.ndarray, "method method"]) -> list[tuple[int, int]]:
    """[1 + number shown to be better, K - number shown to be worse] of each of K methods."""
    number = len(better)
    return [(1 + int(better[:, i].sum()), number - int(better[i].sum())) for i in range(number)]
