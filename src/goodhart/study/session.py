"""Running a study from its file to its report."""

from __future__ import annotations

import os
import resource
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from goodhart.store import Store
from goodhart.study.cell import Cell, closure
from goodhart.study.display import Screen
from goodhart.study.executor import execute
from goodhart.study.graph import Graph, build_graph
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


def expected(study: Study, cells: list[tuple[Cell, bool]], workers: int) -> float:
    """Seconds that the missing cells will take; measures this machine for about a second."""
    from goodhart.study.estimate import Costs, duration

    done = {cell.id for cell, is_done in cells if is_done}
    return duration([cell for cell, _ in cells], done, Costs.of(study).seconds, workers)


def run_study(study: Study, root: Path, workers: int, console: Console) -> Outcome:
    """Make what is missing, then the study's tables; goes on where an earlier call stopped."""
    store = Store(root)
    graph = build_graph(study)
    cells = closure(graph.targets)
    began = time.monotonic()
    with Screen(store, cells, workers, console) as screen:
        progress = execute(store, cells, workers, screen)
    cost = {
        "seconds of this call": round(time.monotonic() - began, 1),
        "workers": workers,
        "cells made": len(progress.done),
        "cells reused": progress.cached,
        "seconds of all cells": round(sum(store.record(c.id)["seconds"] for c in cells), 1),
        "largest worker, GiB": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20, 2),
    }
    return Outcome(write_results(store, study, graph, cost), graph, cost)


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
