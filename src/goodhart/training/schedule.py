"""Learning-rate schedules as pure functions of the step."""

from __future__ import annotations

from typing import Literal

Decay = Literal["constant", "linear"]


def learning_rate(step: int, *, peak: float, warmup: int, total: int, decay: Decay) -> float:
    """The rate of step 0, 1, ...: a linear warm-up to `peak`, then constant, or linear towards 0 at `total`."""
    if step < warmup:
        return peak * (step + 1) / warmup
    if decay == "constant":
        return peak
    return peak * max(0.0, (total - step) / max(1, total - warmup))
