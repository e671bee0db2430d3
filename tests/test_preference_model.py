"""Preference models: both orders, no dependence on padding or batch, round trips; and how they are fitted."""

import copy

import numpy as np
import pytest
import torch

from goodhart.alignment.batch import Batch
from goodhart.alignment.judge import ModelJudge
from goodhart.alignment.labellers import both_orders
from goodhart.models.preference import PreferenceModel
from goodhart.training.preference import fit, judge_quality
from goodhart.training.settings import Optimisation, Preference
from tiny_models import bart, llama, naive_logp, plain_states, prompt, t5

SEPARATOR, PAD = 15, 0
PROMPTS = [[2, 3, 4], [5], [6, 7, 8, 9]]
FIRST = [[10, 11, 1], [12, 1], [13]]
SECOND = [[2, 1], [3, 4, 5, 6, 1], [7, 8]]
KINDS = ["pairwise", "bradley-terry"]
every_kind = pytest.mark.parametrize("kind", KINDS)
READERS = {
    "shared prompt": llama,
    "plain": llama,
    "encoder-decoder": t5,
    "encoder-decoder, absolute positions": bart,
}
every_reader = pytest.mark.parametrize("reader", READERS)


def judge(kind, reader="shared prompt", *, head=0.3):
    """A model whose head is drawn with the spread `head`; 0 makes it undecided about everything."""
    model = PreferenceModel(READERS[reader](), kind, SEPARATOR, PAD, reader.partition(",")[0])
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        model.head.weight.copy_(head * torch.randn(model.head.weight.shape, generator=draw))
        model.head.bias.fill_(head)
    return model.eval()


def read_logp(model, prompt, before, text):
    """log p(text | prompt, what stands between them); the separator makes an empty text readable too."""
    return naive_logp(model.language_model, prompt, [*before, *text, SEPARATOR])[len(before) : -1].sum()


def features(model, prompt, before, text):
    """State at the separator, mean log p(text | before), mean log p(text | no prompt), their gap / 10, length / 10."""
    state = plain_states(model.language_model, prompt, [*before, *text, SEPARATOR])[-1]
    read, bare = read_logp(model, prompt, before, text), read_logp(model, [prompt[0], prompt[-1]], [], text)
    count = max(1, len(text))
    numbers = torch.tensor([read / count, bare / count, (read - bare) / 10, len(text) / 10])
    return torch.cat([state, numbers])


def by_hand(model, prompt, first, second):
    """The logit from plain forwards of one sequence each."""
    if model.kind == "bradley-terry":
        scores = [model.head(features(model, prompt, [], response)) for response in (first, second)]
        return float(scores[0] - scores[1])
    both = torch.cat([features(model, prompt, [], first), features(model, prompt, [*first, SEPARATOR], second)])
    return float(model.head(both))


