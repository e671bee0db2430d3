"""The geometric mixture of two policies: its ends, its law by enumeration, and what sampling leaves alone."""

import numpy as np
import pytest
import torch

from enumeration import responses
from goodhart.sampling.mixture import Mixture
from tiny_models import END, bart, llama, plain_logits, policy_of, prompt, t5

PROMPTS = [prompt(i, *tokens) for i, tokens in enumerate([[2, 3], [4], [5, 2, 3]])]


def two(make=llama, **how):
    return policy_of(make(seed=1, **how), max_tokens=4), policy_of(make(seed=2, **how), max_tokens=4)


def drawn(writer, samples=6):
    return writer.sample(PROMPTS, samples, seed=0, purpose="mixture", first_sample=[0, 3, 5])


def by_hand(policy, reference, share, given, written):
    """log of the mixture's probability, one plain forward of each model."""
    with torch.no_grad():
        logits = [plain_logits(each.model, list(given), list(written)).double() for each in (policy, reference)]
    laws = ((1 - share) * logits[0] + share * logits[1]).log_softmax(-1)
    return float(laws.gather(1, torch.tensor(written)[:, None]).sum())


@pytest.mark.parametrize("make", [llama, t5, bart])
def test_its_ends_are_the_policy_and_the_reference(make):
    policy, reference = two(make)
    assert drawn(Mixture(policy, lambda: reference, 0.0)) == drawn(policy)
    assert drawn(Mixture(policy, lambda: reference, 1.0)) == drawn(reference)
    assert drawn(policy) != drawn(reference)


@pytest.mark.parametrize("make", [llama, t5])
def test_scores_are_of_the_weighted_logits(make):
    policy, reference = two(make)
    mixture = Mixture(policy, lambda: reference, 0.3)
    written = drawn(mixture, samples=2)
    found = mixture.log_probs([p.tokens for p in PROMPTS], written)
    expected = [
        [by_hand(policy, reference, 0.3, p.tokens, r) for r in row] for p, row in zip(PROMPTS, written, strict=True)
    ]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-4)
    assert not found.requires_grad


def test_it_samples_by_the_law_that_it_scores_by():
    policy, reference = (policy_of(llama(seed=s, vocabulary=4, scale=0.8), max_tokens=2, end=3) for s in (1, 2))
    mixture = Mixture(policy, lambda: reference, 0.4)
    every = [each for each in responses(4, 3, 2) if each]
    chance = np.exp([by_hand(policy, reference, 0.4, (2, 1), each) for each in every])
    assert chance.sum() == pytest.approx(1.0, abs=1e-6)
    (rows,) = mixture.sample([prompt(9, 2, 1)], 4000, seed=0, purpose="law", first_sample=0)
    counts = np.array([sum(row == each for row in rows) for each in every])
    assert counts.sum() == 4000
    distance = np.abs(counts / 4000 - chance).sum() / 2
    assert distance < 0.03
    alone = np.exp([by_hand(policy, reference, 0.0, (2, 1), each) for each in every])
    assert np.abs(alone - chance).sum() / 2 > 0.06, "the mixture is another law than the policy's"


def test_sampling_leaves_the_models_as_they_were():
    policy, reference = two()
    policy.model.train()
    reference.model.eval()
    drawn(Mixture(policy, lambda: reference, 0.5))
    assert policy.model.training
    assert not reference.model.training


def test_a_sample_does_not_depend_on_how_prompts_are_cut():
    policy, reference = two()
    small = policy_of(policy.model, max_tokens=4, batch=1)
    whole, cut = (Mixture(each, lambda: reference, 0.5) for each in (policy, small))
    assert drawn(whole) == drawn(cut)


def test_the_reference_is_asked_anew_each_time():
    policy, reference = two()
    now = [policy]
    mixture = Mixture(policy, lambda: now[0], 1.0)
    assert drawn(mixture) == drawn(policy)
    now[0] = reference
    assert drawn(mixture) == drawn(reference)
    assert any(END in text for row in drawn(mixture) for text in row), "some end before others"
