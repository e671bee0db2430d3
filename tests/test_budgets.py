"""What a checkpoint took: its own steps, and once each of the runs that had to be finished before."""

import json
from dataclasses import replace

import numpy as np
import pytest

from goodhart.cells.cell import closure
from goodhart.cells.store import Store
from goodhart.studies.budgets import spent
from goodhart.studies.graph import build_graph
from goodhart.studies.spec import read_study
from micro_study import write_micro_study

STEP = {"online": 1000.0, "replay": 10.0, "written": 3.0, "mixed": 7.0, "mine": 3.0}
"""Operations of every step, by arm; two stages of one half each."""
WRITING = 500.0
AT = "beta=0.1 lr=0.01"


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Budgets of runs that were never made, with drifts and spreads that grow with the step."""
    folder = tmp_path_factory.mktemp("budgets")
    study = read_study(str(write_micro_study(folder)), [])
    mine = replace(study.arms["written"], writers=("online@6", "online@6"))
    arms = {**{name: study.arms[name] for name in ("online", "replay", "written", "mixed")}, "mine": mine}
    study = replace(study, arms=arms, seeds=(0,))
    graph, store = build_graph(study), Store(folder / "runs")
    for (arm, _, _), cell in graph.runs.items():
        half = {"operations": STEP[arm] / 2, "seconds": 1.0, "tokens": 1}
        steps = [
            {"drift": float(i), "drift_spread": 2.0 * i, "stages": {"generate": half, "train": half}} for i in range(6)
        ]
        partial = store.partial(cell.id)
        partial.mkdir(parents=True)
        (partial / "metrics.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))
        store.finish(cell.id, {})
    for cell in closure(list(graph.runs.values())):
        if cell.kind == "written":
            store.partial(cell.id).mkdir()
            store.finish(cell.id, {"stages": {"generate": {"operations": WRITING}, "label": {"operations": 0.0}}})
    return {(row["arm"], row["step"]): row for row in spent(store, study, graph.measured).to_pylist()}


def test_a_run_costs_its_steps_and_the_runs_that_it_reads_once(table):
    whole = 6 * STEP["online"]
    expected = {
        ("online", 3): 3 * STEP["online"],
        ("online", 6): whole,
        ("replay", 6): 6 * STEP["replay"] + whole,
        ("written", 4): 4 * STEP["written"] + WRITING + whole,
        ("mixed", 4): 4 * STEP["mixed"] + whole,
        ("mine", 4): 4 * STEP["mine"] + WRITING + whole,
    }
    assert {at: row["operations"] for at, row in table.items()} == expected


def test_drift_is_pooled_over_the_steps_so_far(table):
    for at, steps in ((("online", 3), 3), (("online", 6), 6)):
        means, spreads = np.arange(steps, dtype=float), 2.0 * np.arange(steps)
        # every step has as many responses: two points at mean -+ spread have its mean and deviation
        points = np.concatenate([means - spreads, means + spreads])
        assert table[at]["drift"] == pytest.approx(points.mean())
        assert table[at]["drift_spread"] == pytest.approx(points.std())


def test_pairs_and_labels_are_counted(table):
    assert {at: row["pairs"] for at, row in table.items() if at[0] == "online"} == {
        ("online", 3): 24,
        ("online", 6): 48,
    }
    assert {row["labels"] for row in table.values()} == {32}
