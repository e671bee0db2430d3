"""Pairs, labellers and sources: what flows between the slots of an algorithm."""

from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from goodhart.alignment.batch import Batch
from goodhart.alignment.labellers import DataLabels, JudgeLabels, both_orders
from goodhart.alignment.pair_table import read_pairs, write_pairs
from goodhart.alignment.sources import DataSource, DelayedSource, MixtureSource, PolicySource, places
from goodhart.errors import GoodhartError
from goodhart.randomness import stream
from goodhart.studies.arms import shares_of
from goodhart.tasks.prompt_table import write_prompts
from goodhart.tasks.prompts import Prompt
from tiny_arms import arm
from tiny_models import prompt

PROMPTS = [prompt(i, 2, 3 + i) for i in range(4)]
FIRST = [[5, 1], [6], [7, 8, 1], []]
SECOND = [[9], [10, 11, 1], [12, 1], [13]]
LABEL = np.array([1.0, 0.0, 0.5, 0.25])
KNOWN = np.array([[-1.0, -2.0], [-3.0, -4.0], [-5.0, -6.0], [-0.0, -8.0]])
OWN = np.array([[-1.5, -2.5], [np.nan, -4.5], [-5.5, -6.5], [-7.5, -8.5]])
WHOLE = Batch.of_pairs(PROMPTS, FIRST, SECOND, LABEL, logps={"start": KNOWN}, writer=OWN)


class Says:
    """A judge with given answers."""

    def __init__(self, r):
        self.r = np.asarray(r, dtype=np.float64)

    def prefer(self, pairs):
        return self.r[: len(pairs)]


def same(one, other):
    assert [p.id for p in one.prompts] == [p.id for p in other.prompts]
    assert one.responses == other.responses
    np.testing.assert_array_equal(one.label, other.label)
    np.testing.assert_array_equal(one.reference, other.reference)
    assert list(one.logps) == list(other.logps)
    np.testing.assert_array_equal(one.writer, other.writer)


def test_swapping_exchanges_responses_labels_and_log_probabilities():
    swapped = WHOLE.swapped()
    assert swapped.responses == [(b, a) for a, b in WHOLE.responses]
    assert swapped.label.tolist() == [0.0, 1.0, 0.5, 0.75]
    assert swapped.reference.tolist() == [[-2, -1], [-4, -3], [-6, -5], [-8, 0]]
    np.testing.assert_array_equal(swapped.writer, [[-2.5, -1.5], [-4.5, np.nan], [-6.5, -5.5], [-8.5, -7.5]])
    same(swapped.swapped(), WHOLE)


def test_taking_and_cutting_keep_rows_together():
    label, known, own = (array[[2, 0]] for array in (LABEL, KNOWN, OWN))
    sides = ([s[2], s[0]] for s in (PROMPTS, FIRST, SECOND))
    same(WHOLE.take([2, 0]), Batch.of_pairs(*sides, label, logps={"start": known}, writer=own))
    same(WHOLE[1:3], WHOLE.take([1, 2]))
    bare = Batch.of_pairs(PROMPTS, FIRST, SECOND)
    assert bare.take([1]).label is None
    assert bare.swapped()[:2].reference is None
    assert bare.swapped().take([1, 0])[:1].writer is None
    assert len(WHOLE.take([3, 3, 3, 0, 1])) == 5


def test_lengths_are_those_of_the_responses():
    assert WHOLE.lengths.tolist() == [[2, 1], [1, 3], [3, 2], [0, 1]]
    assert WHOLE[:0].lengths.shape == (0, 2)


def test_joined_pairs_know_each_writer_that_is_known():
    second = WHOLE.swapped().take([3, 1])
    both = Batch.joined([WHOLE, second])
    same(both[:4], WHOLE)
    same(both[4:], second)
    partly = Batch.joined([WHOLE, replace(second, writer=None)])
    np.testing.assert_array_equal(partly.writer, np.concatenate([OWN, np.full((2, 2), np.nan)]))
    same(Batch.joined([WHOLE]), WHOLE)


def test_what_no_part_knows_the_whole_does_not_know():
    """Not a column of NaN, which a reader would take for numbers."""
    bare = Batch.of_pairs(PROMPTS, FIRST, SECOND, LABEL)
    assert Batch.joined([bare, bare]).writer is None
    assert Batch.joined([bare, WHOLE]).reference is None
    moved = Batch.joined([WHOLE, replace(WHOLE, logps={"round 2": KNOWN})])
    assert (moved.reference, moved.logps) == (None, {}), "log-probabilities of two models under one name"
    with pytest.raises(ValueError, match="with labels"):
        Batch.joined([WHOLE, Batch.of_pairs(PROMPTS, FIRST, SECOND)])


