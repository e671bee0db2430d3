"""The exact per-token KL along sampled responses: measured, never penalised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from goodhart.alignment.policy import LanguagePolicy
from goodhart.compute.shares import in_shares
from goodhart.models.logprobs import Laws, response_laws
from goodhart.models.packing import Tokens, cuts


@dataclass(frozen=True, slots=True)
class Divergence:
    """One number per response."""

    kl: Float[np.ndarray, " response"]
    """sum_t sum_v pi(v|x,y_<t) log[pi(v|x,y_<t) / ref(v|x,y_<t)] over the response's tokens, nats (unclamped).

    Its mean over y ~ pi is KL(pi || ref) of the sequences without bias (arXiv 2405.08448, appendix D).
    """
    entropy: Float[np.ndarray, " response"]
    """Mean over positions of the policy's next-token entropy, nats."""
    logp: Float[np.ndarray, " response"]
    ref_logp: Float[np.ndarray, " response"]


def token_kl(
    policy: Float[Tensor, "... vocabulary"], reference: Float[Tensor, "... vocabulary"]
) -> Float[Tensor, "..."]:
    """KL between two categorical laws given by log-probabilities, nats; 0 log 0 = 0."""
    p = policy.exp()
    return torch.where(p > 0, p * (policy - reference), 0.0).sum(-1)


@torch.no_grad()
def divergence(
    policy: LanguagePolicy,
    reference: LanguagePolicy,
    prompts: Sequence[Tokens],
    responses: Sequence[Sequence[Tokens]],
    batch: int = 32,
) -> Divergence:
    """Score equally many responses to each prompt under both policies, in float32 and in fixed batches of prompts.

    The responses of a prompt stand together in what is returned; the prompt is computed once for all of them.
    """

    def of(cut: slice) -> list[np.ndarray]:
        part = _part(_laws(policy, prompts[cut], responses[cut]), _laws(reference, prompts[cut], responses[cut]))
        return [column.flatten().double().cpu().numpy() for column in part]

    parts = in_shares(of, cuts(len(prompts), batch))
    return Divergence(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _laws(policy: LanguagePolicy, prompts: Sequence[Tokens], responses: Sequence[Sequence[Tokens]]) -> Laws:
    return response_laws(policy.model, prompts, responses, pad=policy.pad, layout=policy.layout)


def _part(own: Laws, other: Laws) -> tuple[Tensor, ...]:
    log_p, log_q = own.logits.log_softmax(-1), other.logits.log_softmax(-1)
    chosen = own.tokens[:, None]
    entropy = -(log_p.exp() * log_p.nan_to_num(neginf=0.0)).sum(-1)
    values = (token_kl(log_p, log_q), entropy, log_p.gather(-1, chosen)[:, 0], log_q.gather(-1, chosen)[:, 0])
    kl, entropy, logp, ref_logp = (own.sums(value) for value in values)
    return kl, entropy / own.counts().clamp(min=1), logp, ref_logp
