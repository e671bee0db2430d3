"""Running a study: what it asks for now, or look by look until its hypotheses are decided."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from goodhart.cells.cell import Cell
from goodhart.cells.store import Store
from goodhart.compared import left_out_in_short
from goodhart.errors import GoodhartError
from goodhart.report.findings import ruled
from goodhart.report.grid import duration, listed
from goodhart.studies.engine import Engine
from goodhart.studies.graph import Graph, build_graph
from goodhart.studies.reach import Reach, onward, reach, undecided
from goodhart.studies.session import MANY, Outcome, Prospect, Workers, plan, prospect, run_study
from goodhart.studies.spec import Study
from goodhart.tracking.tracker import Name

_TIME = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?")


@dataclass(frozen=True, slots=True)
class Job:
    """A study with what runs it and where that is told."""

    study: Study
    engine: Engine
    root: Path
    workers: Workers
    console: Console
    say: Callable[[str], None]
    track: Sequence[Name] = ()
    """The trackers that training runs are forwarded to."""


@dataclass(frozen=True, slots=True)
class Round:
    """The cells of a study as far as its arms have to come, and how long the missing ones take."""

    reach: Reach
    graph: Graph
    cells: list[tuple[Cell, bool]]
    ahead: Prospect


def limit(study: Study, *, until_decided: bool, within: str) -> float | None:
    """Seconds that a command may take, None for any. Raises GoodhartError for flags that have no meaning together."""
    if until_decided and study.looks is None:
        raise GoodhartError(
            f"--until-decided: study {study.name!r} has no looks",
            "say when to look: looks={seeds: [3, 5, 8], shares: [0.1, 0.3, 0.6], smallest: 0.03}",
        )
    if not within:
        return None
    if not until_decided:
        raise GoodhartError(f"--within {within} without --until-decided", "give both, or neither")
    return seconds_of("--within", within)


def seconds_of(flag: str, text: str) -> float:
    """The seconds of a time as a flag has it. Raises GoodhartError if it is none."""
    match = _TIME.fullmatch(text.replace(" ", ""))
    seconds = sum(float(n or 0) * unit for n, unit in zip(match.groups(), (3600, 60, 1), strict=True)) if match else 0
    if not seconds:
        raise GoodhartError(f"{flag} is {text!r}", "give a time, for example 3h, 90m or 1h30m")
    return seconds


def run(job: Job, *, until_decided: bool, limit: float | None) -> Outcome:
    """Make what the study asks for now; if wished, look by look what its undecided hypotheses ask for after that.

    Raises GoodhartError if not even what is asked for first would end within the limit.
    """
    began = time.monotonic()
    for line in left_out_in_short(job.study):
        job.say(line)
    now = _round(job, None)
    if limit is not None and now.ahead.wall > limit:
        raise GoodhartError(
            f"what has to come first takes about {duration(now.ahead.wall)}", "give --within more, or leave it out"
        )
    outcome = _made(job, now)
    while job.study.looks and not outcome.unfinished.missing:
        later = _next(job, now, outcome)
        if later is None:
            break
        left = None if limit is None else limit - (time.monotonic() - began)
        if not until_decided or (left is not None and later.ahead.wall > left):
            job.say(_not_begun(now, later, left))
            break
        now, outcome = later, _made(job, later)
    return outcome


def _round(job: Job, asked: Reach | None) -> Round:
    """What is asked for, by default as far as the study's looks have come."""
    known = asked or reach(job.study, Store(job.root), build_graph(job.study))
    graph, cells = plan(job.study, job.root, known)
    return Round(known, graph, cells, prospect(job.study, cells, job.workers, job.root, keep=True))


def _made(job: Job, now: Round) -> Outcome:
    job.say(ahead(now.ahead, len(now.cells), job.workers))
    return run_study(job.study, now.graph, job.engine, job.root, job.workers, job.console, now.ahead, job.track)


def _next(job: Job, now: Round, outcome: Outcome) -> Round | None:
    """What the undecided hypotheses ask for; None if there is nothing, which is said."""
    rulings = ruled(outcome.folder)
    further = onward(job.study, now.reach, rulings)
    if further != now.reach:
        return _round(job, further)
    open_ones = [ruling.name for ruling in rulings if ruling.verdict == "undecided"]
    if not open_ones:
        job.say("every hypothesis is decided")
    elif undecided(rulings):
        job.say(f"the looks are used up; undecided: {listed(open_ones)}")
    else:
        job.say(f"undecided, and more seeds would not help: {listed(open_ones)}")
    return None


def _not_begun(now: Round, later: Round, left: float | None) -> str:
    """Of a look that is not begun, who it is for and what it would take."""
    arms = [arm for arm, number in later.reach.items() if number > now.reach[arm]]
    number = max(later.reach[arm] for arm in arms)
    about = f"the next look ({number} seeds of {listed(arms)}) takes about {duration(later.ahead.wall)}"
    if left is not None:
        return f"{about}, and {duration(max(left, 0.0))} are left: it is not begun"
    return f"{about}; --until-decided goes on with it"


def ahead(expected: Prospect, cells: int, workers: Workers) -> str:
    """How many cells are done, and how long the others take."""
    line = f"{cells - expected.missing} of {cells} cells are done"
    number = f"{workers.number} workers on this machine" if workers.number < MANY else "every core that they can use"
    about = f"; the others take about {duration(expected.wall)} with {number}"
    return line + (about if expected.missing else "")
