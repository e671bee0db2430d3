"""The live screen of a running study; plain lines where there is no terminal; and its log in either case."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable
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
            self._tell(self._ended(progress, finished))
        for cell, who in progress.elsewhere.items():
            if self.held.get(cell) != who:
                self.held[cell] = who
                self._tell(f"waiting for {cell}, which {who} is making")
        if self.live:
            self.live.update(self._picture(progress))
        elif time.monotonic() - self.said > QUIET_SECONDS and progress.running:
            running = "; ".join(self._line(cell, since) for cell, since in progress.running.values())
            self._tell(f"[{len(progress.done) + progress.cached}/{progress.total}] running: {running}{self._left()}")

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

    def _tell(self, line: str) -> None:
        """Say a line to whoever watches, and to the log."""
        line = printable(line)
        self._note(line)
        self.news.append(line)
        self.said = time.monotonic()
        if self.live is None:
            self.console.print(Text(line), soft_wrap=True)
            self.console.file.flush()

    def _note(self, line: str) -> None:
        if self.log is not None:
            with self.log.open("a", encoding="utf-8") as file:
                file.write(f"{datetime.now().astimezone().isoformat(timespec='seconds')} {line}\n")

    def _picture(self, progress: Progress) -> Group:
        table = Table(box=None, padding=(0, 1), show_header=False)
        for cell, since in progress.running.values():
            state = read_progress(self.store, cell)
            bar = ProgressBar(total=max(1, state.get("total", 1)), completed=state.get("done", 0), width=24)
            seconds = f"{time.monotonic() - since:.0f} s"
            name, note = printable(cell.label or cell.id), printable(state.get("note", ""))
            table.add_row(Text(name, style="bold"), bar, seconds, Text(note))
        count = len(progress.done) + progress.cached
        lost = f", {len(progress.failed)} failed" if progress.failed else ""
        head = f"{count} of {progress.total} cells{lost}, {time.monotonic() - self.began:.0f} s{self._left()}"
        return Group(Text(head, style="cyan"), table, *(Text(line, style="dim") for line in self.news))

    def _line(self, cell: Cell, since: float) -> str:
        state = read_progress(self.store, cell)
        return f"{cell.label or cell.id} {shown(state)} since {time.monotonic() - since:.0f} s"

    def _left(self) -> str:
        """The expected seconds of what is missing, times what finished cells took of theirs."""
        rate = self.spent / self.expected if self.expected else 1.0
        return f", about {rate * sum(self.waiting.values()) / self.workers / 60:.1f} min left"


def read_progress(store: Store, cell: Cell) -> dict[str, Any]:
    """What a cell that is being made has said of itself: done, total, note."""
    try:
        return json.loads((store.partial(cell.id) / "progress.json").read_text())
    except (OSError, ValueError):
        return {}


def shown(state: dict[str, Any]) -> str:
    """Progress in words; empty if nothing has been said."""
    return f"{state['done']} of {state['total']} {state.get('note', '')}".strip() if "total" in state else ""


def _news(record: dict[str, Any]) -> str:
    means = record["result"].get("means")
    if not means:
        return ""
    return f"; KL {means['kl']:.2f} nats, golden win rate {means['golden_vs_policy']:.3f}"
