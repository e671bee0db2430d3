"""Follows a training loop by its file: says when it diverges, and forwards its steps to trackers."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from goodhart.cells.steps import Alarm, Tail
from goodhart.tracking.sink import Run, Sink
from goodhart.tracking.tracker import Name, Sample, tracker_of


@dataclass(slots=True)
class Sinks:
    """Trackers, of which one that fails is left out: no study ends for that."""

    each: list[Sink]
    tell: Callable[[str], None]

    def give(self, what: Callable[[Sink], None]) -> None:
        """Do something with every tracker."""
        for sink in tuple(self.each):
            try:
                what(sink)
            except Exception as error:
                self.each.remove(sink)
                self.tell(_stopped(sink.name, error))


@contextmanager
def sinks_of(names: Sequence[Name], folder: Path, group: str, tell: Callable[[str], None]) -> Generator[Sinks]:
    """The trackers of some names, which keep their files below `folder`; they are closed with the context.

    `group` is the study. One that cannot be begun is told of and left out.
    """
    sinks = Sinks([], tell)
    for name in names:
        try:
            marks = folder / "marks" / f"{group}-{name}.json"
            sinks.each.append(Sink(name, tracker_of(name, folder), marks, group))
        except Exception as error:
            tell(_stopped(name, error))
    try:
        yield sinks
    finally:
        sinks.give(Sink.close)


def _stopped(name: str, error: Exception) -> str:
    words = " ".join(str(error).split())[:300]
    return f"tracking by {name} has stopped ({type(error).__name__}: {words}); all else goes on"


@dataclass(slots=True)
class Follow:
    """One training loop."""

    run: Run
    sinks: Sinks
    warn: Callable[[str], None]
    """Is told once if the loop diverges."""
    tail: Tail = field(default_factory=Tail)
    _alarm: Alarm = field(default_factory=Alarm)
    last: int = 0
    """The last step that was read."""
    diverges: str = ""
    """Why the run is taken to diverge."""

    def look(self, path: Path) -> None:
        """Take what the file has had added."""
        first = self.tail.given
        records = self.tail.new(path)
        if not records:
            return
        self.last = int(records[-1]["step"])
        self.sinks.give(lambda sink: sink.steps(self.run, first, records))
        for record in records:
            words = "" if self.diverges else self._alarm.words(record)
            if words:
                self.alarm(words, int(record["step"]))

    def alarm(self, words: str, step: int) -> None:
        """Say that the run diverges."""
        self.diverges = words
        self.warn(f"ALARM {self.run.name}: {words}")
        self.sinks.give(lambda sink: sink.alarm(self.run, words, step))

    def measured(
        self, what: str, step: int, means: Mapping[str, float], samples: Callable[[], Sequence[Sample]]
    ) -> None:
        """Take what a cell has found of a checkpoint; `samples` are asked for where a tracker lacks them."""
        self.sinks.give(
            lambda sink: None if sink.has(self.run, what) else sink.measured(self.run, what, step, means, samples())
        )
