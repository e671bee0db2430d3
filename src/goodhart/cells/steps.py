"""What training loops say of themselves, step by step: the file, who reads it as it grows, and the alarm."""

from __future__ import annotations

import json
import math
import os
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Any

from goodhart.cells.store import Store, write_atomically

STEPS_FILE = "metrics.jsonl"
FACTOR, IN_A_ROW = 10.0, 5
"""A run diverges whose loss or gradient norm is over so many times the usual for so many steps in a row."""
FIRST, LAST = 10, 100
"""The usual is the larger one of the medians of the first and of the last so many steps."""
_WATCHED = ("loss", "gradient_norm")


class Steps:
    """The file of a training loop: a record is a line, and a loop that goes on repeats none."""

    def __init__(self, path: Path, start: int = 0) -> None:
        """Keeps what the file has of the steps up to `start`, which the loop goes on from."""
        lines = path.read_bytes().split(b"\n")[:-1] if start and path.exists() else []
        self.records: list[dict[str, Any]] = [r for r in map(json.loads, lines) if r["step"] <= start]
        write_atomically(path, "".join(json.dumps(record) + "\n" for record in self.records))
        self.file = path.open("a", encoding="utf-8")

    def __enter__(self) -> Steps:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        self.file.close()

    def add(self, record: Mapping[str, Any]) -> None:
        """One more line; its `step` counts the optimiser's steps so far."""
        self.records.append(dict(record))
        self.file.write(json.dumps(self.records[-1]) + "\n")
        self.file.flush()


class Tail:
    """Reads such a file as it grows; what a loop writes again after it was killed is not given again."""

    def __init__(self) -> None:
        self.given = 0
        self._read = 0
        self._inode, self._offset = 0, 0

    def new(self, path: Path) -> list[dict[str, Any]]:
        """The records that have been added since the last call; none where there is no file."""
        try:
            with path.open("rb") as file:
                status = os.fstat(file.fileno())
                if status.st_ino != self._inode or status.st_size < self._offset:  # a loop has begun it anew
                    self._inode, self._offset, self._read = status.st_ino, 0, 0
                file.seek(self._offset)
                text = file.read()
        except OSError:
            return []
        whole = text[: text.rfind(b"\n") + 1]
        lines = whole.splitlines()
        self._offset += len(whole)
        fresh = lines[max(0, self.given - self._read) :]
        self._read += len(lines)
        self.given = max(self.given, self._read)
        return [json.loads(line) for line in fresh]


class Alarm:
    """Says when a run diverges: a number that is not finite, or a loss or gradient norm out of all proportion."""

    def __init__(self) -> None:
        self.first: dict[str, list[float]] = {name: [] for name in _WATCHED}
        self.last: dict[str, deque[float]] = {name: deque(maxlen=LAST) for name in _WATCHED}
        self.in_a_row: dict[str, int] = dict.fromkeys([*_WATCHED], 0)

    def words(self, record: Mapping[str, Any]) -> str:
        """What is wrong as of one more record; empty where nothing is."""
        numbers = {name: value for name, value in record.items() if isinstance(value, int | float)}
        for name, value in numbers.items():
            if not math.isfinite(value):
                return f"{name} is {value} at step {record['step']}"
        said = [self._out_of_proportion(name, abs(numbers[name])) for name in _WATCHED if name in numbers]
        return next((f"{words} at step {record['step']}" for words in said if words), "")

    def _out_of_proportion(self, name: str, size: float) -> str:
        first, last = self.first[name], self.last[name]
        usual = max(median(first), median(last)) if len(first) == FIRST else math.inf
        if len(first) < FIRST:
            first.append(size)
        last.append(size)
        self.in_a_row[name] = self.in_a_row[name] + 1 if size > FACTOR * usual > 0 else 0
        if self.in_a_row[name] < IN_A_ROW:
            return ""
        return f"{name} of size {size:.4g} is the {IN_A_ROW}th in a row over {FACTOR:g} times the usual ({usual:.3g})"


def steps_file(store: Store, cell: str) -> Path:
    """Where a cell's steps lie, or will lie once it is made."""
    finished = store.folder(cell) / STEPS_FILE
    return finished if finished.exists() else store.partial(cell) / STEPS_FILE
