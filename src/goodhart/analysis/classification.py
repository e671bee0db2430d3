"""The policy as a classifier of golden pairs, against what it generates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int

from goodhart.analysis.interval import around
from goodhart.analysis.table import Checkpoint, by_checkpoint, floats, of_split, prompt_codes
from goodhart.randomness import stream


@dataclass(frozen=True)
class Estimate:
    """A mean and its standard error, clustered by prompt; NaN where there is nothing to average."""

    mean: float
    se: float


@dataclass(frozen=True)
class Classification:
    """One checkpoint on one split's golden pairs; shifts (nats) are over the pairs that are no label tie."""

    checkpoint: Checkpoint
    split: str
    pairs: int
    ties: int
    accuracy: Estimate
    winner_shift: Estimate
    loser_shift: Estimate


@dataclass(frozen=True)
class Correlation:
    """Spearman's rank correlation over checkpoints with its 95% interval, and how many were compared.

    NaN is what is not known.
    """

    arm: str
    split: str
    estimate: float
    low: float
    high: float
    se: float
    checkpoints: int
    runs: int


def correct(
    label: Float[np.ndarray, " pair"], rho_w: Float[np.ndarray, " pair"], rho_l: Float[np.ndarray, " pair"]
) -> Float[np.ndarray, " pair"]:
    """Whether sign(rho_w - rho_l) agrees with the golden label: 1 or 0; 1/2 for a label tie or a difference of 0."""
    margin = np.where(label == 0.5, 0.0, rho_w - rho_l)
    return (np.sign(margin) + 1) / 2


def clustered(values: Float[np.ndarray, " pair"], cluster: Int[np.ndarray, " pair"]) -> Estimate:
    """The mean with its cluster-robust standard error (Liang and Zeger 1986): units in a cluster may be dependent.

    se^2 = G/(G - 1) sum_g (sum_{i in g} (x_i - mean))^2 / N^2 for G clusters.
    """
    if not len(values):
        return Estimate(float("nan"), float("nan"))
    mean = float(values.mean())
    _, place = np.unique(cluster, return_inverse=True)
    residual = np.bincount(place, weights=values - mean)
    number = len(residual)
    scale = number / (number - 1) if number > 1 else float("nan")
    return Estimate(mean, float(np.sqrt(scale * (residual**2).sum()) / len(values)))


def classify(pair_rows: pa.Table, split: str) -> tuple[Classification, ...]:
    """Accuracy and shifts of every checkpoint on the pairs of a split.

    Raises:
        GoodhartError: the table lacks a column.
    """
    table = of_split(pair_rows, split)
    if table.num_rows == 0:
        return ()
    label, rho_w, rho_l = (floats(table, name) for name in ("label", "rho_w", "rho_l"))
    prompt = prompt_codes(table)
    return tuple(
        _classification(at, split, label[rows], rho_w[rows], rho_l[rows], prompt[rows])
        for at, rows in by_checkpoint(table)
    )


def _classification(
    at: Checkpoint,
    split: str,
    label: Float[np.ndarray, " pair"],
    rho_w: Float[np.ndarray, " pair"],
    rho_l: Float[np.ndarray, " pair"],
    prompt: Int[np.ndarray, " pair"],
) -> Classification:
    clear = label != 0.5
    return Classification(
        at,
        split,
        len(label),
        int((~clear).sum()),
        clustered(correct(label, rho_w, rho_l), prompt),
        clustered(rho_w[clear], prompt[clear]),
        clustered(rho_l[clear], prompt[clear]),
    )


def weighted_spearman(
    x: Float[np.ndarray, " item"], y: Float[np.ndarray, " item"], weights: Float[np.ndarray, "resample item"]
) -> Float[np.ndarray, " resample"]:
    """Spearman's correlation where each item counts as often as its weight says; NaN where a variable is constant."""

    def ranks(values: Float[np.ndarray, " item"]) -> Float[np.ndarray, "resample item"]:
        distinct, place = np.unique(values, return_inverse=True)
        mass = np.zeros((len(weights), len(distinct)))
        np.add.at(mass.T, place, weights.T)
        return (np.cumsum(mass, axis=1) - mass / 2)[:, place]

    total = weights.sum(axis=1, keepdims=True)
    a, b = (rank - (weights * rank).sum(axis=1, keepdims=True) / total for rank in (ranks(x), ranks(y)))
    scale = np.sqrt((weights * a * a).sum(axis=1) * (weights * b * b).sum(axis=1))
    product = (weights * a * b).sum(axis=1)
    return np.where(scale > 1e-12, product / np.where(scale > 1e-12, scale, 1.0), np.nan)


def correlate(
    classifications: Sequence[Classification],
    win_rate: Mapping[Checkpoint, float],
    *,
    arms: Sequence[str],
    name: str,
    resamples: int,
    seed: int,
) -> Correlation | None:
    """Accuracy against golden win rate over the trained checkpoints of some arms; None with fewer than 3 of them.

    The interval is estimate -+ t se within [-1, 1], with R - 1 degrees of freedom for R runs. The standard error is a
    bootstrap's that draws whole runs (arm, setting, seed), because the checkpoints of a run resemble each other, its
    variance times R/(R - 1); with fewer than 3 runs there is none.
    """
    both = [
        (c, win_rate[c.checkpoint]) for c in classifications if c.checkpoint.arm in arms and c.checkpoint in win_rate
    ]
    both = [(c, rate) for c, rate in both if c.checkpoint.step > 0 and np.isfinite(c.accuracy.mean + rate)]
    if len(both) < 3:
        return None
    x, y = np.array([c.accuracy.mean for c, _ in both]), np.array([rate for _, rate in both])
    names = [(c.checkpoint.arm, c.checkpoint.setting, c.checkpoint.seed) for c, _ in both]
    place = {run: i for i, run in enumerate(sorted(set(names)))}
    run = np.array([place[at] for at in names])
    estimate = float(weighted_spearman(x, y, np.ones((1, len(x))))[0])
    se = _spread(x, y, run, len(place), stream(seed, "analysis/spearman", name), resamples)
    uncut = around(estimate, se, float(len(place) - 1), seeds=len(place), prompts=0)
    low, high = (float(np.clip(end, -1.0, 1.0)) for end in (uncut.low, uncut.high))
    return Correlation(name, both[0][0].split, estimate, low, high, se, len(both), len(place))


def _spread(
    x: Float[np.ndarray, " item"],
    y: Float[np.ndarray, " item"],
    run: Int[np.ndarray, " item"],
    runs: int,
    rng: np.random.Generator,
    resamples: int,
) -> float:
    if runs < 3:
        return float("nan")
    counts = rng.multinomial(runs, np.full(runs, 1 / runs), size=resamples).astype(np.float64)
    drawn = weighted_spearman(x, y, counts[:, run])
    known = drawn[np.isfinite(drawn)]
    return float(np.sqrt(known.var(ddof=1) * runs / (runs - 1))) if len(known) > 1 else float("nan")