@every_kind
@every_reader
@torch.no_grad()
def test_both_orders_are_two_plain_readings(kind, reader):
    model = judge(kind, reader)
    found = model.both(PROMPTS, FIRST, SECOND)
    rows = list(zip(PROMPTS, FIRST, SECOND, strict=True))
    expected = torch.tensor([[by_hand(model, p, a, b), by_hand(model, p, b, a)] for p, a, b in rows])
    assert expected.abs().min() > 0.01
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model.logits(PROMPTS, FIRST, SECOND), found[:, 0])
    torch.testing.assert_close(model.logits(PROMPTS, SECOND, FIRST), found[:, 1], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_bradley_terry_is_antisymmetric_and_the_pairwise_kind_need_not_be():
    sums = {kind: judge(kind).both(PROMPTS, FIRST, SECOND).sum(1) for kind in KINDS}
    assert sums["bradley-terry"].tolist() == [0, 0, 0]
    assert sums["pairwise"].abs().min() > 0.01


@every_kind
@every_reader
@torch.no_grad()
def test_several_opponents_are_judged_as_each_alone(kind, reader):
    model = judge(kind, reader)
    others = [SECOND, FIRST, [[4, 4, 1]] * 3]
    found = model.against(PROMPTS, FIRST, others)
    assert found.shape == (3, 3, 2)
    for j, opponents in enumerate(others):
        torch.testing.assert_close(found[:, j], model.both(PROMPTS, FIRST, opponents), rtol=1e-4, atol=1e-4)
    judging = ModelJudge(model, batch=2)
    known = judging.alone(PROMPTS, others)
    assert known.shape == (3, 3)
    for r in (judging.prefer_each(PROMPTS, FIRST, others), judging.prefer_each(PROMPTS, FIRST, others, known)):
        np.testing.assert_allclose(r, found.sigmoid().numpy(), rtol=1e-4, atol=1e-5)
    shifted = judging.prefer_each(PROMPTS, FIRST, others, known + 1)
    assert np.median(np.abs(shifted / found.sigmoid().numpy() - 1)) > 0.1


@every_kind
@every_reader
@torch.no_grad()
def test_padding_batch_and_company_change_nothing(kind, reader):
    model = judge(kind, reader)
    whole = model.both(PROMPTS, FIRST, SECOND)
    for i in range(3):
        alone = model.both(PROMPTS[i : i + 1], FIRST[i : i + 1], SECOND[i : i + 1])
        torch.testing.assert_close(alone[0], whole[i], rtol=1e-4, atol=1e-4)
    long = model.both([[3] * 12, *PROMPTS], [[4] * 9, *FIRST], [[5] * 14, *SECOND])
    torch.testing.assert_close(long[1:], whole, rtol=1e-4, atol=1e-4)


@every_kind
@every_reader
@torch.no_grad()
def test_empty_responses_are_judged_too(kind, reader):
    model = judge(kind, reader)
    found = model.both([[2, 3], [4]], [[], []], [[5], []])
    assert float(found[0, 0]) == pytest.approx(by_hand(model, [2, 3], [], [5]), abs=1e-4)
    assert float(found[1, 0]) == pytest.approx(float(found[1, 1]), abs=1e-5)


@every_kind
@every_reader
def test_what_is_saved_is_what_is_loaded(kind, reader, tmp_path):
    model = judge(kind, reader)
    model.save(tmp_path)
    again = PreferenceModel.load(tmp_path)
    assert (again.kind, again.separator, again.pad, again.layout) == (kind, SEPARATOR, PAD, model.layout)
    assert type(again.language_model) is type(model.language_model)
    assert not any(module.training for module in again.modules())
    with torch.no_grad():
        assert torch.equal(again.both(PROMPTS, FIRST, SECOND), model.both(PROMPTS, FIRST, SECOND))


@every_kind
@pytest.mark.parametrize(("make", "layout"), [(llama, "plain"), (t5, "encoder-decoder")], ids=["causal", "T5"])
@torch.no_grad()
def test_it_starts_as_the_language_models_own_judgement(kind, make, layout, tmp_path):
    """log p(y1|x) / p(y1) - log p(y2|x) / p(y2), a tenth of it; the pairwise kind reads y2 behind y1."""
    language_model = make()
    language_model.save_pretrained(tmp_path)
    model = PreferenceModel.from_language_model(tmp_path, kind, SEPARATOR, PAD, layout)
    for own, other in zip(model.language_model.parameters(), language_model.parameters(), strict=True):
        assert torch.equal(own, other)
    found = model.logits(PROMPTS, FIRST, SECOND)
    for logit, given, one, two in zip(found.tolist(), PROMPTS, FIRST, SECOND, strict=True):
        before = [*one, SEPARATOR] if kind == "pairwise" else []
        gaps = [
            float(read_logp(model, given, earlier, text) - read_logp(model, [given[0], given[-1]], [], text))
            for earlier, text in (([], one), (before, two))
        ]
        assert logit == pytest.approx((gaps[0] - gaps[1]) / 10, abs=1e-5)
        # relative attention cannot tell one token from the same token twice, which is the frame of a prompt of one
        assert abs(logit) > 1e-3 or len(given) == 1


@every_kind
def test_a_head_of_zeros_calls_every_pair_a_tie(kind):
    r = ModelJudge(judge(kind, head=0)).prefer(pairs())
    assert r.tolist() == [[0.5, 0.5]] * 3
    assert both_orders(r, "hard").tolist() == [0.5] * 3


def pairs(label=None):
    prompts = [prompt(i, *p) for i, p in enumerate(PROMPTS)]
    return Batch.of_pairs(prompts, FIRST, SECOND, label)


@every_kind
def test_a_judge_asks_in_batches_and_gives_probabilities(kind):
    model = judge(kind)
    r = ModelJudge(model, batch=2).prefer(pairs())
    with torch.no_grad():
        expected = model.both(PROMPTS, FIRST, SECOND).sigmoid().numpy()
    np.testing.assert_allclose(r, expected, rtol=1e-4, atol=1e-5)
    assert ModelJudge(model).prefer(pairs()[:0]).shape == (0, 2)


@every_kind
def test_an_undecided_model_has_the_quality_of_a_coin(kind):
    found, agreed = judge_quality(judge(kind, head=0), pairs(np.array([1.0, 0.0, 1.0])))
    assert (found.pairs, found.loss, found.accuracy, found.flips) == (3, pytest.approx(np.log(2)), 0.5, 0.0)
    assert agreed.tolist() == [0.5] * 3


def test_the_loss_is_the_likelihood_of_the_labels_in_both_orders():
    model, label = judge("pairwise"), np.array([1.0, 0.0, 0.5])
    r = ModelJudge(model).prefer(pairs())
    found, agreed = judge_quality(model, pairs(label))
    by_label = [
        -(label[i] * np.log(r[i, 0] * (1 - r[i, 1])) + (1 - label[i]) * np.log((1 - r[i, 0]) * r[i, 1])) / 2
        for i in range(3)
    ]
    assert found.loss == pytest.approx(np.mean(by_label))
    verdicts = both_orders(r, "hard")
    assert agreed.tolist() == [verdicts[0], 1 - verdicts[1], 0.5]
    assert found.accuracy == pytest.approx(agreed.mean())
    same_side = (r[:, 0] > 0.5) == (r[:, 1] > 0.5)
    assert found.flips == pytest.approx(same_side.mean())


@every_kind
def test_a_response_ties_with_itself(kind):
    """Rounding differs between the two readings, and the sign over both orders would call it a win."""
    draw = np.random.default_rng(0)
    texts = [draw.integers(2, 14, draw.integers(1, 7)).tolist() for _ in range(60)]
    prompts = [draw.integers(2, 14, draw.integers(1, 9)).tolist() for _ in range(60)]
    others = [[*text, 1] for text in texts]
    r = ModelJudge(judge(kind)).prefer_each(prompts, texts, [others, texts])
    assert both_orders(r[:, 1], "hard").tolist() == [0.5] * 60
    assert 0.5 not in both_orders(r[:, 0], "hard")


def test_a_bradley_terry_model_never_flips():
    assert judge_quality(judge("bradley-terry"), pairs(np.ones(3)))[0].flips == 0


def task(size, seed):
    """The response that holds token 9 is the better one; it always stands first."""
    draw = np.random.default_rng(seed)
    prompts = [prompt(1000 * seed + i, *draw.integers(2, 8, 3).tolist()) for i in range(size)]
    rest = draw.integers(2, 8, (size, 2, 2))
    return Batch.of_pairs(
        prompts, [[9, *r[0].tolist(), 1] for r in rest], [[8, *r[1].tolist(), 1] for r in rest], np.ones(size)
    )


def settings(**changes):
    optimisation = Optimisation(lr=changes.pop("lr", 1e-2), warmup=2, micro_batch=changes.pop("micro_batch", 0))
    return Preference(
        **{"steps": 30, "batch": 16, "check_every": 10, "head_factor": 1.0, "optimisation": optimisation, **changes}
    )


@every_kind
@pytest.mark.parametrize("reader", ["shared prompt", "encoder-decoder"])
def test_it_learns_what_is_easy(kind, reader):
    model = judge(kind, reader, head=0)
    said = []
    looks = fit(model, task(64, 1), task(40, 2), settings(), seed=0, say=said.append)
    assert looks[0]["accuracy"] == 0.5
    assert looks[-1]["accuracy"] > 0.9
    assert [look["step"] for look in looks] == [0, 10, 20, 30]
    assert [s["step"] for s in said if "accuracy" not in s] == list(range(1, 31))


def test_the_order_in_which_a_pair_is_given_teaches_nothing():
    """Both orders stand in the batch, so a set that is turned round, labels too, gives the same model."""
    models = [judge("pairwise", head=0) for _ in range(2)]
    for model, data in zip(models, (task(32, 1), task(32, 1).swapped()), strict=True):
        fit(model, data, task(8, 2), settings(steps=4), seed=0, say=lambda _: None)
    for own, other in zip(*(m.parameters() for m in models), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-3, atol=1e-4)


def test_the_loss_said_is_that_of_the_batch_in_both_orders():
    model, data, said = judge("pairwise"), task(16, 1), []
    before = judge_quality(model, data)[0].loss
    fit(model, data, task(8, 2), settings(steps=1, batch=16), seed=0, say=said.append)
    assert said[0]["loss"] == pytest.approx(before, rel=1e-4)


def test_accumulation_does_not_change_the_fit():
    models = [judge("pairwise", head=0) for _ in range(2)]
    for model, micro in zip(models, (0, 5), strict=True):
        fit(model, task(32, 1), task(8, 2), settings(steps=4, micro_batch=micro), seed=0, say=lambda _: None)
    for own, other in zip(*(m.parameters() for m in models), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-3, atol=1e-4)


def test_dropout_has_no_part_in_the_fit():
    """It would draw from a generator that no key decides, and a repeated fit would be another one."""
    models = [judge("pairwise", "encoder-decoder", head=0) for _ in range(2)]
    assert models[0].language_model.config.dropout_rate > 0
    for model in models:
        fit(model, task(16, 1), task(8, 2), settings(steps=2), seed=0, say=lambda _: None)
    for own, other in zip(*(m.parameters() for m in models), strict=True):
        assert torch.equal(own, other)


def relabelled(data, label):
    return Batch.of_pairs(data.prompts, data.first, data.second, label)


def test_it_stops_by_patience_and_keeps_the_weights_of_the_lowest_validation_loss():
    model = judge("pairwise", head=0)
    start = copy.deepcopy(model.state_dict())
    opposite = relabelled(task(24, 2), np.zeros(24))
    looks = fit(model, task(64, 1), opposite, settings(check_every=3), seed=0, say=lambda _: None)
    assert [look["step"] for look in looks] == [0, 3, 6]
    assert looks[1]["loss"] > looks[0]["loss"]
    assert all(torch.equal(value, start[name]) for name, value in model.state_dict().items())
    assert not model.training


def test_the_best_look_may_stand_in_the_middle():
    """A quarter of the validation labels contradict what is learnt, so ever more certainty makes the loss rise."""
    model = judge("pairwise", head=0)
    validation = relabelled(task(24, 2), np.where(np.arange(24) % 4, 1.0, 0.0))
    looks = fit(model, task(64, 1), validation, settings(check_every=2, patience=3), seed=0, say=lambda _: None)
    losses = [look["loss"] for look in looks]
    best = int(np.argmin(losses))
    assert 0 < best == len(losses) - 4
    assert judge_quality(model, validation)[0].loss == pytest.approx(losses[best], rel=1e-6)
