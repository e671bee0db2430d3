"""One cell of a study, made alone: what a launcher of one's own calls."""

from __future__ import annotations

from pathlib import Path

from goodhart.cells.cell import Cell
from goodhart.cells.executor import POLL_SECONDS
from goodhart.cells.local import local
from goodhart.cells.store import Store
from goodhart.cells.work import Lost
from goodhart.errors import GoodhartError

MADE, BUSY = 0, 75
"""Exit codes: the cell is there; another process makes it now (EX_TEMPFAIL of sysexits.h)."""


def make_cell(cell: Cell, root: Path, threads: int, kernels: str, processes: int = 1) -> int:
    """Make a cell once in a process of its own, or in several together, or go on where earlier ones stopped.

    The exit code says how it ended. It is not tried again: that is for whoever asked. Raises GoodhartError if its
    inputs are not there, or if it fails.
    """
    store = Store(root)
    if store.has(cell.id):
        return MADE
    lacking = [needed for needed in cell.inputs.values() if not store.has(needed.id)]
    if lacking:
        names = ", ".join(f"{needed.id} ({needed.label or needed.kind})" for needed in lacking)
        raise GoodhartError(f"{cell.id} reads cells that are not there: {names}", "make them first")
    with local(root, threads, kernels, processes=processes) as executor:
        executor.begin([cell])
        while not (ended := executor.ended(POLL_SECONDS)):
            pass
    ((_, end),) = ended
    if isinstance(end, bool):
        return MADE if end else BUSY
    problem = f"{cell.label or cell.id}: {end.why}" if isinstance(end, Lost) else end.problem
    store.fail(cell.id, problem, end.remedy)
    raise GoodhartError(problem, end.remedy)
