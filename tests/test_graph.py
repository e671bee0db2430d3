"""From a study to its cells: what is shared, what is not, and what an address depends on."""

from dataclasses import replace

import pytest

from goodhart.analysis.hypotheses import Axis, Contrast, Hypothesis
from goodhart.cells.cell import closure
from goodhart.recipes.settings import Labels
from goodhart.studies.graph import anchors, build_graph
from goodhart.studies.spec import Variant, read_study
from micro_study import write_micro_study
from tiny_arms import arm, changed

AT = "beta=0.1 lr=0.01"


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return read_study(str(write_micro_study(tmp_path_factory.mktemp("graph"))), [])


@pytest.fixture(scope="module")
def graph(study):
    return build_graph(study)


def with_arms(study, **arms):
    return build_graph(replace(study, arms={**study.arms, **arms}))


def ids(graph):
    return {at: cell.id for at, cell in graph.runs.items()}


def test_arms_that_need_the_same_share_their_cells(study, graph):
    found = with_arms(study, twin=study.arms["offline"], other=replace(study.arms["offline"], batch=4))
    assert found.runs["twin", AT, 0].id == graph.runs["offline", AT, 0].id
    assert found.runs["other", AT, 0].id != graph.runs["offline", AT, 0].id
    measured = {(m.arm, m.seed, m.step): m.cell.id for m in found.measured}
    assert measured["twin", 1, 3] == measured["offline", 1, 3]
    assert len(closure(found.targets)) - len(closure(graph.targets)) == 2 * (1 + 2)  # runs and checkpoints of `other`


def test_seeds_and_settings_have_runs_of_their_own(graph):
    assert len(set(ids(graph).values())) == len(graph.runs) == 2 * 9
    steps = {(m.arm, m.seed, m.step) for m in graph.measured if m.run is graph.runs["offline", AT, 1]}
    assert steps == {("offline", 1, 3), ("offline", 1, 6)}


def test_a_variant_with_another_policy_has_its_own_start_and_the_same_supervision(study, graph):
    own, wide = graph.trunks[""], graph.trunks["wide"]
    assert wide.sft.id != own.sft.id
    assert wide.labels.id != own.labels.id
    assert wide.labels.inputs["sft"].id == wide.sft.id
    assert wide.labels.inputs["pairs"].id == own.labels.inputs["pairs"].id
    assert (wide.proxy.id, wide.opponents.id) == (own.proxy.id, own.opponents.id)
    run = graph.runs["wide", AT, 0]
    assert (run.inputs["sft"].id, run.inputs["judge"].id) == (wide.sft.id, own.proxy.id)
    start = [m for m in graph.measured if m.arm == "sft (wide)"]
    assert [(m.step, m.seed, m.cell.inputs["policy"].id, m.cell.inputs["sft"].id) for m in start] == [
        (0, 0, wide.sft.id, wide.sft.id)
    ]
    checkpoint = next(m.cell for m in graph.measured if m.arm == "wide")
    assert checkpoint.inputs["sft"].id == wide.sft.id
    assert checkpoint.inputs["opponents"].id == own.opponents.id
    assert {m.run.id for m in graph.measured if m.arm == "golden policy"} == {graph.golden_policy.id}
    found = anchors(study, graph)
    assert (found["wide"], found["noisy"], found["online"], found["best of n by proxy"]) == (
        *("sft (wide)", "sft"),
        *("sft", "sft"),
    )


def test_a_variant_with_other_labels_has_the_same_start_and_its_own_supervision(graph):
    own, noisy = graph.trunks[""], graph.trunks["noisy"]
    assert (noisy.sft.id, noisy.anchor) == (own.sft.id, "sft")
    assert noisy.labels.id != own.labels.id
    assert noisy.proxy.inputs["pairs"].id == noisy.labels.id
    assert noisy.opponents.inputs["golden_policy"].id == graph.golden_policy.id
    assert graph.runs["noisy", AT, 0].inputs["labels"].id == noisy.labels.id
    assert graph.quality["proxy (noisy)"].inputs["model"].id == noisy.proxy.id
    assert graph.quality["proxy (noisy)"].inputs["pairs"].id == noisy.labels.id
    assert "proxy (wide)" not in graph.quality


def test_a_variant_that_is_the_studys_own_changes_nothing(study, graph):
    same = {**study.variants, "same": Variant(policy=study.policy, labels=study.labels, proxy=study.proxy)}
    found, own = build_graph(replace(study, variants=same)).trunks["same"], graph.trunks[""]
    for name in ("sft", "labels", "proxy", "opponents"):
        assert getattr(found, name).id == getattr(own, name).id
    assert found.anchor == own.anchor


def test_the_name_of_an_arm_is_no_part_of_its_address(study, graph):
    arms = {"another name" if name == "offline" else name: arm for name, arm in study.arms.items()}
    found = build_graph(replace(study, arms=arms))
    assert found.runs["another name", AT, 0].id == graph.runs["offline", AT, 0].id
    old, new = ({c.id for c in closure(g.targets)} for g in (graph, found))
    assert old == new


def test_what_is_asked_is_no_part_of_any_address(study, graph):
    silent = build_graph(replace(study, hypotheses={}, axes={}))
    asked = replace(
        study,
        name="other",
        hypotheses={"H": Hypothesis("So.", (Contrast("peak", "online", "offline"),))},
        axes={"x": Axis("x", {"a": {"online": 1.0}})},
        question="Why?",
        resamples=7,
    )
    assert {c.id for c in closure(build_graph(asked).targets)} == {c.id for c in closure(silent.targets)}
    assert ids(silent).items() <= ids(graph).items()


