"""Weight space: arcs and chords between policies, their limits, and the rounds of a study that merges."""

import math

import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from goodhart.alignment.merging import blocks, lerp, merge, slerp
from goodhart.alignment.references import MovingReference, NoReference, PriorReference, approach
from goodhart.cells.cell import closure
from goodhart.cells.store import Store
from goodhart.studies.graph import build_graph
from goodhart.studies.spec import read_study
from micro_study import make_cells, write_micro_study, write_tables

NAMES = ["model.layers.0.a.weight", "model.layers.0.b.weight", "model.layers.1.a.weight", "embed.weight"]


def weights(seed, size=3):
    draw = torch.Generator().manual_seed(seed)
    return {name: torch.randn(size, 2, generator=draw, dtype=torch.float64) for name in NAMES}


START, ONE, TWO = weights(0), weights(1), weights(2)


def near(found, expected, tolerance=1e-9):
    for name in NAMES:
        torch.testing.assert_close(found[name], expected[name], rtol=tolerance, atol=tolerance)


def layer(values, of=0):
    """The task vector of a layer."""
    names = blocks(NAMES)[of]
    return torch.cat([(values[n] - START[n]).flatten() for n in names])


def test_layers_are_merged_as_wholes():
    assert blocks(NAMES) == [NAMES[:2], [NAMES[2]], [NAMES[3]]]


def test_the_ends_of_an_arc_are_its_policies():
    near(slerp(START, ONE, TWO, 0.0), ONE)
    near(slerp(START, ONE, TWO, 1.0), TWO)
    near(slerp(START, ONE, ONE, 0.3), ONE)


def test_a_policy_that_did_not_move_leaves_the_chord():
    near(slerp(START, START, TWO, 0.25), lerp(START, TWO, 0.25))


@given(st.floats(0, 1))
def test_an_arc_between_equal_lengths_keeps_them_and_a_chord_does_not(share):
    scaled = {n: START[n] + (TWO[n] - START[n]) for n in NAMES}
    for names in blocks(NAMES):
        one, two = (torch.cat([(e[n] - START[n]).flatten() for n in names]).norm() for e in (ONE, TWO))
        for n in names:
            scaled[n] = START[n] + (TWO[n] - START[n]) * one / two
    arc, chord = slerp(START, ONE, scaled, share), lerp(ONE, scaled, share)
    for i in range(3):
        one, two = layer(ONE, i), layer(scaled, i)
        length = float(one.norm())
        assert float(layer(arc, i).norm()) == pytest.approx(length)
        cosine = float(one @ two) / length**2
        shorter = length * math.sqrt(1 - 2 * (1 - cosine) * (share - share**2))
        assert float(layer(chord, i).norm()) == pytest.approx(shorter)


def test_at_a_right_angle_half_way_is_the_sum_over_the_root_of_two():
    start = {"a": torch.zeros(2, dtype=torch.float64)}
    one, two = ({"a": torch.tensor(v, dtype=torch.float64)} for v in ([1.0, 0.0], [0.0, 1.0]))
    torch.testing.assert_close(slerp(start, one, two, 0.5)["a"], torch.ones(2, dtype=torch.float64) / math.sqrt(2))


def test_linear_merging_is_the_mean_and_one_policy_stays_itself():
    three = weights(3)
    near(merge(START, [ONE, TWO, three], "linear"), {n: (ONE[n] + TWO[n] + three[n]) / 3 for n in NAMES})
    near(merge(START, [ONE], "slerp"), ONE)
    near(merge(START, [ONE, TWO, three], "slerp"), slerp(START, slerp(START, ONE, TWO, 0.5), three, 1 / 3))
    with pytest.raises(ValueError, match="nothing to merge"):
        merge(START, [], "linear")


class Two:
    """Two weights that score everything the same."""

    def __init__(self, *values):
        self.values = torch.nn.Parameter(torch.tensor(values))

    def parameters(self):
        return iter([self.values])

    def log_probs(self, prompts, responses):
        return self.values.detach().sum().expand(len(prompts), len(responses[0]))


@pytest.mark.parametrize(
    ("rate", "every", "expected"),
    [
        (0.5, 1, [0.5, 0.75, 0.875, 0.9375]),
        (0.5, 2, [0.0, 0.5, 0.5, 0.75]),
        (1.0, 3, [0.0, 0.0, 1.0, 1.0]),
        (0.0, 1, [0.0, 0.0, 0.0, 0.0]),
    ],
)
def test_a_reference_follows_by_its_rate_and_period(rate, every, expected):
    policy, copy = Two(1.0, 1.0), Two(0.0, 0.0)
    reference, found = MovingReference(copy, policy, rate, every), []
    for step in range(1, 5):
        reference.after(step)
        found.append(float(reference.log_probs([[1]], [[[2]]])) / 2)
    assert found == pytest.approx(expected)
    again = MovingReference(Two(9.0, 9.0), policy, rate, every)
    again.restore(reference.state())
    assert float(again.log_probs([[1]], [[[2]]])) == pytest.approx(2 * expected[-1])


