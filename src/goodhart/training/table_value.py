"""A value of each prompt of a finite world, as a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import Parameter

from goodhart.alignment.table_policy import rows_of
from goodhart.models.packing import Tokens


class TableValue:
    """V(x), one number for each prompt, 0 at first; before a response's one token there is no other state."""

    def __init__(self, prompts: int) -> None:
        self.values = Parameter(torch.zeros(prompts, dtype=torch.float64))

    def parameters(self) -> Iterator[Parameter]:
        """What is learnt."""
        return iter([self.values])

    def start(self, contexts: Sequence[Tokens]) -> Float[Tensor, " row"]:
        """V(x)."""
        return self.values[torch.from_numpy(rows_of(contexts))]

    def along(
        self, contexts: Sequence[Tokens], responses: Sequence[Sequence[Tokens]]
    ) -> Float[Tensor, "row response token"]:
        """V(x) before the one token."""
        return self.start(contexts)[:, None, None].expand(-1, len(responses[0]), 1)
