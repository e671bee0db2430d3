"""More responses, prompts, opponents or steps add to what is there, and give what they would have given at once."""

import dataclasses
import shutil

import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from goodhart.cells.cell import Cell, closure
from goodhart.cells.digest import sha256
from goodhart.cells.make import make
from goodhart.cells.store import Store
from goodhart.compute.kernels import using
from goodhart.recipes import measure, opponents, panel, run
from goodhart.recipes.panel import pieces
from goodhart.recipes.settings import Measurement
from goodhart.studies.engine import settle
from goodhart.studies.graph import build_graph
from goodhart.studies.spec import read_study
from micro_study import write_micro_study
from tiny_arms import arm, changed

ARMS = {
    "online": {"beta": [0.1], "lr": [0.01], "steps": 4, "batch": 8, "checkpoints": 2},
    "offline": {
        "source": "data",
        "labeller": "data",
        "beta": [0.1],
        "lr": [0.01],
        "steps": 4,
        "batch": 8,
        "checkpoints": 2,
    },
}


@pytest.fixture(scope="module")
def small_pieces():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(panel, "PROMPTS", 4)
        yield


@pytest.fixture(scope="module")
def study(tmp_path_factory, small_pieces):
    """Twelve prompts, one response, two opponents."""
    folder = tmp_path_factory.mktemp("growth")
    best = {"samples": 0}
    path = write_micro_study(
        folder, arms=ARMS, seeds=[0], variants={}, hypotheses={}, axes={}, best_of=best, resamples=20
    )
    whole = read_study(str(path), [])
    task = dataclasses.replace(whole.task, evaluation=10, train_evaluation=6)
    return dataclasses.replace(whole, task=task, measurement=Measurement(2, 2, 1))


ENGINE = {}


@pytest.fixture(scope="module")
def made(study, tmp_path_factory):
    """A root that holds the study's runs and some of its measurements."""
    root = tmp_path_factory.mktemp("made")
    study, ENGINE["chosen"] = settle(study, root, keep=True)
    make_some(study, root)
    return root


def make_some(study, root):
    """The runs, and the measurements of the online arm's checkpoints."""
    graph = build_graph(study)
    measured = [item.cell for item in graph.measured if item.arm == "online"]
    with using(ENGINE["chosen"].kernels.choice.chosen):
        for cell in closure([*measured, *graph.runs.values()]):
            assert make(Store(root), cell)


@pytest.fixture
def root(made, tmp_path):
    return shutil.copytree(made, tmp_path / "grown")


def longer(study, name="online", **changes):
    arms = {**study.arms, name: changed(study.arms[name], **changes)}
    return dataclasses.replace(study, arms=arms)


def bigger(study, *, prompts=10, responses=2, opponents=2):
    task = dataclasses.replace(study.task, evaluation=prompts)
    return dataclasses.replace(study, task=task, measurement=Measurement(responses, opponents, 1))


@pytest.fixture
def counted(monkeypatch):
    """How many prompts were sampled for, and from which step runs began."""
    found = {"sampled": 0, "starts": []}

    def written(policy, sft, prompts, samples, **more):
        found["sampled"] += len(prompts) * len(samples)
        return measure_recipes_written(policy, sft, prompts, samples, **more)

    def train(*given, **more):
        found["starts"].append(more["start"])
        return run_recipes_train(*given, **more)

    measure_recipes_written, run_recipes_train = measure.written, run.train
    monkeypatch.setattr(measure, "written", written)
    monkeypatch.setattr(run, "train", train)
    return found


def tables(root, study, kind, file):
    """The table of every cell of a kind, by label."""
    cells = [cell for cell in closure(build_graph(study).targets) if cell.kind == kind and Store(root).has(cell.id)]
    return {cell.label: pq.read_table(Store(root).open(cell.id) / file) for cell in cells}


