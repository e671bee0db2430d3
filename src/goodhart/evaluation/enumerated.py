"""A law over the responses of a finite world, measured without sampling: the same columns as a sampled checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float

from goodhart.evaluation import schema
from goodhart.tasks.tables import Law, Tables, Wins

_ROWS = pa.schema([field for field in schema.ROWS if field.name not in schema.CHECKPOINT])
_LEAST = 1e-300
"""What stands for a probability that has become 0, so that its logarithm is a number."""
_PAIRS = pa.schema([field for field in schema.PAIR_ROWS if field.name not in schema.CHECKPOINT])


def rows(law: Law, world: Tables, golden_policy: Law, proxy: Wins) -> pa.Table:
    """One row for each prompt, without the names that a study gives it.

    Win rates are sums of p(y > y') over both laws, in the columns of verdicts and in those of probabilities alike; KL
    is the sum of pi (log pi - log ref), entropy and log-probabilities are expectations, in nats.
    """
    reference, size = world.reference, len(world.prompts)
    opponents = {"policy": golden_policy, "sft": reference}
    judges = {"golden": world.wins, "proxy": proxy}
    result: dict[str, Any] = {
        "split": ["held_out"] * size,
        "prompt": [p.id for p in world.asked],
        "sample": [0] * size,
        "response": [[]] * size,
        "text": [""] * size,
        "tokens": [1] * size,
        "ended": [True] * size,
        "kl": divergence(law, reference),
        "entropy": -_expected(law, _log(law)),
        "logp": _expected(law, _log(law)),
        "ref_logp": _expected(law, _log(reference)),
        "hidden": [None] * size,
    }
    for judge, wins in judges.items():
        for writer, other in opponents.items():
            rate = np.einsum("xi,xij,xj->x", law, wins, other)
            result |= {f"{judge}_vs_{writer}": rate, f"{judge}_p_vs_{writer}": rate}
    return pa.table(result, schema=_ROWS)


def pairs(law: Law, world: Tables, data: Sequence[tuple[int, int, int]] | None) -> pa.Table:
    """Every pair of two responses as one that nobody trains on, and those of the data, classified by the policy.

    `data` is (prompt, first, second) by their places; None for a population, which has every pair.
    """
    size, responses = law.shape
    every = [(x, i, j) for x in range(size) for i in range(responses) for j in range(i)]
    trained = every if data is None else [each for each in dict.fromkeys(data) if each[1] != each[2]]
    parts = [_classified(law, world, split, each) for split, each in (("held_out", every), ("train", trained))]
    return pa.concat_tables(parts)


def _classified(law: Law, world: Tables, split: str, places: Sequence[tuple[int, int, int]]) -> pa.Table:
    x, i, j = np.array(places, dtype=np.int64).reshape(-1, 3).T
    rho, names = _log(law) - _log(world.reference), [p.id for p in world.asked]
    label = (np.sign(world.wins[x, i, j] - 0.5) + 1) / 2
    first, second = rho[x, i], rho[x, j]
    columns: Mapping[str, Any] = {
        "split": [split] * len(x),
        "pair": [f"{names[a]}-{b}-{c}" for a, b, c in places],
        "prompt": [names[a] for a in x],
        "label": label,
        "rho_w": np.where(label == 0, second, first),
        "rho_l": np.where(label == 0, first, second),
    }
    return pa.table(columns, schema=_PAIRS)


def divergence(law: Law, reference: Law) -> Float[np.ndarray, " prompt"]:
    """KL(law || reference) of each prompt in nats."""
    return np.maximum(_expected(law, _log(law) - _log(reference)), 0.0)


def _log(law: Law) -> Law:
    return np.log(np.maximum(law, _LEAST))


def _expected(law: Law, values: Law) -> Float[np.ndarray, " prompt"]:
    """Under the law, of each prompt."""
    return (law * values).sum(1)
