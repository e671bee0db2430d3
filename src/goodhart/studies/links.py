"""Names that people can read for the cells of a study."""

from __future__ import annotations

import os
import re
import shutil
from contextlib import suppress
from pathlib import Path

from goodhart.cells.cell import closure
from goodhart.cells.store import Store
from goodhart.studies.plan import Graph

_FOLDER = "cells"
_MEASURES = ("evaluation", "quality")


def link_cells(store: Store, folder: Path, graph: Graph) -> None:
    """Links in the study's folder: `cells/ARM/SETTING/seed-0` to each run, `cells/LABEL` to what the runs read.

    Only finished cells have one. A file system without links has none of them, and nothing else is missing.
    """
    links = {_below(arm, setting, f"seed-{seed}"): cell.id for (arm, setting, seed), cell in graph.runs.items()}
    runs = set(links.values())
    for cell in closure(graph.targets):
        if cell.label and cell.kind not in _MEASURES and cell.id not in runs:
            links[_below(cell.label)] = cell.id
    shutil.rmtree(folder / _FOLDER, ignore_errors=True)
    with suppress(OSError):
        for place, cell in links.items():
            if store.has(cell):
                link = folder / _FOLDER / place
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(os.path.relpath(store.folder(cell), link.parent), target_is_directory=True)


def _below(*names: str) -> Path:
    """A path of names that may hold anything."""
    return Path(*(re.sub(r"[^\w .,=+()-]", "_", name).strip(". ") or "_" for name in names))
