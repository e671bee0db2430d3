"""Where an arm's measure turns down along d = sqrt(KL(policy || SFT)), if the checkpoints say that it bends at all.

A curve that bends is reported only where it is better than the straight line through the same start by all three: a
smaller leave-one-run-out error, a smaller AICc, and a 95% interval of beta without 0. The third is there because the
start is itself measured: its error moves all checkpoints together, which the first two take for a bend.

Intervals are percentiles of a bootstrap that draws whole runs (setting, seed) and prompts, jointly for the checkpoints
and the SFT policy. Drawing both counts part of the noise twice (Owen 2007, arXiv 0712.1111), so they are a little wide.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from goodhart.analysis.bend import BENDS, STRAIGHT, Candidate, basis, candidate, peak_position, solve
from goodhart.analysis.interval import LEVEL
from goodhart.analysis.table import SFT, Checkpoint, Matrix
from goodhart.randomness import stream

RUNS, CHECKPOINTS = 3, 6
"""The fewest runs and checkpoints that a curve is compared with a straight line on."""


@dataclass(frozen=True)
class Bounded:
    """An estimate and the ends of its 95% percentile interval; NaN ends where too few replicates determine it."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True)
class Fit:
    """A curve that is better than the straight line; `peak` is the d of its maximum, `remark` says why there is none.

    An end of the peak's interval may lie outside of the checkpoints, and is infinite where replicates do not turn down.
    """

    curve: Candidate
    alpha: Bounded
    beta: Bounded
    peak: Bounded | None
    remark: str


@dataclass(frozen=True)
class Track:
    """An arm's trained checkpoints by one measure, over the prompts that all of them and the SFT policy have."""

    arm: str
    measure: str
    checkpoints: tuple[Checkpoint, ...]
    run: Int[np.ndarray, " checkpoint"]
    kl: Float[np.ndarray, "checkpoint prompt"]
    value: Float[np.ndarray, "checkpoint prompt"]
    start: Float[np.ndarray, " prompt"] | None

    @property
    def d(self) -> Float[np.ndarray, " checkpoint"]:
        """The square root of each checkpoint's mean KL (nats)."""
        return np.sqrt(np.maximum(self.kl.mean(axis=1), 0.0))

    @property
    def mean(self) -> Float[np.ndarray, " checkpoint"]:
        """Each checkpoint's mean measure."""
        return self.value.mean(axis=1)

    @property
    def se(self) -> Float[np.ndarray, " checkpoint"]:
        """Its standard error over prompts."""
        return self.value.std(axis=1, ddof=1) / np.sqrt(self.value.shape[1])

    @property
    def runs(self) -> int:
        """The number of different (setting, seed)."""
        return len(np.unique(self.run))


@dataclass(frozen=True)
class Overoptimisation:
    """What an arm's checkpoints say about one measure along d; `reason` says why no curve that bends is reported."""

    track: Track
    candidates: tuple[Candidate, ...]
    fits: tuple[Fit, ...]
    reason: str

    @property
    def straight(self) -> Candidate | None:
        """The straight line, where anything was fitted."""
        return next((each for each in self.candidates if each.form == STRAIGHT), None)


def track(matrix: Matrix, arm: str, measure: str) -> Track:
    """An arm's checkpoints after step 0, ordered by setting, seed and step, and the prompts by name."""
    at = [i for i, c in enumerate(matrix.checkpoints) if c.arm == arm and c.step > 0]
    at.sort(key=lambda i: (matrix.checkpoints[i].setting, matrix.checkpoints[i].seed, matrix.checkpoints[i].step))
    first = [i for i, c in enumerate(matrix.checkpoints) if c.arm == matrix.anchors.get(arm, SFT)]
    kl, value = matrix.columns["kl"], matrix.columns[measure]
    start = value[first].mean(axis=0) if first and np.isfinite(value[first]).any() else None
    known = np.isfinite(kl[at]).all(axis=0) & np.isfinite(value[at]).all(axis=0)
    known &= np.isfinite(start) if start is not None else True
    order = sorted(np.flatnonzero(known), key=lambda i: matrix.prompts[i])
    names = [(matrix.checkpoints[i].setting, matrix.checkpoints[i].seed) for i in at]
    place = {name: i for i, name in enumerate(dict.fromkeys(names))}
    run = np.array([place[name] for name in names], dtype=np.int64)
    shared = start[order] if start is not None else None
    checkpoints = tuple(matrix.checkpoints[i] for i in at)
    return Track(arm, measure, checkpoints, run, kl[at][:, order], value[at][:, order], shared)


