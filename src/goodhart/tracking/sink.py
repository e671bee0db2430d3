"""What one tracker has been given, remembered beyond the process, so that nothing is given twice."""

from __future__ import annotations

import json
import uuid
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from goodhart.cells.store import write_atomically
from goodhart.config import build
from goodhart.printable import printable
from goodhart.tracking.tracker import Name, Sample, Subject, Tracked, Tracker

_OPEN = 32
"""Runs that are held open at most."""
TEXT = 2000
"""Letters of a text at most."""


@dataclass(slots=True)
class Mark:
    """How far a run has been given."""

    id: str
    lines: int = 0
    """Of its file of steps."""
    alarmed: bool = False
    measured: tuple[str, ...] = ()
    """Cells whose measurements it has."""


class Sink:
    """One tracker with its marks.

    A mark is written before what it stands for is given: what is on its way when the process is killed is given by no
    later one, and nothing is given twice.
    """

    def __init__(self, name: Name, tracker: Tracker, marks: Path, group: str) -> None:
        self.name, self.tracker, self.path, self.group = name, tracker, marks, group
        known = json.loads(marks.read_text(encoding="utf-8")) if marks.exists() else {}
        self.marks = {key: build(Mark, mark) for key, mark in known.items()}
        self.runs: OrderedDict[str, Tracked] = OrderedDict()

    def steps(self, run: Run, first: int, records: Sequence[Mapping[str, Any]]) -> None:
        """Lines of a run's file, the first of which is its line `first` (from 0)."""
        mark = self._mark(run)
        fresh = records[max(0, mark.lines - first) :]
        if fresh:
            tracked = self._open(run, mark)
            mark.lines = first + len(records)
            self._save()
            tracked.log([numbers(record) for record in fresh])

    def alarm(self, run: Run, words: str, step: int) -> None:
        """That a run diverges; of each run once."""
        mark = self._mark(run)
        if not mark.alarmed:
            tracked = self._open(run, mark)
            mark.alarmed = True
            self._save()
            tracked.alarm(plain(words), step)

    def measured(self, run: Run, what: str, step: int, means: Mapping[str, float], samples: Sequence[Sample]) -> None:
        """What an evaluation cell (`what`) has found of a checkpoint; of each cell once."""
        mark = self._mark(run)
        if what not in mark.measured:
            tracked = self._open(run, mark)
            mark.measured = (*mark.measured, what)
            self._save()
            tracked.log(
                [{"step": float(step), **{f"evaluation/{name}": float(value) for name, value in means.items()}}]
            )
            if samples:
                tracked.show([Sample(plain(each.prompt), plain(each.response)) for each in samples], step)

    def has(self, run: Run, what: str) -> bool:
        """Whether the tracker has the measurements of a cell."""
        return run.key in self.marks and what in self.marks[run.key].measured

    def close(self) -> None:
        """Close the runs that are open."""
        with ExitStack() as stack:
            for tracked in self.runs.values():
                stack.callback(tracked.close)
            self.runs.clear()

    def _mark(self, run: Run) -> Mark:
        return self.marks.setdefault(run.key, Mark(uuid.uuid4().hex[:16]))

    def _save(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path, json.dumps({key: asdict(mark) for key, mark in self.marks.items()}))

    def _open(self, run: Run, mark: Mark) -> Tracked:
        if run.key not in self.runs:
            self._save()  # the id, by which an interrupted call's run is found again
            while len(self.runs) >= _OPEN:
                self.runs.popitem(last=False)[1].close()
            self.runs[run.key] = self.tracker.open(Subject(mark.id, plain(run.name), self.group, run.settings))
        self.runs.move_to_end(run.key)
        return self.runs[run.key]


@dataclass(frozen=True, slots=True)
class Run:
    """A training run."""

    key: str
    """Its cell's id."""
    name: str
    settings: Mapping[str, Any]


def numbers(record: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a step's record by the names that trackers have them under; times are in seconds."""
    stages = {f"seconds/{stage}": float(spent["seconds"]) for stage, spent in record.get("stages", {}).items()}
    values = {f"train/{name}": float(value) for name, value in record.items() if isinstance(value, int | float)}
    values.pop("train/step")
    return {"step": float(record["step"]), **values, **stages}


def plain(text: str) -> str:
    """Text of strangers without what a terminal or a page would obey, and not longer than a page."""
    return printable(text if len(text) <= TEXT else f"{text[:TEXT]} …")
