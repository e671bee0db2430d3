"""The recipe of a training run in a finite world."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from goodhart.alignment.optimum import Optimum, Seen, optimum_of
from goodhart.alignment.table_policy import TablePolicy
from goodhart.cells.steps import STEPS_FILE, Steps
from goodhart.cells.workplace import Workplace
from goodhart.compute.meter import Spent
from goodhart.recipes.arm import Arm
from goodhart.recipes.code import load_code
from goodhart.recipes.run_state import TRAINING_FILE
from goodhart.recipes.tabular_parts import Given, every_pair, pairs_of, parts_of
from goodhart.recipes.world import LABELS_FILE, PROXY_FILE, WORLD_FILE, read_tables
from goodhart.tasks.tables import Law, Tables
from goodhart.training.alignment import train
from goodhart.training.optimiser import Descent, load_state, save_state


def tabular_run(work: Workplace) -> dict[str, Any]:
    """`step-N.parquet` and `metrics.jsonl` of one arm at one setting and seed; resumes at its last checkpoint.

    The result has the law that the method's optimum is, where that is known, beside what was found.
    """
    load_code(work)
    arm, given = work.setting(Arm, "arm"), _given(work)
    policy = TablePolicy.of(given.proxy.reference)
    parts = parts_of(arm, given, policy)
    descent = Descent(policy.parameters(), replace(arm.optimisation, lr=arm.lr[0]), arm.steps)
    state, start = work.state / TRAINING_FILE, 0
    if state.exists():
        saved = load_state(state)
        descent.restore(saved)
        parts.restore(saved["parts"], policy)
        start = int(saved["step"])
    with Steps(work.folder / STEPS_FILE, start) as steps:
        for step in train(
            policy,
            parts.reference,
            parts.source,
            parts.labeller,
            descent,
            parts.objective,
            steps=arm.steps,
            start=start,
            followers=parts.followers,
        ):
            steps.add({**step.plain(), "pairs": len(step.batch)})
            if step.step in arm.checkpoint_steps():
                write_law(work.folder / f"step-{step.step}.parquet", _measured(parts, policy), given.proxy)
                save_state(state, {**descent.state(), "step": step.step, "parts": parts.state()})
                work.say(step.step, arm.steps, f"loss {step.loss:.3f}")
    last = steps.records[-1]
    for record in steps.records:
        for stage, spent in record["stages"].items():
            work.watch.stages[stage] = work.watch.stages.get(stage, Spent()) + Spent(**spent)
    data = None if "labels" in work.inputs else np.full_like(given.proxy.reference, 1 / given.responses)
    best = optimum_of(arm.method, Seen(given.proxy, data), arm.beta[0] if arm.beta else None)
    outcome = _compared(given.proxy, read_law(work.folder / f"step-{arm.checkpoint_steps()[-1]}.parquet"), best)
    gradient = "exact" if given.exact else "sampled"
    return {"last": last, "pairs a step": int(last["pairs"]), "gradient": gradient, **outcome}


def _given(work: Workplace) -> Given:
    """What is known of the world: the truth and its population, or labels and the proxy."""
    world, _ = read_tables(work.inputs["world"] / WORLD_FILE)
    exact, seed = bool(work.settings["exact"]), int(work.settings["seed"])
    if "labels" not in work.inputs:
        return Given(world, every_pair(world), exact, seed)
    proxy, _ = read_tables(work.inputs["labels"] / PROXY_FILE)
    rows = pq.read_table(work.inputs["labels"] / LABELS_FILE)
    prompt, first, second = (rows.column(name).to_pylist() for name in ("prompt", "first", "second"))
    pairs = pairs_of(world, prompt, list(zip(first, second, strict=True)), rows.column("label").to_numpy().copy())
    return Given(proxy, pairs, exact, seed)


def _measured(parts: Any, policy: TablePolicy) -> Law:
    """The law that is kept: the policy's, or that of its average."""
    return policy.law if parts.average is None else parts.average.copy.law


def _compared(world: Tables, law: Law, best: Optimum | None) -> dict[str, Any]:
    """Mean probabilities of the winners by the preferences that the run saw, and the distance to the optimum.

    Total variation: half the sum of absolute differences, mean and largest over the prompts.
    """
    there = [(x, c) for x, c in enumerate(world.condorcet) if c is not None]

    def winners(of: Law) -> dict[str, float | None]:
        first = [float(of[x, c]) for x, c in there]
        borda = [float(of[x, b]) for x, b in enumerate(world.borda)]
        return {"Condorcet": float(np.mean(first)) if first else None, "Borda": float(np.mean(borda))}

    result: dict[str, Any] = {"found": winners(law)}
    if best is None:
        return result
    apart = np.abs(law - best.law).sum(1) / 2
    distance = {"distance": float(apart.mean()), "furthest": float(apart.max())}
    return {**result, "optimum": best.words, "predicted": winners(best.law), **distance}


def write_law(path: Path, law: Law, world: Tables) -> None:
    """One row for each prompt and response, with its probability."""
    size, responses = law.shape
    names = {
        "prompt": [name for name in world.prompts for _ in range(responses)],
        "response": list(world.responses) * size,
    }
    temporary = path.with_suffix(".tmp")
    pq.write_table(pa.table({**names, "probability": law.flatten()}), temporary)
    temporary.replace(path)


def read_law(path: Path) -> Law:
    """What `write_law` wrote."""
    table = pq.read_table(path)
    return table.column("probability").to_numpy().copy().reshape(len(set(table.column("prompt").to_pylist())), -1)