def overoptimisation(matrix: Matrix, arm: str, measure: str, resamples: int = 1000, seed: int = 0) -> Overoptimisation:
    """Compare the forms of `bend.py` on one arm's checkpoints by one measure.

    The start is the SFT policy's mean where it was measured, else a parameter. Weights are 1/se^2.
    """
    result = track(matrix, arm, measure)
    reason = _too_few(result)
    if reason:
        return Overoptimisation(result, (), (), reason)
    start = float(result.start.mean()) if result.start is not None else None
    candidates = tuple(
        candidate(form, result.d, result.mean, _weights(result.se), result.run, start) for form in (STRAIGHT, *BENDS)
    )
    line = candidates[0]
    better = [each for each in candidates[1:] if each.error < line.error and each.aicc < line.aicc]
    fits = [_fit(result, each, resamples, seed) for each in sorted(better, key=lambda each: each.error)]
    clear = tuple(fit for fit in fits if fit.beta.low > 0 or fit.beta.high < 0)
    return Overoptimisation(result, candidates, clear, "" if clear else _unbent(better))


def _too_few(given: Track) -> str:
    checkpoints, prompts = given.kl.shape
    if checkpoints == 0:
        return "no trained checkpoint"
    if prompts < 2:
        return "no two prompts on which all checkpoints are measured"
    if given.runs < RUNS:
        return f"{given.runs} of the {RUNS} runs that leaving one out needs"
    if checkpoints < CHECKPOINTS:
        return f"{checkpoints} of the {CHECKPOINTS} checkpoints that a curve needs"
    return ""


def _unbent(better: Sequence[Candidate]) -> str:
    if better:
        return "no bend seen: the interval of beta contains 0"
    return "no bend seen: the straight line predicts as well"


def _weights(se: Float[np.ndarray, " checkpoint"]) -> Float[np.ndarray, " checkpoint"]:
    """1/se^2; a checkpoint that never wins has no spread in its sample, yet is not known without error."""
    floor = float(np.median(se)) / 2
    return 1 / np.maximum(se, floor) ** 2 if floor > 0 else np.ones_like(se)


def _replicates(given: Track, form: str, resamples: int, seed: int) -> Float[np.ndarray, "resample parameter"]:
    """The parameters on drawn runs and prompts."""
    prompts = given.kl.shape[1]
    rng = stream(seed, "analysis/over-optimisation", given.runs, prompts)
    share = rng.multinomial(prompts, np.full(prompts, 1 / prompts), size=resamples) / prompts
    counts = rng.multinomial(given.runs, np.full(given.runs, 1 / given.runs), size=resamples)
    d, mean = np.sqrt(np.maximum(share @ given.kl.T, 0.0)), share @ given.value.T
    rise = mean - (share @ given.start)[:, None] if given.start is not None else mean
    return solve(basis(form, d, given.start is None), rise, counts[:, given.run] * _weights(given.se))


def _bounded(estimate: float, drawn: Float[np.ndarray, " resample"]) -> Bounded:
    known = drawn[~np.isnan(drawn)]
    if 2 * len(known) < len(drawn) or not len(known):
        return Bounded(estimate, float("nan"), float("nan"))
    # An order statistic, because an infinite draw has no interpolation.
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], method="inverted_cdf")
    return Bounded(estimate, float(low), float(high))


def _fit(given: Track, curve: Candidate, resamples: int, seed: int) -> Fit:
    drawn = _replicates(given, curve.form, resamples, seed)
    alpha, beta = _bounded(curve.slope, drawn[:, 0]), _bounded(curve.bend, drawn[:, 1])
    peaks = np.where(np.isnan(drawn[:, 0]), np.nan, peak_position(curve.form, drawn[:, 0], drawn[:, 1]))
    place = float(peak_position(curve.form, np.array(curve.slope), np.array(curve.bend)))
    low, high = float(given.d.min()), float(given.d.max())
    if not np.isfinite(place):
        return Fit(curve, alpha, beta, None, "bends upwards")
    if not low <= place <= high:
        return Fit(curve, alpha, beta, None, f"turns at d = {place:.2g}, outside of the checkpoints")
    return Fit(curve, alpha, beta, _bounded(place, peaks), "")
