"""A language model as a policy: it samples responses and scores them."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import Parameter
from torch.nn.functional import pad

from goodhart.compute.ranks import number
from goodhart.compute.shards import is_sharded, sharded
from goodhart.models.adapter import adapted
from goodhart.models.adapter_settings import Adapter
from goodhart.models.logprobs import Layout, choose_layout, response_laws, sequence_logps
from goodhart.models.packing import Tokens
from goodhart.models.precision import BFLOAT16, Precision, in_precision
from goodhart.sampling.keyed import Draws, ModelSampler
from goodhart.sampling.written import Written
from goodhart.tasks.prompts import Prompt


@dataclass(frozen=True, slots=True)
class LanguagePolicy:
    """A causal or encoder-decoder language model with its way to sample and to score."""

    model: Any
    sampler: ModelSampler
    pad: int
    layout: Layout
    name: str = ""
    """Of a policy that never moves, so that log-probabilities can be kept under it; empty for one that does."""

    @classmethod
    def of(cls, model: Any, sampler: ModelSampler, pad: int) -> LanguagePolicy:
        """Wrap a model; the scoring layout is the fastest that gives the plain forward's numbers."""
        return cls(model, sampler, pad, choose_layout(model, pad))

    def at(self, precision: Precision) -> LanguagePolicy:
        """The policy itself in float32; else with a copy of the model in that precision, and the same layout.

        Of processes that make a cell together each keeps its part of the weights from now on, in float32, and the
        layers compute in the precision: what is trained is its own master.
        """
        if number() == 1:
            model = in_precision(self.model, precision)
        elif not is_sharded(self.model):
            model = sharded(self.model, torch.bfloat16 if precision == BFLOAT16 else torch.float32)
        else:
            model = self.model
        if model is self.model and precision != BFLOAT16:
            return self
        return replace(self, model=model, name=f"{self.name} in {precision}" if self.name else "")

    def parameters(self) -> Iterator[Parameter]:
        """What the optimiser moves: all weights, or those of the adapter."""
        return (p for p in self.model.parameters() if p.requires_grad)

    def adapted(self, adapter: Adapter, seed: int) -> LanguagePolicy:
        """A policy with a fresh adapter over this one's weights, which this one goes on having and which rest now."""
        return replace(self, model=adapted(self.model, adapter, seed), name="")

    def sample(
        self, prompts: Sequence[Prompt], samples: int, *, seed: int, purpose: str, first_sample: int | Sequence[int] = 0
    ) -> list[list[list[int]]]:
        """`samples` responses for each prompt, numbered from `first_sample` on; see `goodhart.sampling.keyed`."""
        return self.written(prompts, samples, seed=seed, purpose=purpose, first_sample=first_sample).responses

    def written(
        self, prompts: Sequence[Prompt], samples: int, *, seed: int, purpose: str, first_sample: int | Sequence[int] = 0
    ) -> Written:
        """The same with the log-probabilities that the sampler drew them with."""
        draws = Draws(seed, purpose, [p.number for p in prompts], first_sample)
        return self.sampler.written(self.model, [p.tokens for p in prompts], samples, draws)

    def frozen(self) -> LanguagePolicy:
        """A copy that training does not move; it shares what training does not move either, the base of an adapter."""
        resting = {id(p): p for p in self.model.parameters() if not p.requires_grad}
        return replace(self, model=copy.deepcopy(self.model, resting).eval())

    def log_probs(
        self, prompts: Sequence[Tokens], responses: Sequence[Sequence[Tokens]]
    ) -> Float[Tensor, "row response"]:
        """Log policy(response | prompt) in nats."""
        return sequence_logps(self.model, prompts, responses, pad=self.pad, layout=self.layout)

    def token_log_probs(
        self, prompts: Sequence[Tokens], responses: Sequence[Sequence[Tokens]]
    ) -> Float[Tensor, "row response token"]:
        """Log policy(token | prompt, earlier tokens) in nats; 0 behind a response's end."""
        laws = response_laws(self.model, prompts, responses, pad=self.pad, layout=self.layout)
        columns = laws.columns(laws.logp())
        longest = max(part.shape[1] for part in columns)
        return torch.stack([pad(part, (0, longest - part.shape[1])) for part in columns], dim=1)
