"""What a recipe is given: settings, verified inputs, a folder to write in, and a place to resume from."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from goodhart.cells.store import write_atomically
from goodhart.compute.meter import Stopwatch
from goodhart.config import build

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
    places: dict[str, str] = field(default_factory=dict[str, str])
    """Names of the models and data whose digests stand in the settings."""
    family: list[Path] = field(default_factory=list[Path])
    """Finished cells that differ from this one in nothing but how much was made (`Cell.grows`)."""
    watch: Stopwatch = field(default_factory=Stopwatch)
    """Accounts by stage of the work."""
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

    def say(self, done: int, total: int | None, note: str = "") -> None:
        """Tell the live screen, not more often than it looks; `total` is None where nobody knows it."""
        now = time.monotonic()
        if now - self._said >= PROGRESS_SECONDS or (total is not None and done >= total):
            self._said = now
            text = json.dumps({"done": done, "total": total, "note": note})
            write_atomically(self.folder / "progress.json", text)
