"""Supervised fine-tuning on demonstrations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch

from goodhart.alignment.policy import LanguagePolicy
from goodhart.alignment.sources import places
from goodhart.compute.threads import descend, spread
from goodhart.models.logprobs import response_laws
from goodhart.models.packing import Tokens, cuts
from goodhart.tasks.prompts import Prompt
from goodhart.training.optimiser import Descent
from goodhart.training.settings import Supervised


def fit(
    policy: LanguagePolicy,
    prompts: Sequence[Prompt],
    demonstrations: Sequence[Tokens],
    settings: Supervised,
    descent: Descent,
    seed: int,
    start: int = 0,
) -> Iterator[tuple[int, float, float]]:
    """Descend on the mean negative log-likelihood per response token.

    Yields (steps taken, nats per token, gradient norm).
    """
    for step in range(start, settings.steps):
        chosen = places(step, settings.batch, len(prompts), seed)
        tokens = sum(len(demonstrations[i]) for i in chosen)
        parts = [chosen[cut] for cut in cuts(len(chosen), settings.optimisation.micro_batch)]

        def loss(model: Any, part: Sequence[int], tokens: int = tokens) -> torch.Tensor:
            texts = [prompts[i].tokens for i in part], [demonstrations[i] for i in part]
            return -_sums(replace(policy, model=model), *texts).sum() / tokens

        total = descend(policy.model, loss, parts)
        norm = descent.step(step, total)
        yield step + 1, total, norm


def _sums(policy: LanguagePolicy, prompts: Sequence[Tokens], responses: Sequence[Tokens]) -> torch.Tensor:
    laws = response_laws(policy.model, prompts, [[r] for r in responses], pad=policy.pad, layout=policy.layout)
    return laws.sums(laws.logp())[:, 0]


@torch.no_grad()
def nats_per_token(
    policy: LanguagePolicy, prompts: Sequence[Prompt], responses: Sequence[Tokens], batch: int = 64
) -> float:
    """Mean negative log-likelihood per response token on held-out demonstrations."""

    def nats(model: Any, cut: slice) -> float:
        return -float(_sums(replace(policy, model=model), [p.tokens for p in prompts[cut]], responses[cut]).sum())

    return sum(spread(policy.model, nats, cuts(len(prompts), batch))) / sum(len(r) for r in responses)
