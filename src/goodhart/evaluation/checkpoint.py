"""Measuring one checkpoint: sampled responses, divergences, judgements; one row per prompt and sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from goodhart.alignment.batch import Batch
from goodhart.alignment.judge import PairJudge
from goodhart.alignment.policy import LanguagePolicy
from goodhart.compute.shares import in_shares
from goodhart.evaluation.kl import divergence
from goodhart.evaluation.verdicts import OPPONENTS, Opponents, margins, verdict
from goodhart.models.packing import Tokens, cuts
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


Decode = Callable[[Tokens], str]
Hidden = Callable[[Sequence[str]], Float[np.ndarray, " text"]]
Columns = dict[str, list[Any]]
"""A table by column."""
Answers = dict[str, list[list[float]]]
"""By writer of the opponents, for each response its margins against them; see `verdicts.margins`."""


def written(
    policy: LanguagePolicy,
    sft: LanguagePolicy,
    prompts: Sequence[Prompt],
    samples: range,
    *,
    eos: int,
    decode: Decode,
    hidden: Hidden | None,
    seed: int,
) -> Columns:
    """What a checkpoint writes, some samples for each prompt, as columns of `schema.ROWS` that need no judge.

    The samples of a prompt stand together. The draws depend on (seed, prompt, sample), so all checkpoints are compared
    under common random numbers.
    """
    drawn = policy.sample(prompts, len(samples), seed=seed, purpose="evaluation", first_sample=samples.start)
    responses = [response for row in drawn for response in row]
    asked = [p for p in prompts for _ in samples]
    result = divergence(policy, sft, [p.tokens for p in prompts], drawn)
    texts = [decode(r) for r in responses]
    return {
        "prompt": [p.id for p in asked],
        "sample": [k for _ in prompts for k in samples],
        "response": list(responses),
        "text": texts,
        "tokens": [len(r) for r in responses],
        "ended": [r[-1] == eos for r in responses],
        "kl": result.kl.tolist(),
        "entropy": result.entropy.tolist(),
        "logp": result.logp.tolist(),
        "ref_logp": result.ref_logp.tolist(),
        "hidden": [None] * len(asked) if hidden is None else hidden(texts).tolist(),
    }


def judged(
    judge: PairJudge,
    prompts: Sequence[Tokens],
    responses: Sequence[Tokens],
    opponents: Opponents,
    known: Answers | None = None,
) -> Answers:
    """The margin of each response against each opponent.

    `responses` are as `written` orders them. `known` are margins against the first opponents, as an earlier call gave
    them; only the others are asked for.
    """
    size = len(responses) // len(prompts)
    first = min(len(known["policy"][0]), opponents.number) if known else 0
    samples = [list(responses[k::size]) for k in range(size)]
    result = margins(judge, prompts, samples, opponents, first).reshape(len(responses), -1, 2)
    earlier = known or {writer: [[] for _ in responses] for writer in OPPONENTS}
    return {
        writer: [
            [*old[: opponents.number], *new] for old, new in zip(earlier[writer], result[..., i].tolist(), strict=True)
        ]
        for i, writer in enumerate(OPPONENTS)
    }


def verdicts(answers: Mapping[str, Answers]) -> Columns:
    """The columns of judgements, means over the opponents, from margins by judge and by writer."""
    result: Columns = {}
    for name, by_writer in answers.items():
        for writer, each in by_writer.items():
            result[f"{name}_vs_{writer}"] = [float(verdict(np.array(row), "hard").mean()) for row in each]
            result[f"{name}_p_vs_{writer}"] = [float(verdict(np.array(row), "soft").mean()) for row in each]
    return result


def classify(policy: LanguagePolicy, pairs: Batch, batch: int = 32) -> dict[str, list[object]]:
    """Log-ratios of golden winners and losers; `pairs` carry golden labels and reference log-probabilities.

    The classifier is the sign of f = log pi(y1)/pi(y2) - log sft(y1)/sft(y2) (arXiv 2405.08448, section 5.3).
    """
    import torch

    assert pairs.label is not None
    assert pairs.reference is not None

    @torch.no_grad()
    def of(cut: slice) -> np.ndarray:
        part = pairs[cut]
        return policy.log_probs(part.prompt_tokens, part.responses).double().cpu().numpy()

    rho = np.concatenate(in_shares(of, cuts(len(pairs), batch))) - pairs.reference
    first_wins = pairs.label >= 0.5
    return {
        "prompt": [p.id for p in pairs.prompts],
        "label": pairs.label.tolist(),
        "rho_w": np.where(first_wins, rho[:, 0], rho[:, 1]).tolist(),
        "rho_l": np.where(first_wins, rho[:, 1], rho[:, 0]).tolist(),
    }
