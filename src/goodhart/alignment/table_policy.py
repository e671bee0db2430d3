"""A softmax table as a policy: a law over a few one-token responses for each prompt, in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import Parameter

from goodhart.compute.meter import charge
from goodhart.models.packing import Tokens
from goodhart.randomness import uniforms
from goodhart.sampling.keyed import inverse_cdf
from goodhart.tasks.prompts import Prompt

_OPERATIONS = 5.0
"""Of a log-softmax, for each response of a row."""


class TablePolicy:
    """policy(y|x) = softmax(logits[x])[y]; a prompt's one token is its row, a response's one token its column."""

    def __init__(self, logits: Float[Tensor, "prompt response"], name: str = "") -> None:
        """`name` is that of a policy that never moves, under which log-probabilities can be kept."""
        self.logits = Parameter(logits.detach().clone().double())
        self.name = name

    @classmethod
    def of(cls, law: Float[np.ndarray, "prompt response"], name: str = "") -> TablePolicy:
        """With that law, all of it above 0."""
        return cls(torch.from_numpy(np.log(law)), name)

    @property
    def law(self) -> Float[np.ndarray, "prompt response"]:
        """Of all prompts."""
        return self.logits.detach().softmax(1).numpy()

    def parameters(self) -> Iterator[Parameter]:
        """What the optimiser moves."""
        return iter([self.logits])

    def frozen(self) -> TablePolicy:
        """A copy that training does not move."""
        return TablePolicy(self.logits)

    def at_temperature(self, temperature: float) -> TablePolicy:
        """Its law at another temperature."""
        return TablePolicy(self.logits.detach() / temperature)

    def log_probs(
        self, prompts: Sequence[Tokens], responses: Sequence[Sequence[Tokens]]
    ) -> Float[Tensor, "row response"]:
        """Log policy(response | prompt) in nats."""
        rows, columns = torch.from_numpy(rows_of(prompts)), torch.from_numpy(columns_of(responses))
        charge(columns.numel(), _OPERATIONS * self.logits.shape[1] * len(rows))
        return self.logits.log_softmax(1)[rows[:, None], columns]

    def token_log_probs(
        self, prompts: Sequence[Tokens], responses: Sequence[Sequence[Tokens]]
    ) -> Float[Tensor, "row response token"]:
        """The same; a response is one token."""
        return self.log_probs(prompts, responses)[..., None]

    @torch.no_grad()
    def sample(
        self, prompts: Sequence[Prompt], samples: int, *, seed: int, purpose: str, first_sample: int | Sequence[int] = 0
    ) -> list[list[list[int]]]:
        """`samples` responses for each prompt: one uniform per (seed, purpose, prompt, sample) and the inverse CDF."""
        numbers = np.broadcast_to(np.asarray(first_sample, dtype=np.int64), len(prompts))[:, None] + np.arange(samples)
        ids = np.repeat(np.array([p.number for p in prompts], dtype=np.int64), samples)
        u = torch.from_numpy(uniforms(seed, purpose, ids, numbers.flatten(), 1)[:, 0])
        rows = torch.from_numpy(rows_of([p.tokens for p in prompts])).repeat_interleave(samples)
        drawn = inverse_cdf(self.logits[rows], u).view(len(prompts), samples)
        return [[[token] for token in row] for row in drawn.tolist()]


def rows_of(prompts: Sequence[Tokens]) -> Int[np.ndarray, " row"]:
    """Which rows of a table some prompts are."""
    return np.array([prompt[0] for prompt in prompts], dtype=np.int64)


def columns_of(responses: Sequence[Sequence[Tokens]]) -> Int[np.ndarray, "row response"]:
    """Which columns their responses are."""
    return np.array([[response[0] for response in row] for row in responses], dtype=np.int64)


@dataclass(frozen=True, slots=True)
class TableMixture:
    """pi^(1 - share) ref^share / Z of two tables (arXiv 2312.00886, 2403.08635); share 0 is the policy."""

    policy: TablePolicy
    reference: Callable[[], Any]
    """The reference as it is now."""
    share: float

    @property
    def now(self) -> TablePolicy:
        """The mixture as it is now."""
        logs = ((1 - self.share, self.policy), (self.share, self.reference()))
        return TablePolicy(sum((w * each.logits.detach().log_softmax(1) for w, each in logs), torch.zeros(())))

    def sample(
        self, prompts: Sequence[Prompt], samples: int, *, seed: int, purpose: str, first_sample: int | Sequence[int] = 0
    ) -> list[list[list[int]]]:
        """`samples` responses for each prompt, numbered from `first_sample` on."""
        return self.now.sample(prompts, samples, seed=seed, purpose=purpose, first_sample=first_sample)

    @torch.no_grad()
    def log_probs(
        self, prompts: Sequence[Tokens], responses: Sequence[Sequence[Tokens]]
    ) -> Float[Tensor, "row response"]:
        """Log of the mixture's p(response | prompt) in nats."""
        return self.now.log_probs(prompts, responses)
