"""Running a study from its file to its tables."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from goodhart import functions
from goodhart.cells.cell import Cell, closure
from goodhart.cells.executor import Progress, execute
from goodhart.cells.launch import Kind, Launch, executor_of
from goodhart.cells.local import cores
from goodhart.cells.screen import Screen
from goodhart.cells.store import Store, write_atomically
from goodhart.cells.worker import Groups
from goodhart.compute.placement import gpus, groups, may_have_gpus
from goodhart.config import build, canonical, plain_data
from goodhart.errors import GoodhartError
from goodhart.recipes.settings import PREFERENCES
from goodhart.studies.engine import Engine, settle, settled
from goodhart.studies.graph import Graph, build_graph
from goodhart.studies.links import link_cells
from goodhart.studies.reach import Reach
from goodhart.studies.reach import reach as reach_of
from goodhart.studies.spec import Study, builtin_studies, read_study
from goodhart.studies.tracking import observed
from goodhart.tracking.tracker import Name

if TYPE_CHECKING:
    from goodhart.studies.results import Unfinished

LOG_FILE = "log.txt"
MANY = 1000
"""Cells that a cluster makes at once, where nothing bounds them."""
FUNCTIONS = "functions"
"""The folder of a root that has the texts of the functions that its studies were given."""
STUDY_FILE = "study.json"
"""What was asked for last under a study's name, and where that was written down."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a call of `run_study` left behind."""

    folder: Path
    graph: Graph
    cost: dict[str, Any]
    unfinished: Unfinished


def plan(study: Study, root: Path, reach: Reach | None = None) -> tuple[Graph, list[tuple[Cell, bool]]]:
    """The study's cells in order, and whether each is done.

    Of a study with looks: as far as `reach` says for every arm, else as far as its looks have come.
    """
    store, graph = Store(root), build_graph(study)
    if study.looks:
        graph = build_graph(study, reach or reach_of(study, store, graph))
    return graph, [(cell, store.has(cell.id)) for cell in closure(graph.targets)]


def planned(study: Study, root: Path) -> tuple[Study, Graph, list[tuple[Cell, bool]]]:
    """A study with its training precision, its graph and its cells, for those who look at them and make none.

    What has to be measured for the precision is not written down.
    """
    study = settled(study, root) or settle(study, root, keep=False)[0]
    return study, *plan(study, root)


@dataclass(frozen=True, slots=True)
class Prospect:
    """How long the missing cells of a study will take."""

    missing: int
    seconds: Callable[[Cell], float]
    """Of one process that makes a cell."""
    wall: float
    """Seconds of all of them with the given workers."""


def prospect(study: Study, cells: list[tuple[Cell, bool]], workers: Workers, root: Path, *, keep: bool) -> Prospect:
    """The expected time; measures this machine for about a second if anything is missing and the root knows no better.

    `keep` writes down what was measured.
    """
    from goodhart.studies.estimate import Costs, duration, speed, tabular_seconds

    done = {cell.id for cell, is_done in cells if is_done}
    if study.world:
        lacking = len(cells) - len(done)
        return Prospect(
            lacking, tabular_seconds, duration([c for c, _ in cells], done, tabular_seconds, workers.number)
        )
    if len(done) == len(cells):
        return Prospect(0, lambda _: 0.0, 0.0)
    costs = Costs.of(study, speed(root, keep=keep))
    missing = [cell for cell, _ in cells], done, costs.seconds, workers.number
    wall = duration(*missing) if workers.groups else duration(*missing, costs.parts)
    return Prospect(len(cells) - len(done), costs.seconds, wall)


