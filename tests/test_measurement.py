"""What is measured of one checkpoint: rows in the schema's columns, under common random numbers."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from goodhart.alignment.batch import Batch
from goodhart.alignment.judge import ModelJudge
from goodhart.evaluation.checkpoint import Judges, classify, judged, verdicts, written
from goodhart.evaluation.schema import CHECKPOINT, PAIR_ROWS, ROWS
from goodhart.evaluation.verdicts import Opponents, known_of, margins, verdict
from goodhart.models.preference import PreferenceModel
from tiny_models import END, llama, naive_logp, policy_of, prompt

PROMPTS = [prompt(i, *tokens) for i, tokens in enumerate([[2, 3], [4, 5, 6], [7], [8, 9, 10, 11]])]
GOLDEN = [[12, END], [13], [14, END], [2, 3, 4]]
SFT = [[5, 6, END], [END], [7], [8, END]]


MORE_GOLDEN = [[[12, END], [3, END]], [[13], [2]], [[14, END], [9, 9]], [[2, 3, 4], [END]]]
MORE_SFT = [[[5, 6, END], [7]], [[END], [6, 6]], [[7], [END]], [[8, END], [12, 13]]]


def preference_model(seed, kind="pairwise"):
    model = PreferenceModel(llama(seed=seed), kind, 15, 0, "shared prompt").eval()
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        model.head.weight.copy_(torch.randn(model.head.weight.shape, generator=draw))
    return ModelJudge(model)


JUDGES = Judges(golden=preference_model(1, "bradley-terry"), proxy=preference_model(2))


def opposing(judge, prompts, policy, sft):
    """Opponents given as one response, or several, for each prompt."""
    several = [[each if isinstance(each[0], list) else [each] for each in side] for side in (policy, sft)]
    return Opponents(*several, known_of(judge, [p.tokens for p in prompts], *several))


def measured(model, chosen=slice(None), samples=range(1), *, seed=0, hidden=True, golden=GOLDEN, sft=SFT):
    prompts = PROMPTS[chosen]
    rows = written(
        policy_of(model),
        policy_of(llama()),
        prompts,
        samples,
        eos=END,
        decode=lambda tokens: " ".join(map(str, tokens)),
        hidden=(lambda texts: np.array([1 / len(t) for t in texts])) if hidden else None,
        seed=seed,
    )
    tokens = [p.tokens for p in prompts]
    answers = {
        name: judged(judge, tokens, rows["response"], opposing(judge, prompts, golden[chosen], sft[chosen]))
        for name, judge in JUDGES.by_name.items()
    }
    return {**rows, **verdicts(answers)}


def test_a_measurement_has_the_columns_of_the_schema_and_their_meaning():
    model = llama(seed=3)
    rows = measured(model, samples=range(2))
    assert set(rows) == set(ROWS.names) - set(CHECKPOINT) - {"split"}
    sampled = policy_of(model).sample(PROMPTS, 2, seed=0, purpose="evaluation")
    assert rows["response"] == [response for row in sampled for response in row]
    assert rows["prompt"] == [p.id for p in PROMPTS for _ in range(2)]
    assert rows["sample"] == [0, 1] * 4
    for i, response in enumerate(rows["response"]):
        assert rows["tokens"][i] == len(response)
        assert rows["ended"][i] == (END in response)
        assert rows["text"][i] == " ".join(map(str, response))
        assert rows["hidden"][i] == 1 / len(rows["text"][i])
        with torch.no_grad():
            own, other = (float(naive_logp(m, PROMPTS[i // 2].tokens, response).sum()) for m in (model, llama()))
        assert (rows["logp"][i], rows["ref_logp"][i]) == pytest.approx((own, other), rel=1e-4)
    assert set(rows["ended"]) == {True, False}
    assert min(rows["kl"]) > 0


@pytest.mark.parametrize("name", ["golden", "proxy"])
def test_a_judge_meets_every_opponent_in_both_orders_with_each_response(name):
    """Of a scalar and of a pairwise judge, against asking it about every pair by itself."""
    rows, judge = measured(llama(seed=3), samples=range(3), golden=MORE_GOLDEN, sft=MORE_SFT), JUDGES.by_name[name]
    for opponent, theirs in (("policy", MORE_GOLDEN), ("sft", MORE_SFT)):
        hard, soft = np.zeros(12), np.zeros(12)
        for i, response in enumerate(rows["response"]):
            for other in theirs[i // 3]:
                ((there, back),) = judge.prefer(Batch.of_pairs([PROMPTS[i // 3]], [response], [other]))
                hard[i] += (1.0 if there > back else 0.0 if there < back else 0.5) / 2
                soft[i] += (there + 1 - back) / 4
        assert rows[f"{name}_vs_{opponent}"] == hard.tolist()
        np.testing.assert_allclose(rows[f"{name}_p_vs_{opponent}"], soft, atol=1e-6)


@pytest.mark.parametrize("name", ["golden", "proxy"])
def test_margins_against_more_opponents_go_on_from_those_against_fewer(name):
    judge, tokens = JUDGES.by_name[name], [p.tokens for p in PROMPTS]
    responses = measured(llama(seed=3), samples=range(2))["response"]
    few, many = (
        opposing(judge, PROMPTS, [row[:j] for row in MORE_GOLDEN], [row[:j] for row in MORE_SFT]) for j in (1, 2)
    )
    # a scalar judge reads all opponents at once, so their number moves the last digits; pieces take care of that
    few = replace(few, known=many.known[:, :1])
    before, whole = judged(judge, tokens, responses, few), judged(judge, tokens, responses, many)
    assert judged(judge, tokens, responses, many, before) == whole
    assert judged(judge, tokens, responses, few, whole) == before
    marked = {writer: [[7.0] for _ in responses] for writer in ("policy", "sft")}
    kept = judged(judge, tokens, responses, many, marked)["policy"]
    assert [row[0] for row in kept] == [7.0] * 8, "what is known is not asked again"


def test_against_its_own_response_a_policy_wins_half():
    model = llama(seed=3)
    own = measured(model)["response"]
    rows = measured(model, hidden=False, golden=own, sft=own)
    assert rows["golden_vs_policy"] == rows["proxy_vs_sft"] == rows["golden_p_vs_sft"] == [0.5] * 4
    assert rows["hidden"] == [None] * 4


def test_a_scalar_judges_margin_is_the_difference_of_both_orders():
    judge = JUDGES.golden
    found = margins(judge, [PROMPTS[0].tokens], [[[3, 4, END]]], opposing(judge, PROMPTS[:1], [[12]], [[13, END]]))
    r = judge.prefer_each([PROMPTS[0].tokens], [[3, 4, END]], [[[12]], [[13, END]]])
    np.testing.assert_allclose(found[0, 0, 0], r[0, :, 0] - r[0, :, 1], atol=1e-6)
    assert verdict(np.array([-0.2, 0.0, 0.1]), "hard").tolist() == [0.0, 0.5, 1.0]
    np.testing.assert_allclose(verdict(np.array([-1.0, 0.0, 0.5]), "soft"), [0.0, 0.5, 0.75])


def test_checkpoints_are_compared_under_common_random_numbers():
    rows, again, other = measured(llama()), measured(llama(), slice(2, 4)), measured(llama(), seed=1)
    assert again["response"] == rows["response"][2:]
    assert other["response"] != rows["response"]
    assert rows["kl"] == [0.0] * 4  # the reference itself
    assert rows["logp"] == rows["ref_logp"]


def test_the_samples_of_a_prompt_are_numbered_whatever_comes_before_them():
    every, later = measured(llama(seed=3), samples=range(4)), measured(llama(seed=3), samples=range(2, 4))
    chosen = [i for i, sample in enumerate(every["sample"]) if sample >= 2]
    assert later["response"] == [every["response"][i] for i in chosen]
    assert later["sample"] == [2, 3] * 4


def test_the_classifier_is_the_log_ratio_of_winner_and_loser():
    model, reference = llama(seed=3), llama()
    label = np.array([1.0, 0.0, 0.5, 1.0])
    with torch.no_grad():
        rows = zip(PROMPTS, GOLDEN, SFT, strict=True)
        both = [[float(naive_logp(m, p.tokens, r).sum()) for m in (model, reference)] for p, *two in rows for r in two]
    known = np.array(both)[:, 1].reshape(4, 2)
    ratio = np.array(both)[:, 0].reshape(4, 2) - known
    found = classify(policy_of(model), Batch.of_pairs(PROMPTS, GOLDEN, SFT, label, logps={"sft": known}), batch=3)
    np.testing.assert_allclose(found["rho_w"], [ratio[0, 0], ratio[1, 1], ratio[2, 0], ratio[3, 0]], atol=1e-4)
    np.testing.assert_allclose(found["rho_l"], [ratio[0, 1], ratio[1, 0], ratio[2, 1], ratio[3, 1]], atol=1e-4)
    assert found["label"] == label.tolist()
    assert set(found) == set(PAIR_ROWS.names) - set(CHECKPOINT) - {"split", "pair"}
