"""Sources: where an arm's responses come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Protocol, runtime_checkable

from goodhart.alignment.batch import Pairs
from goodhart.models.packing import Tokens
from goodhart.randomness import permutation
from goodhart.tasks.prompts import Prompt


@runtime_checkable
class Generator(Protocol):
    """What a policy source samples from."""

    def sample(
        self, prompts: Sequence[Prompt], samples: int, *, seed: int, purpose: str, first_sample: int
    ) -> list[list[list[int]]]:
        """`samples` responses for each prompt, drawn with keyed random numbers."""
        ...


@runtime_checkable
class Source(Protocol):
    """Pairs of a step: a function of (seed, step, policy), so to resume is to call again."""

    def draw(self, step: int, policy: Generator) -> Pairs:
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


@dataclass(frozen=True, slots=True)
class PolicySource:
    """Two samples of the policy that is being trained: online."""

    prompts: Sequence[Prompt]
    batch: int
    seed: int

    def draw(self, step: int, policy: Generator) -> Pairs:
        """Two fresh responses for each prompt of the step; those of epoch e are a prompt's samples 2e and 2e + 1.

        So a prompt that ends one epoch and begins the next within a step gets four different samples.
        """
        chosen = [self.prompts[i] for i in places(step, self.batch, len(self.prompts), self.seed)]
        positions = range(step * self.batch, (step + 1) * self.batch)
        first: list[Tokens] = []
        second: list[Tokens] = []
        for epoch, group in groupby(positions, lambda position: position // len(self.prompts)):
            part = chosen[len(first) : len(first) + len(list(group))]
            drawn = policy.sample(part, 2, seed=self.seed, purpose="online pair", first_sample=2 * epoch)
            first.extend(two[0] for two in drawn)
            second.extend(two[1] for two in drawn)
        return Pairs(chosen, first, second)
