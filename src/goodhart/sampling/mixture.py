"""A geometric mixture of two policies: it samples, and it scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from goodhart.models.logprobs import response_laws
from goodhart.models.packing import Tokens
from goodhart.sampling.keyed import Draws
from goodhart.sampling.written import Written
from goodhart.tasks.prompts import Prompt


@dataclass(frozen=True, slots=True)
class Mixture:
    """pi^(1 - share) ref^share, renormalised token by token (arXiv 2312.00886, 2403.08635).

    Both are language policies of one vocabulary and one layout of scoring; share 0 is the policy, 1 the reference.
    """

    policy: Any
    reference: Callable[[], Any]
    """The reference as it is now."""
    share: float

    def sample(
        self, prompts: Sequence[Prompt], samples: int, *, seed: int, purpose: str, first_sample: int | Sequence[int] = 0
    ) -> list[list[list[int]]]:
        """`samples` responses for each prompt, numbered from `first_sample` on."""
        return self.written(prompts, samples, seed=seed, purpose=purpose, first_sample=first_sample).responses

    def written(
        self, prompts: Sequence[Prompt], samples: int, *, seed: int, purpose: str, first_sample: int | Sequence[int] = 0
    ) -> Written:
        """The same with the mixture's log-probabilities of what was drawn."""
        draws = Draws(seed, purpose, [p.number for p in prompts], first_sample)
        models = [(self.policy.model, 1 - self.share), (self.reference().model, self.share)]
        return self.policy.sampler.blended(models, [p.tokens for p in prompts], samples, draws)

    @torch.no_grad()
    def log_probs(
        self, prompts: Sequence[Tokens], responses: Sequence[Sequence[Tokens]]
    ) -> Float[Tensor, "row response"]:
        """Log of the mixture's p(response | prompt) in nats."""
        ours, theirs = (
            response_laws(each.model, prompts, responses, pad=each.pad, layout=each.layout)
            for each in (self.policy, self.reference())
        )
        mixed = (1 - self.share) * ours.logits + self.share * theirs.logits
        logp = mixed.log_softmax(-1).gather(1, ours.tokens[:, None])[:, 0]
        return ours.sums(logp)