def test_a_new_arm_or_seed_changes_no_other(study, graph):
    found = build_graph(replace(study, seeds=(0, 1, 2), arms={**study.arms, "new": arm(beta=(0.2,))}))
    assert ids(graph).items() <= ids(found).items()


def test_writers_are_the_other_arms_runs(study, graph):
    for seed in (0, 1):
        cell = graph.runs["written", AT, seed].inputs["written"]
        assert cell.inputs["writer 1"].id == graph.runs["online", AT, seed].id
        assert "writer 0" not in cell.inputs
        assert cell.inputs["sft"].id == graph.sft.id
        assert cell.spec["settings"]["steps"] == [0, 3]
    both = replace(study.arms["written"], writers=("online@6", "mixed@4"))
    inputs = with_arms(study, both=both).runs["both", AT, 0].inputs["written"].inputs
    assert inputs["writer 0"].id == graph.runs["online", AT, 0].id
    assert inputs["writer 1"].id == graph.runs["mixed", AT, 0].id


def test_writers_write_at_their_first_setting(study, graph):
    swept = replace(study.arms["written"], beta=(0.3, 0.1), lr=(0.02,))
    found = with_arms(study, swept=swept)
    cells = {
        found.runs["swept", setting, 0].inputs["written"].id for setting in ("beta=0.3 lr=0.02", "beta=0.1 lr=0.02")
    }
    assert cells == {graph.runs["written", AT, 0].inputs["written"].id}


def test_written_pairs_have_the_labels_of_their_variant(study, graph):
    """Noise too: pairs that are learnt from are no pairs that measure."""
    noisy = {**study.variants, "noisy": Variant(labels=Labels(24, "bernoulli", 0.4))}
    arms = {name: replace(study.arms[name], variant="noisy") for name in ("online", "written")}
    found = build_graph(replace(study, variants=noisy, arms=arms)).runs["written", AT, 0].inputs["written"]
    settings = found.spec["settings"]
    assert (settings["mode"], settings["flip"]) == ("bernoulli", 0.4)
    assert graph.runs["written", AT, 0].inputs["written"].spec["settings"]["flip"] == 0


def test_streams_and_mixtures_read_the_recorded_runs(graph):
    online = graph.runs["online", AT, 1]
    assert graph.runs["replay", AT, 1].inputs["stream"].id == online.id
    mixed = graph.runs["mixed", AT, 1]
    assert mixed.inputs["part 1/stream"].id == online.id
    assert mixed.inputs["part 0/judge"].id == graph.proxy.id
    assert {"judge", "stream"}.isdisjoint(mixed.inputs)
    parts = mixed.spec["settings"]["parts"]
    assert [part["pairs"] for part in parts] == [4, 4]
    assert [part["arm"].get("source", "policy") for part in parts] == ["policy", "stream"]


def test_the_parts_of_a_mixture_are_part_of_its_address(study, graph):
    """The same shares of arms of the same names, one of which is another arm."""
    arms = {**study.arms, "online": changed(study.arms["online"], mode="bernoulli")}
    found = build_graph(replace(study, arms={name: arms[name] for name in ("online", "replay", "mixed")}))
    assert found.runs["mixed", AT, 0].id != graph.runs["mixed", AT, 0].id


def test_a_stream_is_classified_where_a_hypothesis_asks(study, graph):
    assert build_graph(replace(study, hypotheses={})).streams == []
    contrasts = (
        Contrast("stream accuracy", "proxy", "offline", stream="online"),
        Contrast("stream accuracy", "written", "winners", stream="online", decides=False),
        Contrast("peak", "online", "replay"),
    )
    found = build_graph(replace(study, hypotheses={"H": Hypothesis("So.", contrasts)}))
    assert [(s.arm, s.setting, s.seed) for s in found.streams] == [("online", AT, 0), ("online", AT, 1)]
    cell = found.streams[1].cell
    assert cell.inputs["stream"].id == graph.runs["online", AT, 1].id
    assert cell.inputs["classifier offline"].id == graph.runs["offline", AT, 1].id
    # best-of-2 has no beta, so none of its runs is at the stream's setting
    assert cell.spec["settings"]["last"] == {"offline": 6, "written": 4}
    assert cell in found.targets


def test_best_of_n_has_one_cell_for_each_seed(graph):
    best = [m for m in graph.measured if m.arm.startswith("best of n")]
    assert {(m.arm, m.seed, m.step) for m in best} == {
        (f"best of n by {judge}", seed, n) for judge in ("proxy", "golden") for seed in (0, 1) for n in (2, 4)
    }
    assert len({m.cell.id for m in best}) == 2
    assert {(m.rows, m.pairs) for m in best if m.seed == 0} == {
        (f"{judge}-{n}.parquet", "") for judge in ("proxy", "golden") for n in (2, 4)
    }
    assert {m.cell.inputs["sft"].id for m in best} == {graph.sft.id}


def test_all_that_is_measured_will_be_there(graph):
    targets = {cell.id for cell in closure(graph.targets)}
    assert {m.cell.id for m in graph.measured} <= targets
    assert set(ids(graph).values()) <= targets
