"""What a piece of work took: seconds, tokens, and the arithmetic that language models were asked for."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field

import torch

from goodhart.compute.ranks import summed


@dataclass(frozen=True, slots=True)
class Spent:
    """The account of one stage."""

    seconds: float = 0.0
    tokens: int = 0
    """Real tokens that went through a model, prompts included; padding is not counted."""
    operations: float = 0.0
    """Floating-point operations of models on those tokens, without what padding, elementwise work or optimisers add."""

    def __add__(self, other: Spent) -> Spent:
        return Spent(self.seconds + other.seconds, self.tokens + other.tokens, self.operations + other.operations)

    def __sub__(self, other: Spent) -> Spent:
        return Spent(self.seconds - other.seconds, self.tokens - other.tokens, self.operations - other.operations)

    def plain(self) -> dict[str, float]:
        """For a record."""
        return {name: round(value, 3) for name, value in asdict(self).items()}


@dataclass(slots=True)
class _Total:
    """What this process has asked of language models since it began."""

    tokens: int = 0
    operations: float = 0.0

    def now(self) -> Spent:
        """The account at this moment."""
        return Spent(time.perf_counter(), self.tokens, self.operations)


_TOTAL = _Total()
_LOCK = threading.Lock()


@dataclass(slots=True)
class Stopwatch:
    """Accounts by stage of the work."""

    stages: dict[str, Spent] = field(default_factory=dict)
    _last: Spent = field(default_factory=_TOTAL.now)

    def start(self) -> None:
        """Leave what was done since the last lap out of the account."""
        self._last = _TOTAL.now()

    def lap(self, stage: str) -> None:
        """Charge what was done since the last lap to a stage: by all processes that make the cell, which all ask."""
        now = _TOTAL.now()
        spent = now - self._last
        tokens, operations = summed([float(spent.tokens), spent.operations])
        self.stages[stage] = self.stages.get(stage, Spent()) + Spent(spent.seconds, int(tokens), operations)
        self._last = now


def charge(tokens: int, forward: float) -> None:
    """Add a forward pass over some tokens to the account: three times its operations where gradients are on."""
    with _LOCK:
        _TOTAL.tokens += tokens
        _TOTAL.operations += forward * (3 if torch.is_grad_enabled() else 1)


@contextmanager
def uncharged() -> Generator[None]:
    """Leave what is done meanwhile out of the account."""
    tokens, operations = _TOTAL.tokens, _TOTAL.operations
    yield
    _TOTAL.tokens, _TOTAL.operations = tokens, operations


@functools.cache
def matrix_rate(device: str = "cpu") -> float:
    """Floating-point operations per second of a float32 product of matrices, with the threads that PyTorch has now."""
    size = 1024 if device == "cpu" else 8192
    a = torch.randn(size, size, device=device)
    best = float("inf")
    for _ in range(10):
        began = time.perf_counter()
        float((a @ a)[0, 0])  # reading a number waits for the device
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best
