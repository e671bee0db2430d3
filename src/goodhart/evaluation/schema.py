"""The columns of the tables that every statistic is computed from."""

from __future__ import annotations

import pyarrow as pa

ROWS = pa.schema(
    [
        ("arm", pa.string()),  # "sft", "golden policy", "best of n by ...", or a name from the study file
        ("setting", pa.string()),  # the point of the sweep, for example "beta=0.1 lr=0.0001"
        ("beta", pa.float64()),  # of the loss; null where there is none
        ("lr", pa.float64()),  # peak learning rate; null where nothing is trained
        ("seed", pa.int64()),
        ("step", pa.int64()),  # optimiser steps taken; 0 for sft, n for best-of-n
        ("split", pa.string()),  # "held_out" or "train": which prompts
        ("prompt", pa.string()),  # prompt id, joins with PROMPTS
        ("sample", pa.int64()),
        ("response", pa.list_(pa.int32())),  # token ids, the end token included where there is one
        ("text", pa.string()),  # decoded, without special tokens
        ("tokens", pa.int64()),  # length of `response`
        ("ended", pa.bool_()),  # the end token was written before the cap
        (
            "kl",
            pa.float64(),
        ),  # exact categorical KL(policy || SFT) along the response, nats; best-of-n: analytic
        ("entropy", pa.float64()),  # of the policy's next-token law, mean over the response's positions, nats
        ("logp", pa.float64()),  # log policy(response | prompt), nats
        ("ref_logp", pa.float64()),  # log SFT(response | prompt), nats
        # Judgements are means over a prompt's opponents of 1, 0.5 or 0, by the golden judge or the proxy, against the
        # golden policy's or the SFT policy's responses; behind `_p` the mean of the judge's probability instead.
        ("golden_vs_policy", pa.float64()),
        ("golden_vs_sft", pa.float64()),
        ("proxy_vs_policy", pa.float64()),
        ("proxy_vs_sft", pa.float64()),
        ("golden_p_vs_policy", pa.float64()),
        ("golden_p_vs_sft", pa.float64()),
        ("proxy_p_vs_policy", pa.float64()),
        ("proxy_p_vs_sft", pa.float64()),
        ("hidden", pa.float64()),  # similarity to the human line in [0, 1]; null where there is none
    ]
)
"""One row per (checkpoint, prompt, sample)."""

PAIR_ROWS = pa.schema(
    [
        ("arm", pa.string()),
        ("setting", pa.string()),
        ("beta", pa.float64()),
        ("lr", pa.float64()),
        ("seed", pa.int64()),
        ("step", pa.int64()),
        ("split", pa.string()),  # "train": pairs that offline arms train on; "held_out": pairs nobody trains on
        ("pair", pa.string()),  # pair id
        ("prompt", pa.string()),
        ("label", pa.float64()),  # golden: 1 the first is preferred, 0 the second, 0.5 a tie
        ("rho_w", pa.float64()),  # log policy - log SFT of the golden winner, token sum, nats
        ("rho_l", pa.float64()),  # of the golden loser (for a tie: of the second)
    ]
)
"""One row per (checkpoint, golden pair): the policy as a classifier is the sign of rho_w - rho_l."""

PROMPTS = pa.schema(
    [
        ("prompt", pa.string()),
        ("split", pa.string()),
        ("text", pa.string()),
        ("reference", pa.string()),  # the human line, null where there is none
    ]
)
"""One row per prompt that is evaluated."""

BUDGETS = pa.schema(
    [
        ("arm", pa.string()),
        ("setting", pa.string()),
        ("beta", pa.float64()),
        ("lr", pa.float64()),
        ("seed", pa.int64()),
        ("step", pa.int64()),
        ("operations", pa.float64()),  # of the training run up to this checkpoint, and of all runs that it reads
        ("pairs", pa.int64()),  # labelled pairs that it has learnt from, repetitions included
        ("labels", pa.int64()),  # golden labels that its supervision rests on: its data's, or its proxy's
        (
            "drift",
            pa.float64(),
        ),  # log policy(y|x) less log writer(y|x), mean over what was learnt from, nats a response
        ("drift_spread", pa.float64()),  # standard deviation of the same, nats
    ]
)
"""One row per trained checkpoint: what it took. Operations are since SFT, golden labels and proxy, which arms share."""

STREAM_ROWS = pa.schema(
    [
        ("arm", pa.string()),  # whose stream it is
        ("setting", pa.string()),
        ("seed", pa.int64()),
        ("step", pa.int64()),  # the checkpoint that the pair was learnt from just before
        ("pair", pa.string()),
        ("prompt", pa.string()),
        ("classifier", pa.string()),  # "proxy", or the arm whose last checkpoint of the same setting and seed it is
        ("correct", pa.float64()),  # agreement with the golden model's sign: 1, 0, or 0.5 for a tie of either
    ]
)
"""One row per (recorded pair, classifier): who knows which of the policy's own samples is better."""

CHECKPOINT = ("arm", "setting", "beta", "lr", "seed", "step")
"""The columns that name a checkpoint."""
