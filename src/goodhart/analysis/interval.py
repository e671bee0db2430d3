"""Intervals from numbers [seed, prompt], where seeds and prompts are both random and crossed.

Three seeds say little about how much seeds differ, and least where they happen to agree: an estimate of 0 is as good as
no estimate. So a statistic is cut into sides, one for each arm in it, and each side's variance between seeds is joined
with a prior that all arms of the study give; no term leaves the sum where its estimate is small.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from goodhart.errors import GoodhartError
from goodhart.special import special

LEVEL = 0.95
"""The nominal coverage of every interval."""

STRONGEST = 2.0
"""At most this many degrees of freedom has a prior: an arm may be unlike the others, and few seeds do not show it."""


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95% interval; with one seed it covers the prompts' variation only."""

    estimate: float
    low: float
    high: float
    se: float
    freedom: float  # degrees of freedom of the t quantile
    seeds: int
    prompts: int

    @property
    def over(self) -> str:
        """What the interval generalises to."""
        return "seeds and prompts" if self.seeds > 1 else "prompts only"


@dataclass(frozen=True)
class Side:
    """One arm's part of a statistic, as its seeds show it, in squared units of the measure."""

    between: Float[np.ndarray, "*batch"] | float
    """The variance of the seeds' means (with S - 1)."""
    mixed: Float[np.ndarray, "*batch"] | float
    """What of it the interaction of seeds and prompts alone is expected to give: its mean square over prompts."""
    scale: float = 1.0
    """How many times the variance of one arm's seeds it has: the square of the arm's weight."""


@dataclass(frozen=True)
class Prior:
    """How much an arm's seeds differ, as all arms of a study show it together: variances and degrees of freedom.

    The variances are those of one arm's seeds beyond the interaction (tau^2), in squared units of the measure.
    """

    variance: float
    """Of a statistic's mean over its budgets."""
    at_budget: float
    """Of the statistic at one budget, on average over budgets."""
    freedom: float
    """0: nothing is known, and each side stands for itself."""

    def each(self, budgets: int) -> Float[np.ndarray, " budget_and_mean"]:
        """The variance at each of the budgets and, last, of their mean."""
        return np.append(np.full(budgets, self.at_budget), self.variance)


NO_PRIOR = Prior(0.0, 0.0, 0.0)
"""What one arm alone says of all arms."""


@dataclass(frozen=True)
class Components:
    """The parts of the variance of a mean over seeds and prompts, and the t degrees of freedom of their sum."""

    between_seeds: Float[np.ndarray, "*batch"]
    seeds: Float[np.ndarray, "*batch"]  # the seeds' own part: between_seeds less the interaction, at least 0
    prompts: Float[np.ndarray, "*batch"]  # prompts and interaction
    freedom: Float[np.ndarray, "*batch"]


def side(cells: Float[np.ndarray, "*batch seed prompt"], scale: float = 1.0) -> Side:
    """The side of an arm whose weighted contributions are the cells; with one seed it has no variance.

    With MS the mean squares of the two-way table of S seeds and P prompts: between = MS_seed / P, mixed = MS_SP / P.
    """
    seeds, prompts = cells.shape[-2:]
    if seeds == 1 or prompts == 1:
        zero = np.zeros(cells.shape[:-2])
        return Side(zero, zero, scale)
    by_seed, by_prompt = cells.mean(axis=-1, keepdims=True), cells.mean(axis=-2, keepdims=True)
    residual = cells - by_seed - by_prompt + cells.mean(axis=(-1, -2), keepdims=True)
    mixed = (residual**2).sum(axis=(-1, -2)) / ((seeds - 1) * (prompts - 1) * prompts)
    return Side(np.asarray(by_seed[..., 0].var(axis=-1, ddof=1)), np.asarray(mixed), scale)


def prior(arms: Sequence[Float[np.ndarray, "budget _ _"]]) -> Prior:
    """The prior that the contributions [budget, seed, prompt] of a study's arms give, each alone and with weight 1.

    tau^2 = max(mean(between - mixed), 0) over the arms, each weighted by its S - 1, and not below 0 because a variance
    is not; the degrees of freedom are those of all arms but one, at most `STRONGEST`. Arms of one seed say nothing.
    """
    known = [cells for cells in arms if cells.shape[1] > 1]
    own = np.array([cells.shape[1] - 1.0 for cells in known])
    if len(known) < 2:
        return NO_PRIOR

    def pooled(sides: Sequence[Side]) -> float:
        return max(float(np.average([np.mean(s.between - s.mixed) for s in sides], weights=own)), 0.0)

    averaged, single = [side(cells.mean(axis=0)) for cells in known], [side(cells) for cells in known]
    return Prior(pooled(averaged), pooled(single), float(min(STRONGEST, own.sum() - own.max())))


