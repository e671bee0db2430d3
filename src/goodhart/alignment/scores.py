"""What a loss sees of the responses to some prompts: log-probabilities, supervision, and what the batch says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from jaxtyping import Bool, Float
from torch import Tensor

Values = Float[Tensor, "prompt response"]
"""One number for each response; in nats where it is a log-probability."""
Reduction = Literal["sum", "mean"]
"""Over a response's tokens. Values of beta do not compare across the two."""


def reduced(values: Values, lengths: Values, reduction: Reduction) -> Values:
    """What a loss takes of nats per response: those, or nats per token (an empty response has none)."""
    return values if reduction == "sum" else values / lengths.clamp(min=1)


@dataclass(frozen=True, slots=True)
class Tokenwise:
    """The same log-probabilities token by token, for methods that weigh each token; 0 where `real` is False."""

    policy: Float[Tensor, "prompt response token"]
    """log policy(token | prompt, earlier tokens) in nats, with gradient."""
    before: Float[Tensor, "prompt response token"]
    """Of the policy that wrote them."""
    reference: Float[Tensor, "prompt response token"]
    real: Bool[Tensor, "prompt response token"]
    """Where tokens are."""


@dataclass(frozen=True, slots=True)
class Scores:
    """The responses of a micro-batch; only `logp` and `tokens.policy` carry gradients."""

    logp: Values
    """log policy(y|x) in nats: the sum over the response's tokens."""
    known: Values
    """log reference(y|x) in nats."""
    lengths: Values
    """Tokens."""
    reduction: Reduction = "sum"
    label: Float[Tensor, " prompt"] | None = None
    reward: Values | None = None
    mark: Values | None = None
    written: Values | None = None
    """log writer(y|x) in nats where another policy than this one wrote; NaN elsewhere."""
    statistics: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    """What a method computes over the whole batch, here for these prompts."""
    tokens: Tokenwise | None = None

    @property
    def policy(self) -> Values:
        """What the policy gives the responses: nats per response, or per token with reduction `mean`."""
        return reduced(self.logp, self.lengths, self.reduction)

    @property
    def rho(self) -> Values:
        """The log-ratio log policy(y|x) - log reference(y|x), by the same reduction."""
        return reduced(self.logp - self.known, self.lengths, self.reduction)

    @property
    def before(self) -> Values:
        """Log of the probability under the policy that wrote y, in nats, without gradient."""
        now = self.logp.detach()
        return now if self.written is None else self.written.where(self.written.isfinite(), now)

    def of_reward(self) -> Values:
        """The rewards. Raises ValueError where there are none."""
        return _there(self.reward, "reward")

    def of_mark(self) -> Values:
        """The marks. Raises ValueError where there are none."""
        return _there(self.mark, "mark")

    def of_label(self) -> Float[Tensor, " prompt"]:
        """The labels. Raises ValueError where there are none."""
        return _there(self.label, "label")

    def token_by_token(self) -> Tokenwise:
        """The tokens' log-probabilities. Raises ValueError where there are none."""
        if self.tokens is None:
            raise ValueError("the loss weighs tokens, and none were scored")
        return self.tokens


def _there(values: Tensor | None, name: str) -> Tensor:
    if values is None:
        raise ValueError(f"the loss learns from a {name}, and the batch has none")
    return values
