"""An address says what decides a result and nothing else: what moves it, what does not, how a move is explained."""

import json
import shutil
from dataclasses import dataclass, make_dataclass, replace

import pytest
import yaml

from goodhart.cells import cell, source
from goodhart.cells.cell import Cell, closure
from goodhart.cells.difference import explain
from goodhart.cells.registry import RECIPES
from goodhart.cells.store import Store
from goodhart.config import build, canonical, essential, named_elsewhere
from goodhart.errors import GoodhartError
from goodhart.studies.graph import build_graph
from goodhart.studies.spec import read_study
from goodhart.training.settings import Optimisation, Supervised
from micro_study import write_micro_study

AT = "beta=0.1 lr=0.01"


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_micro_study(tmp_path_factory.mktemp("addresses"))


def graph_of(path, *overrides):
    return build_graph(read_study(str(path), list(overrides)))


@pytest.fixture(scope="module")
def graph(path):
    return graph_of(path)


def ids(graph):
    return {item.id for item in closure(graph.targets)}


@pytest.mark.parametrize(
    ("size", "moved"),
    [
        ("task.evaluation=20", {"opponents", "evaluation", "best of n"}),
        ("task.train_evaluation=6", {"opponents", "evaluation", "best of n"}),
        ("task.test=24", {"test people", "test labels", "quality", "evaluation"}),
    ],
)
def test_a_measuring_size_moves_what_is_measured_and_nothing_that_is_trained(path, graph, size, moved):
    found = graph_of(path, size)
    kinds = {each.kind for each in closure(found.targets) if each.id not in ids(graph)}
    assert kinds == moved
    assert {at: run.id for at, run in found.runs.items()} == {at: run.id for at, run in graph.runs.items()}


def test_noise_of_labels_is_for_those_that_train(path, graph):
    """Noise and coins are drawn for what is learnt from; what measures has the golden model's own labels."""
    found = graph_of(path, "labels.mode=bernoulli", "labels.flip=0.2")
    assert found.labels.id != graph.labels.id
    own, other = graph.trunks[""].tests, found.trunks[""].tests
    assert own.id == other.id
    assert own.spec["settings"] == {}


def test_what_stops_training_moves_what_it_stops(path, graph):
    found = graph_of(path, "task.validation=20")
    assert found.golden.id != graph.golden.id
    assert found.sft.id == graph.sft.id


def test_the_same_weights_and_data_elsewhere_are_the_same_cells(path, graph, tmp_path):
    shutil.copytree(path.parent, tmp_path / "moved")
    text = path.read_text().replace(str(path.parent), str(tmp_path / "moved"))
    (tmp_path / "moved" / "model").rename(tmp_path / "moved" / "renamed")
    (tmp_path / "moved" / "other.yaml").write_text(text.replace("moved/model", "moved/renamed"))
    found = graph_of(tmp_path / "moved" / "other.yaml")
    assert ids(found) == ids(graph)
    assert "renamed" in found.sft.places["model"]


def test_a_changed_weight_is_another_address(path, graph, tmp_path):
    shutil.copytree(path.parent, tmp_path / "changed")
    config = tmp_path / "changed" / "model" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"rms_norm_eps": 1e-3}))
    (tmp_path / "changed" / "other.yaml").write_text(
        path.read_text().replace(str(path.parent), str(tmp_path / "changed"))
    )
    assert graph_of(tmp_path / "changed" / "other.yaml").sft.id != graph.sft.id


def test_names_of_arms_that_others_read_are_no_part_of_an_address(path, graph):
    data = yaml.safe_load(path.read_text())
    text = yaml.safe_dump({**data, "hypotheses": {}, "axes": {}}).replace("online", "renamed").replace("wide", "broad")
    other = path.with_name("renamed.yaml")
    other.write_text(text.replace("/broad", "/wide"))
    assert ids(graph_of(other)) == ids(graph_of(path, "hypotheses={}", "axes={}"))


