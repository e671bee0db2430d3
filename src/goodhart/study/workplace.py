"""What a recipe is given: settings, verified inputs, a folder to write in, and a place to resume from."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from goodhart.config import build
from goodhart.store import write_atomically

T = TypeVar("T")
Recipe = Callable[["Workplace"], dict[str, Any]]
"""Makes a cell's files and returns what is recorded about it."""
PROGRESS_SECONDS = 0.5


@dataclass(slots=True)
class Workplace:
    """One cell being made."""

    settings: dict[str, Any]
    inputs: dict[str, Path]
    folder: Path
    """Where the results go."""
    stages: dict[str, float] = field(default_factory=dict)
    """Seconds by stage of the work."""
    tokens: dict[str, int] = field(default_factory=dict)
    """Tokens by stage of the work."""
    _said: float = 0.0

    @property
    def state(self) -> Path:
        """A folder that survives a crash and is gone when the cell is done."""
        path = self.folder / "state"
        path.mkdir(exist_ok=True)
        return path

    def setting(self, kind: type[T], name: str) -> T:
        """One of the settings as a dataclass."""
        return build(kind, self.settings[name], name)

    def say(self, done: int, total: int, note: str = "") -> None:
        """Tell the live screen, not more often than it looks."""
        now = time.monotonic()
        if now - self._said >= PROGRESS_SECONDS or done >= total:
            self._said = now
            text = json.dumps({"done": done, "total": total, "note": note})
            write_atomically(self.folder / "progress.json", text)

    def charge(self, stage: str, since: float) -> float:
        """Add the seconds since `since` (of `time.perf_counter`) to a stage; returns the time now."""
        now = time.perf_counter()
        self.stages[stage] = self.stages.get(stage, 0.0) + now - since
        return now
