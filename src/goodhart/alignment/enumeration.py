"""Responses by enumeration in place of sampling: every tuple that a source could draw, in its probability."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product

import numpy as np
import torch
from jaxtyping import Float

from goodhart.alignment.batch import Batch
from goodhart.alignment.scores import Scores
from goodhart.alignment.sources import POLICY, Generator
from goodhart.alignment.terms import Function, Moment, Nats
from goodhart.tasks.prompts import Prompt


@dataclass(frozen=True)
class TupleSource:
    """Every tuple of responses to every prompt; a step's mean is over them as they stand, so a loss has to weigh them.

    That is what `goodhart.training.enumeration` does, by the writers' probabilities.
    """

    prompts: Sequence[Prompt]
    responses: int
    """To each prompt."""
    writers: tuple[str, ...] = (POLICY, POLICY)
    """Who writes each response of a tuple: `policy`, or a name of `others`."""
    others: Mapping[str, Generator] = field(default_factory=dict[str, Generator])
    """Models that are not trained, by name."""

    @cached_property
    def _all(self) -> Batch:
        tuples = [[[token] for token in each] for each in product(range(self.responses), repeat=len(self.writers))]
        return Batch([p for p in self.prompts for _ in tuples], [row for _ in self.prompts for row in tuples])

    def draw(self, step: int, policy: Generator) -> Batch:  # noqa: ARG002 - nothing is drawn, and all of it counts
        """The same at every step, with the log-probabilities of the writers as they are now; NaN for the policy."""
        if set(self.writers) == {POLICY}:
            return self._all
        known = np.full((len(self._all), len(self.writers)), np.nan)
        for column, writer in enumerate(self.writers):
            if writer != POLICY:
                known[:, column] = _scored(self.others[writer], self._all.columns([[column]] * len(self._all)))
        return replace(self._all, writer=known)


@dataclass(frozen=True)
class PopulationSource:
    """All of a data set at every step."""

    data: Batch

    def draw(self, step: int, policy: Generator) -> Batch:  # noqa: ARG002 - a data set asks no policy
        """The data set."""
        return self.data


@dataclass(frozen=True)
class EveryResponse:
    """Every response to every prompt of the world: the law of an extra term without samples."""

    prompts: Sequence[Prompt]
    responses: int
    writer: Generator | None = None
    """Whose law it is; without one the policy's, now."""

    @cached_property
    def _all(self) -> Batch:
        places = range(self.responses)
        return Batch([p for p in self.prompts for _ in places], [[[y]] for _ in self.prompts for y in places])

    def draw(self, now: Moment) -> Batch:
        """All of them, with the log-probabilities of the writer."""
        return replace(self._all, writer=_scored(self.writer or now.policy, self._all)[:, None])


def in_expectation(function: Function, responses: int) -> Function:
    """A function of single responses, of which all are there, as its mean over prompts: R p(y|x) f(y).

    p is the writer's probability, without gradient.
    """

    def of(s: Scores) -> Nats:
        return responses * s.before[:, 0].exp() * function(s)

    return of


@torch.no_grad()
def _scored(writer: Generator, batch: Batch) -> Float[np.ndarray, " prompt"]:
    return writer.log_probs(batch.contexts, batch.responses)[:, 0].double().numpy()
