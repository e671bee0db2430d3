"""Pairs that a policy writes and judges itself, round by round, by how much its last round moved it (DICE)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from goodhart.alignment.batch import Batch
from goodhart.alignment.references import Scorer, approach
from goodhart.alignment.sources import PolicySource, Sampling
from goodhart.models.packing import Tokens

PRICES = np.linspace(0.0, 1.0, 1001)
"""Nats per character that are tried."""


def best_and_worst(score: Float[np.ndarray, "prompt response"]) -> tuple[np.ndarray, np.ndarray]:
    """The places of the highest and the lowest score of each prompt; of equals the earlier and the later."""
    return score.argmax(1), score.shape[1] - 1 - score[:, ::-1].argmin(1)


def price_of_length(ratio: Float[np.ndarray, "prompt response"], length: Float[np.ndarray, "prompt response"]) -> float:
    """The alpha at which best and worst by ratio - alpha length are of the most similar length on average.

    It is the smallest of those on the grid that do equally well (DICE, arXiv 2406.09760; beta, which scales ratio and
    alpha alike, is left out as in its code). In nats per unit of length.
    """

    def gap(alpha: float) -> float:
        best, worst = best_and_worst(ratio - alpha * length)
        rows = np.arange(len(length))
        return abs(float((length[rows, best] - length[rows, worst]).mean()))

    return float(min(PRICES, key=lambda alpha: (gap(float(alpha)), alpha)))


@dataclass(slots=True)
class SelfLabelledSource:
    """All pairs of a round, written and judged at its beginning (DICE, arXiv 2406.09760).

    In round t the policy m_{t-1} that begins it writes K responses to each of the round's prompts, whose score is
    log m_{t-1}(y|x) - log m_{t-2}(y|x) - alpha |y|, m_{-1} the first reference, |y| in characters and alpha chosen for
    the round (`price_of_length`). The pair is the best and the worst, and the best is preferred.
    """

    inner: PolicySource
    steps: int
    """Of a round."""
    first: Scorer
    """What the first round's policy is compared with."""
    lengths: Callable[[Sequence[Tokens]], Sequence[int]]
    """Characters of responses."""
    held: Sampling | None = None
    lagged: Sampling | None = None
    """The policies that began this round and the one before."""
    price: float = 0.0
    """The round's alpha."""
    _pairs: list[Batch] = field(default_factory=list[Batch])

    def draw(self, step: int, policy: Sampling) -> Batch:
        """The labelled pairs of a step."""
        if self.held is None or step % self.steps == 0:
            self.lagged, self.held = self.held, policy.frozen()
            self._pairs = []
        if not self._pairs:
            self._pairs = self._round(step - step % self.steps, self.held)
        return self._pairs[step % self.steps]

    @torch.no_grad()
    def _round(self, start: int, held: Sampling) -> list[Batch]:
        drawn = [self.inner.draw(step, held) for step in range(start, start + self.steps)]
        before = self.lagged or self.first
        own = [held.log_probs(b.contexts, b.responses).double().cpu().numpy() for b in drawn]
        past = [before.log_probs(b.contexts, b.responses).double().cpu().numpy() for b in drawn]
        ratio = np.concatenate(own) - np.concatenate(past)
        length = np.array([self.lengths(row) for b in drawn for row in b.responses], dtype=np.float64)
        self.price = price_of_length(ratio, length)
        score, result, place = ratio - self.price * length, list[Batch](), 0
        for batch, logps in zip(drawn, own, strict=True):
            rows = score[place : place + len(batch)]
            place += len(batch)
            best, worst = best_and_worst(rows)
            chosen = np.stack([best, worst], axis=1)
            tied = np.diff(np.take_along_axis(rows, chosen, 1), axis=1)[:, 0] == 0
            known = Batch(batch.prompts, batch.responses, writer=logps, sampled=batch.sampled)
            result.append(known.columns(chosen.tolist()).labelled(np.where(tied, 0.5, 1.0)))
        return result

    def state(self) -> dict[str, list[Tensor]]:
        """The weights of the policies that it holds."""
        kept = {"held": self.held, "lagged": self.lagged}
        return {name: [p.detach() for p in each.parameters()] for name, each in kept.items() if each is not None}

    def restore(self, state: dict[str, list[Tensor]], policy: Sampling) -> None:
        """Go on from what `state` gave; the round's pairs are written anew, and are the same."""
        for name, weights in state.items():
            copy = policy.frozen()
            approach(copy.parameters(), weights, 1.0)
            setattr(self, name, copy)
