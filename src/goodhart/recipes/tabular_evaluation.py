"""The recipe that measures policies of a finite world by enumeration."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow.parquet as pq

from goodhart.cells.workplace import Workplace
from goodhart.evaluation.enumerated import pairs, rows
from goodhart.recipes.tabular_run import read_law
from goodhart.recipes.world import LABELS_FILE, PROXY_FILE, WORLD_FILE, read_tables
from goodhart.tasks.tables import Law


def tabular_evaluation(work: Workplace) -> dict[str, Any]:
    """`rows-NAME.parquet` and `pairs-NAME.parquet` of every checkpoint of a run; without one, of both baselines."""
    world, golden = read_tables(work.inputs["world"] / WORLD_FILE)
    if golden is None:
        raise ValueError("the world's table has no golden policy")
    proxy, data = world.wins, None
    if "labels" in work.inputs:
        proxy = read_tables(work.inputs["labels"] / PROXY_FILE)[0].wins
        drawn = pq.read_table(work.inputs["labels"] / LABELS_FILE, columns=["prompt", "first", "second"])
        data = [(row["prompt"], row["first"], row["second"]) for row in drawn.to_pylist()]
    laws: dict[str, Law] = {"sft": world.reference, "golden": golden}
    if "run" in work.inputs:
        steps: list[int] = work.settings["steps"]
        laws = {str(step): read_law(work.inputs["run"] / f"step-{step}.parquet") for step in steps}
    measured = {name: rows(law, world, golden, proxy) for name, law in laws.items()}
    for name, law in laws.items():
        pq.write_table(measured[name], work.folder / f"rows-{name}.parquet")
        pq.write_table(pairs(law, world, data), work.folder / f"pairs-{name}.parquet")
    work.watch.lap("evaluate")
    last = measured[list(laws)[-1]]
    means = {name: float(np.mean(last.column(name))) for name in ("kl", "golden_vs_policy", "golden_vs_sft")}
    return {"means": means}
