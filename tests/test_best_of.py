"""Best-of-n against the enumeration of all subsets, and its KL against the exact one of a finite world."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from goodhart.evaluation.best_of import best_of_n, kl_of_best
from goodhart.randomness import stream


def enumerated(scores, values, n):
    """The mean over all subsets of n of the value of their best; samples that are equally good share it."""
    found = []
    for subset in itertools.combinations(range(len(scores)), n):
        top = max(scores[i] for i in subset)
        found.append(np.mean([values[i] for i in subset if scores[i] == top]))
    return float(np.mean(found))


rows = st.integers(1, 7).flatmap(
    lambda size: st.lists(
        st.lists(st.tuples(st.integers(0, 3), st.floats(-2, 2)), min_size=size, max_size=size), min_size=1, max_size=3
    )
)


@given(rows, st.data())
def test_it_is_the_mean_over_all_subsets_also_where_scores_are_tied(table, data):
    n = data.draw(st.integers(1, len(table[0])))
    score = np.array([[float(s) for s, _ in row] for row in table])
    value = np.array([[v for _, v in row] for row in table])
    expected = [enumerated(s, v, n) for s, v in zip(score, value, strict=True)]
    np.testing.assert_allclose(best_of_n(score, value, n), expected, rtol=1e-9, atol=1e-9)


def test_the_best_of_one_is_the_mean_and_of_all_the_best():
    rng = stream(0, "test/best of n")
    score, value = rng.normal(size=(5, 9)), rng.normal(size=(5, 9))
    np.testing.assert_allclose(best_of_n(score, value, 1), value.mean(axis=1))
    np.testing.assert_allclose(best_of_n(score, value, 9), value[np.arange(5), score.argmax(axis=1)])


def test_more_samples_never_lower_the_score_that_picks():
    score = stream(0, "test/more samples").normal(size=(4, 12))
    found = np.stack([best_of_n(score, score, n) for n in range(1, 13)])
    assert (np.diff(found, axis=0) > 0).all()


def test_the_order_of_the_samples_does_not_matter():
    rng = stream(0, "test/order")
    score, value = rng.integers(0, 4, (3, 8)).astype(float), rng.normal(size=(3, 8))
    order = rng.permutation(8)
    np.testing.assert_allclose(best_of_n(score[:, order], value[:, order], 3), best_of_n(score, value, 3))


@pytest.mark.parametrize("n", [0, -1, 5])
def test_no_more_can_be_taken_than_there_are(n):
    with pytest.raises(ValueError, match=f"best of {n} cannot be estimated from 4"):
        best_of_n(np.ones((2, 4)), np.ones((2, 4)), n)


def exact_kl(n, outcomes):
    """KL of the best of n from a uniform law over so many outcomes, no two equally good."""
    edges = (np.arange(outcomes + 1) / outcomes) ** n
    law = np.diff(edges)
    law = law[law > 0]
    return float((law * np.log(law * outcomes)).sum())


@pytest.mark.parametrize("n", [2, 3, 8, 16])
def test_the_kl_bounds_that_of_a_finite_world_and_is_its_limit(n):
    found = [exact_kl(n, outcomes) for outcomes in (2, 10, 100, 4000)]
    assert all(kl <= kl_of_best(n) for kl in found)
    assert found == sorted(found)
    assert found[-1] == pytest.approx(kl_of_best(n), abs=1e-5)
    assert found[0] < kl_of_best(n) - 0.01
    assert found[0] < math.log(2)


def test_one_sample_is_the_policy_itself():
    assert kl_of_best(1) == 0.0
