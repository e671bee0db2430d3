"""A cell: one unit of work, named by its settings and by the cells it reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from goodhart.config import address, plain_data

RECIPE_VERSION = 5
"""Part of every address: raised when a recipe's result changes for the same settings."""


@dataclass(frozen=True, eq=False)
class Cell:
    """What to make, and from what."""

    kind: str
    """Which recipe makes it."""
    settings: Any
    """A frozen dataclass or a mapping of plain values."""
    inputs: Mapping[str, Cell] = field(default_factory=dict)
    """The cells that the recipe reads, by the name it knows them by."""
    label: str = ""
    """For people; not part of the address."""
    id: str = field(init=False)
    """Kind and the first 12 digits of the digest of (kind, recipe version, settings, inputs' ids)."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "id", f"{self.kind}-{address(self.spec())}")

    def spec(self) -> dict[str, Any]:
        """What the address is made of."""
        return {
            "kind": self.kind,
            "recipe": RECIPE_VERSION,
            "settings": plain_data(self.settings),
            "inputs": {name: cell.id for name, cell in self.inputs.items()},
        }


def closure(cells: list[Cell]) -> list[Cell]:
    """The cells with everything they read, each id once, inputs before their readers."""
    ordered: dict[str, Cell] = {}

    def visit(cell: Cell) -> None:
        if cell.id not in ordered:
            for needed in cell.inputs.values():
                visit(needed)
            ordered[cell.id] = cell

    for cell in cells:
        visit(cell)
    return list(ordered.values())
