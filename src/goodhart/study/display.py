"""The live screen of a running study; plain lines where there is no terminal."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from goodhart.printable import printable
from goodhart.store import Store
from goodhart.study.cell import Cell
from goodhart.study.executor import Progress


class Screen:
    """Shows cells as they run, measurements as they come, and an estimate of the time left."""

    def __init__(
        self, store: Store, cells: list[Cell], workers: int, console: Console, seconds: Callable[[Cell], float]
    ) -> None:
        self.store = store
        self.waiting = {cell.id: seconds(cell) for cell in cells if not store.has(cell.id)}
        self.workers = workers
        self.console = console
        self.began = time.monotonic()
        self.news: deque[str] = deque(maxlen=8)
        self.spent, self.expected = 0.0, 0.0
        self.live = Live(console=console, refresh_per_second=2, transient=True) if console.is_terminal else None

    def __enter__(self) -> Screen:
        if self.live:
            self.live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        if self.live:
            self.live.stop()

    def __call__(self, progress: Progress, finished: Cell | None) -> None:
        """See `goodhart.study.executor.Watch`."""
        if finished is not None:
            record = self.store.record(finished.id)
            self.spent += record["seconds"] * record["threads"]
            self.expected += self.waiting.pop(finished.id, 0.0)
            count = len(progress.done) + progress.cached
            name = printable(finished.label or finished.id)
            line = f"[{count}/{progress.total}] {name}: {record['seconds']:.1f} s{_news(record)}"
            self.news.append(line)
            if self.live is None:
                self.console.print(line, highlight=False, soft_wrap=True, markup=False, emoji=False)
        if self.live:
            self.live.update(self._picture(progress))

    def _picture(self, progress: Progress) -> Group:
        table = Table(box=None, padding=(0, 1), show_header=False)
        for cell, since in progress.running.values():
            state = self._state(cell)
            bar = ProgressBar(total=max(1, state.get("total", 1)), completed=state.get("done", 0), width=24)
            seconds = f"{time.monotonic() - since:.0f} s"
            name, note = printable(cell.label or cell.id), printable(state.get("note", ""))
            table.add_row(Text(name, style="bold"), bar, seconds, Text(note))
        count = len(progress.done) + progress.cached
        head = f"{count} of {progress.total} cells, {time.monotonic() - self.began:.0f} s{self._left()}"
        return Group(Text(head, style="cyan"), table, *(Text(line, style="dim") for line in self.news))

    def _state(self, cell: Cell) -> dict[str, Any]:
        try:
            return json.loads((self.store.partial(cell.id) / "progress.json").read_text())
        except (OSError, ValueError):
            return {}

    def _left(self) -> str:
        """The expected seconds of what is missing, times what finished cells took of theirs."""
        rate = self.spent / self.expected if self.expected else 1.0
        return f", about {rate * sum(self.waiting.values()) / self.workers / 60:.1f} min left"


def _news(record: dict[str, Any]) -> str:
    means = record["result"].get("means")
    if not means:
        return ""
    return f"; KL {means['kl']:.2f} nats, golden win rate {means['golden_vs_policy']:.3f}"
