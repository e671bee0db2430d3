"""Measuring one checkpoint: sampled responses, divergences, judgements; one row per prompt and sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from jaxtyping import Float

from goodhart.alignment.batch import Pairs
from goodhart.alignment.judge import PairJudge
from goodhart.alignment.labellers import both_orders
from goodhart.alignment.policy import LanguagePolicy
from goodhart.evaluation.kl import divergence
from goodhart.models.packing import Tokens
from goodhart.tasks.prompts import Prompt


@dataclass(frozen=True, slots=True)
class Judges:
    """The two judges."""

    golden: PairJudge
    proxy: PairJudge

    @property
    def by_name(self) -> dict[str, PairJudge]:
        """The judges by the name that columns give them."""
        return {"golden": self.golden, "proxy": self.proxy}


@dataclass(frozen=True, slots=True)
class Opponents:
    """The fixed responses that a checkpoint's responses are judged against, one for each prompt."""

    policy: Sequence[Tokens]
    """By the golden policy."""
    sft: Sequence[Tokens]
    known: Mapping[str, Float[np.ndarray, "prompt 2"]]
    """By judge, what it needs of (policy, sft) again and again; see `PairJudge.alone`."""

    @classmethod
    def of(
        cls, judges: Judges, prompts: Sequence[Prompt], policy: Sequence[Tokens], sft: Sequence[Tokens]
    ) -> Opponents:
        """The opponents with what the judges need of them."""
        tokens = [p.tokens for p in prompts]
        return cls(policy, sft, {name: judge.alone(tokens, [policy, sft]) for name, judge in judges.by_name.items()})


Decode = Callable[[Tokens], str]
Hidden = Callable[[Sequence[str]], Float[np.ndarray, " text"]]


def measure(
    policy: LanguagePolicy,
    sft: LanguagePolicy,
    prompts: Sequence[Prompt],
    opponents: Opponents,
    judges: Judges,
    *,
    eos: int,
    decode: Decode,
    hidden: Hidden | None,
    seed: int,
) -> dict[str, list[object]]:
    """The columns of `schema.ROWS` that depend on the checkpoint alone, one sample for each prompt.

    The draws depend on (seed, prompt), so all checkpoints are compared under common random numbers.
    """
    responses = [row[0] for row in policy.sample(prompts, 1, seed=seed, purpose="evaluation")]
    found = divergence(policy, sft, [p.tokens for p in prompts], responses)
    texts = [decode(r) for r in responses]
    columns: dict[str, list[object]] = {
        "prompt": [p.id for p in prompts],
        "sample": [0] * len(prompts),
        "response": list(responses),
        "text": list(texts),
        "tokens": [len(r) for r in responses],
        "ended": [r[-1] == eos for r in responses],
        "kl": found.kl.tolist(),
        "entropy": found.entropy.tolist(),
        "logp": found.logp.tolist(),
        "ref_logp": found.ref_logp.tolist(),
        "hidden": [None] * len(prompts) if hidden is None else hidden(texts).tolist(),
    }
    wins, _ = judged([p.tokens for p in prompts], responses, opponents, judges)
    return {**columns, **{name: values.tolist() for name, values in wins.items()}}


def judged(
    prompts: Sequence[Tokens], responses: Sequence[Tokens], opponents: Opponents, judges: Judges
) -> tuple[dict[str, Float[np.ndarray, " prompt"]], dict[str, Float[np.ndarray, " prompt"]]]:
    """Hard judgements by column (1, 1/2, 0), and every judge's probability that the response beats the SFT policy's."""
    wins: dict[str, Float[np.ndarray, " prompt"]] = {}
    scores: dict[str, Float[np.ndarray, " prompt"]] = {}
    for name, judge in judges.by_name.items():
        r = judge.prefer_each(prompts, responses, [opponents.policy, opponents.sft], opponents.known[name])
        wins[f"{name}_vs_policy"] = both_orders(r[:, 0], "hard")
        wins[f"{name}_vs_sft"] = both_orders(r[:, 1], "hard")
        scores[name] = both_orders(r[:, 1], "soft")
    return wins, scores


def classify(policy: LanguagePolicy, pairs: Pairs, batch: int = 32) -> dict[str, list[object]]:
    """Log-ratios of golden winners and losers; `pairs` carry golden labels and reference log-probabilities.

    The classifier is the sign of f = log pi(y1)/pi(y2) - log sft(y1)/sft(y2) (arXiv 2405.08448, section 5.3).
    """
    import torch

    assert pairs.label is not None
    assert pairs.reference is not None
    parts: list[np.ndarray] = []
    with torch.no_grad():
        for start in range(0, len(pairs), batch):
            part = pairs[start : start + batch]
            parts.append(policy.log_probs(part.prompt_tokens, part.responses).double().cpu().numpy())
    rho = np.concatenate(parts) - pairs.reference
    first_wins = pairs.label >= 0.5
    return {
        "prompt": [p.id for p in pairs.prompts],
        "label": pairs.label.tolist(),
        "rho_w": np.where(first_wins, rho[:, 0], rho[:, 1]).tolist(),
        "rho_l": np.where(first_wins, rho[:, 1], rho[:, 0]).tolist(),
    }


def table(columns: dict[str, list[object]], names: dict[str, object], schema: pa.Schema) -> pa.Table:
    """Columns with the checkpoint's names repeated on every row, in the schema's order and types."""
    size = len(next(iter(columns.values())))
    full = {**{name: [value] * size for name, value in names.items()}, **columns}
    return pa.table({field.name: pa.array(full[field.name], field.type) for field in schema}, schema=schema)