def test_to_follow_at_once_is_to_be_the_same():
    follower, leader = [torch.tensor([3.0])], [torch.tensor([0.1])]
    approach(follower, leader, 1.0)
    assert follower[0].item() == leader[0].item()


def test_without_a_reference_everything_is_zero_and_the_prior_reads_no_prompt():
    assert NoReference().log_probs([[1], [2]], [[[3], [4]], [[5], [6]]]).tolist() == [[0.0, 0.0], [0.0, 0.0]]

    class Says:
        name = "sft"

        def log_probs(self, prompts, responses):
            return torch.tensor([[float(sum(p))] for p in prompts])

    prior = PriorReference(Says())
    assert prior.log_probs([[1, 20, 300], [5]], [[[9]], [[9]]]).tolist() == [[301.0], [10.0]]
    assert prior.name == "sft without prompts"


SHORT = {"lr": [0.01], "steps": 2, "batch": 4, "checkpoints": 2}


@pytest.fixture(scope="module")
def merged(tmp_path_factory):
    folder = tmp_path_factory.mktemp("merged")
    arms = {
        "warp": {"method": "warp", **SHORT, "rounds": 2},
        "soup": {"method": "merged-dpo", **SHORT},
        "online": {**SHORT, "beta": [0.1]},
    }
    path = write_micro_study(folder, arms=arms, variants={}, hypotheses={}, axes={}, seeds=[0], resamples=20)
    return make_cells(read_study(str(path), []), folder / "runs"), folder / "runs"


def test_rounds_begin_where_the_last_was_merged_to(merged):
    (_, graph, _), root = merged
    store = Store(root)
    last = graph.runs["warp", "lr=0.01", 0]
    first = last.inputs["start"]
    assert (last.kind, first.kind) == ("merge", "merge")
    runs = [cell for cell in closure([last]) if cell.kind == "run"]
    assert len(runs) == 4
    assert len({run.settings["seed"] for run in runs}) == 4, "each run has random numbers of its own"
    assert {"start" in run.inputs for run in runs} == {True, False}

    def read(cell, name):
        return load_file(store.open(cell.id) / name / "model.safetensors")

    sft, theta, begun = read(last.inputs["sft"], "final"), read(first, "step-2"), read(first, "final")
    for name, value in sft.items():
        torch.testing.assert_close(begun[name], value + 0.3 * (theta[name] - value), rtol=1e-4, atol=1e-6)
        half = read(first, "step-1")[name]
        torch.testing.assert_close(half, (value + theta[name]) / 2, rtol=1e-4, atol=1e-6)


def test_a_mean_of_weights_is_the_mean_of_its_runs(merged):
    (_, graph, _), root = merged
    store, (setting,) = Store(root), [key for key in graph.runs if key[0] == "soup"]
    cell = graph.runs[setting]
    ends = [load_file(store.open(cell.inputs[f"run {i:03d}"].id) / "step-2" / "model.safetensors") for i in (0, 1)]
    found = load_file(store.open(cell.id) / "step-2" / "model.safetensors")
    for name, value in found.items():
        torch.testing.assert_close(value, (ends[0][name] + ends[1][name]) / 2, rtol=1e-5, atol=1e-7)


PAIRS = {"online": (4, 8), "soup": (16, 16), "warp": (32, 32)}
"""Learnt from by each checkpoint: a merged policy has those of all its runs."""


def test_what_was_merged_has_its_rows_and_its_price(merged):
    (study, graph, engine), root = merged
    folder = write_tables(root, study, graph, engine)
    rows = pq.read_table(folder / "budgets.parquet").to_pylist()
    expected = {(arm, place): number for arm, each in PAIRS.items() for place, number in enumerate(each, 1)}
    assert {(row["arm"], row["step"]): row["pairs"] for row in rows} == expected
    measured = pq.read_table(folder / "rows.parquet", filters=[("arm", "=", "warp")]).column("step").to_pylist()
    assert set(measured) == {1, 2}


def test_the_graph_of_a_merging_arm_is_found_again(merged):
    (study, graph, _), _ = merged
    assert {cell.id for cell in closure(build_graph(study).targets)} == {cell.id for cell in closure(graph.targets)}