@dataclass(frozen=True)
class Before:
    steps: int = 3
    inner: Optimisation = Optimisation(lr=0.5)
    place: str = named_elsewhere("here")


After = make_dataclass(
    "After", [("steps", int, 3), ("inner", Optimisation, Optimisation(lr=0.5)), ("new", bool, False)]
)


def test_a_new_field_at_its_default_moves_nothing_and_another_value_does():
    for settings in ({}, {"steps": 4}, {"inner": {"warmup": 3}}):
        old, new = build(Before, settings), build(After, settings)
        assert canonical(essential(old)) == canonical(essential(new))
    assert essential(build(After, {"new": True})) == {"new": True}
    assert essential(Before(place="there")) == {}


@pytest.mark.parametrize(
    "settings",
    [
        Supervised(),
        Supervised(steps=7, optimisation=Optimisation(lr=1e-4)),  # the class's default, not the field's
        Supervised(optimisation=Optimisation(lr=1e-3, warmup=10, decay="constant", micro_batch=4)),
    ],
)
def test_what_is_left_of_settings_gives_them_back(settings):
    assert build(Supervised, essential(settings)) == settings


def test_a_recipes_version_moves_its_kind_and_its_readers_alone(path, graph, monkeypatch):
    monkeypatch.setitem(RECIPES, "opponents", replace(RECIPES["opponents"], version=99))
    moved = {each.kind for each in closure(graph_of(path).targets) if each.id not in ids(graph)}
    assert moved == {"opponents", "evaluation", "best of n"}


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A copy of the package whose source may be edited; the declared digests are the real ones."""
    shutil.copytree(source.PACKAGE, tmp_path / "goodhart", ignore=shutil.ignore_patterns("base_models", "__pycache__"))
    caches = (source.edited, source._declared, source._package_digest, source._file, source._read, source._named)
    monkeypatch.setattr(source, "PACKAGE", tmp_path / "goodhart")
    for each in caches:
        each.cache_clear()
    yield tmp_path / "goodhart"
    for each in caches:
        each.cache_clear()


def edit(package, file, old, new):
    text = (package / file).read_text()
    assert old in text
    (package / file).write_text(text.replace(old, new))


def moved_recipes():
    return {kind for kind in RECIPES if source.edited(kind)}


def test_the_declared_source_of_every_recipe_is_the_one_that_is_here():
    found = {kind: source.source_digest(recipe) for kind, recipe in RECIPES.items()}
    stale = {kind for kind, digest in found.items() if source._declared().get(kind) != digest}
    assert not stale, (
        f"the source of {sorted(stale)} has changed: raise the version in cells/registry.py if a result changes for "
        "the same settings, then declare it with python -m goodhart.cells.source"
    )


def test_an_edited_loss_moves_the_runs_and_nothing_before_them(package):
    assert moved_recipes() == set()
    edit(package, "alignment/losses.py", "(z - 0.5).square()", "(z - 0.7).square()")
    source._package_digest.cache_clear()
    for each in (source._read, source._named, source.edited):
        each.cache_clear()
    assert moved_recipes() == {"run", "tabular run"}
    assert cell.recipe_version("run") != str(RECIPES["run"].version)


@pytest.mark.parametrize(
    ("file", "old", "new", "kinds"),
    [
        ("alignment/losses.py", '"""f(z) = log(1', '"""Softplus: f(z) = log(1', set()),
        ("alignment/losses.py", "    return softplus(-z)", "    # why\n    return softplus(-z)", set()),
        ("commands/lists.py", "def list_names", "def list_all_names", set()),
        ("studies/validation.py", "the study has no arms", "this study has no arms", set()),
        (
            "tasks/similarity.py",
            "def similarity(",
            "def similarity(  # now\n    ",
            {"pairs", "test pairs", "evaluation"},
        ),
        ("training/supervised.py", ".sum() / tokens", ".sum() / 2 / tokens", {"sft"}),
    ],
)
def test_what_an_edit_moves(package, file, old, new, kinds):
    edit(package, file, old, new)
    found = moved_recipes()
    assert (found >= kinds) if kinds else (found == set())
    assert "docstrings" not in found
    if kinds == {"sft"}:
        assert found == kinds


def test_every_recipe_reaches_its_function_and_the_code_that_it_runs():
    run = source.reached(RECIPES["run"])
    for name in (
        ("goodhart.alignment.losses", "ipo"),
        ("goodhart.alignment.sources", "StreamSource"),
        ("goodhart.training.optimiser", "Descent"),
        ("goodhart.sampling.keyed", "_drawn"),
        ("goodhart.models.tree", "plant"),
        ("goodhart.randomness", "uniforms"),
        ("goodhart.recipes.run", "alignment_run"),
    ):
        assert name in run, name
    for kind, recipe in RECIPES.items():
        assert callable(recipe.load()), kind
        assert len(source.reached(recipe)) > 1, kind


def finished(store, made, **more):
    folder = store.partial(made.id)
    folder.mkdir(parents=True)
    store.finish(made.id, {"id": made.id, "spec": made.spec, "seconds": 1.0, **more})


def test_why_names_the_setting_at_the_root_of_a_difference(tmp_path):
    store = Store(tmp_path)
    old, new = (Cell("sft", {"sft": Supervised(steps=steps), "model": "ab"}) for steps in (10, 20))
    readers = [Cell("labels", {"n": 3}, {"sft": each}) for each in (old, new)]
    runs = [
        Cell("run", {"seed": 0}, {"sft": sft, "labels": labels})
        for sft, labels in zip((old, new), readers, strict=True)
    ]
    for made in (old, readers[0], runs[0]):
        finished(store, made)
    cells = [new, readers[1], runs[1]]
    found = explain(runs[1].id, cells, store)
    assert len(found) == 2, found
    assert runs[0].id in found[0]
    assert "sft: sft.steps: 20 instead of 10" in found[1]
    assert explain(runs[1].id[:8], cells, store) == found
    finished(store, runs[1])
    assert explain(runs[1].id, cells, store) == [f"{runs[1].id} (run) is done"]
    with pytest.raises(GoodhartError, match="no cell of the study"):
        explain("run-zz", cells, store)
    assert "no finished cell of its kind" in explain(Cell("written", {}).id, [Cell("written", {})], store)[0]


def test_why_prefers_the_nearest_and_names_an_edited_recipe(tmp_path, monkeypatch):
    store = Store(tmp_path)
    far, near = Cell("sft", {"a": 1, "b": 1, "c": 1}), Cell("sft", {"a": 2, "b": 2, "c": 1})
    finished(store, far)
    finished(store, near)
    monkeypatch.setattr(cell, "edited", lambda kind: "abc")
    asked = Cell("sft", {"a": 2, "b": 2, "c": 2})
    found = explain(asked.id, [asked], store)
    assert near.id in found[0]
    assert found[1:] == ["  c: 2 instead of 1", "  recipe: version 1 with source abc instead of 1"]


def test_settings_that_only_name_something_are_marked():
    study = read_study("quick", [])
    measuring = {"data", "evaluation", "train_evaluation", "validation", "test"}
    for kind, names in ((type(study.task), measuring), (type(study.labels), {"file"})):
        marked = {each for each, f in kind.__dataclass_fields__.items() if not f.metadata.get("decides", True)}
        assert marked == names


def test_why_names_no_cell_that_the_disk_had_no_room_to_finish(tmp_path):
    store = Store(tmp_path)
    far, near, asked = (Cell("sft", {"a": a, "b": b}) for a, b in ((1, 1), (2, 1), (2, 2)))
    finished(store, far)
    finished(store, near)
    store.folder(near.id).rename(store.partial(near.id))
    (store.partial(near.id) / "DONE").write_text("")
    assert f"the nearest finished cell is {far.id}," in explain(asked.id, [asked], store)[0]
