"""Runs cells in processes; every cell is an idempotent piece of work in the store, and one that fails fails alone."""

from __future__ import annotations

import errno
import os
import time
from collections import Counter
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from goodhart.cells.cell import Cell
from goodhart.cells.store import Store
from goodhart.cells.worker import Failure, Groups, Worker, finished, started
from goodhart.errors import GoodhartError, is_out_of_memory

POLL_SECONDS = 0.5
ATTEMPTS = 2
"""How often a cell is begun whose process is killed from outside."""
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""Faults of the file system, which every other cell would meet too."""


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


Watch = Callable[[Progress, Cell | None], None]
"""Called at every poll, with the cell that has just been finished, or has failed, or None."""


def execute(
    store: Store,
    cells: list[Cell],
    workers: int,
    watch: Watch,
    kernels: str = "default",
    groups: Groups = (),
    log: Path | None = None,
) -> Progress:
    """Make all cells, inputs first. Finished ones are reused; ones that another process makes are waited for.

    `kernels` are those that all workers multiply matrices with (`goodhart.compute.kernels`). Every worker sees one of
    the `groups` of GPUs; they are dealt in turn, so that more workers share them. What workers print on standard error
    goes into `log`. A cell that fails is left out, with all that read it, and the others go on.

    Raises GoodhartError if the file system takes nothing more, or the machine no other process; what is done is kept,
    and the next call goes on.
    """
    waiting = {cell.id: cell for cell in cells if not store.has(cell.id)}
    progress = Progress(len(cells), cached=len(cells) - len(waiting))
    if not waiting:
        return progress
    going = _Execution(store, watch, waiting, progress)
    with started(workers, kernels, groups, log) as processes:
        while going.waiting or going.at:
            _block(going.waiting, progress)
            if going.fatal is None:
                going.begin(processes, alone=bool(groups))
            if not going.at:
                break
            ended = finished(going.at, POLL_SECONDS)
            watch(progress, None)
            for worker in ended:
                going.end(worker)
    if going.fatal:
        raise GoodhartError(going.fatal.problem, going.fatal.remedy)
    return progress


@dataclass(slots=True)
class _Execution:
    """Which worker makes which cell, and which cells wait."""

    store: Store
    watch: Watch
    waiting: dict[str, Cell]
    progress: Progress
    at: dict[Worker, Cell] = field(default_factory=dict[Worker, Cell])
    killed: Counter[str] = field(default_factory=Counter[str])
    """How often the process was killed that made a cell."""
    fatal: Failure | None = None
    """Why no other cell is begun."""
    done: _Done = field(init=False)

    def __post_init__(self) -> None:
        self.done = _Done(self.store)

    def begin(self, workers: list[Worker], *, alone: bool) -> None:
        """Give the idle workers cells; `alone` says that each cell has one thread."""
        free = [worker for worker in workers if worker not in self.at]
        begun = in_turn(self.waiting.values(), self.done)[: len(free)]
        threads = 1 if alone else share(len(workers), len(self.at) + len(begun))
        for cell, worker in zip(begun, free, strict=False):
            del self.waiting[cell.id]
            self.progress.running[cell.id] = (cell, time.monotonic())
            worker.submit(cell.label or cell.id, _work, str(self.store.root), cell, threads)
            self.at[worker] = cell

    def end(self, worker: Worker) -> None:
        """Take what came of a worker's cell."""
        cell = self.at.pop(worker)
        self.progress.running.pop(cell.id)
        result = worker.result()
        if result is None:
            self.killed[cell.id] += 1
            if self.killed[cell.id] < ATTEMPTS:
                self.waiting[cell.id] = cell
                return
            result = _killed(cell)
        if isinstance(result, Failure):
            self.fatal = self.fatal or (result if result.everywhere else None)
            self.progress.failed[cell.id] = (cell, result)
            self.store.fail(cell.id, result.problem, result.remedy)
            self.watch(self.progress, cell)
        elif result:
            self.progress.elsewhere.pop(cell.id, None)
            self.progress.done.append(cell)
            self.watch(self.progress, cell)
        else:
            self.progress.elsewhere[cell.id] = self.store.holder(cell.id) or "another process"
            self.waiting[cell.id] = cell
            time.sleep(POLL_SECONDS)


def _block(waiting: dict[str, Cell], progress: Progress) -> None:
    """Take the cells out that read one which failed, or which is itself taken out."""
    while lost := [
        cell
        for cell in waiting.values()
        if any(needed.id in progress.failed or needed.id in progress.blocked for needed in cell.inputs.values())
    ]:
        for cell in lost:
            progress.blocked[cell.id] = waiting.pop(cell.id)


def _killed(cell: Cell) -> Failure:
    return Failure(
        f"{cell.label or cell.id}: the process that made it was killed {ATTEMPTS} times, perhaps for want of memory",
        "run again to go on; lower batch sizes or --workers if it happens again",
    )


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


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def share(workers: int, cells: int) -> int:
    """Threads for each cell that begins now, when so many run: of those that are alone, one for every idle worker.

    A cell keeps them until it ends, also if others begin.
    """
    return max(1, min(workers, cores()) // max(1, cells))


def _work(root: str, cell: Cell, threads: int) -> bool | Failure:
    from goodhart.cells.make import make
    from goodhart.compute.threads import use_threads

    use_threads(threads)
    what = cell.label or cell.id
    try:
        return make(Store(Path(root)), cell)
    except GoodhartError as error:
        if is_out_of_memory(error):
            raise
        return Failure(f"{what}: {error.problem}", error.remedy)
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        read_only = error.errno == errno.EROFS
        fault = "cannot be written to" if read_only else "is full"
        remedy = f"make {root} writable" if read_only else f"free space below {root}"
        return Failure(f"the disk {fault} while making {what}", f"{remedy} and run again", everywhere=True)
