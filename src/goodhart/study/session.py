"""Running a study from its file to its report."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from goodhart.models.placement import gpus, groups
from goodhart.store import Store
from goodhart.study.cell import Cell, closure
from goodhart.study.display import Screen
from goodhart.study.engine import Engine
from goodhart.study.executor import Groups, cores, execute
from goodhart.study.graph import Graph, build_graph
from goodhart.study.record import largest_worker
from goodhart.study.results import write_results
from goodhart.study.spec import Study


@dataclass(frozen=True, slots=True)
class Outcome:
    """A finished study."""

    folder: Path
    graph: Graph
    cost: dict[str, Any]


def plan(study: Study, root: Path) -> tuple[Graph, list[tuple[Cell, bool]]]:
    """The study's cells in order, and whether each is done."""
    graph = build_graph(study)
    store = Store(root)
    return graph, [(cell, store.has(cell.id)) for cell in closure(graph.targets)]


@dataclass(frozen=True, slots=True)
class Prospect:
    """How long the missing cells of a study will take."""

    missing: int
    seconds: Callable[[Cell], float]
    """Of one process that makes a cell."""
    wall: float
    """Seconds of all of them with the given workers."""


def prospect(study: Study, cells: list[tuple[Cell, bool]], crew: Crew) -> Prospect:
    """The expected time; measures this machine for about a second if anything is missing."""
    from goodhart.study.estimate import Costs, duration

    done = {cell.id for cell, is_done in cells if is_done}
    if len(done) == len(cells):
        return Prospect(0, lambda _: 0.0, 0.0)
    costs = Costs.of(study)
    missing = [cell for cell, _ in cells], done, costs.seconds, crew.workers
    wall = duration(*missing) if crew.groups else duration(*missing, costs.parts)
    return Prospect(len(cells) - len(done), costs.seconds, wall)


@dataclass(frozen=True, slots=True)
class Crew:
    """The processes that make cells."""

    workers: int
    groups: Groups = ()
    """GPUs by worker, in turn."""

    @classmethod
    def of(cls, workers: int, gpus_per_worker: int) -> Crew:
        """So many workers, or for 0 one for each group of GPUs, without GPUs one for each core.

        Raises GoodhartError if the machine has no such group.
        """
        found = groups(gpus(), gpus_per_worker)
        return cls(workers or len(found) or cores(), found)


def run_study(study: Study, engine: Engine, root: Path, crew: Crew, console: Console, ahead: Prospect) -> Outcome:
    """Make what is missing, then the study's tables; goes on where an earlier call stopped."""
    store = Store(root)
    graph = build_graph(study)
    cells = closure(graph.targets)
    began = time.monotonic()
    with Screen(store, cells, crew.workers, console, ahead.seconds) as screen:
        progress = execute(store, cells, crew.workers, screen, engine.kernels.choice.chosen, crew.groups)
    cost = {
        "seconds of this call": round(time.monotonic() - began, 1),
        "seconds expected": round(ahead.wall, 1),
        "workers": crew.workers,
        **({"GPUs per worker": len(crew.groups[0])} if crew.groups else {}),
        "cells made": len(progress.done),
        "cells reused": progress.cached,
        "seconds of all cells": round(sum(store.record(c.id)["seconds"] for c in cells), 1),
        "largest worker, GiB": round(largest_worker(), 2),
    }
    return Outcome(write_results(store, study, graph, engine, cost), graph, cost)
