"""The live screen of a running study; plain lines where there is no terminal; and its log in either case."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from goodhart.cells.cell import Cell
from goodhart.cells.executor import Progress
from goodhart.cells.store import Store
from goodhart.printable import printable

QUIET_SECONDS = 30.0
"""Without a terminal, so long is nothing said at most while cells run."""
MOST_NAMED = 8
"""Running cells that one such line names at most."""


class Screen:
    """Shows cells as they run, measurements as they come, and an estimate of the time left."""

    def __init__(
        self,
        store: Store,
        cells: list[Cell],
        workers: int,
        console: Console,
        seconds: Callable[[Cell], float],
        log: Path | None = None,
    ) -> None:
        self.store = store
        self.waiting = {cell.id: seconds(cell) for cell in cells if not store.has(cell.id)}
        self.workers = workers
        self.console = console
        self.log = log
        self.began = self.said = time.monotonic()
        self.news: deque[str] = deque(maxlen=8)
        self.begun: set[str] = set()
        self.held: dict[str, str] = {}
        self.spent, self.expected = 0.0, 0.0
        self.live = Live(console=console, refresh_per_second=2, transient=True) if console.is_terminal else None

    def __enter__(self) -> Screen:
        if self.live:
            self.live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        if self.live:
            self.live.stop()
        if kind is not None:
            self._note(f"stopped: {kind.__name__} {value}")

    def __call__(self, progress: Progress, finished: Cell | None) -> None:
        """See `goodhart.cells.executor.Watch`."""
        for cell, _ in progress.running.values():
            if cell.id not in self.begun:
                self.begun.add(cell.id)
                self._note(f"begun {cell.label or cell.id} ({cell.id})")
        if finished is not None:
            self.tell(self._ended(progress, finished))
        for cell, who in progress.elsewhere.items():
            if self.held.get(cell) != who:
                self.held[cell] = who
                self.tell(f"waiting for {cell}, which {who} is making")
        if self.live:
            self.live.update(self._picture(progress))
        elif time.monotonic() - self.said > QUIET_SECONDS and progress.running:
            lines = [self._line(cell, since) for cell, since in progress.running.values()]
            more = f"; {len(lines) - MOST_NAMED} more" if len(lines) > MOST_NAMED else ""
            running = "; ".join(lines[:MOST_NAMED]) + more
            self.tell(f"[{len(progress.done) + progress.cached}/{progress.total}] running: {running}{self._left()}")

    def _ended(self, progress: Progress, cell: Cell) -> str:
        count = f"[{len(progress.done) + progress.cached}/{progress.total}]"
        if cell.id in progress.failed:
            self.begun.discard(cell.id)
            failure = progress.failed[cell.id][1]
            if failure.trace:
                self._note(failure.trace)
            return f"{count} FAILED {failure}"
        record = self.store.record(cell.id)
        self.spent += record["seconds"] * record["threads"]
        self.expected += self.waiting.pop(cell.id, 0.0)
        return f"{count} {cell.label or cell.id}: {record['seconds']:.1f} s{_news(record)}"

    def tell(self, line: str) -> None:
        """Say a line to whoever watches, and to the log."""
        line = printable(line)
        self._note(line)
        self.news.append(line)
        self.said = time.monotonic()
        if self.live is None:
            self.console.print(Text(line), soft_wrap=True)
            self.console.file.flush()

    def warn(self, line: str) -> None:
        """Say a line that stays on the terminal while other news go."""
        line = printable(line)
        self._note(line)
        self.console.print(Text(line, style="bold red"), soft_wrap=True)
        self.console.file.flush()

    def _note(self, line: str) -> None:
        if self.log is not None:
            with self.log.open("a", encoding="utf-8") as file:
                file.write(f"{datetime.now().astimezone().isoformat(timespec='seconds')} {line}\n")

    def _picture(self, progress: Progress) -> Group:
        now = time.monotonic()
        rows = [
            Row(cell.label or cell.id, read_progress(self.store, cell), now - since, progress.places.get(cell.id, ""))
            for cell, since in progress.running.values()
        ]
        count = len(progress.done) + progress.cached
        lost = f", {len(progress.failed)} failed" if progress.failed else ""
        head = f"{count} of {progress.total} cells{lost}, {now - self.began:.0f} s{self._left()}"
        return picture(head, rows, list(self.news), self.console.height)

    def _line(self, cell: Cell, since: float) -> str:
        said = shown(read_progress(self.store, cell))
        return f"{cell.label or cell.id} {said} since {time.monotonic() - since:.0f} s"

    def _left(self) -> str:
        """The expected seconds of what is missing, times what finished cells took of theirs."""
        rate = self.spent / self.expected if self.expected else 1.0
        at_once = max(1, min(self.workers, len(self.waiting)))
        return f", about {rate * sum(self.waiting.values()) / at_once / 60:.1f} min left"


@dataclass(frozen=True, slots=True)
class Row:
    """A cell that is being made."""

    name: str
    said: Mapping[str, Any]
    """What it has said of itself (`read_progress`)."""
    seconds: float
    """Since it was begun."""
    place: str = ""
    """Where it is made, if not by a worker of this process."""


def picture(head: str, rows: Sequence[Row], news: Sequence[str], height: int) -> Group:
    """A screen of at most `height` lines: those that have said most of themselves first, the others as a number."""
    table = Table(box=None, padding=(0, 1), show_header=False)
    room = max(1, height - len(news) - 3)
    for row in sorted(rows, key=lambda row: "total" not in row.said)[:room]:
        unknown = "total" in row.said and row.said["total"] is None
        bar = ProgressBar(
            total=max(1, row.said.get("total") or 1), completed=row.said.get("done", 0), width=24, pulse=unknown
        )
        note = " ".join(part for part in (row.place, str(row.said.get("note", ""))) if part)
        table.add_row(Text(printable(row.name), style="bold"), bar, f"{row.seconds:.0f} s", Text(printable(note)))
    more = [Text(f"and {len(rows) - room} more")] if len(rows) > room else []
    return Group(Text(head, style="cyan"), table, *more, *(Text(line, style="dim") for line in news))


def read_progress(store: Store, cell: Cell) -> dict[str, Any]:
    """What a cell that is being made has said of itself: done, total, note."""
    try:
        return json.loads((store.partial(cell.id) / "progress.json").read_text())
    except (OSError, ValueError):
        return {}


def shown(state: dict[str, Any]) -> str:
    """Progress in words; empty if nothing has been said."""
    if "total" not in state:
        return ""
    of = "" if state["total"] is None else f" of {state['total']}"
    return f"{state['done']}{of} {state.get('note', '')}".strip()


def _news(record: dict[str, Any]) -> str:
    means = record["result"].get("means")
    if not means:
        return ""
    return f"; KL {means['kl']:.2f} nats, golden win rate {means['golden_vs_policy']:.3f}"
