"""What the process does that makes a cell, wherever it runs; trying again is for the executor."""

from __future__ import annotations

import errno
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from goodhart.cells.cell import Cell
from goodhart.cells.record import here
from goodhart.cells.store import Store
from goodhart.errors import GoodhartError, is_out_of_memory

if TYPE_CHECKING:
    from goodhart.cells.workplace import Workplace

ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "true",  # the one cell that tokenizes much runs when nothing else can
    "RUST_BACKTRACE": "0",  # to print one a tokenizer needs memory, and waits for ever where there is none
    "HF_DEACTIVATE_ASYNC_LOAD": "1",  # a model is read without threads, one of which may have no memory to begin
    # glibc gives large blocks back to the kernel at every free; keeping them saves a quarter of a step
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**36),
    "MALLOC_TOP_PAD_": str(2**26),
}
"""What the processes that make cells are begun with."""
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


@dataclass(frozen=True, slots=True)
class Lost:
    """What made a cell is gone and has left no result: a process that was killed, a machine that went away."""

    why: str
    remedy: str


Ended = bool | Failure | Lost
"""How the making of a cell ended: True if it is there, False if another process makes it now."""


def attempt(what: str, work: Callable[..., Any], arguments: Sequence[object]) -> Any:
    """`work(*arguments)`, a Failure if that raises; `what` is its name for people."""
    try:
        return work(*arguments)
    except Exception as error:
        words = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        if is_out_of_memory(error):
            remedy = "lower batch sizes, set micro_batch, or lower --workers"
            return Failure(f"not enough memory for {what} ({words})", remedy, traceback.format_exc())
        remedy = "the traceback is in the study's log; run again once its cause is mended"
        return Failure(f"{what}: {words}", remedy, traceback.format_exc())


def work(
    root: str, cell: Cell, threads: int, recipe: Callable[[Workplace], dict[str, Any]] | None = None
) -> bool | Failure:
    """Make a cell in this process, with as many threads; False if another process is making it."""
    from goodhart.cells.make import make
    from goodhart.compute.threads import use_threads

    use_threads(threads)
    what = cell.label or cell.id
    try:
        return make(Store(Path(root)), cell, recipe)
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


@dataclass(frozen=True, slots=True)
class Task:
    """A cell to be made on another machine of a cluster, which sees the same root."""

    root: str
    cell: Cell
    threads: int
    kernels: str
    """Which kernels were chosen for the machine that asks."""
    chosen_for: tuple[str, str]
    """That machine, as `goodhart.cells.record.here` has it."""

    def __call__(self) -> bool | Failure:
        """Make the cell; False if another process is making it."""
        return attempt(self.cell.label or self.cell.id, self._make, ())

    def _make(self) -> bool | Failure:
        import torch

        from goodhart.compute.kernels import DEFAULT, use
        from goodhart.compute.quiet import quiet

        torch.set_num_threads(1)
        # the same kernels are inexact on some processors, and nobody has measured them on this one
        use(self.kernels if here() == self.chosen_for else DEFAULT)
        quiet()
        return work(self.root, self.cell, self.threads)
