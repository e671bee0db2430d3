"""How much an arm's runs differ from seed to seed: the same rule on each arm of a study alone."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int

from goodhart.analysis.crossfit import Term, contributions, folds
from goodhart.analysis.envelope import Rule, highest, hull
from goodhart.analysis.gap import Range, Setting, along, budgets, settings
from goodhart.analysis.interval import Prior
from goodhart.analysis.interval import prior as of_arms
from goodhart.analysis.table import Cloud, Clouds, Matrix, clouds


def trained(matrix: Matrix, untrained: Collection[str] = ()) -> tuple[str, ...]:
    """The arms of a matrix that have trained checkpoints, less those that are not trained, as best-of-n."""
    return tuple(sorted({at.arm for at in matrix.checkpoints if at.step > 0} - set(untrained)))


def each_alone(
    matrix: Matrix, measure: str, untrained: Collection[str] = (), named: frozenset[str] = frozenset()
) -> Mapping[str, Clouds]:
    """Every trained arm's cloud over its own seeds and prompts, at its settings among those named (or at all).

    An arm without any of them, and one with a single prompt, is left out.
    """
    result = {arm: clouds(matrix, [arm], measure, named) for arm in trained(matrix, untrained)}
    return {arm: each for arm, each in result.items() if each is not None and len(each.prompts) > 1}


def alone(cloud: Cloud, rule: Rule, among: Collection[Setting] = ()) -> tuple[Term, ...]:
    """The terms of an arm by itself over its own range of KL, with weights that add up to 1.

    By `hull` its envelope, by `highest` its peak, by `trajectory` the mean over its settings (among those named, or
    all); none where it has none of them.
    """
    if rule is highest:
        return (Term(cloud, highest, cloud.trained, np.zeros(1), 1.0),)
    if rule is hull:
        return (Term(cloud, hull, np.arange(len(cloud.points)), budgets(_reached(cloud, cloud.trained)), 1.0),)
    own = {name: at for name, at in settings(cloud).items() if not among or name in among}
    return tuple(along(cloud, at, _reached(cloud, at), 1 / len(own)) for at in own.values())


def _reached(cloud: Cloud, points: Int[np.ndarray, " trained"]) -> Range:
    means = cloud.kl[points].mean(axis=(1, 2))
    return Range(float(means.min()), float(means.max()))


def prior(arms: Iterable[Cloud], rule: Rule, seed: int = 0, among: Collection[Setting] = ()) -> Prior:
    """The prior for a statistic by a rule, from the arms of its study; `seed` is that of its draws."""
    each = [alone(cloud, rule, among) for cloud in arms if cloud.kl.shape[1] > 1]
    return of_arms([_cells(terms, seed) for terms in each if terms])


def _cells(terms: Sequence[Term], seed: int) -> Float[np.ndarray, "budget seed prompt"]:
    fold = folds(terms[0].cloud.kl.shape[2], seed)
    return np.sum([term.weight * contributions(term, fold) for term in terms], axis=0)
