"""Whether a sampler samples by the law that the trainer scores by: a few of its responses, after every sync."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from goodhart.errors import GoodhartError
from goodhart.models.logprobs import Layout, response_laws
from goodhart.models.packing import Tokens
from goodhart.sampling.written import Written

PROBED = 8
"""Responses that are looked at after a sync."""
LIMIT = 0.02
"""Nats per token that a sampler's log-probabilities may be away from the trainer's, mean over the responses looked at.

The built-in sampler in float32 is some 3e-7 away, in bfloat16 some 3e-3 (docs/samplers.md)."""
SURPRISE = 6.0
"""Standard errors that the sampled tokens' log-probabilities may be away from what their law expects."""


@dataclass(slots=True)
class Probe:
    """Holds a sampler's responses against the policy's own law.

    Of what the sampler says: the mean over responses of |log q(y) - log p(y)| / |y|. Of what it does: under p the sum
    of log p(y_t) + H_t over all tokens, H_t the entropy of p at t, is a martingale with variance V = sum_t Var log
    p, so its size over sqrt(V) tells a sampler of another temperature, or of the likeliest tokens alone, that reports
    what the policy would.
    """

    name: str
    pad: int
    layout: Layout
    total: float = 0.0
    variance: float = 0.0

    @torch.no_grad()
    def look(self, model: object, prompts: Sequence[Tokens], written: Written) -> None:
        """Score the first responses. Raises GoodhartError, with the measured difference, if they are of another law."""
        samples = written.logps.shape[1]
        number = max(1, PROBED // max(1, samples))
        asked, texts = prompts[:number], [row[:PROBED] for row in written.responses[:number]]
        laws = response_laws(model, asked, texts, pad=self.pad, layout=self.layout)
        logp = laws.logits.double().log_softmax(-1)
        own = laws.sums(logp.gather(1, laws.tokens[:, None])[:, 0]).cpu().numpy()
        self._reported(written.logps[:number, :PROBED] - own, laws.counts().cpu().numpy())
        p = logp.exp()
        terms = torch.where(p > 0, p * logp, 0.0)
        entropy = -terms.sum(1)
        spread = torch.where(p > 0, terms * logp, 0.0).sum(1) - entropy.square()
        self.total += float(own.sum() + entropy.sum())
        self.variance += float(spread.clamp(min=0).sum())
        self._sampled()

    def _reported(self, apart: Float[np.ndarray, "prompt sample"], tokens: np.ndarray) -> None:
        size = float((np.abs(apart) / tokens.clip(min=1)).mean())
        if not size <= LIMIT:
            raise GoodhartError(
                f"the sampler {self.name} reports log-probabilities that are {size:.3g} nats per token away from "
                f"the trainer's (mean {apart.mean():+.3g} ± {apart.std():.3g} nats over {apart.size} responses)",
                f"at most {LIMIT:g} is taken for rounding: sample from the weights that update() gave, at temperature "
                "1 and from all tokens, and report the sum over the response with its end token",
            )

    def _sampled(self) -> None:
        away = self.total / np.sqrt(self.variance + 1e-3)
        if abs(away) > SURPRISE:
            likely = "likelier" if away > 0 else "less likely"
            raise GoodhartError(
                f"the sampler {self.name} reports the policy's log-probabilities and samples by another law: its "
                f"tokens are {likely} than the policy's own by {abs(away):.1f} standard errors",
                "sample at temperature 1 and from all tokens",
            )
