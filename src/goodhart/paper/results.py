"""What the paper found, claim by claim, with the numbers that its figures give.

The statements are in our words, the numbers are functions of the dots (`points.py`). A peak is the highest dot that
was seen, so it is a lower bound.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from goodhart.analysis.classification import weighted_spearman
from goodhart.errors import GoodhartError
from goodhart.paper.points import Series, names, panels, series

SIZES = ("Large (770M)", "XL (3B)", "XXL (11B)")
"""The paper's policies by number of parameters, the order of Figure 11's x-axis."""

LOW_BUDGET = 4.0
"""KL in nats below which the paper's order of online and offline is not the same on every task."""


@dataclass(frozen=True)
class Peak:
    """The highest dot of a series: its KL (nats) and win rate."""

    kl: float
    win_rate: float


@dataclass(frozen=True)
class Number:
    """One number of a result, for one series of one task's panel."""

    task: str
    series: str
    quantity: str
    value: float


@dataclass(frozen=True)
class Result:
    """One claim: what was found, where it stands in the paper, and its numbers."""

    name: str
    statement: str
    source: str
    numbers: tuple[Number, ...]

    def value(self, task: str, series: str, quantity: str) -> float:
        """One of the numbers.

        Raises:
            GoodhartError: the result has no such number.
        """
        wanted = (task, series, quantity)
        for number in self.numbers:
            if (number.task, number.series, number.quantity) == wanted:
                return number.value
        known = sorted({number.quantity for number in self.numbers})
        raise GoodhartError(f"result {self.name} has no {quantity} of {series} on {task}", f"known: {', '.join(known)}")


def peak(dots: Series) -> Peak:
    """The highest dot of a frontier.

    Raises:
        GoodhartError: the panel's x-axis is not log KL.
    """
    at = int(np.argmax(dots.y))
    return Peak(float(dots.kl[at]), float(dots.y[at]))


def fall(dots: Series) -> float:
    """By how much the win rate falls from the peak to the lowest dot of a larger KL; 0 where there is none.

    Raises:
        GoodhartError: the panel's x-axis is not log KL.
    """
    best = peak(dots)
    return best.win_rate - float(dots.y[dots.kl >= best.kl].min())


def best_within(dots: Series, budget: float) -> float:
    """The highest win rate at a KL of at most `budget` nats; NaN where no dot was seen.

    Raises:
        GoodhartError: the panel's x-axis is not log KL.
    """
    within = dots.y[dots.kl <= budget]
    return float(within.max()) if len(within) else float("nan")


def rank_correlation(dots: Sequence[Series]) -> float:
    """Spearman's correlation of x and y over the dots of some series; ours, the paper gives no coefficient."""
    x, y = (np.concatenate([getattr(each, axis) for each in dots]) for axis in ("x", "y"))
    return float(weighted_spearman(x, y, np.ones((1, len(x))))[0])


Measured = Mapping[str, Callable[[Series], float]]
_PEAK: Measured = {
    "peak win rate": lambda dots: peak(dots).win_rate,
    "KL at the peak, nats": lambda dots: peak(dots).kl,
}
_FALL: Measured = {"fall after the peak": fall}
_LOW: Measured = {f"highest win rate within {LOW_BUDGET:g} nats": lambda dots: best_within(dots, LOW_BUDGET)}
_ACCURACY: Measured = {
    "mean accuracy": lambda dots: float(dots.y.mean()),
    "first accuracy": lambda dots: float(dots.y[0]),
    "last accuracy": lambda dots: float(dots.y[-1]),
}
_LAST_ACCURACY: Measured = {"accuracy at the last step": lambda dots: float(dots.y[-1])}
_LAST_SHIFT: Measured = {"winner shift at the last step, nats": lambda dots: float(dots.y[-1])}
_SHARES: Measured = {
    f"share of online's best, {size}": lambda dots, place=place: float(dots.y[place])
    for place, size in enumerate(SIZES)
}
_SPEARMAN: Measured = {"Spearman's correlation": lambda dots: rank_correlation([dots])}


def _numbers(figure: str, measured: Measured, suffix: str = "") -> tuple[Number, ...]:
    """The measures of every series in the panels of a figure whose names end in `suffix`."""
    return tuple(
        Number(panel.removesuffix(suffix), name, quantity, measure(series(figure, panel, name)))
        for panel in panels(figure)
        if panel.endswith(suffix)
        for name in names(figure, panel)
        for quantity, measure in measured.items()
    )


