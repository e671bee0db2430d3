"""Straight lines and curves that bend, over d = sqrt(KL): weighted least squares and how their predictions compare.

All forms are linear in their parameters, with r0 the value of the SFT policy and KL in nats:

    straight line    R(d) = r0 + s d
    best-of-n form   R(d) = r0 + d (alpha - beta d)         maximal at d = alpha / (2 beta)
    RL form          R(d) = r0 + d (alpha - beta log d)     maximal at d = exp(alpha / beta - 1)

The last two are what Gao, Schulman and Hilton 2022 (arXiv 2210.10760) found for the gold reward under best-of-n and
reinforcement learning. A win rate or a similarity takes the reward's place here, as win rates do in Rafailov et al.
2024 (arXiv 2406.02900), so the forms are descriptions and no laws.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from goodhart.special import special

STRAIGHT, BEST_OF_N, RL = "straight line", "best-of-n form", "RL form"

_DEPENDENT = 1e-9
"""Determinant of the columns' correlations below which the data do not tell the parameters apart."""
_ROUNDING = 1e-20
"""The share of the squares' sum that arithmetic in double precision leaves of an exact fit."""


def _square(d: Float[np.ndarray, "*batch"]) -> Float[np.ndarray, "*batch"]:
    return d * d


def _times_log(d: Float[np.ndarray, "*batch"]) -> Float[np.ndarray, "*batch"]:
    return np.asarray(special.xlogy(d, d))


BENDS: Mapping[str, Callable[[Float[np.ndarray, "*batch"]], Float[np.ndarray, "*batch"]]] = {
    BEST_OF_N: _square,
    RL: _times_log,
}
"""What beta multiplies in each form that bends, with its limit 0 at d = 0."""


@dataclass(frozen=True)
class Candidate:
    """One form at its least squares: its parameters, and what they are worth on data that they were not fitted to.

    `error` is the root of the weighted mean square of leave-one-run-out predictions, in units of the measure; `aicc` is
    n log(RSS / n) + 2 k + 2 k (k + 1) / (n - k - 1), k the parameters and the variance (Hurvich and Tsai 1989).
    """

    form: str
    start: float
    slope: float  # s, or alpha
    bend: float  # beta; 0 of the straight line
    error: float
    aicc: float

    def at(self, d: Float[np.ndarray, " place"]) -> Float[np.ndarray, " place"]:
        """The curve at d = sqrt(KL)."""
        line = self.start + self.slope * d
        return line if self.form == STRAIGHT else line - self.bend * BENDS[self.form](d)


def basis(form: str, d: Float[np.ndarray, "*batch item"], free: bool) -> Float[np.ndarray, "*batch item parameter"]:
    """The regressors of (slope, bend, start), those that the form has; the start is one of them only if `free`."""
    columns = [d] if form == STRAIGHT else [d, -BENDS[form](d)]
    return np.stack([*columns, np.ones_like(d)] if free else columns, axis=-1)


def solve(
    columns: Float[np.ndarray, "*batch item parameter"],
    y: Float[np.ndarray, "*batch item"],
    weights: Float[np.ndarray, "*batch item"],
) -> Float[np.ndarray, "*batch parameter"]:
    """Weighted least squares of every batch; NaN where the items do not determine the parameters."""
    root = np.sqrt(weights)[..., None]
    norm = np.sqrt((weights[..., None] * columns**2).sum(axis=-2))
    unit = root * columns / np.where(norm > 0, norm, 1.0)[..., None, :]
    gram = np.einsum("...ij,...ik->...jk", unit, unit)
    known = np.linalg.det(gram) > _DEPENDENT
    gram = np.where(known[..., None, None], gram, np.eye(gram.shape[-1]))
    right = np.einsum("...ij,...i->...j", unit, root[..., 0] * y)
    result = np.linalg.solve(gram, right[..., None])[..., 0] / np.where(norm > 0, norm, 1.0)
    return np.where(known[..., None], result, np.nan)


def peak_position(
    form: str, slope: Float[np.ndarray, "*batch"], bend: Float[np.ndarray, "*batch"]
) -> Float[np.ndarray, "*batch"]:
    """The d of the maximum: alpha / (2 beta) or exp(alpha / beta - 1); infinite where the curve does not turn down."""
    down = bend > 0
    ratio = slope / np.where(down, bend, 1.0)
    place = ratio / 2 if form == BEST_OF_N else np.exp(np.minimum(ratio - 1, 700.0))
    return np.where(down, place, np.inf)


def candidate(
    form: str,
    d: Float[np.ndarray, " item"],
    y: Float[np.ndarray, " item"],
    weights: Float[np.ndarray, " item"],
    run: Int[np.ndarray, " item"],
    start: float | None,
) -> Candidate:
    """One form through the value of the SFT policy, or with a free start where that is None."""
    columns, rise = basis(form, d, start is None), y - (start or 0.0)
    result = solve(columns, rise, weights)
    scaled = weights / weights.mean()
    total = float((scaled * rise**2).sum())
    rss = max(float((scaled * (rise - columns @ result) ** 2).sum()), _ROUNDING * total, np.finfo(np.float64).tiny)
    n, k = len(d), columns.shape[1] + 1
    aicc = n * np.log(rss / n) + 2 * k + 2 * k * (k + 1) / (n - k - 1) if n > k + 1 else np.inf
    first = float(result[-1]) if start is None else start
    bend = 0.0 if form == STRAIGHT else float(result[1])
    return Candidate(form, first, float(result[0]), bend, _left_out(columns, rise, weights, run), float(aicc))


def _left_out(
    columns: Float[np.ndarray, "item parameter"],
    y: Float[np.ndarray, " item"],
    weights: Float[np.ndarray, " item"],
    run: Int[np.ndarray, " item"],
) -> float:
    """Every run predicted from the others."""
    inside: Bool[np.ndarray, "run item"] = run[None, :] == np.unique(run)[:, None]
    shape = inside.shape
    kept = np.where(inside, 0.0, weights)
    result = solve(np.broadcast_to(columns, (*shape, columns.shape[1])), np.broadcast_to(y, shape), kept)
    predicted = np.einsum("ij,rj->ri", columns, result)
    squares = np.where(inside, weights * (y - predicted) ** 2, 0.0).sum()
    return float(np.sqrt(squares / weights.sum()))
