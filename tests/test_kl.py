"""The exact KL against enumeration of every response of a tiny model."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from enumeration import laws, log_probability, responses
from goodhart.evaluation.kl import divergence, token_kl
from tiny_models import MODELS, llama, policy_of

VOCABULARY, LONGEST, PROMPT = 5, 3, [2, 4, 3]
EVERY = responses(VOCABULARY, 1, LONGEST)


@pytest.fixture(scope="module", params=MODELS.values(), ids=MODELS)
def measured(request):
    """(policy model, its laws and the reference model's, every response measured, their probabilities)."""
    own, other = (request.param(vocabulary=VOCABULARY, seed=seed, layers=1) for seed in (0, 1))
    found = divergence(policy_of(own), policy_of(other), [PROMPT] * len(EVERY), [[text] for text in EVERY])
    p, q = ([laws(model, PROMPT, r) for r in EVERY] for model in (own, other))
    probability = np.exp(log_probabilities(p))
    assert probability.sum() == pytest.approx(1, abs=1e-6)
    return own, p, q, found, probability


def log_probabilities(every_law):
    return np.array([log_probability(law, r) for law, r in zip(every_law, EVERY, strict=True)])


def test_its_mean_is_the_kl_of_the_sequences(measured):
    _, p, q, found, probability = measured
    exact = probability @ (log_probabilities(p) - log_probabilities(q))
    assert exact > 0.2
    assert probability @ found.kl == pytest.approx(exact, rel=1e-5)


def test_it_is_the_sum_of_the_categorical_kls_along_the_response(measured):
    _, every_p, every_q, found, _ = measured
    for p, q, value in zip(every_p, every_q, found.kl, strict=True):
        assert value == pytest.approx(float((p.exp() * (p - q)).sum()), rel=1e-4, abs=1e-5)


def test_log_probabilities_are_those_of_enumeration(measured):
    _, p, q, found, _ = measured
    np.testing.assert_allclose(found.logp, log_probabilities(p), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.ref_logp, log_probabilities(q), rtol=1e-5, atol=1e-5)


def test_entropy_times_length_has_the_entropy_of_the_sequences_as_its_mean(measured):
    *_, found, probability = measured
    lengths = np.array([len(r) for r in EVERY])
    exact = -(probability * np.log(probability)).sum()
    assert probability @ (found.entropy * lengths) == pytest.approx(exact, rel=1e-5)


def test_it_is_zero_at_the_reference(measured):
    own = measured[0]
    found = divergence(policy_of(own), policy_of(own), [PROMPT] * len(EVERY), [[text] for text in EVERY])
    assert not found.kl.any()
    np.testing.assert_array_equal(found.logp, found.ref_logp)


def test_it_does_not_depend_on_batches_padding_or_company():
    own, other = llama(), llama(seed=1)
    prompts, texts = [[2, 3], [4], [5, 6, 7, 8]] * 3, [[9, 1], [10, 11, 12, 1], [1]] * 3
    whole = divergence(policy_of(own), policy_of(other), prompts, [[text] for text in texts])
    single = divergence(policy_of(own), policy_of(other), prompts, [[text] for text in texts], batch=1)
    together = divergence(policy_of(own), policy_of(other), prompts[:3], [list(both) for both in pairwise(texts[:4])])
    np.testing.assert_allclose(together.kl[::2], whole.kl[:3], rtol=1e-4, atol=1e-5)
    assert whole.kl.min() > 0
    for name in ("kl", "entropy", "logp", "ref_logp"):
        np.testing.assert_allclose(getattr(whole, name), getattr(single, name), rtol=1e-4, atol=1e-5)


finite = st.lists(st.floats(-30, 30), min_size=4, max_size=4)


@given(finite, finite)
def test_token_kl_is_not_negative_and_is_the_sum_by_hand(first, second):
    p, q = (torch.tensor(x, dtype=torch.float64).log_softmax(-1) for x in (first, second))
    by_hand = sum(float(a.exp() * (a - b)) for a, b in zip(p, q, strict=True))
    assert float(token_kl(p, q)) == pytest.approx(by_hand, rel=1e-9, abs=1e-12)
    assert float(token_kl(p, q)) >= -1e-12


def test_token_kl_of_a_token_that_the_policy_never_writes_is_zero_there():
    p = torch.tensor([0.0, -torch.inf])
    assert float(token_kl(p, torch.tensor([0.5, 0.5]).log())) == pytest.approx(np.log(2))
    assert float(token_kl(p, p)) == 0
    assert float(token_kl(torch.tensor([0.5, 0.5]).log(), p)) == torch.inf


def test_an_empty_response_has_no_kl_and_no_entropy():
    found = divergence(policy_of(llama()), policy_of(llama(seed=1)), [[2, 3], [4]], [[[]], [[5, 1]]])
    assert (found.kl[0], found.entropy[0], found.logp[0], found.ref_logp[0]) == (0.0, 0.0, 0.0, 0.0)
    assert found.kl[1] > 0
