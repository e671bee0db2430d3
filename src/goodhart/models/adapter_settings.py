"""What a study file says of an adapter; nothing here imports torch, so that a study file is read at once."""

from __future__ import annotations

from dataclasses import dataclass

from goodhart.config import Count, Positive


@dataclass(frozen=True)
class Adapter:
    """Low-rank adapters (LoRA, arXiv 2106.09685): W x + alpha / rank B A x, of which A and B alone are trained."""

    rank: Count = 16
    """Columns of B and rows of A."""
    alpha: Positive = 32.0
    """Scales what the adapter adds, by alpha / rank."""
    targets: tuple[str, ...] = ()
    """Last parts of the names of the layers that have one, as q_proj; without, all linear ones but the output layer."""
