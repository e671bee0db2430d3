"""The study that is tormented: as small as can be, with an undisturbed run of it to compare with."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from campaign.command import Command, ended
from goodhart.cells.digest import sha256
from goodhart.cells.store import Store
from goodhart.errors import GoodhartError

TABLES = ("rows", "pairs", "streams", "budgets", "prompts")
VOLATILE = ("cell.json", "metrics.jsonl", "DONE")
"""Files of a cell that also say how long something took."""


@dataclass(frozen=True, slots=True)
class Undisturbed:
    """A study file and the root of a run that nothing has disturbed."""

    path: Path
    root: Path
    name: str = "micro"

    def run(self, root: Path, *more: str, workers: int = 2) -> list[str]:
        """The command that runs it in a root."""
        return ["run", str(self.path), "--root", str(root), "--workers", str(workers), *more]

    def new_root(self, root: Path) -> Path:
        """An empty root in which nothing has to be measured before the first cell."""
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(self.root / "engine", root / "engine")
        return root

    def differences(self, root: Path) -> str:
        """Which of a root's tables and cells are not as they should be; empty if all are."""
        wrong = [self.differences_of_tables(root)]
        store, here = Store(root), cells_done(root)
        for cell in cells_done(self.root):
            try:
                store.open(cell)
            except GoodhartError as error:
                wrong.append(str(error))
        left = sorted(path.name for path in (root / "cells").glob("*.partial"))
        wrong += [f"{name} is left over" for name in (*left, *set(here).difference(cells_done(self.root)))]
        return "; ".join(filter(None, wrong))

    def differences_of_tables(self, root: Path) -> str:
        """Which of a root's tables differ."""
        return "; ".join(f"{name}.parquet differs" for name in TABLES if not self._same(root, name))

    def _same(self, root: Path, name: str) -> bool:
        paths = [at / "studies" / self.name / f"{name}.parquet" for at in (root, self.root)]
        return paths[0].is_file() and sha256(paths[0]) == sha256(paths[1])


def cells_done(root: Path) -> list[str]:
    """The finished cells of a root."""
    return Store(root).finished()


def undisturbed(folder: Path) -> Undisturbed:
    """The small study of the tests, run once."""
    from micro_study import write_small_study

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    made = Undisturbed(write_small_study(folder), folder / "undisturbed")
    must_end(ended(made.run(made.root), folder / "undisturbed.said"))
    return made


def must_end(command: Command) -> None:
    """Raises RuntimeError if what is to be compared with could not be made."""
    if command.code != 0:
        raise RuntimeError(f"the undisturbed run ended with {command.code}: {command.errors[-2000:]}")


def plain_fault(command: Command) -> str:
    """Why a command's end is none that a person can read: empty for code 1 and one line `error: …`."""
    said = command.errors.strip().splitlines()
    if command.code not in (1, 130):
        return f"exit code {command.code}: {command.last_words}"
    if "Traceback" in command.errors:
        return f"a traceback that ends in {command.last_words!r}"
    if command.code == 1 and not any(line.startswith("error: ") for line in said):
        return f"no line 'error: …' but {command.last_words!r}"
    return ""