def _pooled(figure: str) -> Iterable[Number]:
    for panel in panels(figure):
        every = [series(figure, panel, name) for name in names(figure, panel)]
        yield Number(panel, "all methods", "Spearman's correlation", rank_correlation(every))


def _coverage() -> tuple[Result, ...]:
    return (
        Result(
            "gap",
            "Sampling from the policy reaches a higher golden win rate than training on the fixed data, on all four "
            "tasks, by far on summarization and helpfulness; chat arena is the exception at small KL, where offline "
            "is ahead.",
            "Figure 1",
            _numbers("fig1", {**_PEAK, **_LOW}),
        ),
        Result(
            "over-optimisation",
            "Both ways of training rise with KL and then fall: past its peak every frontier of the figure loses golden "
            "win rate.",
            "Figure 1",
            _numbers("fig1", {**_PEAK, **_FALL}),
        ),
        Result(
            "H1 coverage",
            "Offline training on the shuffled stream of an online run has the online run's data, and still peaks far "
            "below it on all tasks but chat arena: coverage alone does not make the gap.",
            "section 5.1, Figure 4",
            _numbers("fig4", _PEAK),
        ),
        Result(
            "H1 shuffle window",
            "Mixing a few neighbouring batches of the stream costs nothing, mixing hundreds costs some of the win "
            "rate, a uniform shuffle more than half of it.",
            "section 5.1 and appendices, Figure 13",
            _numbers("fig13", _PEAK),
        ),
    )


def _data() -> tuple[Result, ...]:
    return (
        Result(
            "H2 data quality",
            "Pairs that the final online policy wrote, labelled by the golden model, train an offline policy hardly "
            "better than SFT, and worse than the original pairs do: better responses are not better data.",
            "section 5.2, Figure 5",
            _numbers("fig5", _PEAK),
        ),
        Result(
            "S6 data ablation",
            "Of four data sets the pairs of a middle and a late online policy are the worst; pairs with one side from "
            "SFT are the best of the synthetic ones, and beat the original pairs on summarization alone.",
            "section 6, Figure 12",
            _numbers("fig12", _PEAK),
        ),
    )


def _classification() -> tuple[Result, ...]:
    return (
        Result(
            "H3a proxy against policies",
            "On the online stream the proxy names the golden winner more often than policies do as classifiers, and "
            "less often the further the stream has drifted.",
            "section 5.3, Figure 6",
            _numbers("fig6", _ACCURACY),
        ),
        Result(
            "H3b accuracy against win rate",
            "Accuracy on the golden pairs does not tell how well a policy writes: the paper sees little correlation, "
            "and along an online run accuracy falls while the win rate climbs. The coefficients are computed here.",
            "section 5.3, Figure 7",
            (*_numbers("fig7", _SPEARMAN), *_pooled("fig7")),
        ),
        Result(
            "H3c accuracy over training",
            "Offline policies become better classifiers of the golden pairs than online ones, which stay near chance.",
            "section 5.3, Figure 8",
            _numbers("fig8", _LAST_ACCURACY, "_acc"),
        ),
        Result(
            "H3d winner log-probability",
            "No method raises the log-probability of the golden winners: it falls below that of SFT in all of them, "
            "and furthest in offline training.",
            "section 5.3, Figure 8",
            _numbers("fig8", _LAST_SHIFT, "_lp"),
        ),
    )


def _others() -> tuple[Result, ...]:
    return (
        Result(
            "H4 non-contrastive loss",
            "With best-of-2 in place of the contrastive loss online stays ahead on two tasks; on chat arena offline "
            "overtakes it.",
            "section 5.4, Figure 9",
            _numbers("fig9", _PEAK),
        ),
        Result(
            "H5 policy scale",
            "XL policies peak higher than Large ones on summarization and helpfulness, while on chat arena offline XL "
            "overtakes online XL. With scale training on the shuffled stream comes nearer to online on these two "
            "tasks; offline training on the golden data hardly does.",
            "section 5.5, Figures 10 and 11",
            (*_numbers("fig10", _PEAK), *_numbers("fig11", _SHARES)),
        ),
    )


@cache
def results() -> tuple[Result, ...]:
    """Every claim, in the paper's order of hypotheses."""
    return (*_coverage(), *_data(), *_classification(), *_others())


def result(name: str) -> Result:
    """One claim by its name.

    Raises:
        GoodhartError: there is no such claim.
    """
    outcome = {each.name: each for each in results()}
    if name not in outcome:
        raise GoodhartError(f"the paper has no result '{name}'", f"known: {', '.join(outcome)}")
    return outcome[name]
