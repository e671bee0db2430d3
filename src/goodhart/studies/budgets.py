"""What every trained checkpoint took: operations, pairs, labels, and how far it was from what it learnt from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from goodhart.cells.cell import Cell, closure
from goodhart.cells.store import Store
from goodhart.evaluation import schema
from goodhart.studies.plan import Measured
from goodhart.studies.spec import Study


def spent(store: Store, study: Study, measured: Sequence[Measured]) -> pa.Table:
    """The table of `schema.BUDGETS` for the study's arms."""
    rows = [_row(store, study, item) for item in measured if _is_trained(item) and item.arm in study.arms]
    return pa.Table.from_pylist(rows, schema=schema.BUDGETS)


def _is_trained(item: Measured) -> bool:
    """Whether the study trained it; what an adopted policy took nobody knows."""
    return item.run is not None and item.run.kind != "adopted"


def _row(store: Store, study: Study, item: Measured) -> dict[str, Any]:
    assert item.run is not None
    arm = study.arms[item.arm]
    steps = _learnt(store, item.run, item.step)
    weights = np.ones(len(steps)) / len(steps)
    drift, spread = (np.array([step[name] for step in steps]) for name in ("drift", "drift_spread"))
    mean = float(weights @ drift)
    variant = study.variants.get(arm.variant)
    population = study.world is not None and study.world.data == "population"
    return {
        **{name: getattr(item, name) for name in schema.CHECKPOINT},
        "operations": sum(_own(store, cell) for cell in _before(item.run))
        + (_operations(steps) if item.run.kind != "merge" else 0.0),
        "pairs": sum(int(step.get("pairs", arm.batch)) for step in steps),
        "labels": 0 if population else ((variant and variant.labels) or study.labels).number,
        "drift": mean,
        "drift_spread": float(np.sqrt(weights @ (spread**2 + (drift - mean) ** 2))),
    }


def _learnt(store: Store, run: Cell, step: int) -> list[dict[str, Any]]:
    """The steps up to a checkpoint; of merged runs those of all of them."""
    if run.kind != "merge":
        return _steps(store, run)[:step]
    return [each for cell in runs_of(run) for each in _steps(store, cell)]


def runs_of(run: Cell) -> list[Cell]:
    """The training runs that an arm has at one setting and seed: one, or those that were merged."""
    return [run] if run.kind != "merge" else [cell for cell in closure([run]) if cell.kind == "run"]


def _steps(store: Store, run: Cell) -> list[dict[str, Any]]:
    text = (store.folder(run.id) / "metrics.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def _operations(steps: list[dict[str, Any]]) -> float:
    return sum(float(spent["operations"]) for step in steps for spent in step["stages"].values())


def _before(run: Cell) -> list[Cell]:
    """What had to be finished first, each once: the run of a stream, or those of the writers, and their pairs."""
    return [cell for cell in closure(list(run.inputs.values())) if cell.kind in ("run", "written")]


def _own(store: Store, cell: Cell) -> float:
    """Operations of one cell alone."""
    if cell.kind == "run":
        return _operations(_steps(store, cell))
    return sum(float(spent["operations"]) for spent in store.record(cell.id)["stages"].values())
