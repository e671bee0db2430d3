"""Extra terms of a loss: a coefficient, the law that responses are from, and a function of their scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from torch import Tensor

from goodhart.alignment.batch import Batch, occurrences
from goodhart.alignment.scores import Scores
from goodhart.alignment.sources import Generator

Nats = Float[Tensor, " prompt"]
Function = Callable[[Scores], Nats]


def log_policy(s: Scores) -> Nats:
    """Log policy(y|x), the mean over a prompt's responses."""
    return s.policy.mean(1)


def log_ratio(s: Scores) -> Nats:
    """rho(y) = log policy(y|x) - log reference(y|x): the gradient of `log_policy`, and a value with a meaning."""
    return s.rho.mean(1)


def divergence(s: Scores) -> Nats:
    """sg[rho(y) - b] log policy(y|x), whose mean gradient over y from the policy is that of KL(policy || reference).

    b is the mean of rho over the prompt's other responses (leave one out), 0 for a single one. The mean over a prompt's
    responses.
    """
    rho, number = s.rho.detach(), s.rho.shape[1]
    others = (rho.sum(1, keepdim=True) - rho) / (number - 1) if number > 1 else 0.0
    return ((rho - others) * s.policy).mean(1)


FUNCTIONS: dict[str, Function] = {"log policy": log_policy, "log ratio": log_ratio, "divergence": divergence}
"""By the name that a method knows them by."""


@dataclass(frozen=True, slots=True)
class Moment:
    """What a law may look at."""

    step: int
    drawn: Batch
    """What the source drew."""
    batch: Batch
    """What of it is learnt from, labelled."""
    policy: Generator


@runtime_checkable
class Law(Protocol):
    """Who writes the responses of a term."""

    def draw(self, now: Moment) -> Batch:
        """The responses of a step."""
        ...


@dataclass(frozen=True, slots=True)
class Fresh:
    """Responses of a model to the prompts of the step, with random numbers of their own."""

    seed: int
    responses: int = 1
    """To each prompt."""
    writer: Generator | None = None
    """Who writes them; without one the policy, now."""

    def draw(self, now: Moment) -> Batch:
        """New responses, numbered by step and by how often the prompt stands before in the batch."""
        batch = now.batch
        before, _ = occurrences(batch.prompts)
        numbers = [(now.step * len(batch) + earlier) * self.responses for earlier in before]
        writer = self.writer or now.policy
        name = "extra term, another model" if self.writer else "extra term, the policy"
        rows = writer.sample(batch.prompts, self.responses, seed=self.seed, purpose=name, first_sample=numbers)
        return Batch(batch.prompts, rows)


@dataclass(frozen=True, slots=True)
class Drawn:
    """A response that the source drew, whether or not the loss learns from it."""

    place: int
    """Which of a prompt's responses."""

    def draw(self, now: Moment) -> Batch:
        """One column of what was drawn."""
        return replace(now.drawn, label=None, reward=None, mark=None).columns([[self.place]] * len(now.drawn))


@dataclass(frozen=True, slots=True)
class Chosen:
    """The preferred response of each pair; of a tie the first."""

    def draw(self, now: Moment) -> Batch:
        """One column of the pairs. Raises ValueError for a batch without labels."""
        if now.batch.label is None:
            raise ValueError("only pairs with labels have a preferred response")
        return now.batch.columns([[int(label < 0.5)] for label in now.batch.label])


@dataclass(frozen=True, slots=True)
class Extra:
    """A term bound to what it reads: coefficient times the mean of a function over responses from a law."""

    coefficient: float
    law: Law
    function: Function

    def draw(self, now: Moment) -> Batch:
        """The responses of a step."""
        return self.law.draw(now)


def coefficient(factors: Sequence[str], parameters: Mapping[str, float]) -> float:
    """The product of parameters, each with a minus before it or none. Raises KeyError for one that is not there."""
    signs = [-1.0 if name.startswith("-") else 1.0 for name in factors]
    values = [parameters[name.removeprefix("-")] for name in factors]
    return float(np.prod(signs) * np.prod(values))
