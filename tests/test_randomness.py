"""Keyed random numbers: functions of their names, uniform, independent."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare, kstest

from goodhart.randomness import key, permutation, stream, uniforms

names = st.integers(0, 2**48 - 1)
rows = st.lists(st.tuples(names, st.integers(0, 10**6)), min_size=1, max_size=8)


def draws(seed, purpose, named, length):
    prompts, samples = (np.array(column, dtype=np.int64) for column in zip(*named, strict=True))
    return uniforms(seed, purpose, prompts, samples, length)


@given(st.integers(0, 2**31), rows, st.integers(0, 20), st.integers(0, 20))
def test_a_longer_row_begins_with_the_shorter_one(seed, named, short, more):
    long = draws(seed, "a", named, short + more)
    np.testing.assert_array_equal(long[:, :short], draws(seed, "a", named, short))
    assert ((long >= 0) & (long < 1)).all()


@given(st.integers(0, 2**31), rows, st.data())
def test_a_row_does_not_depend_on_its_batch(seed, named, data):
    chosen = data.draw(st.permutations(range(len(named))))[: data.draw(st.integers(1, len(named)))]
    whole = draws(seed, "a", named, 5)
    np.testing.assert_array_equal(draws(seed, "a", [named[i] for i in chosen], 5), whole[chosen])


@given(rows)
def test_different_names_give_different_numbers(named):
    (prompt, sample), *_ = named
    variants = [
        draws(seed, purpose, [(prompt + p, sample + s)], 1)[0, 0]
        for seed in (0, 1)
        for purpose in ("a", "b")
        for p in (0, 1)
        for s in (0, 1)
    ]
    assert len(set(variants)) == len(variants)


def test_they_are_uniform_and_uncorrelated_along_every_axis():
    prompts, samples = (grid.ravel() for grid in np.meshgrid(np.arange(60), np.arange(40), indexing="ij"))
    u = uniforms(7, "law", prompts, samples, 16).reshape(60, 40, 16)
    assert kstest(u.ravel(), "uniform").pvalue > 0.01
    for axis in range(3):
        first, second = np.split(np.moveaxis(u, axis, 0)[: u.shape[axis] // 2 * 2], 2)
        cells, *_ = np.histogram2d(first.ravel(), second.ravel(), bins=8, range=[[0, 1], [0, 1]])
        assert chisquare(cells.ravel()).pvalue > 0.01


def test_the_numbers_are_the_same_everywhere():
    """Recorded studies rest on these values."""
    assert key(0, "golden") == 193118016212490343227593535609549345631
    assert draws(3, "golden", [(5, 1)], 2).tolist() == [[0.5194952510455186, 0.720382886005557]]
    assert permutation(6, 3, "golden", 1).tolist() == [5, 1, 0, 4, 3, 2]
    assert stream(3, "golden", "a", 1).random(2).tolist() == [0.8038977332750619, 0.10301307273010107]


def test_ids_are_not_confused():
    spellings = [
        key(0, "p", "a", "b"),
        key(0, "p", "a/b"),
        key(0, "p", "1"),
        key(0, "p", 1),
        key(0, "p/'a'"),
        key(0, "p", "a"),
    ]
    assert len(set(spellings)) == len(spellings)


@given(st.integers(0, 200), st.integers(0, 1000))
def test_a_permutation_is_one_and_is_a_function_of_its_names(size, seed):
    found = permutation(size, seed, "order", 1)
    assert sorted(found.tolist()) == list(range(size))
    np.testing.assert_array_equal(found, permutation(size, seed, "order", 1))


def test_permutations_are_uniform():
    firsts = [tuple(permutation(3, seed, "order")) for seed in range(1800)]
    _, counts = np.unique(firsts, axis=0, return_counts=True)
    assert len(counts) == 6
    assert chisquare(counts).pvalue > 0.01


@pytest.mark.parametrize("seed", [0, 2**70, -1])
def test_any_integer_is_a_seed(seed):
    assert draws(seed, "a", [(0, 0)], 3).shape == (1, 3)