@pytest.mark.parametrize("label", [[1, 0, 0.5, 1.1], [1, 0, 0.5, -0.1], [1, 0, 0.5, np.nan], [1, 0, 0.5]])
def test_a_label_is_a_probability_for_each_pair(label):
    with pytest.raises(ValueError, match="probability in"):
        WHOLE.labelled(np.array(label, dtype=np.float64))


probability = st.floats(0, 1)


@given(probability, probability)
def test_a_verdict_asks_both_orders(r12, r21):
    r = np.array([[r12, r21]])
    hard, soft = float(both_orders(r, "hard")[0]), float(both_orders(r, "soft")[0])
    assert hard == (1.0 if r12 > r21 else 0.0 if r12 < r21 else 0.5)
    assert soft == pytest.approx((r12 + 1 - r21) / 2)
    turned = r[:, ::-1].copy()
    assert both_orders(turned, "hard")[0] == 1 - hard
    assert both_orders(turned, "soft")[0] == pytest.approx(1 - soft)


@given(probability)
def test_a_judge_who_always_names_the_first_says_nothing(r):
    assert both_orders(np.array([[r, r]]), "hard").tolist() == [0.5]
    assert both_orders(np.array([[r, r]]), "soft")[0] == pytest.approx(0.5)


def test_judge_labels_by_mode():
    judge = Says([[0.9, 0.2], [0.3, 0.6], [0.5, 0.5], [0.7, 0.7]])
    assert JudgeLabels(judge, "hard", 0).label(WHOLE, 0).label.tolist() == [1, 0, 0.5, 0.5]
    np.testing.assert_allclose(JudgeLabels(judge, "soft", 0).label(WHOLE, 0).label, [0.85, 0.35, 0.5, 0.5])
    assert JudgeLabels(judge, "hard", 0).label(WHOLE, 0).responses == WHOLE.responses


def test_the_coins_are_keyed_by_step_and_have_the_soft_label_as_their_bias():
    size, labeller = 4000, JudgeLabels(Says([[0.9, 0.4]] * 4000), "bernoulli", 7)
    pairs = Batch.of_pairs([PROMPTS[0]] * size, [[5]] * size, [[6]] * size)
    coins = [labeller.label(pairs, step).label for step in (0, 1)]
    assert set(coins[0].tolist()) == {0.0, 1.0}
    assert binomtest(int(coins[0].sum()), size, 0.75).pvalue > 0.01
    assert 0.3 < (coins[0] != coins[1]).mean() < 0.45  # 2 p (1 - p) = 0.375
    np.testing.assert_array_equal(labeller.label(pairs, 0).label, coins[0])
    assert not np.array_equal(JudgeLabels(labeller.judge, "bernoulli", 8).label(pairs, 0).label, coins[0])


