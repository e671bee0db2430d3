"""Runs cells in processes; every cell is an idempotent piece of work in the store, and one that fails fails alone."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Container, Generator, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.context import BaseContext
from pathlib import Path

import psutil

from goodhart.errors import GoodhartError, is_out_of_memory
from goodhart.models.placement import VISIBLE
from goodhart.store import Store
from goodhart.study.cell import Cell
from goodhart.study.recipes import RECIPES

POLL_SECONDS = 0.5
ATTEMPTS = 2
"""How often a cell is begun whose process is killed from outside."""
WORKER_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "true",  # the one cell that tokenizes much runs when nothing else can
    # glibc gives large blocks back to the kernel at every free; keeping them saves a quarter of a step
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**36),
    "MALLOC_TOP_PAD_": str(2**26),
}
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""Faults of the file system, which every other cell would meet too."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a cell could not be made."""

    problem: str
    remedy: str
    trace: str = ""
    """The traceback of a fault that has no sentence of its own."""
    everywhere: bool = False
    """Whether every other cell would fail for the same reason."""

    def __str__(self) -> str:
        return f"{self.problem}; {self.remedy}"


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


Groups = Sequence[Sequence[str]]
"""The names of GPUs that belong together (`goodhart.models.placement`)."""


def execute(
    store: Store, cells: list[Cell], workers: int, watch: Watch, kernels: str = "default", groups: Groups = ()
) -> Progress:
    """Make all cells, inputs first. Finished ones are reused; ones that another process makes are waited for.

    `kernels` are those that all workers multiply matrices with (`goodhart.models.kernels`). Every worker sees one of
    the `groups` of GPUs; they are dealt in turn, so that more workers share them. A cell that fails is left out, with
    all that read it, and the others go on.

    Raises GoodhartError if the file system takes nothing more; what is done is kept, and the next call goes on.
    """
    waiting = {cell.id: cell for cell in cells if not store.has(cell.id)}
    progress = Progress(len(cells), cached=len(cells) - len(waiting))
    if not waiting:
        return progress
    done, attempts = _Done(store), dict[str, int]()
    with _broken_threads() as broken, _workers(workers, kernels, groups) as crew:
        at: dict[Future[bool | Failure], tuple[Cell, _Worker]] = {}
        fatal: Failure | None = None
        while waiting or at:
            _block(waiting, progress)
            free = [] if fatal else [worker for worker in crew if worker not in [busy for _, busy in at.values()]]
            begun = in_turn(waiting.values(), done)[: len(free)]
            hands = 1 if groups else share(workers, len(at) + len(begun))
            for cell, worker in zip(begun, free, strict=False):
                del waiting[cell.id]
                progress.running[cell.id] = (cell, time.monotonic())
                at[worker.submit(store, cell, hands)] = (cell, worker)
            if not at:
                break
            finished, _ = wait(at, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
            watch(progress, None)
            if broken:
                raise GoodhartError(
                    f"this machine gives the command no more memory or threads ({broken[0]})",
                    "run again with fewer --workers, or where there is more",
                )
            for future in finished:
                cell, worker = at.pop(future)
                progress.running.pop(cell.id)
                result = worker.result(future, cell)
                if result is None and attempts.setdefault(cell.id, 1) < ATTEMPTS:
                    attempts[cell.id] += 1
                    waiting[cell.id] = cell
                    continue
                result = _killed(cell) if result is None else result
                if isinstance(result, Failure):
                    fatal = fatal or (result if result.everywhere else None)
                    progress.failed[cell.id] = (cell, result)
                    store.fail(cell.id, result.problem, result.remedy)
                    watch(progress, cell)
                elif result:
                    progress.elsewhere.pop(cell.id, None)
                    progress.done.append(cell)
                    watch(progress, cell)
                else:
                    progress.elsewhere[cell.id] = store.holder(cell.id) or "another process"
                    waiting[cell.id] = cell
                    time.sleep(POLL_SECONDS)
    if fatal:
        raise GoodhartError(fatal.problem, fatal.remedy)
    return progress


@contextmanager
def _broken_threads() -> Generator[list[str]]:
    """What threads of this process end by: the pool's own, once it cannot begin another, would leave all waiting."""
    found: list[str] = []
    before = threading.excepthook
    threading.excepthook = lambda fault: found.append(f"{fault.exc_type.__name__}: {fault.exc_value}")
    try:
        yield found
    finally:
        threading.excepthook = before


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
    return sorted(ready, key=lambda cell: cell.kind in ("evaluation", "quality"))


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def share(workers: int, cells: int) -> int:
    """Threads for each cell that begins now, when so many run: of those that are alone, one for every idle worker.

    A cell keeps them until it ends, also if others begin.
    """
    return max(1, min(workers, cores()) // max(1, cells))


@dataclass(slots=True, eq=False)
class _Worker:
    """A process that makes one cell at a time; if it is killed, the next cell gets a new one."""

    kernels: str
    group: Sequence[str]
    """The GPUs that it sees."""
    pool: ProcessPoolExecutor | None = None

    def submit(self, store: Store, cell: Cell, hands: int) -> Future[bool | Failure]:
        """Begin a cell; one that is submitted to a process that has died is begun in a new one."""
        try:
            return self.process().submit(_work, str(store.root), cell, hands)
        except BrokenProcessPool:
            self.close()
            return self.process().submit(_work, str(store.root), cell, hands)

    def result(self, future: Future[bool | Failure], cell: Cell) -> bool | Failure | None:
        """What came of a cell; None if the process was killed."""
        try:
            return future.result()
        except BrokenProcessPool:
            self.close()
            return None
        except Exception as error:  # a cell or a result that cannot cross between processes
            return _unexpected(cell, error)

    def process(self) -> ProcessPoolExecutor:
        """The process, begun if there is none."""
        if self.pool is None:
            here = psutil.Process()
            start = (here.pid, here.create_time(), dict(os.environ), self.kernels, tuple(self.group))
            self.pool = ProcessPoolExecutor(1, _context(), _start_worker, start)
        return self.pool

    def close(self) -> None:
        """End the process once it has nothing to do."""
        if self.pool is not None:
            self.pool.shutdown(wait=True, cancel_futures=True)
            self.pool = None


@contextmanager
def _workers(number: int, kernels: str, groups: Groups) -> Generator[list[_Worker]]:
    before = dict(os.environ)
    os.environ.update(WORKER_ENVIRONMENT)
    crew = [_Worker(kernels, groups[turn % len(groups)] if groups else ()) for turn in range(number)]
    try:
        yield crew
    except BaseException:
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    finally:
        for worker in crew:
            worker.close()
        os.environ.clear()
        os.environ.update(before)


def _context() -> BaseContext:
    """How processes begin: as forks of one that has imported the libraries, which takes seconds, and done nothing."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["goodhart.study.make", *sorted({recipe.module for recipe in RECIPES.values()})])
    return context


def _start_worker(parent: int, began: float, environment: dict[str, str], kernels: str, group: Sequence[str]) -> None:
    """No operation has threads of its own: two processes of two such threads on two cores spin against one another."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C reaches all; the one that asked ends the others
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_die_with, args=(parent, began), daemon=True).start()
    os.environ.clear()
    os.environ.update(environment)  # a fork has the environment of the first call
    if group:  # CUDA looks once, when it is first used
        os.environ[VISIBLE] = ",".join(group)
    import torch

    from goodhart.models.checkpoint import quiet
    from goodhart.models.kernels import use

    torch.set_num_threads(1)
    _begin_reading_threads()
    use(kernels)
    quiet()


def _begin_reading_threads() -> None:
    """One thread of each of Arrow's two pools, now: a read waits for ever once it cannot begin one."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    written = pa.BufferOutputStream()
    pq.write_table(pa.table({"one": [1]}), written)
    pq.read_table(pa.BufferReader(written.getvalue()), filters=[("one", "=", 1)])


def _die_with(parent: int, began: float) -> None:
    """End with the process that asked for the work, and with the one that this is a fork of."""
    origin = os.getppid()
    while os.getppid() == origin and _lives(parent, began):
        time.sleep(1)
    os._exit(1)


def _lives(process: int, began: float) -> bool:
    try:
        return abs(psutil.Process(process).create_time() - began) < 1
    except psutil.NoSuchProcess:
        return False


def _work(root: str, cell: Cell, hands: int) -> bool | Failure:
    from goodhart.models.hands import use
    from goodhart.study.make import make

    use(hands)
    what = cell.label or cell.id
    try:
        return make(Store(Path(root)), cell)
    except GoodhartError as error:
        return Failure(f"{what}: {error.problem}", error.remedy)
    except OSError as error:
        if error.errno not in _NO_ROOM:
            return _unexpected(cell, error)
        read_only = error.errno == errno.EROFS
        fault = "cannot be written to" if read_only else "is full"
        remedy = f"make {root} writable" if read_only else f"free space below {root}"
        return Failure(f"the disk {fault} while making {what}", f"{remedy} and run again", everywhere=True)
    except Exception as error:
        if is_out_of_memory(error):
            return Failure(f"not enough memory for {what}", "lower batch sizes, set micro_batch, or lower --workers")
        return _unexpected(cell, error)


def _unexpected(cell: Cell, error: BaseException) -> Failure:
    words = " ".join(str(error).split())[:300]
    return Failure(
        f"{cell.label or cell.id}: {type(error).__name__}: {words}",
        "the traceback is in the study's log; run again once its cause is mended",
        "".join(traceback.format_exception(error)),
    )
