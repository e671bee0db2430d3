"""Intervals from numbers [seed, prompt], where seeds and prompts are both random and crossed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from goodhart.errors import GoodhartError
from goodhart.special import special

LEVEL = 0.95
"""The nominal coverage of every interval."""


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
class Components:
    """The parts of the variance of a mean over seeds and prompts, and the t degrees of freedom of their sum."""

    between_seeds: Float[np.ndarray, "*batch"]
    seeds: Float[np.ndarray, "*batch"]  # the seeds' own part: between_seeds less the interaction, at least 0
    prompts: Float[np.ndarray, "*batch"]  # prompts and interaction
    freedom: Float[np.ndarray, "*batch"]


def components(cells: Float[np.ndarray, "*batch seed prompt"]) -> Components:
    """Variance components of the mean of crossed random effects.

    cells[s, p] = mean + seed_s + prompt_p + interaction_sp. With V_S, V_P the variances of the seeds' and the
    prompts' means over their numbers and V_SP that of the interaction, Var(mean) = max(V_S - V_SP, 0) + V_P (Searle,
    Casella and McCulloch 1992, chapter 4; the two-way cluster formula of Cameron, Gelbach and Miller 2011). The t
    degrees of freedom are Var^2 / (V_S^2 / (S - 1) + V_P^2 / (P - 1)) (Satterthwaite 1946); V_S leaves the sum when
    its component is 0, except with two seeds, where a component of 0 is no evidence that there is none.

    Raises:
        GoodhartError: fewer than two prompts.
    """
    seeds, prompts = cells.shape[-2:]
    if prompts < 2:
        raise GoodhartError("an interval needs at least 2 prompts", "evaluate on more prompts")
    by_prompt = np.asarray(cells.mean(axis=-2).var(axis=-1, ddof=1) / prompts)
    if seeds == 1:
        zero = np.zeros_like(by_prompt)
        return Components(zero, zero, by_prompt, np.full_like(by_prompt, prompts - 1))
    by_seed = np.asarray(cells.mean(axis=-1).var(axis=-1, ddof=1) / seeds)
    mixed = _interaction(cells)
    own = np.asarray(np.maximum(by_seed - mixed, 0.0))
    total = own + by_prompt
    doubtful = (own > 0) | (seeds == 2)
    spread = by_seed**2 / (seeds - 1) * doubtful + by_prompt**2 / (prompts - 1)
    freedom = np.where(spread > 0, total**2 / np.where(spread > 0, spread, 1.0), float(prompts - 1))
    # No sum of these parts has fewer degrees of freedom than its scarcest part, or more than all of them.
    return Components(by_seed, own, by_prompt, np.asarray(np.clip(freedom, 1.0, prompts + seeds - 2)))


def _interaction(cells: Float[np.ndarray, "*batch seed prompt"]) -> Float[np.ndarray, "*batch"]:
    """The variance of the mean that the interaction alone would give, sigma_SP^2 / (S P)."""
    seeds, prompts = cells.shape[-2:]
    residual = cells - cells.mean(axis=-1, keepdims=True) - cells.mean(axis=-2, keepdims=True)
    residual = residual + cells.mean(axis=(-1, -2), keepdims=True)
    return np.asarray((residual**2).sum(axis=(-1, -2)) / ((seeds - 1) * (prompts - 1) * seeds * prompts))


def around(estimate: float, se: float, freedom: float, *, seeds: int, prompts: int) -> Interval:
    """The t interval of an estimate with a standard error and degrees of freedom."""
    half = float(special.stdtrit(freedom, 0.5 + LEVEL / 2)) * se
    return Interval(estimate, estimate - half, estimate + half, se, freedom, seeds, prompts)


def of_mean(cells: Float[np.ndarray, "seed prompt"]) -> Interval:
    """The interval of the mean of crossed cells; of a linear statistic the bootstrap's variance is this closed form."""
    parts = components(cells)
    se = float(np.sqrt(parts.seeds + parts.prompts))
    return around(float(cells.mean()), se, float(parts.freedom), seeds=cells.shape[0], prompts=cells.shape[1])
