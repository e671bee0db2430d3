"""A policy that labels its own responses: the price of length, best and worst, rounds and what they remember."""

import numpy as np
import pytest
import torch

from goodhart.alignment.self_labelled import SelfLabelledSource, best_and_worst, price_of_length
from goodhart.alignment.sources import PolicySource
from tiny_models import llama, policy_of
from tiny_pairs import PROMPTS


def test_of_equals_the_earlier_is_the_best_and_the_later_the_worst():
    best, worst = best_and_worst(np.array([[1.0, 2.0, 2.0, 1.0], [3.0, 3.0, 3.0, 3.0]]))
    assert (best.tolist(), worst.tolist()) == ([1, 0], [3, 3])


def test_the_price_of_length_makes_both_equally_long():
    """By the bare ratio the longer wins; at a tenth of a nat for a character another response does."""
    ratio, length = np.array([[3.0, 2.5, 0.0]]), np.array([[40.0, 20.0, 20.0]])
    assert price_of_length(ratio, length) == pytest.approx(0.026)
    best, worst = best_and_worst(ratio - 0.026 * length)
    assert length[0, best[0]] == length[0, worst[0]]
    assert price_of_length(ratio, np.full((1, 3), 7.0)) == 0.0, "nothing is paid where it buys nothing"


def test_the_order_does_not_depend_on_the_scale_of_what_is_priced():
    rng = np.random.default_rng(0)
    ratio, length = rng.normal(size=(6, 4)), rng.integers(1, 30, size=(6, 4)).astype(float)
    for factor in (0.5, 2.0):
        scaled = [best_and_worst(factor * (ratio - 0.05 * length)), best_and_worst(ratio - 0.05 * length)]
        np.testing.assert_array_equal(scaled[0], scaled[1])


def source(steps=2, samples=4):
    return SelfLabelledSource(
        PolicySource(PROMPTS, 3, 0, ("policy",) * samples),
        steps,
        policy_of(llama(seed=3)),
        lambda row: [len(r) for r in row],
    )


def test_a_round_is_scored_by_what_the_last_one_changed():
    now, first = policy_of(llama(seed=1)), policy_of(llama(seed=3))
    own = source()
    batch = own.draw(0, now)
    drawn = PolicySource(PROMPTS, 3, 0, ("policy",) * 4).draw(0, now)
    with torch.no_grad():
        logps = now.log_probs(drawn.contexts, drawn.responses).double().numpy()
        ratio = logps - first.log_probs(drawn.contexts, drawn.responses).double().numpy()
    best, worst = best_and_worst(ratio - own.price * drawn.lengths)
    for i, row in enumerate(batch.responses):
        assert row == [drawn.responses[i][best[i]], drawn.responses[i][worst[i]]]
        np.testing.assert_allclose(batch.writer[i], logps[i, [best[i], worst[i]]], rtol=1e-6)
    assert set(batch.label) <= {0.5, 1.0}


def test_the_next_round_is_compared_with_the_one_before():
    one, two = policy_of(llama(seed=1)), policy_of(llama(seed=2))
    own = source()
    for step in (0, 1):
        own.draw(step, one)
    own.draw(2, two)
    for held, policy in ((own.held, two), (own.lagged, one)):
        for mine, theirs in zip(held.parameters(), policy.parameters(), strict=True):
            assert torch.equal(mine, theirs)


def test_a_policy_that_did_not_move_prefers_the_shortest_where_length_has_a_price():
    score = 0.0 - 0.1 * np.array([[5.0, 3.0, 9.0]])
    best, worst = best_and_worst(score)
    assert (best[0], worst[0]) == (1, 2)


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_round_goes_on_where_it_was(stop):
    policies = [policy_of(llama(seed=k)) for k in range(4)]
    whole, before, after = source(), source(), source()
    expected = [whole.draw(step, policies[step]) for step in range(4)]
    for step in range(stop):
        before.draw(step, policies[step])
    after.restore(before.state(), policies[stop])
    for step in range(stop, 4):
        found = after.draw(step, policies[step])
        assert found.responses == expected[step].responses
        np.testing.assert_array_equal(found.writer, expected[step].writer)
