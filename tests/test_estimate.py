"""The expected time of a study, and the part of a study that one hypothesis needs."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goodhart.cells import executor, local
from goodhart.cells.cell import Cell, closure
from goodhart.errors import GoodhartError
from goodhart.studies.estimate import PROBE, Costs, duration, millions, probe
from goodhart.studies.graph import build_graph
from goodhart.studies.spec import read_study


def costs(study, scale=1.0):
    names = {study.policy, study.golden.model, study.proxy.model}
    names |= {v.policy for v in study.variants.values() if v.policy}
    names |= {v.proxy.model for v in study.variants.values() if v.proxy}
    return Costs(study, dict.fromkeys(names, 1.3) | {"small": 5.1}, scale)


def by_label(seconds):
    return lambda cell: seconds[cell.label]


def chain(*labels, kind="run"):
    cells = []
    for label in labels:
        cells.append(Cell(kind, {"label": label}, {"before": cells[-1]} if cells else {}, label))
    return cells


@pytest.fixture(autouse=True)
def two_cores(monkeypatch):
    monkeypatch.setattr(local, "cores", lambda: 2)


def test_the_quick_study_is_expected_to_take_what_it_took():
    # 1,013 seconds of threads in 561 seconds with two workers; docs/start.md
    study = read_study("quick", [])
    cells = closure(build_graph(study).targets)
    found = costs(study)
    assert sum(map(found.seconds, cells)) == pytest.approx(1013, rel=0.25)
    assert duration(cells, set(), found.seconds, 2, found.parts) == pytest.approx(561, rel=0.25)


def test_threads_shorten_what_all_others_wait_for_and_nothing_else():
    study = read_study("quick", [])
    cells = closure(build_graph(study).targets)
    found = costs(study)
    parts = {cell.kind: found.parts(cell) for cell in cells if cell.label != "proxy model"}
    assert (parts["sft"], parts["preference"], parts["run"], parts["docstrings"]) == (2, 2, 1, 1)
    assert next(found.parts(cell) for cell in cells if cell.label == "proxy model") == 1
    alone = duration(cells, set(), found.seconds, 2)
    assert duration(cells, set(), found.seconds, 2, found.parts) < alone - 30
    assert duration(cells, set(), found.seconds, 1, found.parts) == duration(cells, set(), found.seconds, 1)


def test_a_slower_machine_and_done_cells_count():
    study = read_study("smoke", [])
    cells = closure(build_graph(study).targets)
    once, twice = (duration(cells, set(), costs(study, scale).seconds, 2) for scale in (1.0, 2.0))
    assert twice == pytest.approx(2 * once)
    assert duration(cells, {cell.id for cell in cells}, costs(study).seconds, 2) == 0
    assert 0 < duration(cells, {cell.id for cell in cells if cell.kind == "docstrings"}, costs(study).seconds, 2) < once


@pytest.fixture(scope="module")
def paper():
    """(The paper's study, its cells)."""
    study = read_study("paper", [])
    return study, closure(build_graph(study).targets)


def test_every_cell_of_every_source_has_a_cost(paper):
    names = read_study("names", [])
    for study, cells in (paper, (names, closure(build_graph(names).targets))):
        found = costs(study)
        assert all(found.seconds(cell) > 0 for cell in cells)


def test_the_schedule_is_the_critical_path_where_nothing_is_parallel():
    cells = chain("a", "b", "c")
    assert duration(cells, set(), by_label({"a": 1.0, "b": 2.0, "c": 3.0}), 2) == 6
    apart = [Cell("run", {"n": n}, label="x") for n in range(5)]
    assert duration(apart, set(), by_label({"x": 1.0}), 2) == 3
    assert duration(apart, set(), by_label({"x": 1.0}), 5) == 1


def test_more_steps_cost_more_in_proportion():
    study = read_study("quick", [])
    arms = {name: replace(arm, steps=arm.steps * 2) for name, arm in study.arms.items()}
    longer = replace(study, arms=arms)

    def runs(which):
        found = costs(which)
        kinds = [c for c in closure(build_graph(which).targets) if c.kind == "run" and c.label != "golden policy"]
        return sum(found.seconds(cell) - 1 for cell in kinds)

    assert runs(longer) == pytest.approx(2 * runs(study))


def test_the_machine_is_measured_and_models_are_counted():
    assert 0.05 * PROBE < probe() < 100 * PROBE
    assert millions("tiny") == pytest.approx(1.33, abs=0.01)
    assert millions("small") / millions("nano") > 12


def test_only_keeps_what_a_hypothesis_reads(paper):
    study, _ = paper
    found = study.only(["H4"])
    assert found.name == "paper-H4"
    assert set(found.arms) == {"online", "online best-of-2", "offline best-of-2", "shuffled best-of-2"}
    assert list(found.hypotheses) == ["H4 contrastive loss"]
    assert not found.variants
    assert not found.axes
    assert found.best_of.samples == 0
    scale = study.only(["H5"])
    assert set(scale.variants) == {"nano policy", "small policy"}
    assert "online, small" in scale.arms
    written = study.only(["H2"])
    assert {"late against late", "online", "offline"} == set(written.arms)


def test_only_shares_its_cells_with_the_whole_study(paper):
    study, cells = paper
    whole = {cell.id for cell in cells}
    for name in ("H1", "H2", "H3", "H5"):
        assert {cell.id for cell in closure(build_graph(study.only([name])).targets)} <= whole


def test_only_names_the_hypotheses_that_there_are():
    with pytest.raises(GoodhartError, match=r"no hypothesis 'H9'.*H1"):
        read_study("paper", []).only(["H9"])
    with pytest.raises(GoodhartError, match="none"):
        read_study("smoke", []).only(["H1"])


@given(st.data())
def test_the_expected_time_is_that_of_the_executors_own_order(data):
    """A simulation that asks the executor at every step which cells are ready, in which order."""
    number, workers = data.draw(st.integers(1, 14)), data.draw(st.integers(1, 4))
    cells = []
    for place in range(number):
        inputs = data.draw(st.lists(st.integers(0, place - 1), unique=True, max_size=3)) if place else []
        kind = data.draw(st.sampled_from(["run", "evaluation"]))
        cells.append(Cell(kind, {"n": place}, {f"input {i}": cells[i] for i in inputs}))
    took = {cell.id: data.draw(st.integers(1, 9)) for cell in cells}
    done = {cell.id for cell in cells[: data.draw(st.integers(0, number))]}
    waiting = {cell.id: cell for cell in cells if cell.id not in done}
    ended, running, now = set(done), [], 0.0
    while waiting or running:
        for cell in executor.in_turn(waiting.values(), ended)[: workers - len(running)]:
            del waiting[cell.id]
            running.append((now + took[cell.id], cell.id))
        running.sort()
        now, last = running.pop(0)
        ended.add(last)
    # all cells have one thread
    assert duration(cells, done, lambda cell: took[cell.id], workers, lambda _: 1) == now
