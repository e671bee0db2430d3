"""Labellers turn responses into supervision: a preference between two, a reward or a mark for each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from goodhart.alignment.batch import Batch, occurrences
from goodhart.randomness import stream

Mode = Literal["hard", "soft", "bernoulli"]
"""hard: the sign over both orders; soft: the probability itself; bernoulli: a keyed coin with that probability."""


@runtime_checkable
class Judge(Protocol):
    """A preference model: a probability, both orders asked."""

    def prefer(self, pairs: Batch) -> Float[np.ndarray, "pair 2"]:
        """r(x, first, second) and r(x, second, first): how probably the response named first is preferred."""
        ...


@runtime_checkable
class Labeller(Protocol):
    """What turns responses into supervision."""

    def label(self, batch: Batch, step: int) -> Batch:
        """The same prompts with supervision, and of their responses those that are learnt from."""
        ...


def both_orders(r: Float[np.ndarray, "pair 2"], mode: Literal["hard", "soft"]) -> Float[np.ndarray, " pair"]:
    """hard: 1, 0 or 1/2 by sign(r(x,y1,y2) - r(x,y2,y1)) (arXiv 2405.08448, section 4.1); soft: (r12 + 1 - r21)/2."""
    if mode == "soft":
        return (r[:, 0] + 1 - r[:, 1]) / 2
    return (np.sign(r[:, 0] - r[:, 1]) + 1) / 2


def coins(pairs: Batch, seed: int, purpose: str, *names: int | str) -> Float[np.ndarray, " pair"]:
    """A uniform in [0, 1) for each pair, keyed by its prompt and by which of the prompt's pairs it is.

    So the place in a batch decides nothing, and two pairs of one prompt have a coin each.
    """
    before, _ = occurrences(pairs.prompts)
    ids = [(p.id, number) if number else (p.id,) for p, number in zip(pairs.prompts, before, strict=True)]
    return np.array([stream(seed, purpose, *names, *each).random() for each in ids])


@dataclass(frozen=True, slots=True)
class DataLabels:
    """The labels that the data set came with."""

    def label(self, batch: Batch, step: int) -> Batch:
        """The pairs as they are. Raises ValueError if they carry no label."""
        if batch.label is None:
            raise ValueError(f"the pairs of step {step} carry no label; only a data source can be labelled by its data")
        return batch


@dataclass(frozen=True, slots=True)
class JudgeLabels:
    """Labels of a preference model, golden or proxy."""

    judge: Judge
    mode: Mode
    seed: int
    of: str = ""
    """What is labelled, where one seed labels several: a split, or a part of a mixture. Its coins are its own."""

    def label(self, batch: Batch, step: int) -> Batch:
        """Ask both orders and decide by the mode; the coin of `bernoulli` is keyed by `of`, step and pair."""
        r = self.judge.prefer(batch.whole)
        if self.mode != "bernoulli":
            return batch.labelled(both_orders(r, self.mode))
        coin = coins(batch, self.seed, "bernoulli label", self.of, step)
        return batch.labelled((coin < both_orders(r, "soft")).astype(np.float64))
