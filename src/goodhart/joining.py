"""Results of one study with different seeds, put together."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import reduce
from operator import and_
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from goodhart import functions
from goodhart.cells.store import write_atomically
from goodhart.config import build, flat, plain_data
from goodhart.errors import GoodhartError
from goodhart.report.contents import TABLES, Contents, read_contents
from goodhart.studies.session import FUNCTIONS
from goodhart.studies.spec import Study

_KEYS = ("arm", "setting", "seed", "step")
"""What names a checkpoint in every table that has seeds."""
_OF_ANALYSIS = ("name", "question", "seeds", "looks", "hypotheses", "axes", "maps", "league", "resamples", "executor")
"""Keys of a study that decide no row of a seed."""
_CHOSEN = ("precision",)
"""Keys that a study may leave to the machine, and that its record says."""
_OF_EACH = ("versions", "machine", "engine", "git", "cost")
"""Sections of the record that are told of every part."""


def join(study: Study, folders: Sequence[Path], root: Path) -> Path:
    """Put results of a study, each with some of its seeds, together below the root; returns their folder.

    What stands for all seeds (SFT policies, golden policy, adopted policies, prompts, judges) is the first part's;
    what only the analysis reads (hypotheses, looks) is the study's.

    Raises:
        GoodhartError: there are fewer than two parts, two have a seed in common, one has a seed that is none of the
            study's, other settings or other prompts, has not ended or cannot be read, or there is a study of this name.
    """
    into = root / "studies" / study.name
    if len(folders) < 2:
        raise GoodhartError("there is nothing to join", "name the folders of two or more results")
    if into.is_dir() and any(into.iterdir()):
        raise GoodhartError(f"{into} is not empty", "give the joined study another name (name=...) or another --root")
    parts = {folder: _read(folder) for folder in folders}
    _check_seeds(study, parts)
    first, *others = folders
    _check_settings(str(first), parts[first], f"study {study.name!r}", plain_data(study), _CHOSEN)
    for folder in others:
        _check_settings(str(folder), parts[folder], str(first), parts[first].record["study"])
        _check_prompts(folder, parts[folder], first, parts[first])
    _write(study, list(parts.values()), into)
    functions.keep(root / FUNCTIONS, plain_data(study))
    return into


def _read(folder: Path) -> Contents:
    part = read_contents(folder)
    missing = part.unfinished.get("missing", 0)
    if missing:
        raise GoodhartError(f"the study in {folder} lacks {missing} cells", "run it to its end, then join")
    functions.recall(folder.resolve().parent.parent / FUNCTIONS)
    return part


def _check_seeds(study: Study, parts: Mapping[Path, Contents]) -> None:
    owners: dict[int, Path] = {}
    for folder, part in parts.items():
        for seed in _seeds(part):
            if seed in owners:
                problem = f"{owners[seed]} and {folder} both have seed {seed}"
                raise GoodhartError(problem, "join results whose seeds all differ")
            if seed not in study.seeds:
                problem = f"{folder} has seed {seed}; study {study.name!r} has {', '.join(map(str, study.seeds))}"
                raise GoodhartError(problem, f"give all seeds in their order: seeds=[..., {seed}]")
            owners[seed] = folder


def _check_settings(name: str, part: Contents, other: str, study: Any, besides: tuple[str, ...] = ()) -> None:
    ours, theirs = _of_rows(part.record["study"], besides), _of_rows(study, besides)
    differing = [key for key in dict.fromkeys((*theirs, *ours)) if ours.get(key) != theirs.get(key)]
    if differing:
        key, more = differing[0], f", and {len(differing) - 1} more keys differ" if differing[1:] else ""
        raise GoodhartError(
            f"{name} is not of the same study as {other}: {key} is {ours.get(key)!r} and {theirs.get(key)!r}{more}",
            "join results that differ in their seeds alone",
        )


def _of_rows(study: Any, besides: tuple[str, ...]) -> dict[str, Any]:
    """The settings that a row depends on; keys that an older record has not are at their defaults."""
    said = plain_data(build(Study, study))
    return flat({key: value for key, value in said.items() if key not in (*_OF_ANALYSIS, *besides)})


def _check_prompts(folder: Path, part: Contents, other: Path, first: Contents) -> None:
    if not part.prompts.equals(first.prompts):
        problem = f"{folder} and {other} were measured on different prompts"
        raise GoodhartError(problem, "join results that were made from the same data")


def _seeds(part: Contents) -> list[int]:
    return [int(seed) for seed in part.record["study"]["seeds"]]


def _write(study: Study, parts: Sequence[Contents], into: Path) -> None:
    into.mkdir(parents=True, exist_ok=True)
    for name in TABLES:
        table = reduce(_below, [getattr(part, name) for part in parts])
        pq.write_table(table, into / f"{name}.parquet", compression="zstd")
    write_atomically(into / "record.json", json.dumps(_record(study, parts), indent=1))


def _below(first: pa.Table, second: pa.Table) -> pa.Table:
    """The second table below the first, without checkpoints that the first has already."""
    if "seed" not in first.column_names:
        return first
    for checkpoint in sorted(_checkpoints(first) & _checkpoints(second)):
        same = [pc.field(key) == value for key, value in zip(_KEYS, checkpoint, strict=True)]
        second = second.filter(~reduce(and_, same))
    return pa.concat_tables([first, second])


def _checkpoints(table: pa.Table) -> set[tuple[str | int, ...]]:
    named = table.group_by(list(_KEYS)).aggregate([]).to_pylist()
    return {tuple(row[key] for key in _KEYS) for row in named}


def _record(study: Study, parts: Sequence[Contents]) -> dict[str, Any]:
    """The first part's record with all seeds and cells; `parts` has what was each one's own."""
    records = [part.record for part in parts]
    there = {seed for part in parts for seed in _seeds(part)}
    # looks count seeds in the order of the file, those to come included
    seeds = list(study.seeds) if study.looks else [seed for seed in study.seeds if seed in there]
    of_study = {key: value for key, value in plain_data(study).items() if key in _OF_ANALYSIS}
    cells = {cell["id"]: cell for record in records for cell in record["cells"]}
    return {
        **records[0],
        "study": {**records[0]["study"], **of_study, "seeds": seeds},
        "cost": _cost([record["cost"] for record in records], list(cells.values())),
        "cells": list(cells.values()),
        "parts": [
            {"seeds": _seeds(part), **{name: part.record[name] for name in _OF_EACH if name in part.record}}
            for part in parts
        ],
    }


def _cost(costs: Sequence[Mapping[str, Any]], cells: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What all parts took together; a cell that several parts have counts once."""
    calls = {key: sum(cost[key] for cost in costs) for key in ("seconds of this call", "cells made", "cells reused")}
    return {
        **{key: round(value, 1) for key, value in calls.items()},
        "workers": max(cost["workers"] for cost in costs),
        "seconds of all cells": round(sum(cell["seconds"] for cell in cells), 1),
        "largest worker, GiB": max(cost["largest worker, GiB"] for cost in costs),
    }
