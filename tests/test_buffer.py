"""The buffer of all pairs that a run has drawn: what is in it, what a step has of it, and that it goes on."""

import numpy as np
import torch

from goodhart.alignment.labellers import JudgeLabels
from goodhart.alignment.sources import BufferedSource, DelayedSource, PolicySource
from goodhart.training.alignment import score
from tiny_models import llama, policy_of
from tiny_pairs import PROMPTS, LengthJudge


def source(refresh=1):
    inner = PolicySource(PROMPTS, 3, 0)
    inner = inner if refresh == 1 else DelayedSource(inner, refresh)
    return BufferedSource(inner, JudgeLabels(LengthJudge(), "soft", 0), 0)


def rows(batch):
    return [
        (p.id, tuple(map(tuple, row)), label, *writer)
        for p, row, label, writer in zip(
            batch.prompts, batch.responses, batch.label.tolist(), batch.writer.tolist(), strict=True
        )
    ]


def policies(number):
    return [policy_of(llama(seed=seed)) for seed in range(number)]


def test_the_first_step_learns_from_what_it_drew():
    (policy,) = policies(1)
    drawn = PolicySource(PROMPTS, 3, 0).draw(0, policy)
    batch = source().draw(0, policy)
    assert sorted(map(str, batch.responses)) == sorted(map(str, drawn.responses))


def test_a_step_has_as_many_of_all_that_was_drawn_each_once_with_its_own_writer():
    one, seen, old = source(), set(), 0
    for step, policy in enumerate(policies(6)):
        batch = one.draw(step, policy)
        assert len(batch) == 3
        assert len(one.kept) == 3 * (step + 1)
        fresh = one.kept[3 * step :]
        np.testing.assert_allclose(fresh.writer, score(policy, fresh), rtol=1e-5)
        old += sum(row in seen for row in rows(batch))
        seen |= set(rows(fresh))
        assert len(set(rows(batch))) == 3
        assert set(rows(batch)) <= seen
    assert old > 3, "most of what is learnt from was drawn before"


def test_labels_are_those_of_the_step_that_drew():
    one = source()
    first = rows(one.draw(0, policies(1)[0]))
    one.draw(1, policies(2)[1])
    assert set(first) <= set(rows(one.kept))


def test_it_goes_on_bit_for_bit():
    for refresh in (1, 2):
        every, half = policies(5), source(refresh)
        whole = source(refresh)
        expected = [rows(whole.draw(step, policy)) for step, policy in enumerate(every)]
        for step in range(3):
            half.draw(step, every[step])
        again = source(refresh)
        again.restore(half.state(), every[2])
        assert [rows(again.draw(step, every[step])) for step in (3, 4)] == expected[3:]


def test_its_state_is_read_without_running_anything(tmp_path):
    one = source()
    one.draw(0, policies(1)[0])
    torch.save(one.state(), tmp_path / "state.pt")
    again = source()
    again.restore(torch.load(tmp_path / "state.pt", weights_only=True), policies(1)[0])
    assert rows(again.kept) == rows(one.kept)
    empty = source()
    empty.restore(source().state(), policies(1)[0])
    assert empty.kept is None
