"""A preference model as a judge of pairs: both orders, fixed batches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from goodhart.alignment.batch import Pairs
from goodhart.models.preference import PreferenceModel


@dataclass(frozen=True, slots=True)
class ModelJudge:
    """Asks a preference model both orders of every pair."""

    model: PreferenceModel
    batch: int = 32

    @torch.no_grad()
    def prefer(self, pairs: Pairs) -> Float[np.ndarray, "pair 2"]:
        """r(x, first, second) and r(x, second, first)."""
        parts = [pairs[start : start + self.batch] for start in range(0, len(pairs), self.batch)]
        logits = [self.model.both(p.prompt_tokens, p.first, p.second) for p in parts]
        return torch.cat(logits).double().sigmoid().cpu().numpy() if logits else np.zeros((0, 2))
