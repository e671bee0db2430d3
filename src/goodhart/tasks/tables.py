"""A finite world as arrays: who writes which response at first, and which is preferred."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from goodhart.config import address
from goodhart.tasks.prompts import Prompt

Law = Float[np.ndarray, "prompt response"]
"""One law over responses for each prompt."""
Wins = Float[np.ndarray, "prompt response response"]
"""p(row preferred to column), for each prompt; it and its transpose add up to 1."""


@dataclass(frozen=True, eq=False)
class Tables:
    """A world as arrays."""

    prompts: tuple[str, ...]
    """Names."""
    responses: tuple[str, ...]
    """Names, the same to every prompt."""
    reference: Law
    wins: Wins
    reward: Law

    @property
    def asked(self) -> list[Prompt]:
        """The prompts as the loop knows them: one token, which is the place in the tables."""
        return [Prompt(address(["tabular prompt", name]), (i,)) for i, name in enumerate(self.prompts)]

    @property
    def condorcet(self) -> list[int | None]:
        """Of each prompt the response that beats every other."""
        beats = (self.wins > 0.5).sum(2) == self.wins.shape[1] - 1
        return [int(row.argmax()) if row.any() else None for row in beats]

    @property
    def borda(self) -> list[int]:
        """Of each prompt the response of the highest mean win rate against all, itself included as a tie."""
        return [int(place) for place in self.wins.mean(2).argmax(1)]


def log_win_rate(wins: Wins, reference: Law) -> Law:
    """Logit p(y > reference): a reward in logits for preferences that no reward explains."""
    rate = np.clip(np.einsum("xij,xj->xi", wins, reference), 1e-9, 1 - 1e-9)
    return np.log(rate) - np.log1p(-rate)