@dataclass(frozen=True, slots=True)
class Workers:
    """The processes that make cells."""

    number: int
    groups: Groups = ()
    """GPUs by worker, in turn."""

    @classmethod
    def of(cls, workers: int, gpus_per_worker: int, launch: Launch | None = None) -> Workers:
        """As many as are asked for, or for 0 one for each group of GPUs, without GPUs one for each core.

        On a cluster as many as its `launch` has at once, for the expected time. Raises GoodhartError if the machine has
        no such group.
        """
        if launch and launch.kind != "local":
            return cls(launch.at_once or MANY)
        if workers < 0:
            raise GoodhartError(f"--workers is {workers}", "give a number of processes, or 0 for one for each core")
        processes = launch.processes if launch else 1
        seen = gpus() if may_have_gpus() else []
        gpu_groups = groups(seen, _gpus_each(gpus_per_worker, processes, len(seen)))
        return cls(workers or len(gpu_groups) or max(1, cores() // processes), gpu_groups)


def _gpus_each(asked: int, processes: int, seen: int) -> int:
    """GPUs of a worker whose cells are made by some processes, each of which has one, where there are any."""
    if processes == 1 or not seen:
        return asked
    if processes > seen:
        raise GoodhartError(
            f"executor.processes is {processes}, and this machine has {seen} GPUs: each process has one of its own",
            f"set executor.processes to at most {seen}",
        )
    if asked not in (1, processes):
        raise GoodhartError(
            f"--gpus-per-worker is {asked} and executor.processes {processes}: each process has a GPU of its own",
            "leave --gpus-per-worker out",
        )
    return processes


def remember(study: Study, root: Path, origin: str) -> Path:
    """Write down what is asked for under the study's name; returns the study's folder.

    Raises GoodhartError if something else, from somewhere else, was run under this name.
    """
    folder = Store(root).study(study.name)
    path = folder / STUDY_FILE
    asked = plain_data(study)
    if path.is_file():
        before = _read(path)
        if before["origin"] != origin and canonical(before["study"]) != canonical(asked):
            raise GoodhartError(
                f"another study named {study.name!r}, from {before['origin']}, lies in {folder}",
                "give this one a name of its own: name=... on the command line or in the file",
            )
    folder.mkdir(parents=True, exist_ok=True)
    functions.keep(root / FUNCTIONS, asked)
    write_atomically(path, json.dumps({"origin": origin, "study": asked}, indent=1))
    return folder


def remembered(folder: Path) -> Study | None:
    """What was asked for last under a study's name. Raises GoodhartError if it cannot be read."""
    path = folder / STUDY_FILE
    if not path.is_file():
        return None
    functions.recall(folder.resolve().parent.parent / FUNCTIONS)
    return build(Study, _read(path)["study"]).validate()


def _read(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return {"origin": str(record["origin"]), "study": record["study"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise GoodhartError(f"{path} cannot be read: {error}", "delete it and run the study again") from error


def asked(name: str, overrides: list[str], root: Path) -> Study:
    """The study of a file, a built-in one, or the one that was run under a name or into a folder."""
    if not overrides and name not in builtin_studies() and Path(name).suffix not in (".yaml", ".yml"):
        for folder in (root / "studies" / name, Path(name)):
            study = remembered(folder)
            if study:
                return study
    return read_study(name, overrides)


def results_of(name: str, root: Path) -> Path | None:
    """The folder of a study's tables, where it has been run."""
    folders = (root / "studies" / name, Path(name))
    return next((folder for folder in folders if (folder / "rows.parquet").is_file()), None)


def folder_of(name: str, root: Path) -> Path:
    """The folder of a study that has tables. Raises GoodhartError if there is none."""
    folder = results_of(name, root)
    if folder:
        return folder
    known = sorted(p.parent.name for p in (root / "studies").glob("*/rows.parquet"))
    raise GoodhartError(
        f"there is no study {name!r} with results below {root}",
        f"there are: {', '.join(known)}" if known else f"run 'goodhart run {name}' first",
    )


def check_before(study: Study, root: Path) -> None:
    """Raises GoodhartError for all that can be told of a study from its models and data before its first cell."""
    if study.world:
        from goodhart.tasks.world_tables import tables

        tables(study.world)
        return
    from goodhart.studies.check import check

    prepared: Path | None = None
    if study.task.kind == PREFERENCES:
        with suppress(GoodhartError):  # what is missing or damaged is read from the data
            prepared = Store(root).open(build_graph(study).prompts.id)
    check(study, prepared)


def damaged_cells(cells: list[Cell], store: Store, *, repair: bool) -> list[str]:
    """With `repair` reads all files, takes the damaged cells away so that they are made anew, and says what they were.

    Without, raises GoodhartError that names the files that are at fault as far as their sizes and times tell.
    """
    broken = [cell for cell in cells if store.state(cell.id, thorough=repair) == "damaged"]
    if broken and not repair:
        files = [str(path) for cell in broken for path in store.faults(cell.id, thorough=False)]
        shown = ", ".join(files[:5]) + (f" and {len(files) - 5} more" if len(files) > 5 else "")
        raise GoodhartError(
            f"{shown} {'are' if len(files) > 1 else 'is'} missing or not what was written",
            f"run again with --repair, which makes {len(broken)} damaged cell{'s' * (len(broken) > 1)} anew",
        )
    for cell in broken:
        store.discard(cell.id)
    return [cell.label or cell.id for cell in broken]


def launched(study: Study, kind: Kind | None) -> Study:
    """The study, made by an executor of another kind than its file says, where one is given."""
    return replace(study, executor=replace(study.executor, kind=kind)).validate() if kind else study


def run_study(
    study: Study,
    graph: Graph,
    engine: Engine,
    root: Path,
    workers: Workers,
    console: Console,
    ahead: Prospect,
    track: Sequence[Name] = (),
) -> Outcome:
    """Make what is missing, then the study's tables of what is there; goes on where an earlier call stopped.

    `track` are the trackers that the training runs are forwarded to.
    """
    from goodhart.studies.results import Unfinished, write_results

    store = Store(root)
    cells = closure(graph.targets)
    began = time.monotonic()
    folder = store.study(study.name)
    kernels = engine.kernels.choice.chosen
    with (
        Screen(store, cells, workers.number, console, ahead.seconds, folder / LOG_FILE) as screen,
        observed(study.name, graph, store, screen, track) as observer,
    ):
        if any(not store.has(cell.id) for cell in cells):
            with executor_of(study.executor, root, workers.number, kernels, folder, workers.groups) as executor:
                progress = execute(store, cells, executor, observer)
        else:
            progress = Progress(len(cells), cached=len(cells))
    cost = {
        "seconds of this call": round(time.monotonic() - began, 1),
        "seconds expected": round(ahead.wall, 1),
        "workers": workers.number,
        **({"GPUs per worker": len(workers.groups[0])} if workers.groups else {}),
        **spent(store, cells, progress),
    }
    link_cells(store, folder, graph)
    unfinished = Unfinished.of(store, graph)
    return Outcome(write_results(store, study, graph, engine, cost, unfinished), graph, cost, unfinished)


def spent(store: Store, cells: list[Cell], progress: Progress | None = None) -> dict[str, Any]:
    """What the finished cells of a study took."""
    records = [store.record(cell.id) for cell in cells if store.has(cell.id)]
    made = len(progress.done) if progress else 0
    return {
        "cells made": made,
        "cells reused": len(records) - made,
        "seconds of all cells": round(sum(record["seconds"] for record in records), 1),
        "largest worker, GiB": round(max((record["peak bytes"] for record in records), default=0) / 2**30, 2),
    }
