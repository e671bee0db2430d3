"""Sources: where an arm's responses come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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
        """Two fresh responses for each prompt of the step. The numbers 2*step and 2*step+1 name the two samples."""
        chosen = [self.prompts[i] for i in places(step, self.batch, len(self.prompts), self.seed)]
        drawn = policy.sample(chosen, 2, seed=self.seed, purpose="online pair", first_sample=2 * step)
        first: list[Tokens] = [two[0] for two in drawn]
        second: list[Tokens] = [two[1] for two in drawn]
        return Pairs(chosen, first, second)
