"""The inverse CDF on vocabularies of several blocks of 64 tokens, and what is counted of sampling, by hand."""

import numpy as np
import pytest
import torch

from goodhart.randomness import stream
from goodhart.sampling import keyed
from goodhart.sampling.keyed import Draws, KeyedSampler, inverse_cdf
from tiny_models import PAD, llama


def token(logits, u):
    return int(inverse_cdf(torch.tensor([logits]), torch.tensor([u], dtype=torch.float64)))


@pytest.mark.parametrize("size", [63, 64, 65, 128, 200, 1000])
def test_tokens_of_equal_probability_are_counted_off(size):
    for place in (0, 1, 62, 63, 64, 127, 128, size - 1):
        if place < size:
            assert token([0.0] * size, (place + 0.5) / size) == place
    assert token([0.0] * size, 1 - 2**-53) == size - 1


def test_on_the_border_of_two_blocks_it_is_the_first_token_of_the_second():
    """128 equal tokens: at one half the sum of the first block is not exceeded, but reached."""
    assert token([0.0] * 128, 0.5) == 64
    assert token([0.0] * 128, 0.5 - 2**-53) == 63


def test_a_block_without_probability_is_never_hit():
    nothing = [-np.inf] * 64
    assert [token([0.0] * 64 + nothing + [0.0] * 64, u) for u in (0.5 - 2**-53, 0.5, 1 - 2**-53)] == [63, 128, 191]
    assert token([0.0] * 64 + nothing, 1 - 2**-53) == 63, "the last token that has a probability"
    assert token([*nothing, -np.inf, 0.0, -np.inf], 1 - 2**-53) == 65


def test_it_is_the_search_in_the_cumulative_law():
    rng = stream(0, "test/inverse cdf")
    logits = rng.normal(size=(40, 300)).astype(np.float32) * 3
    u = rng.random(40)
    weights = np.exp((logits - logits.max(axis=1, keepdims=True)).astype(np.float64))
    cumulative = weights.cumsum(axis=1)
    expected = [int(np.searchsorted(c, v * c[-1], side="right")) for c, v in zip(cumulative, u, strict=True)]
    assert inverse_cdf(torch.from_numpy(logits), torch.from_numpy(u)).tolist() == expected
    assert len({place // 64 for place in expected}) > 3, "several blocks are hit"


def test_large_logits_do_not_overflow_and_all_of_them_may_be_small():
    assert token([1000.0, 1001.0, -1000.0], 0.2) == 0
    assert token([1000.0, 1001.0, -1000.0], 0.3) == 1
    assert token([-1000.0, -999.0], 0.3) == 1


def test_what_is_counted_of_sampling_are_tokens_and_the_columns_that_they_read(monkeypatch):
    """Prompts of 3 and 1 tokens read half of 9 + 1 pairs; then each of two samples reads its prompt and itself."""
    counted = []
    monkeypatch.setattr(keyed, "count", lambda model, *numbers: counted.append(numbers))
    KeyedSampler(99, PAD, 3)(llama(), [[2, 3, 4], [5]], 2, Draws(0, "count", [0, 1]))
    assert counted == [(4, 2, 5.0), (4, 4, 2 * (3 + 1) + 2 * (1 + 1)), (4, 4, 2 * (3 + 2) + 2 * (1 + 2))]
