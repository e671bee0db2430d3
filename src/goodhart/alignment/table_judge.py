"""A table of preferences as a judge of pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from goodhart.alignment.batch import Batch
from goodhart.alignment.table_policy import columns_of, rows_of
from goodhart.models.packing import Tokens
from goodhart.tasks.tables import Law, Wins


@dataclass(frozen=True, slots=True)
class TableJudge:
    """p(y > y') by a table; asked for rewards it gives those of another one, which need not explain the preferences."""

    wins: Wins
    reward: Law

    @property
    def scalar(self) -> bool:
        """It has a reward for each response (`alone`), and methods that learn from rewards take that."""
        return True

    def prefer(self, pairs: Batch) -> Float[np.ndarray, "pair 2"]:
        """p(first > second) and p(second > first)."""
        return self.prefer_each(pairs.prompt_tokens, pairs.first, [pairs.second])[:, 0]

    def prefer_each(
        self,
        prompts: Sequence[Tokens],
        responses: Sequence[Tokens],
        opponents: Sequence[Sequence[Tokens]],
        known: Float[np.ndarray, "response opponent"] | None = None,  # noqa: ARG002 - a table needs nothing of before
    ) -> Float[np.ndarray, "response opponent 2"]:
        """The same for several opponents of each response."""
        rows, own = rows_of(prompts), rows_of(responses)
        result = [(self.wins[rows, own, rows_of(o)], self.wins[rows, rows_of(o), own]) for o in opponents]
        return np.stack([np.stack(both, axis=1) for both in result], axis=1)

    def alone(self, prompts: Sequence[Tokens], texts: Sequence[Sequence[Tokens]]) -> Float[np.ndarray, "prompt text"]:
        """The rewards of one or more responses to each prompt, in logits."""
        return self.reward[rows_of(prompts)[:, None], columns_of(texts).T]
