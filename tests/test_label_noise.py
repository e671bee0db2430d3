"""Label noise: a coin for each pair."""

import numpy as np
import pytest
from scipy.stats import binomtest

from goodhart.alignment.batch import Batch
from goodhart.randomness import stream
from goodhart.recipes.labels import flipped
from tiny_models import prompt

SIZE = 1000
LABEL = stream(0, "test/labels").random(SIZE)
PAIRS = Batch.of_pairs([prompt(i, 2) for i in range(SIZE)], [[i] for i in range(SIZE)], [[0]] * SIZE, LABEL)


def exchanged(probability, split="train"):
    found = flipped(PAIRS, probability, split).label
    turned = found != LABEL
    np.testing.assert_allclose(found[turned], 1 - LABEL[turned])
    return turned


@pytest.mark.parametrize("probability", [0.1, 0.4])
def test_labels_are_exchanged_at_the_given_rate(probability):
    assert binomtest(int(exchanged(probability).sum()), SIZE, probability).pvalue > 0.01


def test_without_noise_every_label_stays():
    assert not exchanged(0.0).any()


def test_the_coin_is_the_pairs_own():
    """So another number or order of labels gives a pair no other label, and more noise keeps what was turned."""
    order = stream(0, "test/order").permutation(SIZE)[:300]
    some = flipped(PAIRS.take(order.tolist()), 0.4, "train")
    np.testing.assert_array_equal(some.label, flipped(PAIRS, 0.4, "train").label[order])
    assert some.responses == PAIRS.take(order.tolist()).responses
    assert exchanged(0.4)[exchanged(0.1)].all()


def test_two_pairs_of_one_prompt_have_two_coins():
    pairs = Batch.of_pairs(
        [prompt(i // 2, 2) for i in range(SIZE)], [[i] for i in range(SIZE)], [[0]] * SIZE, np.ones(SIZE)
    )
    found = flipped(pairs, 0.5, "train").label.reshape(-1, 2)
    assert 0.4 < (found[:, 0] != found[:, 1]).mean() < 0.6
    once = pairs.take(range(0, SIZE, 2))
    np.testing.assert_array_equal(flipped(once, 0.5, "train").label, found[:, 0])


def test_coins_of_prompts_that_are_distinct_are_the_recorded_ones():
    pairs = Batch.of_pairs([prompt(i, 2) for i in range(12)], [[5]] * 12, [[6]] * 12, np.ones(12))
    assert flipped(pairs, 0.5, "train").label.tolist() == [0, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0]


def test_splits_have_coins_of_their_own():
    assert 0.4 < (exchanged(0.4) != exchanged(0.4, "validation")).mean() < 0.56  # 2 p (1 - p) = 0.48
