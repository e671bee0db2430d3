"""The live screen of a study that somebody else runs, from what lies in the store."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext

from rich.console import Console, Group
from rich.live import Live

from goodhart.cells.cell import Cell
from goodhart.cells.screen import Row, picture, read_progress, shown
from goodhart.cells.steps import steps_file
from goodhart.cells.store import Store
from goodhart.printable import printable
from goodhart.tracking.follow import Follow, Sinks
from goodhart.tracking.sink import Run

_SECONDS = 2.0
"""Between two looks."""
_QUIET_SECONDS = 30.0
"""Between two lines where there is no terminal."""
PATIENCE = 60.0
"""Seconds in which nobody makes a cell, after which nobody is taken to come: jobs may wait in a queue."""
_NEWS = 8


def watch(store: Store, cells: Sequence[Cell], seconds: Callable[[Cell], float], console: Console) -> None:
    """Show who makes which cell until all are done, or nobody has made any for a minute; it only reads.

    `seconds` is the expected time of a cell.
    """
    watched = Watched(store, cells, seconds)
    live = Live(console=console, refresh_per_second=2, transient=True) if console.is_terminal else None
    said = float("-inf")
    with live or nullcontext():
        while True:
            watched.look()
            for line in watched.warnings:
                console.print(printable(line), style="bold red", highlight=False)
            watched.warnings.clear()
            if live:
                live.update(watched.picture(console.height))
            elif time.monotonic() - said > _QUIET_SECONDS or watched.over:
                said = time.monotonic()
                console.print(printable(watched.line()), highlight=False)
                console.file.flush()
            if watched.over:
                break
            time.sleep(_SECONDS)
    if live:
        console.print(printable(watched.line()), highlight=False)


class Watched:
    """What a look at the store shows of a study."""

    def __init__(self, store: Store, cells: Sequence[Cell], seconds: Callable[[Cell], float]) -> None:
        self.store = store
        self.total = len(cells)
        self.missing = {cell.id: cell for cell in cells}
        self.seconds = seconds
        self.rows: list[Row] = []
        self.failures: set[str] = set()
        self.follows: dict[str, Follow] = {}
        self.news: list[str] = []
        self.warnings: list[str] = []
        """What has to be said at once: cells that failed, runs that diverge."""
        self.busy = time.monotonic()
        self.looked = False

    def look(self) -> None:
        """Read where the cells stand."""
        ended = [cell for cell in self.missing.values() if self.store.has(cell.id)]
        for cell in ended:
            del self.missing[cell.id]
        if self.looked:
            told = [f"done: {cell.label or cell.id}" for cell in ended]
            self.news = [*self.news, *map(printable, told)][-_NEWS:]
        self.looked = True
        self.rows = []
        failures: set[str] = set()
        for cell in self.missing.values():
            since = self.store.held_since(cell.id)
            if since is not None:
                said = read_progress(self.store, cell)
                place = f"by {self.store.holder(cell.id)}"
                self.rows.append(Row(cell.label or cell.id, said, max(0.0, time.time() - since), place))
                self._follow(cell).look(steps_file(self.store, cell.id))
            elif failure := self.store.failure(cell.id):
                failures.add(cell.id)
                if cell.id not in self.failures:
                    self.warnings.append(f"FAILED {failure['problem']}")
        self.failures = failures
        if self.rows:
            self.busy = time.monotonic()

    def _follow(self, cell: Cell) -> Follow:
        run = Run(cell.id, cell.label or cell.id, {})
        told = self.warnings.append
        return self.follows.setdefault(cell.id, Follow(run, Sinks([], told), told))

    @property
    def over(self) -> bool:
        """Whether there is nothing to wait for."""
        return not self.missing or time.monotonic() - self.busy > PATIENCE

    def line(self) -> str:
        """What a look showed, in a line."""
        head = self._head()
        if not self.missing:
            return head
        if not self.rows:
            return f"{head}; nobody makes any of the others now"
        return f"{head}; " + "; ".join(f"{row.name} {shown(dict(row.said))} {row.place}" for row in self.rows[:_NEWS])

    def picture(self, height: int) -> Group:
        """What a look showed, for a terminal."""
        return picture(self._head(), self.rows, self.news, height)

    def _head(self) -> str:
        done = self.total - len(self.missing)
        failed = f", {len(self.failures)} failed" if self.failures else ""
        left = sum(map(self.seconds, self.missing.values())) / max(1, len(self.rows)) / 60
        about = f", {len(self.rows)} being made, about {left:.1f} min left" if self.rows else ""
        return f"{done} of {self.total} cells are done{failed}{about}"
