"""A choice among candidates by what they take on this machine, with what was measured and why it fell so."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Candidate:
    """What was measured of one of the things to choose from."""

    name: str
    seconds: float = 0.0
    """Median; 0 where it was not timed."""
    error: float | None = None
    """Largest error relative to float64, where it was measured."""
    refused: str = ""
    """Why it cannot be chosen, however fast it is."""


@dataclass(frozen=True)
class Choice:
    """What was chosen and why."""

    chosen: str
    reason: str
    """One sentence, for people."""
    candidates: tuple[Candidate, ...] = ()
    """The first is what is taken unless another one is faster; none where nothing was measured."""


def choose(candidates: Sequence[Candidate], factor: float) -> Choice:
    """The first candidate, or the fastest of those that are not refused and at least `factor` times as fast."""
    first, *others = candidates
    faster = [c for c in others if not c.refused and c.seconds * factor <= first.seconds]
    chosen = min(faster, key=lambda c: c.seconds, default=first)
    reasons = [_compared(c, first, factor) for c in others] or ["it is the only candidate"]
    return Choice(chosen.name, "; ".join(reasons), tuple(candidates))


def _compared(other: Candidate, first: Candidate, factor: float) -> str:
    if other.refused:
        return f"{other.name} is refused: {other.refused}"
    taken = f"{other.name} takes {_shown(other.seconds)}, {first.name} {_shown(first.seconds)}"
    return f"{taken} ({first.seconds / other.seconds:.2f} times as fast; {factor:g} are asked for)"


def _shown(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"


def median_seconds(candidates: Mapping[str, Callable[[], None]], repeats: int, budget: float) -> dict[str, float]:
    """Median seconds of a call of each candidate, called in turns, so that what else the machine does hits them alike.

    The first call of each warms up. It alone counts where the candidates' first calls take the whole `budget`, in
    seconds; later turns end with it.
    """
    began = time.perf_counter()
    first = {name: _seconds(call) for name, call in candidates.items()}
    result: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(repeats):
        if time.perf_counter() - began > budget:
            break
        for name, call in candidates.items():
            result[name].append(_seconds(call))
    return {name: statistics.median(values or [first[name]]) for name, values in result.items()}


def _seconds(call: Callable[[], None]) -> float:
    _wait()
    began = time.perf_counter()
    call()
    _wait()
    return time.perf_counter() - began


def _wait() -> None:
    """Until a GPU has done what it was asked."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


@contextmanager
def one_thread() -> Generator[None]:
    """Within, PyTorch has one thread, as the processes that make cells."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
