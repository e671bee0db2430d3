"""References: what log-ratios are taken against, and how it moves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import Parameter

from goodhart.models.packing import Tokens
from goodhart.tasks.prompts import Prompt


@runtime_checkable
class Scorer(Protocol):
    """What has log-probabilities."""

    def log_probs(
        self, prompts: Sequence[Tokens], responses: Sequence[Sequence[Tokens]]
    ) -> Float[Tensor, "row response"]:
        """Log p(response | prompt) in nats."""
        ...


@runtime_checkable
class Reference(Scorer, Protocol):
    """What log-ratios are taken against."""

    @property
    def name(self) -> str:
        """What it is called where its log-probabilities are kept; empty: nowhere."""
        ...


@runtime_checkable
class Weights(Protocol):
    """What has parameters."""

    def parameters(self) -> Iterator[Parameter]:
        """In an order that does not change."""
        ...


@torch.no_grad()
def approach(follower: Iterable[Tensor], leader: Iterable[Tensor], rate: float) -> None:
    """Follower <- (1 - rate) follower + rate leader, and the leader itself at rate 1."""
    for mine, theirs in zip(follower, leader, strict=True):
        if rate == 1:
            mine.copy_(theirs)
        else:
            mine.lerp_(theirs.to(mine.dtype), rate)


class MovingReference:
    """A copy of the policy that follows it: ref <- (1 - rate) ref + rate policy after every so many steps.

    TR-DPO's soft update is a rate below 1, its hard one rate 1 (arXiv 2404.09656); every step with a small rate it is
    the exponential moving average of WARP and J-BOND (arXiv 2406.16768, 2407.14622).
    """

    name = ""

    def __init__(
        self,
        copy: Any,
        policy: Weights,
        rate: float,
        every: int,
        scorer: Callable[[], Any] | None = None,
    ) -> None:
        """`copy` has weights of its own; `scorer` gives what scores with them, where `copy` does not itself."""
        self.copy, self.policy, self.rate, self.every = copy, policy, rate, every
        self._scorer = scorer or (lambda: copy)
        self.now: Any = self._scorer()
        """What scores and samples with its weights."""

    def log_probs(
        self, prompts: Sequence[Tokens], responses: Sequence[Sequence[Tokens]]
    ) -> Float[Tensor, "row response"]:
        """Log p(response | prompt) in nats, by the weights that it has now."""
        return self.now.log_probs(prompts, responses)

    def token_log_probs(
        self, prompts: Sequence[Tokens], responses: Sequence[Sequence[Tokens]]
    ) -> Float[Tensor, "row response token"]:
        """Log p(token | prompt, earlier tokens) in nats."""
        return self.now.token_log_probs(prompts, responses)

    def sample(
        self, prompts: Sequence[Prompt], samples: int, *, seed: int, purpose: str, first_sample: int | Sequence[int] = 0
    ) -> list[list[list[int]]]:
        """Responses with keyed random numbers, by the weights that it has now."""
        return self.now.sample(prompts, samples, seed=seed, purpose=purpose, first_sample=first_sample)

    def after(self, step: int) -> None:
        """Follow the policy, `step` steps of which are taken."""
        if self.every and step % self.every == 0:
            approach(self.copy.parameters(), self.policy.parameters(), self.rate)
            self.now = self._scorer()

    def state(self) -> list[Tensor]:
        """Its weights."""
        return [p.detach() for p in self.copy.parameters()]

    def restore(self, state: Sequence[Tensor]) -> None:
        """Go on from what `state` gave."""
        approach(self.copy.parameters(), state, 1.0)
        self.now = self._scorer()


@dataclass(frozen=True, slots=True)
class NoReference:
    """log reference = 0 everywhere: log-ratios are the policy's own log-probabilities."""

    name: str = field(default="none", init=False)

    def log_probs(
        self, prompts: Sequence[Tokens], responses: Sequence[Sequence[Tokens]]
    ) -> Float[Tensor, "row response"]:
        """Zeros."""
        return torch.zeros(len(prompts), len(responses[0]) if responses else 0)

    def token_log_probs(
        self, prompts: Sequence[Tokens], responses: Sequence[Sequence[Tokens]]
    ) -> Float[Tensor, "row response token"]:
        """Zeros."""
        longest = max(len(response) for row in responses for response in row)
        return torch.zeros(len(prompts), len(responses[0]), longest)


@dataclass(frozen=True, slots=True)
class PriorReference:
    """log p(y) of a language model without the prompt, behind its first and last token alone (arXiv 2407.13709).

    KL is then to the unconditional prior.
    """

    model: Reference

    @property
    def name(self) -> str:
        """The model's own name, and that it does not read the prompt."""
        return f"{self.model.name} without prompts" if self.model.name else ""

    def log_probs(
        self, prompts: Sequence[Tokens], responses: Sequence[Sequence[Tokens]]
    ) -> Float[Tensor, "row response"]:
        """Log p(response) in nats."""
        return self.model.log_probs([[prompt[0], prompt[-1]] for prompt in prompts], responses)
