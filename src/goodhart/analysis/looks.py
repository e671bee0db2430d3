"""Looks: with how many seeds a study's contrasts are tested, and what share of the error each test may spend.

At look k a contrast is tested on the first n_k seeds, p_k its p-value there. With shares w_k that are positive and add
up to 1, min over the looks so far of p_k / w_k (at most 1) is a p-value whenever the study stops: under the hypothesis
that nothing is there, P(some p_k <= a w_k) <= a sum of w_k = a (Bonferroni; the shares are a spending of the error as
in Lan and DeMets 1983, Biometrika 70(3), without their joint distribution, which few seeds do not let one know).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from goodhart.analysis.hypotheses import Contrast, Looks
from goodhart.analysis.interval import LEVEL, Interval
from goodhart.analysis.study_tables import Tables
from goodhart.analysis.table import Matrix
from goodhart.special import special

Key = TypeVar("Key")


@dataclass(frozen=True)
class Plan:
    """The looks of one study."""

    looks: Looks
    seeds: tuple[int, ...]
    """All seeds in the order in which they are made."""
    arms: tuple[str, ...]
    """What is made anew for each of them; the baselines are not."""

    def first(self, look: int) -> tuple[int, ...]:
        """The seeds of a look, counted from 0."""
        return self.seeds[: self.looks.seeds[look]]


@dataclass(frozen=True)
class Spent:
    """A p-value with the look that it is from, counted from 0, and the look's share of the error."""

    look: int
    share: float
    p: float

    @property
    def sequential(self) -> float:
        """What it is worth beside the other looks: p over the share, at most 1."""
        return min(1.0, self.p / self.share)


@dataclass(frozen=True)
class Outcome:
    """What became of one hypothesis that nothing is there."""

    spent: Spent
    """The test that decided; of an undecided one the test of the smallest sequential p."""
    adjusted: float
    """By Holm's method, at the look that decided or at the last one."""

    @property
    def decided(self) -> bool:
        """Whether the error allows to reject it."""
        return self.adjusted <= 1 - LEVEL


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values (Holm 1979): max over smaller ones of (number left) times p, at most 1."""
    order = np.argsort(np.asarray(p), kind="stable")
    adjusted, highest = [0.0] * len(p), 0.0
    for place, i in enumerate(order):
        highest = max(highest, min(1.0, (len(p) - place) * p[i]))
        adjusted[int(i)] = highest
    return adjusted


@dataclass(frozen=True)
class Family(Generic[Key]):
    """Tests that share one error; each has one p-value for every look that it has reached, and at least one."""

    tests: Mapping[Key, Sequence[Spent]]

    def outcomes(self) -> dict[Key, Outcome]:
        """Holm's method over the sequential p-values at every look; what is decided once stays decided."""
        result: dict[Key, Outcome] = {}
        names = list(self.tests)
        for look in sorted({spent.look for tests in self.tests.values() for spent in tests}):
            best = [_best(self.tests[name], look) for name in names]
            adjusted = holm([spent.sequential if spent else 1.0 for spent in best])
            for name, spent, value in zip(names, best, adjusted, strict=True):
                if spent and (name not in result or not result[name].decided):
                    result[name] = Outcome(spent, value)
        return result


def _best(tests: Sequence[Spent], look: int) -> Spent | None:
    """The test of the smallest sequential p up to a look, the latest of equal ones."""
    known = [spent for spent in tests if spent.look <= look]
    return min(known, key=lambda spent: (spent.sequential, -spent.look), default=None)


def widened(interval: Interval, share: float) -> Interval:
    """The interval that a look's share of the error leaves: estimate -+ t(1 - .05 share / 2) se."""
    if share == 1:
        return interval
    half = float(special.stdtrit(interval.freedom, 1 - (1 - LEVEL) * share / 2)) * interval.se
    return replace(interval, low=interval.estimate - half, high=interval.estimate + half)


def of_seeds(tables: Tables, arms: Collection[str], seeds: Collection[int]) -> Tables:
    """The tables with no other seeds of these arms; what has no seeds of its own, as the baselines, is kept."""
    matrices = {split: _matrix(matrix, arms, seeds) for split, matrix in tables.matrices.items()}
    own = {at: each for at, each in tables.budgets.items() if at.arm not in arms or at.seed in seeds}
    pairs, streams = (_rows(table, arms, seeds) for table in (tables.pairs, tables.streams))
    return replace(tables, matrices=matrices, pairs=pairs, budgets=own, streams=streams)


def _matrix(matrix: Matrix, arms: Collection[str], seeds: Collection[int]) -> Matrix:
    kept = [i for i, at in enumerate(matrix.checkpoints) if at.arm not in arms or at.seed in seeds]
    at = np.array(kept, dtype=np.int64)
    columns = {name: column[at] for name, column in matrix.columns.items()}
    return replace(matrix, checkpoints=tuple(matrix.checkpoints[i] for i in kept), columns=columns)


def _rows(table: pa.Table, arms: Collection[str], seeds: Collection[int]) -> pa.Table:
    return table.filter(~pc.field("arm").isin(list(arms)) | pc.field("seed").isin(list(seeds)))


def reached(tables: Tables, contrast: Contrast, plan: Plan) -> int:
    """How many looks a contrast has reached: those whose seeds all its arms have, with every checkpoint."""
    there = [_complete(tables.matrix(contrast.split), arm) for arm in contrast.arms]
    looks = range(len(plan.looks.seeds))
    missing = (look for look in looks if not all(own.issuperset(plan.first(look)) for own in there))
    return next(missing, len(looks))


def _complete(matrix: Matrix, arm: str) -> set[int]:
    """The seeds that have as many checkpoints as any seed of the arm."""
    count: dict[int, int] = {}
    for at in matrix.checkpoints:
        if at.arm == arm:
            count[at.seed] = count.get(at.seed, 0) + 1
    return {seed for seed, number in count.items() if number == max(count.values())}
