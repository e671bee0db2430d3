"""The keyed sampler: its law is the scored law, and a response depends on nothing but its own names."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from enumeration import laws, log_probability, responses
from goodhart.randomness import uniforms
from goodhart.sampling.keyed import Draws, KeyedSampler, inverse_cdf
from tiny_models import END, MODELS, PAD, llama

PROMPTS = [[2, 3, 4], [5], [6, 7, 8, 9, 10], [11, 12], [13, 14, 15, 2], [3]]
NUMBERS = [71, 5, 2**47, 12, 0, 999]
SEEDS = {"T5": 3}
"""The seeds of models of which some responses end early, where it is not 1."""
some_end_early = pytest.mark.parametrize(
    "model", [pytest.param(make(seed=SEEDS.get(name, 1)), id=name) for name, make in MODELS.items()]
)
on_every_model = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)


def draw(model, prompts=PROMPTS, numbers=NUMBERS, samples=3, *, first=0, seed=0, purpose="test", longest=9, **how):
    sampler = KeyedSampler(how.pop("end", END), PAD, longest, **how)
    return sampler(model, prompts, samples, Draws(seed, purpose, numbers, first))


def written_plainly(model, tokens, number, k):
    """One full forward for each token, the token at which the float64 cumulative law exceeds the keyed uniform."""
    u = uniforms(0, "test", np.array([number]), np.array([k]), 9)[0]
    response = []
    while len(response) < 9 and END not in response:
        law = laws(model, tokens, [*response, 0])[-1].exp()
        response.append(int(np.searchsorted(law.cumsum(0).numpy(), u[len(response)], side="right")))
    return response


@some_end_early
def test_a_response_is_what_one_plain_forward_for_each_token_would_write(model):
    expected = [[written_plainly(model, p, n, k) for k in range(2)] for p, n in zip(PROMPTS, NUMBERS, strict=True)]
    assert draw(model, samples=2) == expected
    alone = draw(model, samples=1)  # here whole rows end early and are left out of the batch
    assert alone == [row[:1] for row in expected]
    assert sum(len(row[0]) < 7 for row in alone) >= 2
    assert max(len(row[0]) for row in alone) == 9


@some_end_early
def test_cutting_the_batch_changes_no_token(model):
    whole = draw(model)
    for batch in (1, 3, 4):
        assert draw(model, batch=batch) == whole
        assert draw(model, samples=1, batch=batch) == [row[:1] for row in whole]


@on_every_model
def test_order_and_company_change_no_token(make):
    model, order = make(), [3, 0, 5, 1, 4, 2]
    found = draw(model, [PROMPTS[i] for i in order], [NUMBERS[i] for i in order])
    whole = draw(model)
    assert found == [whole[i] for i in order]
    assert draw(model, PROMPTS[2:3], NUMBERS[2:3]) == whole[2:3]


@on_every_model
def test_samples_asked_in_pieces_are_the_samples_asked_at_once(make):
    model = make()
    pieces = [draw(model, samples=n, first=f) for f, n in ((0, 1), (1, 3), (4, 1))]
    joined = [[r for piece in pieces for r in piece[i]] for i in range(len(PROMPTS))]
    assert joined == draw(model, samples=5)


@pytest.mark.parametrize("batch", [2, 64])
def test_each_prompt_may_begin_at_a_number_of_its_own(batch):
    model, numbers = llama(), [4, 0, 2, *range(1, len(PROMPTS) - 2)]
    found = draw(model, first=numbers, samples=2, batch=batch)
    assert found == [draw(model, first=first, samples=2)[i] for i, first in enumerate(numbers)]
    assert draw(model, first=[3] * len(PROMPTS), batch=batch) == draw(model, first=3)


def test_a_lower_cap_cuts_the_same_responses():
    model = llama()
    long, short = draw(model), draw(model, longest=4)
    assert short == [[r[:4] for r in row] for row in long]
    assert any(len(r) > 4 for row in long for r in row)


def test_the_end_token_stands_last_or_not_at_all():
    found = [r for row in draw(llama(), samples=20) for r in row]
    assert all(END not in r[:-1] for r in found)
    assert all(len(r) == 9 for r in found if END not in r)
    assert {END in r for r in found} == {True, False}


def test_without_an_end_token_every_response_reaches_the_cap():
    found = draw(llama(), end=99, longest=7)
    assert {len(r) for row in found for r in row} == {7}


def test_seed_purpose_and_prompt_number_all_matter():
    model = llama()
    plain = draw(model)
    assert draw(model) == plain
    assert draw(model, seed=1) != plain
    assert draw(model, purpose="other") != plain
    assert draw(model, numbers=[n + 1 for n in NUMBERS]) != plain


@pytest.mark.parametrize("name", ["absolute", "T5", "BART"])
def test_the_mode_of_the_model_is_left_as_it_was(name):
    model = MODELS[name]()  # it has dropout, which must not reach the samples
    expected = draw(model)
    model.train()
    assert draw(model) == expected
    assert model.training


@pytest.mark.parametrize("name", ["T5", "BART"])
def test_an_encoder_decoder_encodes_once_and_leaves_out_samples_that_have_ended(name):
    model, rows = MODELS[name](seed=3), []
    model.get_encoder().register_forward_hook(lambda *seen: rows.append(-len(seen[-1].last_hidden_state)))
    model.get_output_embeddings().register_forward_hook(lambda *seen: rows.append(len(seen[-1])))
    lengths = [len(r) for row in draw(model, samples=20) for r in row]
    encoded, first, *steps = rows
    assert (encoded, first) == (-len(PROMPTS), len(PROMPTS))
    writing = [sum(length > t for length in lengths) for t in range(1, 9)]
    assert all(n <= fed < n / 0.75 + 1 for n, fed in zip(writing, steps, strict=True))
    assert steps[-1] < steps[0] == 20 * len(PROMPTS)


VOCABULARY, LONGEST, GIVEN = 5, 3, [2, 4]


def counts_of(model, *, repeats, temperature, seed=0):
    sampler = KeyedSampler(END, PAD, LONGEST, temperature=temperature, batch=250)
    found = sampler(model, [GIVEN] * repeats, 10, Draws(seed, "law", list(range(repeats))))
    return Counter(tuple(r) for row in found for r in row)


def fit_of(counts, every, temperature):
    """p-value of the counts under the enumerated law; rare responses are pooled. `every` is (response, its laws)."""
    total = sum(counts.values())
    expected = total * np.exp([log_probability((law / temperature).log_softmax(-1), r) for r, law in every])
    observed = np.array([counts[tuple(r)] for r, _ in every], dtype=float)
    assert observed.sum() == total  # nothing else was written
    rare = expected < 8
    pool = [(observed[rare].sum(), expected[rare].sum())] if rare.any() else []
    both = np.array([*zip(observed[~rare], expected[~rare], strict=True), *pool])
    return chisquare(both[:, 0], both[:, 1] * both[:, 0].sum() / both[:, 1].sum()).pvalue


@on_every_model
def test_frequencies_are_the_enumerated_probabilities(make):
    model = make(vocabulary=VOCABULARY, layers=1, scale=0.3)
    every = [(r, laws(model, GIVEN, r)) for r in responses(VOCABULARY, END, LONGEST)]
    for temperature in (1.0, 0.6):
        counts = counts_of(model, repeats=500, temperature=temperature)
        assert sum(counts.values()) == 5000
        assert fit_of(counts, every, temperature) > 0.01
        assert fit_of(counts, every, temperature * 1.15) < 1e-4  # the test can tell laws apart


def test_the_two_samples_of_a_prompt_are_independent():
    model = llama(vocabulary=VOCABULARY, layers=1, scale=0.3)
    found = KeyedSampler(END, PAD, 1)(model, [GIVEN] * 2000, 2, Draws(0, "law", list(range(2000))))
    joint = np.zeros((2, 2))
    for (a,), (b,) in found:
        joint[int(a > 0), int(b > 0)] += 1
    law = float(laws(model, GIVEN, [0])[0, 0].exp())
    law = np.array([law, 1 - law])
    expected = 2000 * np.outer(law, law)
    assert expected.min() > 5
    assert chisquare(joint.ravel(), expected.ravel() * 2000 / expected.sum()).pvalue > 0.01


@given(st.lists(st.floats(-80, 80, width=32) | st.just(-np.inf), min_size=2, max_size=9), st.floats(0, 1 - 2**-53))
def test_inverse_cdf_takes_the_first_token_whose_cumulative_probability_exceeds_u(logits, u):
    if max(logits) == -np.inf:
        logits[0] = 0.0
    row = torch.tensor([logits])
    token = int(inverse_cdf(row, torch.tensor([u], dtype=torch.float64)))
    probability = row.softmax(-1).double()[0]
    cumulative = probability.cumsum(0)
    assert probability[token] > 0
    assert (float(cumulative[token - 1]) if token else 0.0) <= u * float(cumulative[-1]) < float(cumulative[token])


@pytest.mark.parametrize(
    ("logits", "u", "token"),
    [
        ([-np.inf, 0.0, 0.0], 0.0, 1),
        ([0.0, -np.inf, 0.0], 0.5, 2),
        ([0.0, 0.0, -np.inf], 1 - 2**-53, 1),
        ([0.0, 0.0], 0.5, 1),
        ([0.0, 0.0], 0.5 - 2**-53, 0),
    ],
)
def test_inverse_cdf_at_its_edges(logits, u, token):
    assert inverse_cdf(torch.tensor([logits]), torch.tensor([u], dtype=torch.float64)).tolist() == [token]
