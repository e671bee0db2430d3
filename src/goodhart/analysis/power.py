"""What a study can see: the smallest difference that it finds with a given power, before and after it has run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from goodhart.analysis.hypotheses import Contrast
from goodhart.analysis.interval import LEVEL, STRONGEST, Interval, Side, combine
from goodhart.special import special

POWER = 0.8
"""The probability with which a difference is to be found."""
ERROR = 1 - LEVEL
"""Of a test that stands alone."""


@dataclass(frozen=True)
class Design:
    """The size of a study: seeds of every arm, held-out prompts, responses of a checkpoint to each, arms."""

    seeds: int
    prompts: int
    responses: int
    arms: int


@dataclass(frozen=True)
class Variances:
    """Where the noise of a statistic of two arms comes from, in squared units of it."""

    seeds: float
    """tau^2: of one arm's runs around their mean."""
    prompts: float
    """sigma_P^2: of the prompts' own differences between the arms."""
    interaction: float
    """sigma_I^2: of a seed's difference on a prompt, apart from the responses."""
    responses: float
    """sigma_R^2: of one response; 0 where only one was measured, and then the interaction holds it."""
    factor: float = 1.0
    """How many times the variance of fixed picks that of the interval is, because picks are chosen by the data."""
    contrasts: int = 1
    """So many contrasts were averaged."""

    def mean_square(self, responses: int) -> float:
        """The noise of a seed on a prompt: sigma_I^2 + sigma_R^2 / K."""
        return self.interaction + self.responses / responses


@dataclass(frozen=True)
class Forecast:
    """What a contrast's interval is expected to be."""

    se: float
    freedom: float

    def visible(self, error: float = ERROR) -> float:
        """The smallest value that a two-sided test at this error finds with the power that is wished."""
        return visible_at(self.se, self.freedom, error)


def visible_at(se: float, freedom: float, error: float = ERROR) -> float:
    """(t(1 - error / 2) + t(power)) se, with t's quantiles (Bloom 1995, doi 10.1177/0193841X9501900504)."""
    return float(special.stdtrit(freedom, 1 - error / 2) + special.stdtrit(freedom, POWER)) * se


def visible(interval: Interval, error: float = ERROR) -> float:
    """The same of an interval that is there; it does not depend on the estimate."""
    return visible_at(interval.se, interval.freedom, error)


def sides(contrast: Contrast) -> int:
    """How many differences of two arms it is made of: one, or with a baseline two."""
    return 2 if contrast.baseline else 1


def forecast(variances: Variances, design: Design, differences: int = 1) -> Forecast:
    """The expected standard error of a contrast and its degrees of freedom, by the intervals' own formula.

    For D differences of two arms, S seeds, P prompts and K responses: `interval.combine` of 2 D sides, each with
    n = (sigma_I^2 + sigma_R^2 / K) / (2 P) of interaction and e (tau^2 + n) between seeds, a prior that is right, and
    D (sigma_P^2 / P + 2 n / S) for the prompts; e is `excess`. The variance is that times the factor.
    """
    seeds, own = design.seeds, variances.mean_square(design.responses) / (2 * design.prompts)
    prior = min(STRONGEST, (design.arms - 1.0) * (seeds - 1))
    between = excess(seeds - 1, float(prior)) * (variances.seeds + own) if seeds > 1 else 0.0
    parts = combine(
        [Side(between, own)] * (2 * differences),
        2 * differences * own,
        differences * (variances.prompts / design.prompts + 2 * own / seeds),
        seeds=seeds,
        prompts=design.prompts,
        variance=variances.seeds,
        freedom=prior,
    )
    variance = variances.factor * float(parts.seeds + parts.prompts)
    return Forecast(float(np.sqrt(variance)), float(parts.freedom))


def excess(own: int, prior: float) -> float:
    """E max(x, (g + d x) / (g + d)) for x chi-square with d degrees of freedom over d, and a prior of g that is right.

    How much too large a side's variance is on average, because no interval takes it below its own estimate:
    P(x > 1 under d + 2) + (g P(x < 1) + d P(x < 1 under d + 2)) / (g + d).
    """
    from scipy.stats import chi2  # after `special`, which looks whether there is memory for SciPy

    below, above = (float(chi2.cdf(own, own + more)) for more in (0, 2))
    return 1 - above + (prior * below + own * above) / (prior + own)


def pooled(variances: Sequence[Variances]) -> Variances:
    """The mean of several contrasts' parts, and the median of their factors."""

    def mean(name: str) -> float:
        return float(
            np.average([getattr(each, name) for each in variances], weights=[each.contrasts for each in variances])
        )

    parts = {name: mean(name) for name in ("seeds", "prompts", "interaction", "responses")}
    factor = float(np.median([each.factor for each in variances]))
    return Variances(**parts, factor=factor, contrasts=sum(each.contrasts for each in variances))


def key(contrast: Contrast) -> str:
    """The name of what is measured, whichever arms it is of."""
    return f"{contrast.statistic} | {contrast.measure}"


def known(variances: Mapping[str, Variances], contrast: Contrast) -> Variances | None:
    """The variances of a contrast's statistic, or of the same gap at equal KL, whose rule it shares."""
    if key(contrast) in variances:
        return variances[key(contrast)]
    if contrast.statistic in ("gap at equal compute", "gap at equal pairs"):
        return variances.get(key(replace(contrast, statistic="gap at equal KL")))
    return None
