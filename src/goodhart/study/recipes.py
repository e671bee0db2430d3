"""Which function makes which kind of cell."""

from __future__ import annotations

import time
from typing import Any

from goodhart.models import hands
from goodhart.models.kernels import in_use
from goodhart.models.meter import matrix_rate
from goodhart.models.placement import device
from goodhart.store import Store
from goodhart.study.best_of_recipe import best_of
from goodhart.study.cell import Cell
from goodhart.study.data_recipes import corpus, docstring_part, preference_prompts, text_prompts
from goodhart.study.measure_recipes import classified_stream, evaluation, opponents
from goodhart.study.model_recipes import golden_labels, judge_quality, preference_model, sft
from goodhart.study.pool_recipe import initial_pairs
from goodhart.study.record import machine, versions
from goodhart.study.run_recipes import alignment_run, written_pairs
from goodhart.study.workplace import Recipe, Workplace

RECIPES: dict[str, Recipe] = {
    "docstrings": docstring_part,
    "corpus": corpus,
    "prompts": text_prompts,
    "preferences": preference_prompts,
    "sft": sft,
    "pairs": initial_pairs,
    "preference": preference_model,
    "quality": judge_quality,
    "labels": golden_labels,
    "run": alignment_run,
    "written": written_pairs,
    "opponents": opponents,
    "best of n": best_of,
    "stream": classified_stream,
    "evaluation": evaluation,
}


def make(store: Store, cell: Cell) -> bool:
    """Make a cell if it is not there; False if another process is making it now.

    What a killed process left half done is resumed where the recipe can, and made again where it cannot.
    """
    if store.has(cell.id):
        return True
    with store.lock(cell.id) as mine:
        if not mine:
            return False
        if store.has(cell.id):
            return True
        folder = store.partial(cell.id)
        folder.mkdir(parents=True, exist_ok=True)
        began = time.perf_counter()
        inputs = {name: store.open(needed.id) for name, needed in cell.inputs.items()}
        work = Workplace(cell.spec()["settings"], inputs, folder)
        result = RECIPES[cell.kind](work)
        store.finish(cell.id, _record(cell, work, result, time.perf_counter() - began))
    return True


def _record(cell: Cell, work: Workplace, result: dict[str, Any], seconds: float) -> dict[str, Any]:
    """What is kept about a cell: its address is a function of `spec` alone; the rest is for the reader."""
    return {
        "id": cell.id,
        "spec": cell.spec(),
        "result": result,
        "seconds": round(seconds, 3),
        "stages": {stage: spent.plain() for stage, spent in work.watch.stages.items()},
        "threads": hands.used(),
        "matrix rate": matrix_rate(device()),
        "versions": versions(),
        "machine": {**machine(), "float32 kernels": in_use()},
    }
