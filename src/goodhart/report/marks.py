"""What a mark of a figure is, in the words of its title."""

from __future__ import annotations

from goodhart.analysis.crossfit import Curve
from goodhart.analysis.frontier import CheckpointPoint
from goodhart.analysis.table import SFT, Checkpoint
from goodhart.report.grid import number
from goodhart.report.verdict import MEASURES, spelled, spelled_kl, spelled_share


def run_named(at: Checkpoint) -> str:
    """A run's arm, setting and seed."""
    if at.arm == SFT:
        return "SFT policy"
    return ", ".join(part for part in (at.arm, at.setting, f"seed {at.seed}") if part)


def named(at: Checkpoint) -> str:
    """A checkpoint's arm, setting, seed and step."""
    return run_named(at) if at.arm == SFT else f"{run_named(at)}, step {at.step}"


def point(at: CheckpointPoint, measure: str) -> str:
    """A checkpoint with its KL and what it reaches there."""
    return f"{named(at.checkpoint)}\nKL {spelled_kl(at.kl)} nats\n{MEASURES[measure]} {spelled_share(at.value)}"


def curve(name: str, given: Curve, sign: bool = False) -> str:
    """A line over KL, with its mean."""
    first, last = number(float(given.budgets[0]), 1), number(float(given.budgets[-1]), 1)
    return f"{name}, KL {first} to {last} nats\nmean {spelled(given.mean, sign=sign)}"