def test_the_coin_is_the_pairs_own_wherever_it_stands():
    """Two pairs of one prompt have two coins; a pair keeps its own in another batch, and each split has others."""
    size = 400
    distinct = Batch.of_pairs([prompt(i, 2) for i in range(size)], [[5]] * size, [[6]] * size)
    twice = Batch.of_pairs([prompt(i // 2, 2) for i in range(size)], [[5]] * size, [[6]] * size)
    even = Says([[0.5, 0.5]] * size)
    found = JudgeLabels(even, "bernoulli", 0, "train").label(distinct, 0).label
    order = stream(0, "test/order").permutation(size)[:300].tolist()
    moved = JudgeLabels(even, "bernoulli", 0, "train").label(distinct.take(order), 0).label
    np.testing.assert_array_equal(moved, found[order], "a coin belongs to a place in the batch")
    elsewhere = JudgeLabels(even, "bernoulli", 0, "test").label(distinct, 0).label
    assert 0.4 < (found != elsewhere).mean() < 0.6, "two splits share their coins"
    both = JudgeLabels(even, "bernoulli", 0).label(twice, 0).label.reshape(-1, 2)
    assert 0.35 < (both[:, 0] != both[:, 1]).mean() < 0.65, "two pairs of a prompt share a coin"


def test_certain_coins_always_fall_the_same_way():
    labeller = JudgeLabels(Says([[1, 0], [0, 1], [1, 0], [0, 1]]), "bernoulli", 0)
    assert all(labeller.label(WHOLE, step).label.tolist() == [1, 0, 1, 0] for step in range(50))


def test_data_labels_are_the_data_and_must_be_there():
    assert DataLabels().label(WHOLE, 3) is WHOLE
    with pytest.raises(ValueError, match="step 3 carry no label"):
        DataLabels().label(Batch.of_pairs(PROMPTS, FIRST, SECOND), 3)


@given(st.integers(1, 20), st.integers(1, 25), st.integers(0, 3))
def test_every_epoch_takes_every_item_once_in_an_order_of_its_own(size, batch, seed):
    steps = -(-3 * size // batch)
    walk = [i for step in range(steps) for i in places(step, batch, size, seed)]
    epochs = [walk[e * size : (e + 1) * size] for e in range(3)]
    assert all(sorted(epoch) == list(range(size)) for epoch in epochs)
    if size > 6:
        assert epochs[0] != epochs[1] != epochs[2]
        assert places(0, size, size, seed + 1) != epochs[0]


class Echo:
    """A policy whose responses say which prompt, seed and sample was asked for."""

    def sample(self, prompts, samples, *, seed, purpose, first_sample):
        self.purpose = purpose
        return [[[p.number, seed, s + k] for k in range(samples)] for p, s in zip(prompts, first_sample, strict=True)]

    def log_probs(self, prompts, responses):
        raise AssertionError("nobody asks for it")

    def parameters(self):
        return iter(())

    def frozen(self):
        return self


class Keeping(Echo):
    """The same, with log-probabilities."""

    def log_probs(self, prompts, responses):
        return torch.zeros(len(prompts), 2)


def test_a_data_source_walks_its_pairs():
    source = DataSource(WHOLE, 3, 5)
    same(source.draw(2, Echo()), WHOLE.take(places(2, 3, 4, 5)))


def test_a_mixture_draws_each_share_with_its_own_labels():
    judge = Says([[0.9, 0.2], [0.3, 0.6], [0.5, 0.5]])
    online, offline = (
        (PolicySource(PROMPTS, 3, 5), JudgeLabels(judge, "hard", 0)),
        (DataSource(WHOLE, 2, 5), DataLabels()),
    )
    found = MixtureSource([online, offline]).draw(2, Echo())
    assert found.label[:3].tolist() == [1.0, 0.0, 0.5]
    assert found[:3].responses == online[0].draw(2, Echo()).responses
    assert np.isnan(found.writer[:3]).all()
    data = WHOLE.take(places(2, 2, 4, 5))
    same(found[3:], replace(data, logps={}))
    assert len(found) == 5


@given(st.lists(st.integers(1, 50), min_size=1, max_size=6), st.integers(1, 64))
def test_shares_become_whole_pairs_by_the_largest_remainder(weights, batch):
    exact = {f"part {i}": w / sum(weights) for i, w in enumerate(weights)}
    sizes = shares_of(arm(source="mixture", labeller="data", parts=exact, batch=batch))
    assert list(sizes) == list(exact)
    assert sum(sizes.values()) == batch
    rest = {name: share * batch - sizes[name] for name, share in exact.items()}
    assert all(abs(each) < 1 for each in rest.values())
    raised = [1 + each for each in rest.values() if each < -1e-9]
    assert min(raised, default=1) >= max((each for each in rest.values() if each >= 0), default=0) - 1e-9


def test_shares_that_a_float_cannot_hold_lose_no_pair():
    assert shares_of(arm(source="mixture", labeller="data", parts={"a": 0.1, "b": 0.2, "c": 0.7}, batch=10)) == {
        "a": 1,
        "b": 2,
        "c": 7,
    }
    assert shares_of(arm(source="mixture", labeller="data", parts={"a": 0.5, "b": 0.5}, batch=5)) == {"a": 3, "b": 2}


@pytest.mark.parametrize("batch", [1, 3, 4, 10])
def test_a_policy_source_asks_for_two_samples_of_each_prompt_that_were_never_asked_for(batch):
    policy, source, seen = Echo(), PolicySource(PROMPTS, batch, 5), set()
    for step in range(8):
        pairs = source.draw(step, policy)
        assert list(pairs.prompts) == [PROMPTS[i] for i in places(step, batch, 4, 5)]
        for given_, pair in zip(pairs.prompts, pairs.responses, strict=True):
            assert [response[:2] for response in pair] == [[given_.number, 5]] * 2
        assert pairs.label is None
        seen |= {tuple(response) for pair in pairs.responses for response in pair}
    assert len(seen) == 8 * batch * 2
    assert policy.purpose == "online pair"


@pytest.mark.parametrize("held", [False, True], ids=["online", "delayed"])
@pytest.mark.parametrize("batch", [1, 2, 4, 7])
def test_a_prompt_that_stands_in_the_data_more_than_once_gets_other_samples_each_time(batch, held):
    """Three pairs have the first prompt, two the second; neither a batch nor an epoch draws a sample again."""
    data = [PROMPTS[i] for i in (0, 1, 0, 2, 1, 0)]
    source, seen, steps = PolicySource(data, batch, 5), [], 18
    if held:
        source = DelayedSource(source, 0, Keeping())
    for step in range(steps):
        pairs = source.draw(step, Keeping())
        assert list(pairs.prompts) == [data[i] for i in places(step, batch, 6, 5)]
        seen += [tuple(response) for pair in pairs.responses for response in pair]
    assert len(set(seen)) == len(seen) == 2 * batch * steps, "some sample was learnt from twice"


def test_samples_of_a_prompt_are_numbered_without_gaps():
    """So the samples of distinct prompts are those that they always were: 2e and 2e + 1 in epoch e."""
    for data in ([0, 1, 2, 3], [0, 1, 0, 0]):
        source, seen = PolicySource([PROMPTS[i] for i in data], 4, 5), {}
        for epoch in range(3):
            for pair in source.draw(epoch, Echo()).responses:
                for number, _, sample in pair:
                    seen.setdefault(number, []).append(sample)
        assert {number: sorted(each) for number, each in seen.items()} == {
            PROMPTS[i].number: list(range(6 * data.count(i))) for i in set(data)
        }


def prompt_table(path):
    texts = [{"prompt": p.id, "split": "train", "text": "t", "tokens": list(p.tokens)} for p in PROMPTS]
    names = ("prompt", "split", "rank", "package", "text", "tokens", "reference", "reference_tokens")
    write_prompts(path, {name: [row.get(name) for row in texts] for name in names})
    return path


@pytest.mark.parametrize("pairs", [WHOLE, Batch.of_pairs(PROMPTS, FIRST, SECOND)], ids=["scored", "bare"])
def test_pairs_are_read_as_they_were_written(pairs, tmp_path):
    table = prompt_table(tmp_path / "prompts.parquet")
    write_pairs(tmp_path / "pairs.parquet", pairs, list("abcd"), ["train", "test", "train", "train"], list("klmn"))
    found, ids, kinds = read_pairs(tmp_path / "pairs.parquet", "train", table)
    expected = pairs.take([0, 2, 3])
    assert (ids, kinds) == (["a", "c", "d"], ["k", "m", "n"])
    assert found.responses == expected.responses
    assert found.prompts == expected.prompts
    if pairs.label is None:
        assert found.label is None
        assert found.reference is None
        assert found.writer is None
    else:
        same(found, expected)


def test_pairs_of_two_references_and_tables_from_before_there_were_names_are_of_none(tmp_path):
    table, path = prompt_table(tmp_path / "prompts.parquet"), tmp_path / "pairs.parquet"
    write_pairs(path, WHOLE, list("abcd"), ["train"] * 4, ["k"] * 4)
    rows = pq.read_table(path)
    changed = rows.set_column(rows.column_names.index("reference"), "reference", [["start", "start", "other", "start"]])
    for each in (changed, rows.drop_columns(["reference"])):
        pq.write_table(each, path)
        found, _, _ = read_pairs(path, "train", table)
        np.testing.assert_array_equal(found.reference, KNOWN)
        assert list(found.logps) == [""]
        assert found.under("start") is None
        assert found.under("") is None


def test_a_pair_whose_prompt_is_unknown_is_an_error(tmp_path):
    table = prompt_table(tmp_path / "prompts.parquet")
    lost = Batch.of_pairs([Prompt("f" * 12, (2,))], [[5]], [[6]])
    write_pairs(tmp_path / "pairs.parquet", lost, ["a"], ["train"], ["k"])
    with pytest.raises(GoodhartError, match="ffffffffffff"):
        read_pairs(tmp_path / "pairs.parquet", "train", table)
