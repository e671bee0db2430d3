"""Records what every kind of arm of the micro study does: `python tests/record_arms.py`, before code is moved."""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from goodhart.cells.cell import closure
from goodhart.cells.make import make
from goodhart.cells.record import processor
from goodhart.cells.store import Store
from goodhart.compute.kernels import using
from goodhart.config import address
from goodhart.studies.graph import build_graph
from goodhart.studies.spec import read_study
from micro_study import write_micro_study

RECORDED = Path(__file__).parent / "recorded" / "arms.json"
SHIPPED = ("quick", "smoke", "thin", "covered", "paper", "map")
KERNELS = "default"
LOGGED = ("loss", "margin", "accuracy", "gradient_norm", "tokens", "drift", "drift_spread")


def found_here(root: Path) -> dict[str, Any]:
    """By run of the micro study: what its steps logged, and the digest of its last weights."""
    study = read_study(str(write_micro_study(root)), [])
    graph, store = build_graph(study), Store(root / "runs")
    with using(KERNELS):  # a study measures which are faster, and a busy machine measures otherwise
        for cell in closure(graph.targets):
            make(store, cell)
    runs: dict[str, Any] = {}
    for (arm, setting, seed), cell in graph.runs.items():
        folder = store.folder(cell.id)
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        weights = (folder / f"step-{len(lines)}" / "model.safetensors").read_bytes()
        runs[f"{arm} | {setting} | {seed}"] = {
            "steps": [[line[name] for name in LOGGED] for line in lines],
            "weights": hashlib.sha256(weights).hexdigest()[:16],
        }
    return {"study": study.name, "runs": runs}


def settings() -> dict[str, dict[str, str]]:
    """By shipped study and run, the digest of the settings that are part of the run's address."""
    found: dict[str, dict[str, str]] = {}
    for name in SHIPPED:
        graph = build_graph(read_study(name, []))
        cells = [graph.golden_policy, *graph.runs.values()]
        found[name] = {cell.label: address(cell.spec["settings"]) for cell in cells}
    return found


def here() -> dict[str, str]:
    """What a run's bits depend on beside the code."""
    return {"processor": processor(), "torch": torch.__version__, "float32 kernels": KERNELS}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        record = {"here": here(), **found_here(Path(folder)), "settings": settings()}
    RECORDED.write_text(json.dumps(record, indent=1) + "\n")
