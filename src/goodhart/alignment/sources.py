"""Sources: where an arm's responses come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from goodhart.alignment.batch import Pairs, occurrences
from goodhart.alignment.labellers import Labeller
from goodhart.models.packing import Tokens
from goodhart.randomness import permutation
from goodhart.tasks.prompts import Prompt


@runtime_checkable
class Generator(Protocol):
    """What a policy source samples from."""

    def sample(
        self, prompts: Sequence[Prompt], samples: int, *, seed: int, purpose: str, first_sample: Sequence[int]
    ) -> list[list[list[int]]]:
        """`samples` responses for each prompt from its `first_sample` on, drawn with keyed random numbers."""
        ...

    def log_probs(
        self, prompts: Sequence[Tokens], responses: Sequence[Sequence[Tokens]]
    ) -> Float[Tensor, "row response"]:
        """Log p(response | prompt) in nats."""
        ...


@runtime_checkable
class Sampling(Generator, Protocol):
    """A policy that can be held as it is while it goes on being trained."""

    def frozen(self) -> Generator:
        """A copy that training does not move."""
        ...


@runtime_checkable
class Source(Protocol):
    """Pairs of a step: a function of (seed, step, policy), so to resume is to call again."""

    def draw(self, step: int, policy: Sampling) -> Pairs:
        """The batch of a step."""
        ...


def places(step: int, batch: int, size: int, seed: int) -> list[int]:
    """Which of `size` items stand in the batch of a step: epoch after epoch, each in its own keyed order.

    Every source walks its items so; hence online and offline runs of one seed see the same prompts at
    the same step.
    """
    positions = range(step * batch, (step + 1) * batch)
    orders = {epoch: permutation(size, seed, "order of pairs", epoch) for epoch in {p // size for p in positions}}
    return [int(orders[p // size][p % size]) for p in positions]


@dataclass(frozen=True, slots=True)
class DataSource:
    """Both responses from a fixed data set: offline."""

    data: Pairs
    batch: int
    seed: int

    def draw(self, step: int, policy: Generator) -> Pairs:  # noqa: ARG002 - a data set asks no policy
        """The step's pairs of the data set, with their labels."""
        return self.data.take(places(step, self.batch, len(self.data), self.seed))


@dataclass(frozen=True)
class PolicySource:
    """Two samples of the policy that is being trained: online."""

    prompts: Sequence[Prompt]
    batch: int
    seed: int

    def draw(self, step: int, policy: Generator) -> Pairs:
        """Two fresh responses for each prompt of the step.

        In epoch e the k-th of a prompt's n places has its samples 2 (e n + k) and the next. So neither a prompt that
        stands in the data twice, nor one that ends an epoch and begins the next within a step, has a sample twice.
        """
        chosen = places(step, self.batch, len(self.prompts), self.seed)
        positions = range(step * self.batch, (step + 1) * self.batch)
        before, number = self._occurrences
        first: list[Tokens] = []
        second: list[Tokens] = []
        for epoch, group in groupby(positions, lambda position: position // len(self.prompts)):
            part = chosen[len(first) : len(first) + len(list(group))]
            drawn = policy.sample(
                [self.prompts[i] for i in part],
                2,
                seed=self.seed,
                purpose="online pair",
                first_sample=[2 * (epoch * number[i] + before[i]) for i in part],
            )
            first.extend(two[0] for two in drawn)
            second.extend(two[1] for two in drawn)
        return Pairs([self.prompts[i] for i in chosen], first, second)

    @cached_property
    def _occurrences(self) -> tuple[list[int], list[int]]:
        return occurrences(self.prompts)


@dataclass(slots=True)
class DelayedSource:
    """Two samples of the policy as it was at the last refresh: between online and offline (arXiv 2506.21495).

    The sampling policy is renewed every `refresh` steps: 1 is online, 0 never, so that all samples are the start's.
    """

    inner: PolicySource
    refresh: int
    held: Generator | None = None
    """The sampling policy; the one part of a source that is not a function of (seed, step, policy)."""

    def draw(self, step: int, policy: Sampling) -> Pairs:
        """The pairs that a `PolicySource` would draw from the policy that is held, with its log-probabilities."""
        if self.held is None or (self.refresh and step % self.refresh == 0):
            self.held = policy.frozen()
            return self.inner.draw(step, self.held)
        pairs = self.inner.draw(step, self.held)
        with torch.no_grad():
            own = self.held.log_probs(pairs.prompt_tokens, pairs.responses)
        return replace(pairs, writer=own.double().cpu().numpy())


@dataclass(frozen=True, slots=True)
class StreamSource:
    """The recorded pairs of an online run: what it saw, whoever wrote it then.

    `window` is how many batches are shuffled together: 1 replays the run in order, 0 shuffles all of it, epoch after
    epoch (arXiv 2405.08448, section 5.1 and figure 13).
    """

    data: Pairs
    """In the order of the run, with its labels and reference log-probabilities."""
    batch: int
    seed: int
    window: int

    def draw(self, step: int, policy: Generator) -> Pairs:  # noqa: ARG002 - a recording asks no policy
        """The step's pairs. Raises ValueError behind the recording's end."""
        if self.window == 0:
            return self.data.take(places(step, self.batch, len(self.data), self.seed))
        number, place = divmod(step, self.window)
        start = number * self.window * self.batch
        size = min(self.window * self.batch, len(self.data) - start)
        if (place + 1) * self.batch > size:
            raise ValueError(f"step {step} is behind the end of a stream of {len(self.data)} pairs")
        order = permutation(size, self.seed, "stream window", number) if self.window > 1 else range(size)
        return self.data.take([start + int(order[i]) for i in range(place * self.batch, (place + 1) * self.batch)])


@dataclass(frozen=True, slots=True)
class MixtureSource:
    """Several sources with their labellers, each with its share of every batch."""

    parts: Sequence[tuple[Source, Labeller]]
    """Each draws its share."""

    def draw(self, step: int, policy: Sampling) -> Pairs:
        """The parts' pairs one after the other, with their labels."""
        return Pairs.joined([labeller.label(source.draw(step, policy), step) for source, labeller in self.parts])
