"""What a part of the campaign found, kept as JSON so that parts can be run apart and shown together."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from goodhart.cells.record import git_state


@dataclass(frozen=True, slots=True)
class Line:
    """One thing that was tried: how often, how often all was right, and what happened."""

    what: str
    times: int
    right: int
    happened: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """A part that has been run."""

    part: str
    tried: str
    """In a sentence or two."""
    lines: tuple[Line, ...]
    faults: tuple[str, ...]
    """What was not right, each with the case that shows it."""
    seconds: float
    quick: bool
    commit: str = field(default_factory=git_state)

    def save(self, work: Path) -> Path:
        """Write it below the work folder; returns the file."""
        path = work / f"{self.part}.json"
        path.write_text(json.dumps(dataclasses.asdict(self), indent=1), encoding="utf-8")
        return path


def load(path: Path) -> Outcome:
    """What `save` wrote."""
    plain = json.loads(path.read_text(encoding="utf-8"))
    lines = tuple(Line(**line) for line in plain.pop("lines"))
    return Outcome(**{**plain, "lines": lines, "faults": tuple(plain["faults"])})


@dataclass(slots=True)
class Tally:
    """Counts what was tried and how it ended while a part runs."""

    tried: Counter[str] = field(default_factory=Counter[str])
    wrong: Counter[str] = field(default_factory=Counter[str])
    ends: dict[str, Counter[str]] = field(default_factory=dict[str, Counter[str]])
    faults: list[str] = field(default_factory=list[str])

    def add(self, what: str, end: str, fault: str = "") -> None:
        """One trial: how it ended, and if that is not right, what shows it."""
        self.tried[what] += 1
        self.ends.setdefault(what, Counter())[end] += 1
        if fault:
            self.wrong[what] += 1
            self.faults.append(f"{what}: {fault}")

    @property
    def lines(self) -> tuple[Line, ...]:
        """The trials by what was tried."""
        return tuple(
            Line(what, times, times - self.wrong[what], _spelled(self.ends[what])) for what, times in self.tried.items()
        )


def _spelled(ends: Counter[str]) -> str:
    return "; ".join(f"{end} ({count})" if len(ends) > 1 else end for end, count in ends.most_common())
