"""Cells made by processes of this machine."""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from goodhart.cells.cell import Cell
from goodhart.cells.team import Team
from goodhart.cells.work import Ended, Lost
from goodhart.cells.worker import Groups, finished, started

_KILLED = Lost(
    "the process that made it was killed, perhaps for want of memory",
    "run again to go on; lower batch sizes or --workers if it happens again",
)


@dataclass(slots=True)
class Local:
    """An executor whose workers are processes of this machine (`goodhart.cells.executor.Executor`)."""

    root: Path
    workers: list[Team]
    alone: bool = False
    """Whether each cell has one thread, since its work is a GPU's."""
    tries: int = 2
    pause: float = 0.5
    at: dict[Team, Cell] = field(default_factory=dict[Team, Cell])

    def room(self) -> int:
        """One cell for every idle worker."""
        return len(self.workers) - len(self.at)

    def begin(self, cells: Sequence[Cell]) -> None:
        """Give the idle workers cells. Raises GoodhartError if no process can be begun."""
        free = [worker for worker in self.workers if worker not in self.at]
        threads = 1 if self.alone else share(len(self.workers), len(self.at) + len(cells))
        for cell, worker in zip(cells, free, strict=False):
            worker.make(str(self.root), cell, threads)
            self.at[worker] = cell

    def ended(self, seconds: float) -> list[tuple[Cell, Ended]]:
        """The cells whose worker has a result, or was killed."""
        if not self.at:
            time.sleep(seconds)
        ended: list[tuple[Cell, Ended]] = []
        for worker in finished(self.at, seconds):
            result = worker.result()
            ended.append((self.at.pop(worker), _KILLED if result is None else result))
        return ended

    def place(self, cell: Cell) -> str:  # noqa: ARG002
        """Empty: all are made here."""
        return ""


@contextmanager
def local(
    root: Path, workers: int, kernels: str, groups: Groups = (), log: Path | None = None, processes: int = 1
) -> Generator[Local]:
    """So many workers, which end with the context, each of so many `processes` that make a cell together.

    `kernels` are those that all multiply matrices with (`goodhart.compute.kernels`). Every worker sees one of the
    `groups` of GPUs; they are dealt in turn, so that more workers share them. What workers print on standard error goes
    into `log`.
    """
    dealt = [group for group in groups for _ in range(processes)]
    with started(workers * processes, kernels, dealt, log) as every:
        teams = [Team(every[first : first + processes]) for first in range(0, len(every), processes)]
        yield Local(root, teams, alone=bool(groups))


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def share(workers: int, cells: int) -> int:
    """Threads for each cell that begins now, when so many run: of those that are alone, one for every idle worker.

    A cell keeps them until it ends, also if others begin.
    """
    return max(1, min(workers, cores()) // max(1, cells))
