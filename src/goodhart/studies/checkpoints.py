"""Which folder holds a checkpoint of a study."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from goodhart.cells.cell import Cell
from goodhart.cells.store import Store
from goodhart.errors import GoodhartError
from goodhart.studies.session import planned
from goodhart.studies.spec import Study


@dataclass(frozen=True, slots=True)
class Place:
    """A checkpoint and where it lies."""

    study: str
    arm: str
    setting: str
    seed: int
    step: int
    folder: Path
    base: Cell | None = None
    """The SFT policy, which an adapter is over; a table is over none."""


def place_of(study: Study, root: Path, arm: str, setting: str = "", seed: int = -1, step: int = 0) -> Place:
    """A checkpoint's folder: by default of the arm's first setting, of the study's first seed, of the last step.

    Raises GoodhartError for one that is not there, with those that are.
    """
    study, graph, _ = planned(study, root)
    if arm not in study.arms:
        raise GoodhartError(f"study {study.name!r} has no arm {arm!r}", f"its arms are: {', '.join(study.arms)}")
    runs = {(at, of): cell for (one, at, of), cell in graph.runs.items() if one == arm}
    settings, seeds = list(dict.fromkeys(s for s, _ in runs)), list(dict.fromkeys(of for _, of in runs))
    setting, seed = setting or settings[0], seeds[0] if seed < 0 else seed
    if (setting, seed) not in runs:
        known = f"its settings are {', '.join(map(repr, settings))}, its seeds {', '.join(map(str, seeds))}"
        raise GoodhartError(f"arm {arm!r} has no run at {setting!r} with seed {seed}", known)
    steps = study.arms[arm].kept
    if step and step not in steps:
        known = f"it has them at {', '.join(map(str, steps))}"
        raise GoodhartError(f"arm {arm!r} has no checkpoint at step {step}", known)
    cell, store, step = runs[setting, seed], Store(root), step or steps[-1]
    if not store.has(cell.id):
        raise GoodhartError(f"{cell.label or cell.id} is not finished", f"run 'goodhart run {study.name}' first")
    return Place(study.name, arm, setting, seed, step, store.open(cell.id) / f"step-{step}", cell.inputs.get("sft"))


def merged(place: Place, into: Path, root: Path) -> Place:
    """The checkpoint written as a plain Hugging Face one: an adapter is merged into its base's weights.

    Raises GoodhartError for a folder that holds something else, and for a table.
    """
    from goodhart.models.checkpoint import write_whole

    if place.base is None:
        raise GoodhartError(f"the policies of study {place.study!r} are tables", "leave --merged out")
    Store(root).open(place.base.id)  # what an adapter is over is checked as the adapter is
    write_whole(place.folder, into)
    return replace(place, folder=into)
