"""From estimates to verdicts: p-values, Holm's correction, and the rule of each hypothesis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from goodhart.analysis.contrasts import Estimate, Tables, estimate
from goodhart.analysis.hypotheses import Contrast, Hypothesis
from goodhart.analysis.interval import LEVEL, Interval
from goodhart.special import special

Verdict = Literal["supported", "contradicted", "undecided"]


@dataclass(frozen=True)
class Decision:
    """One contrast with its estimate and verdict."""

    contrast: Contrast
    found: Estimate
    p: float | None
    """Two-sided, of the prediction or its opposite, whichever the estimate is nearer to."""
    adjusted: float | None
    """By Holm's method over all deciding contrasts of the study; None where the contrast does not decide."""
    verdict: Verdict
    companion: bool = False
    """Whether it stands beside the deciding contrast before it, and in no study file; it never decides."""


@dataclass(frozen=True)
class Ruling:
    """A hypothesis with its contrasts and verdict."""

    name: str
    hypothesis: Hypothesis
    decisions: tuple[Decision, ...]

    @property
    def verdict(self) -> Verdict:
        """Supported if every deciding contrast is, contradicted if one is, else undecided."""
        deciding = [decision.verdict for decision in self.decisions if decision.contrast.decides]
        if "contradicted" in deciding:
            return "contradicted"
        return "undecided" if "undecided" in deciding else "supported"


def sides(found: Interval, contrast: Contrast) -> tuple[float, float]:
    """One-sided p-values against the opposite of the prediction, and against the prediction itself.

    The contrast predicts something. greater, less: t tests against `than`. near: two one-sided tests of |value| <
    `than` (Schuirmann 1987), and the smaller p of the two tests of |value| > `than`.
    """

    def above(bound: float) -> float:
        """P-value against value <= bound."""
        if found.se == 0:
            return 0.5 if found.estimate == bound else float(found.estimate < bound)
        return float(special.stdtr(found.freedom, -(found.estimate - bound) / found.se))

    if contrast.predicted == "near":
        upper, lower = above(contrast.than), above(-contrast.than)
        return max(lower, 1 - upper), min(upper, 1 - lower)
    over = above(contrast.than)
    return (over, 1 - over) if contrast.predicted == "greater" else (1 - over, over)


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values (Holm 1979): max over smaller ones of (number left) times p, at most 1."""
    order = np.argsort(np.asarray(p), kind="stable")
    adjusted, highest = [0.0] * len(p), 0.0
    for place, i in enumerate(order):
        highest = max(highest, min(1.0, (len(p) - place) * p[i]))
        adjusted[int(i)] = highest
    return adjusted


def rule(tables: Tables, hypotheses: Mapping[str, Hypothesis]) -> tuple[Ruling, ...]:
    """The verdicts on all hypotheses; an adjusted p of at most 5% decides a contrast, by the side of the estimate.

    Companions of deciding contrasts stand behind them where they have a number.
    """
    asked = {name: _estimated(tables, hypothesis) for name, hypothesis in hypotheses.items()}
    tested: dict[tuple[str, int], tuple[float, bool]] = {}
    for name, lines in asked.items():
        for i, (contrast, found, _) in enumerate(lines):
            if found.interval is not None and contrast.predicted != "nothing":
                supports, contradicts = sides(found.interval, contrast)
                tested[name, i] = min(1.0, 2 * min(supports, contradicts)), supports <= contradicts
    deciding = [(name, i) for name, i in tested if asked[name][i][0].decides]
    adjusted = dict(zip(deciding, holm([tested[at][0] for at in deciding]), strict=True))
    return tuple(
        Ruling(
            name,
            hypothesis,
            tuple(
                _decision(contrast, found, tested.get((name, i)), adjusted.get((name, i)), companion)
                for i, (contrast, found, companion) in enumerate(asked[name])
            ),
        )
        for name, hypothesis in hypotheses.items()
    )


def _estimated(tables: Tables, hypothesis: Hypothesis) -> list[tuple[Contrast, Estimate, bool]]:
    """What a hypothesis asks with its estimates; a companion without a number would only repeat that there is none."""
    found = [(contrast, estimate(tables, contrast), companion) for contrast, companion in hypothesis.asked()]
    return [(contrast, each, companion) for contrast, each, companion in found if each.interval or not companion]


def _decision(
    contrast: Contrast, found: Estimate, tested: tuple[float, bool] | None, adjusted: float | None, companion: bool
) -> Decision:
    if tested is None:
        return Decision(contrast, found, None, None, "undecided", companion)
    p, supported = tested
    decided = (p if adjusted is None else adjusted) <= 1 - LEVEL
    verdict = ("supported" if supported else "contradicted") if decided else "undecided"
    return Decision(contrast, found, p, adjusted, verdict, companion)
