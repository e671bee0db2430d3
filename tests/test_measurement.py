"""What is measured of one checkpoint: rows in the schema's columns, under common random numbers."""

import numpy as np
import pytest
import torch

from goodhart.alignment.batch import Pairs
from goodhart.alignment.judge import ModelJudge
from goodhart.evaluation.checkpoint import Judges, Opponents, classify, measure, table
from goodhart.evaluation.schema import CHECKPOINT, PAIR_ROWS, ROWS
from goodhart.models.preference import PreferenceModel
from tiny_models import END, llama, naive_logp, policy_of, prompt

PROMPTS = [prompt(i, *tokens) for i, tokens in enumerate([[2, 3], [4, 5, 6], [7], [8, 9, 10, 11]])]
GOLDEN = [[12, END], [13], [14, END], [2, 3, 4]]
SFT = [[5, 6, END], [END], [7], [8, END]]


def preference_model(seed):
    model = PreferenceModel(llama(seed=seed), "pairwise", 15, 0, "shared prompt").eval()
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        model.head.weight.copy_(torch.randn(model.head.weight.shape, generator=draw))
    return ModelJudge(model)


JUDGES = Judges(golden=preference_model(1), proxy=preference_model(2))


def measured(model, chosen=slice(None), *, seed=0, hidden=True):
    return measure(
        policy_of(model),
        policy_of(llama()),
        PROMPTS[chosen],
        Opponents.of(JUDGES, PROMPTS[chosen], GOLDEN[chosen], SFT[chosen]),
        JUDGES,
        eos=END,
        decode=lambda tokens: " ".join(map(str, tokens)),
        hidden=(lambda texts: np.array([1 / len(t) for t in texts])) if hidden else None,
        seed=seed,
    )


def test_a_measurement_has_the_columns_of_the_schema_and_their_meaning():
    model = llama(seed=3)
    rows = measured(model)
    assert set(rows) == set(ROWS.names) - set(CHECKPOINT) - {"split"}
    sampled = policy_of(model).sample(PROMPTS, 1, seed=0, purpose="evaluation")
    assert rows["response"] == [row[0] for row in sampled]
    assert rows["prompt"] == [p.id for p in PROMPTS]
    for i, response in enumerate(rows["response"]):
        assert rows["tokens"][i] == len(response)
        assert rows["ended"][i] == (END in response)
        assert rows["text"][i] == " ".join(map(str, response))
        assert rows["hidden"][i] == 1 / len(rows["text"][i])
        with torch.no_grad():
            own, other = (float(naive_logp(m, PROMPTS[i].tokens, response).sum()) for m in (model, llama()))
        assert (rows["logp"][i], rows["ref_logp"][i]) == pytest.approx((own, other), rel=1e-4)
    assert set(rows["ended"]) == {True, False}
    assert min(rows["kl"]) > 0


def test_every_judge_meets_every_opponent_in_both_orders():
    rows = measured(llama(seed=3))
    for name, judge in (("golden", JUDGES.golden), ("proxy", JUDGES.proxy)):
        for opponent, theirs in (("policy", GOLDEN), ("sft", SFT)):
            r = judge.prefer(Pairs(PROMPTS, rows["response"], theirs))
            assert rows[f"{name}_vs_{opponent}"] == [1.0 if a > b else 0.0 if a < b else 0.5 for a, b in r]


def test_against_its_own_response_a_policy_wins_half():
    model = llama(seed=3)
    own = measured(model)["response"]
    rows = measure(
        policy_of(model), policy_of(llama()), PROMPTS, Opponents.of(JUDGES, PROMPTS, own, own), JUDGES,
        eos=END, decode=str, hidden=None, seed=0,
    )  # fmt: skip
    assert rows["golden_vs_policy"] == rows["proxy_vs_sft"] == [0.5] * 4
    assert rows["hidden"] == [None] * 4


def test_checkpoints_are_compared_under_common_random_numbers():
    rows, again, other = measured(llama()), measured(llama(), slice(2, 4)), measured(llama(), seed=1)
    assert again["response"] == rows["response"][2:]
    assert other["response"] != rows["response"]
    assert rows["kl"] == [0.0] * 4  # the reference itself
    assert rows["logp"] == rows["ref_logp"]


def test_the_classifier_is_the_log_ratio_of_winner_and_loser():
    model, reference = llama(seed=3), llama()
    label = np.array([1.0, 0.0, 0.5, 1.0])
    with torch.no_grad():
        rows = zip(PROMPTS, GOLDEN, SFT, strict=True)
        both = [[float(naive_logp(m, p.tokens, r).sum()) for m in (model, reference)] for p, *two in rows for r in two]
    known = np.array(both)[:, 1].reshape(4, 2)
    ratio = np.array(both)[:, 0].reshape(4, 2) - known
    found = classify(policy_of(model), Pairs(PROMPTS, GOLDEN, SFT, label, known), batch=3)
    np.testing.assert_allclose(found["rho_w"], [ratio[0, 0], ratio[1, 1], ratio[2, 0], ratio[3, 0]], atol=1e-4)
    np.testing.assert_allclose(found["rho_l"], [ratio[0, 1], ratio[1, 0], ratio[2, 1], ratio[3, 1]], atol=1e-4)
    assert found["label"] == label.tolist()
    assert set(found) == set(PAIR_ROWS.names) - set(CHECKPOINT) - {"split", "pair"}


def test_a_table_has_the_order_and_types_of_its_schema():
    names = {"arm": "online", "setting": "beta=0.1", "beta": 0.1, "lr": None, "seed": 0, "step": 25, "split": "train"}
    found = table(measured(llama(seed=3), hidden=False), names, ROWS)
    assert found.schema == ROWS
    assert found.num_rows == 4
    assert found["step"].to_pylist() == [25] * 4
    assert found["lr"].null_count == found["hidden"].null_count == 4
