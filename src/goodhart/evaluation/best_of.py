"""Best-of-n of a policy: the baseline that samples more instead of training."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float

from goodhart.special import special


def best_of_n(
    score: Float[np.ndarray, "prompt sample"], value: Float[np.ndarray, "prompt sample"], n: int
) -> Float[np.ndarray, " prompt"]:
    """The expected value of the sample of highest score among n, without bias from N >= n samples.

    sum_i C(i - 1, n - 1) / C(N, n) v_(i), v_(i) the value of the sample of i-th lowest score: the mean over all
    subsets of n (the estimator of Nakano et al. 2021, arXiv 2112.09332). Samples of equal score share their weight.

    Raises:
        ValueError: n is not between 1 and N.
    """
    total = score.shape[1]
    if not 1 <= n <= total:
        raise ValueError(f"the best of {n} cannot be estimated from {total} samples")
    rank = np.arange(1, total + 1, dtype=np.float64)
    log_weight = np.where(rank >= n, _log_choose(rank - 1, n - 1) - _log_choose(np.full(1, float(total)), n), -np.inf)
    weight = np.exp(log_weight)
    result = np.empty(len(score))
    for row, (scores, values) in enumerate(zip(score, value, strict=True)):
        _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
        ends = np.cumsum(counts)
        shared = np.array([weight[end - size : end].mean() for end, size in zip(ends, counts, strict=True)])
        result[row] = float((shared[place] * values).sum())
    return result


def _log_choose(n: Float[np.ndarray, "..."], k: int) -> Float[np.ndarray, "..."]:
    with np.errstate(invalid="ignore"):
        return special.gammaln(n + 1) - special.gammaln(k + 1) - special.gammaln(np.maximum(n - k, 0) + 1)


def kl_of_best(n: int) -> float:
    """KL(best-of-n || policy) in nats where no two samples are alike: log n - (n - 1)/n.

    It is an upper bound where samples may be alike (Beirami et al. 2024, arXiv 2401.01879).
    """
    return math.log(n) - (n - 1) / n
