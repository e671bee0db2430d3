"""What a study file says of an adapter; nothing here imports torch, so that a study file is read at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from goodhart.config import Count, Positive, Range
from goodhart.errors import GoodhartError


@dataclass(frozen=True)
class Adapter:
    """Low-rank adapters (LoRA, arXiv 2106.09685): W x + alpha / rank B A x, of which A and B alone are trained."""

    rank: Count = 16
    """Columns of B and rows of A."""
    alpha: Positive = 32.0
    """Scales what the adapter adds, by alpha / rank."""
    targets: tuple[str, ...] = ()
    """Last parts of the names of the layers that have one, as q_proj; without, all linear ones but the output layer."""
    dropout: Annotated[float, Range(0, 1, open_high=True)] = 0.0
    """Of the adapter's input; only 0 can be trained with here."""

    def validate(self, where: str) -> None:
        """Raises GoodhartError for dropout, whose masks no key decides."""
        if self.dropout:
            raise GoodhartError(
                f"{where}.dropout is {self.dropout:g}, and masks are drawn from a generator that no key decides: a run "
                "that goes on would be another one, and other micro-batches would change the result",
                f"set {where}.dropout=0; fewer targets or a lower rank regularise too",
            )
