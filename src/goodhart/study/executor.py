"""Runs cells in a pool of processes; every cell is an idempotent piece of work in the store."""

from __future__ import annotations

import errno
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Container, Generator, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

from goodhart.errors import GoodhartError
from goodhart.models.placement import VISIBLE
from goodhart.store import Store
from goodhart.study.cell import Cell

POLL_SECONDS = 0.5
WORKER_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "true",  # the one cell that tokenizes much runs when nothing else can
    # glibc gives large blocks back to the kernel at every free; keeping them saves a quarter of a step
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**36),
    "MALLOC_TOP_PAD_": str(2**26),
}


@dataclass(slots=True)
class Progress:
    """Where an execution stands."""

    total: int
    running: dict[str, tuple[Cell, float]] = field(default_factory=dict)
    """Cells being made, and since when (`time.monotonic`)."""
    done: list[Cell] = field(default_factory=list)
    cached: int = 0


Watch = Callable[[Progress, Cell | None], None]
"""Called at every poll, with the cell that has just been finished or None."""


Groups = Sequence[Sequence[str]]
"""The names of GPUs that belong together (`goodhart.models.placement`)."""


def execute(
    store: Store, cells: list[Cell], workers: int, watch: Watch, kernels: str = "default", groups: Groups = ()
) -> Progress:
    """Make all cells, inputs first. Finished ones are reused; ones that another process makes are waited for.

    `kernels` are those that all workers multiply matrices with (`goodhart.models.kernels`). Every worker sees one of
    the `groups` of GPUs; they are dealt in turn, so that more workers share them.

    Raises GoodhartError with the first fault; what is done is kept, and the next call goes on from there.
    """
    waiting = {cell.id: cell for cell in cells if not store.has(cell.id)}
    progress = Progress(len(cells), cached=len(cells) - len(waiting))
    if not waiting:
        return progress
    done = _Done(store)
    with _pool(workers, kernels, groups) as pool:
        futures: dict[Future[bool], Cell] = {}
        while waiting or futures:
            free = workers - len(futures)
            begun = in_turn(waiting.values(), done)[:free] if free else []
            hands = 1 if groups else share(workers, len(futures) + len(begun))
            for cell in begun:
                del waiting[cell.id]
                progress.running[cell.id] = (cell, time.monotonic())
                futures[pool.submit(_work, str(store.root), cell, hands)] = cell
            finished, _ = wait(futures, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
            watch(progress, None)
            for future in finished:
                cell = futures.pop(future)
                progress.running.pop(cell.id)
                if _result(future, cell):
                    progress.done.append(cell)
                    watch(progress, cell)
                else:  # another process holds its lock
                    waiting[cell.id] = cell
                    time.sleep(POLL_SECONDS)
    return progress


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
    return sorted(ready, key=lambda cell: cell.kind in ("evaluation", "quality"))


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def share(workers: int, cells: int) -> int:
    """Threads for each cell that begins now, when so many run: of those that are alone, one for every idle worker.

    A cell keeps them until it ends, also if others begin.
    """
    return max(1, min(workers, cores()) // max(1, cells))


def _result(future: Future[bool], cell: Cell) -> bool:
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise GoodhartError(
            f"the process that made {cell.label or cell.id} was killed, perhaps for want of memory",
            "run again to go on; lower batch sizes or --workers if it happens again",
        ) from error


@contextmanager
def _pool(workers: int, kernels: str, groups: Groups) -> Generator[ProcessPoolExecutor]:
    before = dict(os.environ)
    os.environ.update(WORKER_ENVIRONMENT)
    spawn = multiprocessing.get_context("spawn")
    start = (os.getpid(), kernels, groups, spawn.Value("i", 0))
    pool = ProcessPoolExecutor(workers, spawn, _start_worker, start)
    try:
        yield pool
        pool.shutdown()
    except BaseException:
        for process in multiprocessing.active_children():
            process.terminate()
        pool.shutdown(wait=True, cancel_futures=True)
        raise
    finally:
        os.environ.clear()
        os.environ.update(before)


def _start_worker(parent: int, kernels: str, groups: Groups, started: Synchronized[int]) -> None:
    """No operation has threads of its own: two processes of two such threads on two cores spin against one another."""
    threading.Thread(target=_die_with, args=(parent,), daemon=True).start()
    with started.get_lock():
        turn, started.value = started.value, started.value + 1
    if groups:  # CUDA looks once, when it is first used
        os.environ[VISIBLE] = ",".join(groups[turn % len(groups)])
    import torch

    from goodhart.models.checkpoint import quiet
    from goodhart.models.kernels import use

    torch.set_num_threads(1)
    use(kernels)
    quiet()


def _die_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _work(root: str, cell: Cell, hands: int) -> bool:
    from goodhart.models.hands import use
    from goodhart.study.recipes import make

    use(hands)
    try:
        return make(Store(Path(root)), cell)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise GoodhartError(
            f"the disk is full while making {cell.label or cell.id}", f"free space below {root} and run again"
        ) from error
    except MemoryError as error:
        raise GoodhartError(
            f"not enough memory for {cell.label or cell.id}", "lower batch sizes or --workers"
        ) from error
