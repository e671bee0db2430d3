"""How far a study's arms have come: how many of its seeds each has, and which have to go on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from goodhart.analysis.hypotheses import Contrast
from goodhart.cells.store import Store
from goodhart.studies.graph import Graph
from goodhart.studies.spec import Study

if TYPE_CHECKING:
    from goodhart.analysis.rulings import Ruling

Reach = Mapping[str, int]
"""By arm, how many of the study's seeds it has, from the first on."""


def whole(study: Study) -> dict[str, int]:
    """All seeds for every arm."""
    return dict.fromkeys(study.all_arms, len(study.seeds))


def reach(study: Study, store: Store, every: Graph) -> dict[str, int]:
    """The last look of each arm whose cells are all there, at least the first; without looks all seeds.

    `every` is the graph of all seeds.
    """
    if study.looks is None:
        return whole(study)
    lacking: dict[str, set[int]] = {arm: set() for arm in study.all_arms}
    for item in every.measured:
        if item.arm in lacking and not store.has(item.cell.id):
            lacking[item.arm].add(item.seed)
    return {arm: _finished(study.looks.seeds, study.seeds, seeds) for arm, seeds in lacking.items()}


def _finished(numbers: Sequence[int], seeds: Sequence[int], lacking: set[int]) -> int:
    done = [number for number in numbers if not lacking.intersection(seeds[:number])]
    return max(done, default=numbers[0])


def onward(study: Study, now: Reach, rulings: Sequence[Ruling]) -> dict[str, int]:
    """How far the arms have to come in the next look: those that an undecided contrast compares, while looks are left.

    A contrast without a number is left alone: more seeds give two arms no KL in common.
    """
    further = dict(now)
    if study.looks is None:
        return further
    for contrast in undecided(rulings):
        for arm in contrast.arms:
            later = [number for number in study.looks.seeds if number > now[arm]]
            further[arm] = later[0] if later else now[arm]
    return further


def undecided(rulings: Sequence[Ruling]) -> list[Contrast]:
    """The deciding contrasts with a number that leave a hypothesis open."""
    return [
        decision.contrast
        for ruling in rulings
        if ruling.verdict == "undecided"
        for decision in ruling.decisions
        if decision.contrast.decides and decision.found.interval and decision.verdict == "undecided"
    ]
