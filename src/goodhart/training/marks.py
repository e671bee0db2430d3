"""How well scores tell good responses from bad ones that stand alone."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

_Z = 1.959963984540054
"""The normal quantile of 95% intervals."""
_HALVINGS = 40


def auc(scores: Float[np.ndarray, " mark"], good: Float[np.ndarray, " mark"]) -> float:
    """P(s(good) > s(bad)) + P(s(good) = s(bad)) / 2 over all pairs of a good and a bad response (Mann and Whitney).

    It is what agreement is for pairs, with one half for who knows nothing, whatever the share of good ones.
    Raises ValueError where all are good or all are bad.
    """
    better, worse = scores[good == 1], np.sort(scores[good == 0])
    if not len(better) or not len(worse):
        raise ValueError("good and bad responses are told apart only where there are both")
    below = np.searchsorted(worse, better, "left") + np.searchsorted(worse, better, "right")
    return float(below.mean() / 2 / len(worse))


def auc_interval(area: float, good: int, bad: int) -> tuple[float, float]:
    """The 95% score interval of an AUC of so many good and bad responses: |A - area| = 1.96 sqrt(V(A)).

    V(A) = A (1 - A) [1 + (N - 1) (1 - A)/(2 - A) + (N - 1) A/(1 + A)] / (good bad), N = (good + bad)/2 (Newcombe 2006,
    Statistics in Medicine 25, method 5). It does not shrink to a point where the AUC is 0 or 1.
    """

    def excess(at: float) -> float:
        spread = 1 + ((good + bad) / 2 - 1) * ((1 - at) / (2 - at) + at / (1 + at))
        return abs(at - area) - _Z * math.sqrt(at * (1 - at) * spread / (good * bad))

    return _edge(excess, area, 0.0), _edge(excess, area, 1.0)


def _edge(excess: Callable[[float], float], inside: float, outside: float) -> float:
    """Where the excess turns positive between a place that the interval holds and one that it does not."""
    for _ in range(_HALVINGS):
        middle = (inside + outside) / 2
        inside, outside = (inside, middle) if excess(middle) > 0 else (middle, outside)
    return inside
