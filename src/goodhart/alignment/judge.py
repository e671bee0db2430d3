"""Judges of pairs, and a preference model as one: both orders, fixed batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float

from goodhart.alignment.batch import Batch
from goodhart.compute.threads import spread
from goodhart.models.packing import Tokens, cuts

if TYPE_CHECKING:
    from goodhart.models.preference import PreferenceModel


@runtime_checkable
class PairJudge(Protocol):
    """What labels and measures: a preference model (`ModelJudge`) or a rule (`goodhart.alignment.rule`)."""

    @property
    def scalar(self) -> bool:
        """Whether a judgement is a function of one score for each response (which `alone` gives)."""
        ...

    def prefer(self, pairs: Batch) -> Float[np.ndarray, "pair 2"]:
        """r(x, first, second) and r(x, second, first): how probably the response named first is preferred."""
        ...

    def prefer_each(
        self,
        prompts: Sequence[Tokens],
        responses: Sequence[Tokens],
        opponents: Sequence[Sequence[Tokens]],
        known: Float[np.ndarray, "response opponent"] | None = None,
    ) -> Float[np.ndarray, "response opponent 2"]:
        """The same for several opponents of each response; `known` is what `alone` gave for the opponents."""
        ...

    def alone(self, prompts: Sequence[Tokens], texts: Sequence[Sequence[Tokens]]) -> Float[np.ndarray, "prompt text"]:
        """What a judgement needs of a response whatever its opponent is: of a scalar judge the score in logits."""
        ...


@dataclass(frozen=True, slots=True)
class ModelJudge:
    """Asks a preference model both orders of every pair."""

    model: PreferenceModel
    batch: int = 32

    @property
    def scalar(self) -> bool:
        """Whether a judgement is a function of one score for each response (which `alone` gives)."""
        return self.model.kind == "bradley-terry"

    def prefer(self, pairs: Batch) -> Float[np.ndarray, "pair 2"]:
        """r(x, first, second) and r(x, second, first)."""
        return self.prefer_each(pairs.prompt_tokens, pairs.first, [pairs.second])[:, 0]

    @torch.no_grad()
    def prefer_each(
        self,
        prompts: Sequence[Tokens],
        responses: Sequence[Tokens],
        opponents: Sequence[Sequence[Tokens]],
        known: Float[np.ndarray, "response opponent"] | None = None,
    ) -> Float[np.ndarray, "response opponent 2"]:
        """The same for several opponents of each response: the prompt, and a scored response, are computed once.

        `known` is what `alone` gave for the opponents.
        """

        def read(model: PreferenceModel, cut: slice) -> torch.Tensor:
            theirs = None if known is None else self._tensor(known[cut])
            return model.against(prompts[cut], responses[cut], [texts[cut] for texts in opponents], known=theirs)

        parts = spread(self.model, read, cuts(len(prompts), self.batch))
        if not parts:
            return np.zeros((0, len(opponents), 2))
        r = torch.cat(parts).double().sigmoid().cpu().numpy()
        same = np.array([[list(a) == list(b) for a, b in zip(responses, texts, strict=True)] for texts in opponents]).T
        r[same] = r[same].mean(axis=1, keepdims=True)  # rounding must not break the tie of a response with itself
        return r

    @torch.no_grad()
    def alone(self, prompts: Sequence[Tokens], texts: Sequence[Sequence[Tokens]]) -> Float[np.ndarray, "prompt text"]:
        """What the judge needs of responses that will be opponents again and again (see `PreferenceModel.alone`)."""

        def read(model: PreferenceModel, cut: slice) -> torch.Tensor:
            return model.alone(prompts[cut], [each[cut] for each in texts])

        return torch.cat(spread(self.model, read, cuts(len(prompts), self.batch))).double().cpu().numpy()

    def _tensor(self, values: Float[np.ndarray, "..."]) -> torch.Tensor:
        weight = next(self.model.parameters())
        return torch.as_tensor(values, dtype=weight.dtype, device=weight.device)
