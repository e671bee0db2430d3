"""A study with the functions of the pages: judge, labeller, loss and sampler, from a file and in Python."""

import json
import re
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

import goodhart
from goodhart import functions
from goodhart.alignment import extensions
from goodhart.cells.cell import closure
from goodhart.report.findings import analyse
from goodhart.report.report import write_report
from goodhart.studies.graph import build_graph
from goodhart.studies.spec import read_study
from micro_study import make_cells, write_micro_study, write_tables

DOCS = Path(__file__).parent.parent / "docs"


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)


_, OWN, IN_PYTHON = blocks("new-method.md", "python")
SAID = yaml.safe_load(blocks("new-method.md", "yaml")[-1])
(PLAIN,) = blocks("samplers.md", "python")
SHORT = {"lr": [0.01], "beta": [0.1], "steps": 3, "batch": 4, "checkpoints": 1}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    (folder / "own.py").write_text(OWN)
    (folder / "plain.py").write_text(PLAIN)
    arms = {name: {**arm, **SHORT} for name, arm in SAID["arms"].items()}
    arms["sampled"] = {"sampler": "plain.py:plain", **SHORT}
    path = write_micro_study(
        folder, golden=SAID["golden"], proxy={"kind": "rule", "rule": {"reward": "length"}}, arms=arms, variants={},
        seeds=[0], axes={}, hypotheses={}, best_of={"samples": 0}, resamples=20,
    )  # fmt: skip
    study, graph, engine = make_cells(read_study(str(path), []), folder / "runs")
    yield study, graph, folder, write_tables(folder / "runs", study, graph, engine)
    extensions.forget()


def steps(made, arm):
    run = next(run for (name, _, _), run in made[1].runs.items() if name == arm)
    return [json.loads(line) for line in (made[2] / "runs/cells" / run.id / "metrics.jsonl").read_text().splitlines()]


def test_every_arm_is_measured_by_the_function_that_judges(made):
    rows = pq.read_table(made[3] / "rows.parquet").to_pylist()
    assert {row["arm"] for row in rows} >= {"online", "by length", "priced", "sampled"}
    assert len({row["golden_vs_sft"] for row in rows}) > 1


def test_the_step_records_say_how_far_the_sampler_is_from_the_trainer(made):
    for arm in SAID["arms"]:
        assert all(abs(step["mismatch"]) < 1e-4 and step["mismatch_spread"] < 1e-4 for step in steps(made, arm))
    ours, plain = steps(made, "online"), steps(made, "sampled")
    assert [step["tokens"] for step in plain] == [step["tokens"] for step in ours]
    assert [step["loss"] for step in plain] == pytest.approx([step["loss"] for step in ours], rel=1e-4)


def test_what_is_recorded_names_the_functions_and_has_their_text(made):
    study, graph, folder, results = made
    names = {study.golden.rule.reward, *(study.arms[a].method.labeller for a in ("by length",))}
    names |= {study.arms["priced"].method.loss, study.arms["sampled"].sampler}
    said = (results / "record.json").read_text()
    assert all(functions.is_function(name) and name in said for name in names)
    page = write_report(results, analyse(results), resolution=30).read_text(encoding="utf-8")
    assert f"function brevity returns ({study.golden.rule.reward})" in page.replace("&#39;", "'")
    run = next(run for (arm, _, _), run in graph.runs.items() if arm == "priced")
    record = json.loads((folder / "runs/cells" / run.id / "cell.json").read_text())
    assert record["spec"]["settings"]["arm"]["loss"] == study.arms["priced"].method.loss
    assert record["places"][study.arms["priced"].method.loss] == OWN


def test_the_same_functions_given_in_python_are_the_same_cells(made, monkeypatch):
    monkeypatch.syspath_prepend(str(made[2]))
    space = {}
    exec(compile(IN_PYTHON, "<page>", "exec"), space)
    study = space["study"]
    assert study.golden == made[0].golden
    assert study.arms["by length"].method == made[0].arms["by length"].method
    assert study.arms["priced"].method == made[0].arms["priced"].method
    del sys.modules["own"]


def test_a_finished_judge_needs_no_file(made):
    """Whoever reads its cell has the text that it was made of."""
    from goodhart.recipes.models import judge

    functions._KNOWN.clear()
    functions._LOADED.clear()
    loaded = judge(made[2] / "runs/cells" / made[1].golden.id)
    assert functions.load(loaded.rule.reward)("a b", "b c") == -3.0


def test_an_edit_moves_what_depends_on_it_and_nothing_else(made):
    folder = made[2]
    before = build_graph(read_study(str(folder / "study.yaml"), ["precision=float32"]))
    (folder / "plain.py").write_text(PLAIN + "\n# another thought\n")
    after = build_graph(read_study(str(folder / "study.yaml"), ["precision=float32"]))
    moved = {cell.id for cell in closure(before.targets)} - {cell.id for cell in closure(after.targets)}
    (run,) = (run.id for (arm, _, _), run in before.runs.items() if arm == "sampled")
    measured = {item.cell.id for item in before.measured if item.arm == "sampled"}
    assert moved == {run, *measured}
    assert goodhart.study(str(folder / "study.yaml")).name == "micro"
