"""Why a cell has to be made: what differs between it and the nearest finished one."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from goodhart.cells.cell import Cell
from goodhart.cells.store import Store
from goodhart.config import flat
from goodhart.errors import GoodhartError

Spec = Mapping[str, Any]
"""What an address is made of: kind, recipe, settings, ids of the inputs."""


def explain(name: str, cells: Sequence[Cell], store: Store) -> list[str]:
    """Sentences about the cell of that id, or of that beginning of an id.

    Raises GoodhartError if there is none or more than one.
    """
    cell = named(name, cells)
    head = f"{cell.id} ({cell.label or cell.kind})"
    if store.has(cell.id):
        return [f"{head} is done"]
    specs = {each.id: each.spec for each in cells} | dict(_finished(store))
    others = {at: spec for at, spec in _finished(store) if spec["kind"] == cell.kind}
    if not others:
        return [f"{head} is missing, and there is no finished cell of its kind"]
    by_cell = {at: list(differences(cell.spec, spec, specs)) for at, spec in others.items()}
    nearest = min(by_cell, key=lambda at: (len(by_cell[at]), at))
    return [f"{head} is missing; the nearest finished cell is {nearest}, which differs in", *sorted(by_cell[nearest])]


def differences(one: Spec, other: Spec, specs: Mapping[str, Spec]) -> Iterator[str]:
    """What differs between two specs, down to the settings of the inputs where it comes from, each once."""
    seen: set[tuple[str, str]] = set()

    def walk(a: Spec, b: Spec, where: str) -> Iterator[str]:
        if a["recipe"] != b["recipe"]:
            yield f"  {where}recipe: version {a['recipe']} instead of {b['recipe']}"
        mine, theirs = flat(a["settings"]), flat(b["settings"])
        for key in sorted({*mine, *theirs}):
            if mine.get(key) != theirs.get(key):
                yield f"  {where}{key}: {_shown(mine, key)} instead of {_shown(theirs, key)}"
        for key in sorted({*a["inputs"], *b["inputs"]}):
            pair = (a["inputs"].get(key), b["inputs"].get(key))
            if pair[0] == pair[1] or pair in seen:
                continue
            seen.add(pair)
            if pair[0] in specs and pair[1] in specs:
                yield from walk(specs[pair[0]], specs[pair[1]], f"{where}{key}: ")
            else:
                yield f"  {where}{key}: {pair[0] or 'none'} instead of {pair[1] or 'none'}"

    return walk(one, other, "")


def _shown(settings: Mapping[str, Any], key: str) -> str:
    return json.dumps(settings[key], ensure_ascii=False) if key in settings else "the default"


def _finished(store: Store) -> Iterator[tuple[str, Spec]]:
    for cell in store.finished():
        try:
            yield cell, json.loads((store.folder(cell) / "cell.json").read_bytes())["spec"]
        except (OSError, ValueError, KeyError):
            continue


def named(name: str, cells: Sequence[Cell]) -> Cell:
    """The cell of that id, of that beginning of an id, or of that label.

    Raises GoodhartError if there is none or more than one.
    """
    candidates = [cell for cell in cells if cell.id.startswith(name) or cell.label == name]
    if len(candidates) == 1:
        return candidates[0]
    exact = [cell for cell in candidates if cell.id == name]
    if exact:
        return exact[0]
    near = difflib.get_close_matches(name, [cell.id for cell in cells], n=3, cutoff=0.3)
    names = ", ".join(cell.id for cell in candidates[:5]) or ", ".join(near)
    what = f"{len(candidates)} cells of the study begin with" if candidates else "no cell of the study begins with"
    raise GoodhartError(f"{what} {name!r}", f"give one of: {names}" if names else "see 'goodhart run STUDY --dry-run'")
