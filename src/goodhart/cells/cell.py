"""A cell: one unit of work, named by its settings and by the cells it reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from goodhart.cells.registry import RECIPES
from goodhart.cells.source import edited
from goodhart.config import address, essential


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
    grows: tuple[str, ...] = ()
    """Settings, as dotted keys, of which more only adds to what less has made: responses, prompts, steps."""
    follows: tuple[str, ...] = ()
    """Inputs of which another of the same family serves as well."""
    id: str = field(init=False)
    """Kind and the first 12 digits of the digest of `spec`."""
    spec: dict[str, Any] = field(init=False)
    """What the address is made of: kind, recipe, settings without what is at its default, ids of the inputs."""

    family: str = field(init=False)
    """Names all cells that differ in what `grows` alone; the id where nothing does."""

    def __post_init__(self) -> None:
        spec = {
            "kind": self.kind,
            "recipe": recipe_version(self.kind),
            "settings": essential(self.settings),
            "inputs": {name: cell.id for name, cell in self.inputs.items()},
        }
        object.__setattr__(self, "spec", spec)
        object.__setattr__(self, "id", self._named(spec))
        object.__setattr__(self, "family", self._named(self._in_common(spec)) if self.grows else self.id)

    def _named(self, spec: Mapping[str, Any]) -> str:
        return f"{self.kind.replace(' ', '-')}-{address(spec)}"

    def _in_common(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        settings = spec["settings"]
        for path in self.grows:
            settings = _without(settings, path.split("."))
        inputs = {name: cell.family if name in self.follows else cell.id for name, cell in self.inputs.items()}
        return {**spec, "settings": settings, "inputs": inputs}


def _without(settings: Mapping[str, Any], path: Sequence[str]) -> dict[str, Any]:
    head, *rest = path
    left = {key: value for key, value in settings.items() if key != head}
    return {**left, head: _without(settings[head], rest)} if rest and head in settings else left


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
