"""Makes one cell, once, whoever else may want it too."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from goodhart.cells.cell import Cell
from goodhart.cells.record import machine, peak_bytes, versions
from goodhart.cells.registry import RECIPES
from goodhart.cells.store import Store, damaged
from goodhart.cells.workplace import Workplace
from goodhart.compute.kernels import in_use
from goodhart.compute.meter import matrix_rate
from goodhart.compute.placement import device
from goodhart.compute.threads import threads_used
from goodhart.errors import GoodhartError


def make(store: Store, cell: Cell, recipe: Callable[[Workplace], dict[str, Any]] | None = None) -> bool:
    """Make a cell if it is not there; False if another process is making it now.

    `recipe` makes it in the place of its kind's own. What a killed process left half done is resumed where the recipe
    can, and made again where it cannot. Raises GoodhartError that names the cell.
    """
    if store.has(cell.id):
        return True
    with store.lock(cell.id) as mine:
        if not mine:
            return False
        if store.has(cell.id):
            return True
        if store.folder(cell.id).exists():
            raise damaged(store.folder(cell.id) / "DONE", store.folder(cell.id))
        folder = store.begin(cell.id)
        began = time.perf_counter()
        inputs = {name: store.open(needed.id) for name, needed in cell.inputs.items()}
        work = Workplace(cell.spec["settings"], inputs, folder, dict(cell.places), _family(store, cell))
        result = (recipe or RECIPES[cell.kind].load())(work)
        store.finish(cell.id, _record(cell, work, result, time.perf_counter() - began))
        if cell.grows:
            store.join(cell.family, cell.id)
    return True


def _family(store: Store, cell: Cell) -> list[Path]:
    """The folders of the family's cells that are whole; a damaged one is left to whoever needs it."""
    folders: list[Path] = []
    for other in store.family(cell.family) if cell.grows else []:
        with suppress(GoodhartError):
            folders.append(store.open(other))
    return folders


def _record(cell: Cell, work: Workplace, result: dict[str, Any], seconds: float) -> dict[str, Any]:
    """What is kept about a cell: its address is a function of `spec` alone; the rest is for the reader."""
    return {
        "id": cell.id,
        "spec": cell.spec,
        "places": dict(cell.places),
        "result": result,
        "seconds": round(seconds, 3),
        "stages": {stage: spent.plain() for stage, spent in work.watch.stages.items()},
        "threads": threads_used(),
        "peak bytes": peak_bytes(),
        "matrix rate": matrix_rate(device()),
        "versions": versions(),
        "machine": {**machine(), "float32 kernels": in_use()},
    }
