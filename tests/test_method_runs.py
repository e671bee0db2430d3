"""Every method of the table as an arm of a study: it runs, it moves, and it goes on bit for bit after a kill."""

import json
import shutil

import pytest
from safetensors.torch import load_file

from goodhart.alignment.methods import METHODS
from goodhart.cells.cell import closure
from goodhart.cells.make import make
from goodhart.cells.store import Store
from goodhart.cells.workplace import Workplace
from goodhart.compute.threads import use_threads
from goodhart.errors import GoodhartError
from goodhart.recipes import run
from goodhart.recipes.arm import arm_of
from goodhart.studies.graph import build_graph
from goodhart.studies.spec import read_study
from micro_study import write_micro_study

SHORT = {"lr": [0.01], "batch": 6, "checkpoints": 2}
OWN = {
    "dpo-external": {"external": "wide"},
    "tr-dpo": {"parameters": {"reference_every": 1}},
    "tr-ipo": {"parameters": {"reference_every": 1}},
    "tr-kto": {"parameters": {"reference_every": 1}},
    "selm": {"parameters": {"reference_every": 1}},
    "semi-online-dpo": {"refresh": 3},
    "warp": {"rounds": 1},
    "dice": {"refresh": 2, "start": "dpo@2", "parameters": {"reference_every": 2}},
    "averaged": {"method": "online-ipo", "average": True, "parameters": {"average_rate": 0.3}},
    "accumulated": {"method": "kto", "optimisation": {"micro_batch": 2}},
}
"""What makes a short run use what it has."""


def short(name):
    """An arm of two steps with a checkpoint at each, of four where something beside the optimiser has a state."""
    asked = {"method": name, **SHORT, **OWN.get(name, {})}
    steps = 2 if arm_of(**asked).grows else 4
    return {**asked, "steps": steps}


ARMS = {name: short(name) for name in (*METHODS, *OWN)}


class KilledError(Exception):
    """As if the process had been killed."""


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The inputs of every run, made once."""
    folder = tmp_path_factory.mktemp("methods")
    path = write_micro_study(
        folder, arms=ARMS, variants={"wide": {"policy": str(folder / "wide")}}, hypotheses={}, axes={}, seeds=[0]
    )
    graph, store = build_graph(read_study(str(path), [])), Store(folder / "runs")
    use_threads(1)
    inputs = [cell for run in graph.runs.values() for cell in closure(list(single(run).inputs.values()))]
    for cell in closure(inputs):
        assert make(store, cell)
    return {arm: single(run) for (arm, _, _), run in graph.runs.items()}, store


def single(run):
    """The run, or the first of those that are merged."""
    return run.inputs["run 000"] if run.kind == "merge" else run


def made(study, name, folder):
    """The run of an arm in a folder of its own."""
    runs, store = study
    cell = runs[name]
    folder.mkdir(exist_ok=True)
    inputs = {key: store.open(needed.id) for key, needed in cell.inputs.items()}
    run.alignment_run(Workplace(cell.spec["settings"], inputs, folder, dict(cell.places)))
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    logged = [{key: value for key, value in line.items() if key != "stages"} for line in lines]
    return logged, (folder / f"step-{ARMS[name]['steps']}" / "model.safetensors").read_bytes()


@pytest.mark.parametrize("name", ARMS)
def test_a_method_moves_the_policy_and_survives_a_kill(study, name, tmp_path, monkeypatch):
    logged, weights = made(study, name, tmp_path / "whole")
    runs, store = study
    steps = ARMS[name]["steps"]
    assert [line["step"] for line in logged] == list(range(1, steps + 1))
    before = load_file(store.open(runs[name].inputs["sft"].id) / "final" / "model.safetensors")
    after = load_file(tmp_path / "whole" / f"step-{steps}" / "model.safetensors")
    assert max(float((after[key] - before[key]).abs().max()) for key in before) > 1e-4

    train = run.train

    def killed(*given, **how):
        for step in train(*given, **how):
            if step.step == steps:
                raise KilledError
            yield step

    with monkeypatch.context() as patched:
        patched.setattr(run, "train", killed)
        with pytest.raises(KilledError):
            made(study, name, tmp_path / "again")
    shutil.rmtree(tmp_path / "again" / f"step-{steps}", ignore_errors=True)
    assert made(study, name, tmp_path / "again") == (logged, weights)


def test_a_method_that_is_not_there_is_named(tmp_path):
    path = write_micro_study(tmp_path, arms={"mine": {"method": "dpoo"}}, hypotheses={}, axes={})
    with pytest.raises(GoodhartError, match=r"arms\.mine: there is no method 'dpoo'; did you mean 'dpo'"):
        read_study(str(path), [])
