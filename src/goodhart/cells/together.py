"""What each of several processes does that make a cell together: the first one leads, the others follow."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from goodhart.cells.cell import Cell
from goodhart.cells.registry import RECIPES
from goodhart.cells.work import Failure, work
from goodhart.cells.workplace import Workplace
from goodhart.compute.meter import Stopwatch
from goodhart.compute.ranks import join, leave, of_all, told
from goodhart.errors import GoodhartError, is_out_of_memory

_WEIGHTS = "*.safetensors", "*.pt"
"""Files that a follower reads where they are; of all others it has a copy, which it may change."""


def work_together(meeting: str, rank: int, number: int, root: str, cell: Cell) -> bool | Failure:
    """Make a cell with other processes, as the one of a rank; False if somebody else is making it.

    All of them come to the same end, unless one fails: it goes without leaving the others, who wait until somebody ends
    them, and so report no fault of theirs.
    """
    join(Path(meeting), rank, number)
    ended = _lead(root, cell) if rank == 0 else _follow(cell)
    if not isinstance(ended, Failure):
        leave()
    return ended


def _lead(root: str, cell: Cell) -> bool | Failure:
    leading = _Leading(cell.kind)
    ended = work(root, cell, 1, leading)
    if not leading.begun:
        told(None)
    return ended if isinstance(ended, Failure) else told(ended)


def _follow(cell: Cell) -> bool | Failure:
    given: Workplace | None = told(None)
    if given is not None:
        with TemporaryDirectory() as folder:
            _copy(given.folder, Path(folder))
            of_all(None)
            try:
                RECIPES[cell.kind].load()(replace(given, folder=Path(folder), watch=Stopwatch()))
            except GoodhartError as error:
                if is_out_of_memory(error):
                    raise
                return Failure(f"{cell.label or cell.id}: {error.problem}", error.remedy)
    return told(None)


@dataclass(slots=True)
class _Leading:
    """A kind's recipe in the process that holds the cell's lock and writes its files."""

    kind: str
    begun: bool = False

    def __call__(self, given: Workplace) -> dict[str, Any]:
        self.begun = True
        told(given)
        of_all(None)  # nothing is written before the others have copied what there is
        return RECIPES[self.kind].load()(given)


def _copy(folder: Path, target: Path) -> None:
    """What an interrupted process left behind, for a follower to go on from."""
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns(*_WEIGHTS), dirs_exist_ok=True)
    for pattern in _WEIGHTS:
        for file in folder.rglob(pattern):
            (target / file.relative_to(folder)).symlink_to(file.resolve())