def combine(
    sides: Sequence[Side],
    mixed: Float[np.ndarray, "*batch"] | float,
    by_prompt: Float[np.ndarray, "*batch"] | float,
    *,
    seeds: int,
    prompts: int,
    variance: Float[np.ndarray, "*batch"] | float = 0.0,
    freedom: float = 0.0,
) -> Components:
    """The variance of a statistic of S seeds and P prompts from its sides and a prior (tau^2 and g degrees of freedom).

    With d = S - 1 and v, n, w^2 a side's between, mixed and scale,

        s = max(v, (g (w^2 tau^2 + n) + d v) / (g + d))
        V = max(sum s - mixed, 0) / S + by_prompt
        degrees of freedom = V^2 / (sum (s / S)^2 / (g + d) + by_prompt^2 / (P - 1)),

    at least 1, where `mixed` is the whole statistic's mean square of the interaction over P and `by_prompt` the
    variance of its prompts' means over P. s is a prior's and a sample's variance, joined by their degrees of freedom
    (Smyth 2004, doi 10.2202/1544-6115.1027), and never below the arm's own; V is that of crossed random effects
    (Searle, Casella and McCulloch 1992, chapter 4), the degrees of freedom are Satterthwaite's (1946). With one seed
    V is the prompts' alone.
    """
    rest, own = np.asarray(by_prompt, dtype=np.float64), seeds - 1
    if own == 0:
        return Components(np.zeros_like(rest), np.zeros_like(rest), rest, np.full_like(rest, prompts - 1))
    total, spread = np.zeros_like(rest), rest**2 / (prompts - 1)
    for each in sides:
        joined = (freedom * (each.scale * variance + each.mixed) + own * each.between) / (freedom + own)
        part = np.maximum(each.between, joined) / seeds
        total, spread = total + part, spread + part**2 / (freedom + own)
    seeds_own = np.maximum(total - np.asarray(mixed) / seeds, 0.0)
    degrees = np.where(spread > 0, (seeds_own + rest) ** 2 / np.where(spread > 0, spread, 1.0), prompts - 1.0)
    # What the interaction takes off could leave less than one degree, which no term has.
    return Components(np.asarray(total), np.asarray(seeds_own), rest, np.asarray(np.maximum(degrees, 1.0)))


def components(
    cells: Float[np.ndarray, "*batch seed prompt"],
    sides: Sequence[Side] | None = None,
    variance: Float[np.ndarray, "*batch"] | float = 0.0,
    freedom: float = 0.0,
) -> Components:
    """The variance components of the mean of crossed cells; without sides the cells are one, without a prior.

    cells[s, p] = mean + seed_s + prompt_p + interaction_sp; see `combine`.

    Raises:
        GoodhartError: fewer than two prompts.
    """
    seeds, prompts = cells.shape[-2:]
    if prompts < 2:
        raise GoodhartError("an interval needs at least 2 prompts", "evaluate on more prompts")
    whole = side(cells)
    by_prompt = np.asarray(cells.mean(axis=-2).var(axis=-1, ddof=1) / prompts)
    size = {"seeds": seeds, "prompts": prompts}
    return combine(sides or (whole,), whole.mixed, by_prompt, **size, variance=variance, freedom=freedom)


def around(estimate: float, se: float, freedom: float, *, seeds: int, prompts: int) -> Interval:
    """The t interval of an estimate with a standard error and degrees of freedom."""
    half = float(special.stdtrit(freedom, 0.5 + LEVEL / 2)) * se
    return Interval(estimate, estimate - half, estimate + half, se, freedom, seeds, prompts)


def of_mean(
    cells: Float[np.ndarray, "seed prompt"], sides: Sequence[Side] | None = None, known: Prior = NO_PRIOR
) -> Interval:
    """The interval of the mean of crossed cells; of a linear statistic the bootstrap's variance is this closed form."""
    parts = components(cells, sides, known.variance, known.freedom)
    se = float(np.sqrt(parts.seeds + parts.prompts))
    return around(float(cells.mean()), se, float(parts.freedom), seeds=cells.shape[0], prompts=cells.shape[1])
