"""Who writes which response of a policy source, under whose log-probabilities, and what is forced at the beginning."""

from dataclasses import replace

import numpy as np
import pytest

from goodhart.alignment.batch import Batch
from goodhart.alignment.sources import PolicySource
from goodhart.training.alignment import score
from tiny_models import END, llama, policy_of, prompt
from tiny_pairs import DATA

POLICY, OTHER = policy_of(llama(seed=1)), policy_of(llama(seed=2))
KNOWN = replace(DATA, writer=np.arange(10, dtype=np.float64).reshape(5, 2) - 20)


def source(writers, *, data=KNOWN, batch=3, **more):
    return PolicySource(DATA.prompts, batch, 0, writers, {"reference": OTHER}, data, **more)


def rows_of_data(batch):
    """The places in the data of a batch's prompts."""
    places = {p.id: place for place, p in enumerate(DATA.prompts)}
    return [places[p.id] for p in batch.prompts]


def test_each_response_is_of_its_writer():
    batch = source(("policy", "first", "reference", "second")).draw(0, POLICY)
    places = rows_of_data(batch)
    assert [row[1] for row in batch.responses] == [DATA.first[i] for i in places]
    assert [row[3] for row in batch.responses] == [DATA.second[i] for i in places]
    assert [row[0] for row in batch.responses] != [row[2] for row in batch.responses]


def test_log_probabilities_are_those_of_the_writers():
    batch = source(("policy", "first", "reference", "second")).draw(0, POLICY)
    places = rows_of_data(batch)
    assert np.isnan(batch.writer[:, 0]).all(), "the policy's own are its own, now"
    np.testing.assert_array_equal(batch.writer[:, [1, 3]], KNOWN.writer[places])
    alone = Batch(batch.prompts, [[row[2]] for row in batch.responses])
    np.testing.assert_allclose(batch.writer[:, 2], score(OTHER, alone)[:, 0], rtol=1e-6)
    assert batch.writer.dtype == np.float64


def test_people_whose_probabilities_are_not_known_have_none():
    batch = source(("first", "policy"), data=DATA).draw(0, POLICY)
    assert np.isnan(batch.writer).all()


def test_of_the_policy_alone_nothing_is_noted():
    assert source(("policy", "policy")).draw(0, POLICY).writer is None


def test_a_step_over_the_end_of_an_epoch_has_all_that_is_known():
    batch = source(("policy", "reference"), batch=4).draw(1, POLICY)
    assert len(batch) == 4
    assert batch.reward is None
    alone = Batch(batch.prompts, [[row[1]] for row in batch.responses])
    np.testing.assert_allclose(batch.writer[:, 1], score(OTHER, alone)[:, 0], rtol=1e-6)
    forced = source(("policy",), batch=4, prefix=1.0, longest=6).draw(1, POLICY)
    assert len(forced.prefixes) == 4


@pytest.mark.parametrize("tokens", [2, 3, 5])
def test_of_a_text_every_beginning_but_the_whole_is_forced(tokens):
    """h ~ U{1..L-1}."""
    text = [*range(2, 1 + tokens), END]
    prompts = [prompt(i, 5) for i in range(200)]
    data = Batch.of_pairs(prompts, [text] * 200, [[END]] * 200, np.ones(200))
    forced = PolicySource(prompts, 200, 0, ("policy",), data=data, prefix=1.0, longest=6).draw(0, POLICY).prefixes
    assert all(list(each) == text[: len(each)] for each in forced)
    counts = np.bincount([len(each) for each in forced], minlength=tokens + 1)
    assert counts[0] == counts[tokens] == 0
    expected = 200 / (tokens - 1)
    assert (np.abs(counts[1:tokens] - expected) < 4 * expected**0.5 + 1e-9).all()


def test_the_preferred_response_begins_and_a_share_of_prompts_has_none():
    prompts = [prompt(i, 5) for i in range(200)]
    data = Batch.of_pairs(prompts, [[2, 3, END]] * 200, [[7, 8, END]] * 200, np.tile([1.0, 0.0, 0.5, 0.7], 50))
    forced = PolicySource(prompts, 200, 0, ("policy",), data=data, prefix=0.4, longest=6).draw(0, POLICY)
    label = {p.id: value for p, value in zip(prompts, data.label, strict=True)}
    begun = [(label[p.id], each[0]) for p, each in zip(forced.prompts, forced.prefixes, strict=True) if each]
    assert {first for value, first in begun if value < 0.5} == {7}
    assert {first for value, first in begun if value >= 0.5} == {2}, "of a tie the first"
    assert 0.25 < len(begun) / 200 < 0.55


def test_a_text_of_one_token_forces_nothing():
    data = Batch.of_pairs([prompt(0, 5)], [[END]], [[2, END]], np.ones(1))
    forced = PolicySource(data.prompts, 1, 0, ("policy",), data=data, prefix=1.0, longest=6).draw(0, POLICY)
    assert forced.prefixes == [[]]


def test_what_is_written_stands_behind_what_is_forced():
    forced = source(("policy",), batch=5, prefix=1.0, longest=6).draw(0, POLICY)
    asked = [replace(p, tokens=(*p.tokens, *prefix)) for p, prefix in zip(forced.prompts, forced.prefixes, strict=True)]
    alone = POLICY.sample(asked, 1, seed=0, purpose="online pair", first_sample=[0] * 5)
    rest = [row[0][: 6 - len(prefix)] for row, prefix in zip(alone, forced.prefixes, strict=True)]
    assert [row[0] for row in forced.responses] == rest
    plain = POLICY.sample(forced.prompts, 1, seed=0, purpose="online pair", first_sample=[0] * 5)
    assert [row[0] for row in plain] != [row[0] for row in alone]
