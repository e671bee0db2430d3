"""Where a cell stands, for people and programs that watch a study."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from goodhart.cells.cell import Cell
from goodhart.cells.screen import read_progress, shown
from goodhart.cells.store import Store


@dataclass(frozen=True, slots=True)
class Standing:
    """One cell of a study."""

    id: str
    kind: str
    label: str
    state: Literal["done", "begun", "failed", "damaged", "missing"]
    seconds: float | None
    """That it took, of a cell that is done."""
    progress: str
    """What a cell that is being made says of itself."""
    holder: str
    """The process that makes it."""
    problem: str
    """Why it could not be made, of one that failed."""
    files: tuple[str, ...]
    """Those that are at fault, of a damaged one."""

    @property
    def note(self) -> str:
        """What there is to say beside the state."""
        about = (", ".join(self.files) or self.problem or self.progress, f"by {self.holder}" if self.holder else "")
        return "; ".join(part for part in about if part)


def standing(store: Store, cell: Cell, *, thorough: bool) -> Standing:
    """Where a cell stands; `thorough` reads every file of a finished one, else only those that have changed."""
    state = store.state(cell.id, thorough=thorough)
    seconds = float(store.record(cell.id)["seconds"]) if state == "done" else None
    begun = state == "begun"
    holder = store.holder(cell.id) if begun else ""
    failure = store.failure(cell.id) if begun and not holder else None
    progress = shown(read_progress(store, cell)) if begun and not failure else ""
    faults = store.faults(cell.id, thorough=thorough) if state == "damaged" else []
    return Standing(
        cell.id,
        cell.kind,
        cell.label,
        "failed" if failure else state,
        seconds,
        progress,
        holder,
        failure["problem"] if failure else "",
        tuple(path.name for path in faults),
    )
