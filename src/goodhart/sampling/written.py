"""Responses with what their writer says of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True, slots=True)
class Written:
    """Responses, and how probable they were to the sampler that wrote them."""

    responses: list[list[list[int]]]
    """By prompt and sample: token ids that include the end token unless cut by the cap."""
    logps: Float[np.ndarray, "prompt sample"]
    """Log of the probability that the sampler drew each response with: nats, summed over its tokens."""
