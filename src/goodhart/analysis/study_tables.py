"""What contrasts are computed from: a study's tables, and what its arms together say of seeds."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa

from goodhart.analysis.crossfit import Draws, draw
from goodhart.analysis.envelope import Rule
from goodhart.analysis.gap import Setting
from goodhart.analysis.hypotheses import Contrast
from goodhart.analysis.interval import Interval, Prior
from goodhart.analysis.prior import each_alone, prior
from goodhart.analysis.table import Checkpoint, Cloud, Clouds, Matrix, by_checkpoint, floats, shared_settings


@dataclass(frozen=True)
class Tables:
    """What contrasts are computed from."""

    matrices: Mapping[str, Matrix]
    """By split."""
    pairs: pa.Table
    """Columns of PAIR_ROWS."""
    budgets: Mapping[Checkpoint, Mapping[str, float]]
    """What each checkpoint took, by the column of BUDGETS."""
    streams: pa.Table
    """Columns of STREAM_ROWS."""
    resamples: int = 1000
    seed: int = 0
    untrained: tuple[str, ...] = ()
    """Arms whose seeds are no training runs, as best-of-n."""
    _priors: dict[tuple[object, ...], Prior] = field(
        default_factory=dict[tuple[object, ...], Prior], init=False, repr=False, compare=False
    )

    def matrix(self, split: str) -> Matrix:
        """The numbers of one split."""
        return self.matrices[split]

    def draws(self, clouds: Clouds) -> Draws:
        """The random part of a bootstrap over the clouds."""
        return draw(len(clouds.seeds), len(clouds.prompts), self.resamples, self.seed)

    def prior(
        self,
        split: str,
        measure: str,
        rule: Rule,
        named: frozenset[str] = frozenset(),
        among: Collection[Setting] = (),
        column: str | None = None,
    ) -> Prior:
        """What all trained arms show of a rule's variance between seeds, at the settings that a statistic is over.

        `named` and `among` are settings by name and by (beta, lr); empty: all. `column` is a budget in KL's place.
        """
        key = (split, measure, rule, named, frozenset(among), column)
        if key not in self._priors:
            every = each_alone(self.matrix(split), measure, self.untrained, named)
            spent = {at.arm for at in self.budgets} if column else set(every)
            arms = [spending(each.arms[arm], each.seeds, self, column) for arm, each in every.items() if arm in spent]
            self._priors[key] = prior(arms, rule, self.seed, among)
        return self._priors[key]


@dataclass(frozen=True)
class Estimate:
    """A contrast's interval and what it is over; or why there is none."""

    interval: Interval | None
    over: str


def read_budgets(table: pa.Table) -> dict[Checkpoint, dict[str, float]]:
    """The table of BUDGETS by checkpoint."""
    names = ("operations", "pairs", "labels", "drift", "drift_spread")
    columns = {name: floats(table, name) for name in names}
    return {at: {name: float(columns[name][rows[0]]) for name in names} for at, rows in by_checkpoint(table)}


def settings_of(tables: Tables, contrast: Contrast) -> frozenset[str]:
    """The settings that all arms of a contrast have; empty: they share none, and all are compared."""
    return shared_settings(tables.matrix(contrast.split), contrast.arms)


def spending(cloud: Cloud, seeds: Sequence[int], tables: Tables, column: str | None) -> Cloud:
    """The cloud with another budget in the place of KL; the SFT policy has spent none of it."""
    if column is None:
        return cloud
    cost = np.zeros(cloud.kl.shape[:2])
    for i in cloud.trained:
        point = cloud.points[int(i)]
        for j, seed in enumerate(seeds):
            at = Checkpoint(cloud.arm, point.setting, point.beta, point.lr, seed, point.step)
            cost[i, j] = tables.budgets[at][column]
    return replace(cloud, kl=np.broadcast_to(cost[:, :, None], cloud.kl.shape))
