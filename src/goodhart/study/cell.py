"""A cell: one unit of work, named by its settings and by the cells it reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from goodhart.config import address, essential
from goodhart.study.recipes import RECIPES
from goodhart.study.source import edited


@dataclass(frozen=True, eq=False)
class Cell:
    """What to make, and from what."""

    kind: str
    """Which recipe makes it."""
    settings: Any
    """A frozen dataclass or a mapping: all that decides the result beside the inputs, and nothing else."""
    inputs: Mapping[str, Cell] = field(default_factory=dict)
    """The cells that the recipe reads, by the name it knows them by."""
    label: str = ""
    """For people; not part of the address."""
    places: Mapping[str, str] = field(default_factory=dict)
    """Where models and data lie whose digests stand in the settings; not part of the address."""
    id: str = field(init=False)
    """Kind and the first 12 digits of the digest of `spec`."""
    spec: dict[str, Any] = field(init=False)
    """What the address is made of: kind, recipe, settings without what is at its default, ids of the inputs."""

    def __post_init__(self) -> None:
        spec = {
            "kind": self.kind,
            "recipe": recipe_version(self.kind),
            "settings": essential(self.settings),
            "inputs": {name: cell.id for name, cell in self.inputs.items()},
        }
        object.__setattr__(self, "spec", spec)
        object.__setattr__(self, "id", f"{self.kind.replace(' ', '-')}-{address(spec)}")


def recipe_version(kind: str) -> str:
    """The version of a kind's recipe; with the digest of its source, where that was edited in place."""
    version, source = str(RECIPES[kind].version) if kind in RECIPES else "0", edited(kind)
    return f"{version} with source {source}" if source else version


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
