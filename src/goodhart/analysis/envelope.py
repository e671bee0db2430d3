"""What an arm can reach at a KL budget: the rule that picks its points, as indices, weights and prices.

A policy that plays one of several policies at random has the mean of their win rates, and at most the mean of their
KLs, because KL(. || SFT) is convex. So the best that an arm's points can do at budget k is the linear program

    E(k) = max_w sum_j w_j Y_j   with   sum_j w_j K_j <= k,  w >= 0,  sum_j w_j = 1,

the least concave nondecreasing majorant of its points (K_j, Y_j), starting at the SFT policy. Its Lagrangian
sum_j w_j (Y_j - price (K_j - k)) at the optimum's weights and price has errors of second order only in both, so it
may be evaluated on other data than those that picked them (`crossfit.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int


@dataclass(frozen=True)
class Choice:
    """Per batch and budget: the two points that are mixed, the share of the second, the price in measure per nat."""

    left: Int[np.ndarray, "batch budget"]
    right: Int[np.ndarray, "batch budget"]
    share: Float[np.ndarray, "batch budget"]
    price: Float[np.ndarray, "batch budget"]


Rule = Callable[
    [Float[np.ndarray, "batch point"], Float[np.ndarray, "batch point"], Float[np.ndarray, " budget"]], Choice
]
"""From mean KL, mean measure and budgets (nats) to a choice."""


def hull(
    kl: Float[np.ndarray, "batch point"], value: Float[np.ndarray, "batch point"], budgets: Float[np.ndarray, " budget"]
) -> Choice:
    """The optimum of the linear program, by walking along the hull from the point of least KL, steepest edge first."""
    row = np.arange(len(kl))
    current = np.argmin(kl, axis=1)
    corners = [current]
    while True:
        rise, run = value - value[row, current][:, None], kl - kl[row, current][:, None]
        ahead = (run > 0) & (rise > 0)
        if not ahead.any():
            return _along(np.stack(corners, axis=1), kl, value, budgets)
        slope = np.where(ahead, rise, -1.0) / np.where(ahead, run, 1.0)
        current = np.where(ahead.any(axis=1), np.argmax(slope, axis=1), current)
        corners.append(current)


def trajectory(
    kl: Float[np.ndarray, "batch point"], value: Float[np.ndarray, "batch point"], budgets: Float[np.ndarray, " budget"]
) -> Choice:
    """Linear interpolation between the points in the order of their KL, flat outside: no point is preferred."""
    return _along(np.argsort(kl, axis=1, kind="stable"), kl, value, budgets)


def highest(
    kl: Float[np.ndarray, "batch point"],  # noqa: ARG001
    value: Float[np.ndarray, "batch point"],
    budgets: Float[np.ndarray, " budget"],
) -> Choice:
    """The single point with the greatest measure, whatever its KL."""
    at = np.repeat(np.argmax(value, axis=1)[:, None], len(budgets), axis=1)
    return Choice(at, at, np.zeros(at.shape), np.zeros(at.shape))


def _along(
    corners: Int[np.ndarray, "batch corner"],
    kl: Float[np.ndarray, "batch point"],
    value: Float[np.ndarray, "batch point"],
    budgets: Float[np.ndarray, " budget"],
) -> Choice:
    """Linear interpolation between corners of nondecreasing KL, flat (price 0) before the first and after the last."""
    x, y = np.take_along_axis(kl, corners, axis=1), np.take_along_axis(value, corners, axis=1)
    passed = np.zeros((len(kl), len(budgets)), dtype=np.int64)
    for corner in x.T:
        passed += budgets >= corner[:, None]
    left = np.maximum(passed - 1, 0)
    inside = (passed > 0) & (passed < corners.shape[1])
    right = np.where(inside, passed, left)
    row = np.arange(len(kl))[:, None]
    start, width = x[row, left], np.where(inside, x[row, right] - x[row, left], 1.0)
    share = np.where(inside, (budgets - start) / width, 0.0)
    price = (y[row, right] - y[row, left]) / width
    return Choice(corners[row, left], corners[row, right], share, price)


def evaluate(
    choice: Choice,
    kl: Float[np.ndarray, "batch point"],
    value: Float[np.ndarray, "batch point"],
    budgets: Float[np.ndarray, " budget"],
) -> Float[np.ndarray, "batch budget"]:
    """The Lagrangian of a choice on data that need not be those that it was made on."""

    def at(numbers: Float[np.ndarray, "batch point"]) -> Float[np.ndarray, "batch budget"]:
        left, right = (np.take_along_axis(numbers, index, axis=1) for index in (choice.left, choice.right))
        return left + choice.share * (right - left)

    # Without a price KL does not bind, and an edge's own KLs make the bracket 0 on the data that picked it.
    return at(value) - choice.price * (at(kl) - budgets)