@pytest.mark.parametrize(
    ("changes", "sampled"),
    [
        # of 10 held-out and 6 training prompts: whole pieces of 4 stay, the last ones begin again
        ({"opponents": 5}, 0),
        ({"prompts": 13, "responses": 5, "opponents": 3}, 5 * 2 + 19 * 3),
        ({"prompts": 6, "responses": 2, "opponents": 1}, 2 * 2),
    ],
)
def test_a_grown_evaluation_is_that_made_at_once(study, made, root, tmp_path, counted, changes, sampled):
    larger = bigger(study, **changes)
    policies = 2  # the checkpoints of the online arm
    make_some(larger, root)
    assert counted["sampled"] == policies * sampled
    fresh = tmp_path / "at once"
    kept = [
        cell for cell in closure(build_graph(larger).targets) if cell.kind not in ("evaluation", "opponents", "quality")
    ]
    for cell in (cell for cell in kept if Store(root).has(cell.id)):  # what is not tested is the same
        shutil.copytree(Store(root).folder(cell.id), Store(fresh).folder(cell.id))
    make_some(larger, fresh)
    for kind, file in (("opponents", "responses.parquet"), ("evaluation", "rows.parquet")):
        grown, at_once = tables(root, larger, kind, file), tables(fresh, larger, kind, file)
        assert grown.keys() == at_once.keys()
        assert grown
        for label, table in at_once.items():
            assert [n for n in table.column_names if not grown[label][n].equals(table[n])] == [], f"{kind} {label}"


def test_rows_of_a_grown_evaluation_hold_those_of_the_smaller_one(study, root):
    larger = bigger(study, prompts=14, responses=4, opponents=4)
    before = tables(root, study, "evaluation", "rows.parquet")
    make_some(larger, root)
    for label, table in tables(root, larger, "evaluation", "rows.parquet").items():
        rows = {(row["prompt"], row["sample"]): row for row in table.to_pylist()}
        assert len(rows) == (14 + 6) * 4
        for old in before[label].to_pylist():
            new = rows[old["prompt"], old["sample"]]
            assert new["response"] == old["response"]
            assert new["kl"] == pytest.approx(old["kl"], abs=1e-5)
            assert new["golden_policy"][:2] == pytest.approx(old["golden_policy"], abs=1e-5)


def run_of(study, name="online"):
    return next(cell for (arm, _, _), cell in build_graph(study).runs.items() if arm == name)


@pytest.mark.parametrize("name", ["online", "offline"])
def test_a_run_of_more_steps_goes_on_from_the_shorter_one_and_is_that_made_at_once(
    study, root, tmp_path, counted, name
):
    more = longer(study, name, steps=8, checkpoints=4)
    make_some(more, root)
    assert counted["starts"] == [4]
    expected = 2 * 16 * 2 if name == "online" else 0
    assert counted["sampled"] == expected, "the checkpoints that both have are not measured anew"
    fresh = tmp_path / "at once"
    run = run_of(more, name)
    for cell in closure(list(run.inputs.values())):
        shutil.copytree(Store(root).folder(cell.id), Store(fresh).folder(cell.id), dirs_exist_ok=True)
    make_some(more, fresh)
    assert counted["starts"][1] == 0
    grown, at_once = (Store(each).open(run.id) for each in (root, fresh))
    files = {path.relative_to(at_once) for path in at_once.rglob("*") if path.is_file()}
    assert files == {path.relative_to(grown) for path in grown.rglob("*") if path.is_file()}
    differing = {str(path) for path in files if sha256(at_once / path) != sha256(grown / path)}
    assert differing <= {"metrics.jsonl", "cell.json", "DONE", "training.pt"}, "seconds, and how a state is pickled"
    first, second = (torch.load(folder / "training.pt", weights_only=True) for folder in (grown, at_once))
    assert first["step"] == second["step"] == 8
    for one, two in zip(first["parameters"], second["parameters"], strict=True):
        assert torch.equal(one, two)
    for at, moments in first["optimiser"]["state"].items():
        assert all(torch.equal(moments[key], second["optimiser"]["state"][at][key]) for key in moments)


def test_a_run_goes_on_from_one_that_kept_its_checkpoints_alone(study, root, counted):
    make_some(longer(study, steps=8, checkpoints=8), root)
    assert counted["starts"] == [0], "steps 1 and 3 were not kept"
    make_some(longer(study, steps=9, checkpoints=9), root)
    assert counted["starts"][1:] == [8], "the longest that fits"


