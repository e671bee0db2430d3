"""Makes the cells of a study where an executor has room; each is idempotent, and one that fails fails alone."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from goodhart.cells.cell import Cell
from goodhart.cells.store import Store
from goodhart.cells.work import Ended, Failure, Lost
from goodhart.errors import GoodhartError

POLL_SECONDS = 0.5


@runtime_checkable
class Executor(Protocol):
    """Where cells are made. It begins each once; whether one is tried again is decided here, and by no worker."""

    @property
    def tries(self) -> int:
        """How often a cell is begun at most whose maker is lost."""
        ...

    @property
    def pause(self) -> float:
        """Seconds after which a cell that another process makes is asked for again."""
        ...

    def room(self) -> int:
        """How many more cells it takes now."""
        ...

    def begin(self, cells: Sequence[Cell]) -> None:
        """Begin to make cells whose inputs are done, not more than there is room for.

        Raises GoodhartError if it can begin none at all.
        """
        ...

    def ended(self, seconds: float) -> list[tuple[Cell, Ended]]:
        """The cells whose making has ended, and how; waits for one, but not longer than so many seconds."""
        ...

    def place(self, cell: Cell) -> str:
        """Where a cell is made or waits to be made, for people; empty for this machine."""
        ...


@dataclass(slots=True)
class Progress:
    """Where an execution stands."""

    total: int
    running: dict[str, tuple[Cell, float]] = field(default_factory=dict[str, tuple[Cell, float]])
    """Cells being made, and since when (`time.monotonic`)."""
    done: list[Cell] = field(default_factory=list[Cell])
    cached: int = 0
    failed: dict[str, tuple[Cell, Failure]] = field(default_factory=dict[str, tuple[Cell, Failure]])
    """Cells that could not be made."""
    blocked: dict[str, Cell] = field(default_factory=dict[str, Cell])
    """Cells that were not begun, because they read one that could not be made."""
    elsewhere: dict[str, str] = field(default_factory=dict[str, str])
    """Who makes the cells that another process makes."""
    places: dict[str, str] = field(default_factory=dict[str, str])
    """Where the running cells are made, of those that are not made on this machine."""


Watch = Callable[[Progress, Cell | None], None]
"""Called at every poll, with the cell that has just been finished, or has failed, or None."""


def execute(store: Store, cells: list[Cell], executor: Executor, watch: Watch) -> Progress:
    """Make all cells, inputs first. Finished ones are reused; ones that another process makes are waited for.

    A cell that fails is left out, with all that read it, and the others go on.

    Raises GoodhartError if the file system takes nothing more, or the executor no other cell; what is done is kept,
    and the next call goes on.
    """
    waiting = {cell.id: cell for cell in cells if not store.has(cell.id)}
    progress = Progress(len(cells), cached=len(cells) - len(waiting))
    execution = _Execution(store, executor, watch, waiting, progress)
    while execution.waiting or progress.running:
        _block(execution.waiting, progress)
        if execution.fatal is None:
            execution.begin()
        if not progress.running and not execution.to_ask_again():
            break
        ended = executor.ended(POLL_SECONDS)
        still = progress.running.keys() - {cell.id for cell, _ in ended}
        progress.places = {id_: executor.place(progress.running[id_][0]) for id_ in still}
        watch(progress, None)
        for cell, end in ended:
            execution.end(cell, end)
    if execution.fatal:
        raise GoodhartError(execution.fatal.problem, execution.fatal.remedy)
    return progress


@dataclass(slots=True)
class _Execution:
    """Which cells wait, and what becomes of those that were begun."""

    store: Store
    executor: Executor
    watch: Watch
    waiting: dict[str, Cell]
    progress: Progress
    lost: Counter[str] = field(default_factory=Counter[str])
    """How often what made a cell was lost."""
    asked_again: dict[str, float] = field(default_factory=dict[str, float])
    """When cells that another process makes are asked for again (`time.monotonic`)."""
    fatal: Failure | None = None
    """Why no other cell is begun."""
    done: _Done = field(init=False)

    def __post_init__(self) -> None:
        self.done = _Done(self.store)

    def begin(self) -> None:
        """Give the executor as many cells as it has room for."""
        now = time.monotonic()
        free = [cell for cell in self.waiting.values() if self.asked_again.get(cell.id, 0.0) <= now]
        begun = in_turn(free, self.done)[: self.executor.room()]
        for cell in begun:
            del self.waiting[cell.id]
            self.progress.running[cell.id] = (cell, now)
        if begun:
            self.executor.begin(begun)

    def to_ask_again(self) -> bool:
        """Whether there is a cell that another process makes, which is waited for."""
        return self.fatal is None and any(cell in self.asked_again for cell in self.waiting)

    def end(self, cell: Cell, end: Ended) -> None:
        """Take what came of a cell."""
        self.progress.running.pop(cell.id)
        if isinstance(end, Lost):
            self.lost[cell.id] += 1
            if self.lost[cell.id] < self.executor.tries:
                self.waiting[cell.id] = cell
                return
            end = _given_up(cell, end, self.executor.tries)
        if isinstance(end, Failure):
            self.fatal = self.fatal or (end if end.everywhere else None)
            self.progress.failed[cell.id] = (cell, end)
            self.store.fail(cell.id, end.problem, end.remedy)
            self.watch(self.progress, cell)
        elif end:
            self.progress.elsewhere.pop(cell.id, None)
            self.progress.done.append(cell)
            self.watch(self.progress, cell)
        else:
            self.progress.elsewhere[cell.id] = self.store.holder(cell.id) or "another process"
            self.asked_again[cell.id] = time.monotonic() + self.executor.pause
            self.waiting[cell.id] = cell


def _block(waiting: dict[str, Cell], progress: Progress) -> None:
    """Take the cells out that read one which failed, or which is itself taken out."""
    while lost := [
        cell
        for cell in waiting.values()
        if any(needed.id in progress.failed or needed.id in progress.blocked for needed in cell.inputs.values())
    ]:
        for cell in lost:
            progress.blocked[cell.id] = waiting.pop(cell.id)


def _given_up(cell: Cell, end: Lost, tries: int) -> Failure:
    return Failure(f"{cell.label or cell.id}: {end.why} ({tries} times)", end.remedy)


@dataclass(slots=True)
class _Done:
    """The cells that are done, each asked of the file system until it is."""

    store: Store
    known: set[str] = field(default_factory=set[str])

    def __contains__(self, cell: object) -> bool:
        if cell not in self.known and isinstance(cell, str) and self.store.has(cell):
            self.known.add(cell)
        return cell in self.known


def in_turn(waiting: Iterable[Cell], done: Container[str]) -> list[Cell]:
    """Cells whose inputs are done; training before measuring, since runs are longest."""
    ready = [cell for cell in waiting if all(needed.id in done for needed in cell.inputs.values())]
    return sorted(ready, key=comes_later)


def comes_later(cell: Cell) -> bool:
    """Whether a cell measures, so that it waits for those that train."""
    return cell.kind in ("evaluation", "quality")