@pytest.mark.parametrize(
    "changes",
    [{"beta": (0.2,)}, {"lr": (0.02,)}, {"batch": 4}, {"loss": "dpo"}],
)
def test_another_method_is_no_longer_run(study, changes):
    assert run_of(longer(study, steps=8, **changes)).family != run_of(study).family
    assert run_of(longer(study, steps=8)).family == run_of(study).family


def test_a_decaying_rate_and_a_delayed_policy_do_not_grow():
    assert arm().grows
    assert not arm(refresh=4).grows
    assert not arm(optimisation=dataclasses.replace(arm().optimisation, decay="linear")).grows
    assert not arm(source="stream", labeller="data", stream="online").grows


def test_a_checkpoint_of_other_weights_is_measured_anew(study, root, counted, monkeypatch):
    """As on hardware that does not repeat its results."""
    monkeypatch.setattr(measure, "same_files", lambda *_: False)
    make_some(bigger(study, responses=4), root)
    assert counted["sampled"] == 2 * 16 * 4


def test_answers_about_other_opponents_are_not_taken_over(study, root, counted, monkeypatch):
    monkeypatch.setattr(measure, "same_opponents", lambda *_: False)
    make_some(bigger(study, responses=4), root)
    assert counted["sampled"] == 2 * 16 * 4


def test_what_a_damaged_relative_holds_is_not_taken(study, root, counted):
    graph = build_graph(study)
    for item in (item for item in graph.measured if item.arm == "online"):
        (Store(root).folder(item.cell.id) / "rows.parquet").write_bytes(b"nothing")
    make_some(bigger(study, responses=4), root)
    assert counted["sampled"] == 2 * 16 * 4


def test_a_family_is_named_by_all_that_does_not_grow():
    def cell(**more):
        settings = {"size": {"prompts": 8, "validation": 4}, "seed": 0, **more}
        return Cell("evaluation", settings, grows=("size.prompts", "responses"))

    base = cell()
    assert cell(responses=4).family == base.family
    assert cell(size={"prompts": 9, "validation": 4}).family == base.family
    assert cell(size={"prompts": 8, "validation": 5}).family != base.family
    assert cell(seed=1).family != base.family
    assert Cell("evaluation", {"seed": 0}).family == Cell("evaluation", {"seed": 0}).id
    first, second = (Cell("reader", {}, {"of": each}, follows=("of",)) for each in (base, cell(responses=4)))
    assert first.family == first.id
    assert first.family != second.family, "what does not grow has no family"
    growing = [Cell("reader", {"k": k}, {"of": each}, grows=("k",), follows=("of",)) for k, each in enumerate((base, cell(responses=4)))]  # fmt: skip  # noqa: E501
    assert growing[0].family == growing[1].family
    assert growing[0].id != growing[1].id


@given(st.integers(0, 300), st.integers(0, 40), st.integers(1, 9))
def test_pieces_cover_every_draw_once_and_stand_one_behind_the_other(held_out, train, draws):
    found = pieces({"held_out": held_out, "train": train}, draws)
    covered = [(p.split, i, k) for p in found for i in p.prompts for k in p.draws]
    assert sorted(covered) == sorted(
        (split, i, k) for split, n in (("held_out", held_out), ("train", train)) for i in range(n) for k in range(draws)
    )
    assert [i for p in found for i in p.rows] == list(range((held_out + train) * draws))


def test_an_opponent_is_the_same_whatever_the_number_of_opponents(study, made):
    few = opponents._responses(Store(made).open(build_graph(study).opponents.id))
    assert {j for _, j in few} == {0, 1}


@pytest.mark.parametrize(
    ("arm", "steps"),
    [
        (arm(steps=100, checkpoints=5, spacing="log"), [6, 12, 25, 50, 100]),
        (arm(steps=200, checkpoints=6, spacing="log"), [6, 12, 25, 50, 100, 200]),
        (arm(steps=90, checkpoints=3, spacing="log", first=10), [10, 30, 90]),
        (arm(steps=4, checkpoints=4, spacing="log"), [1, 2, 4]),
        (arm(steps=60, checkpoints=4), [15, 30, 45, 60]),
    ],
)
def test_where_checkpoints_stand(arm, steps):
    assert arm.checkpoint_steps() == steps
    arm.validate("online")
