"""From estimates to verdicts: p-values, Holm's correction, and the rule of each hypothesis."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal

from goodhart.analysis.contrasts import estimate
from goodhart.analysis.hypotheses import Contrast, Hypothesis
from goodhart.analysis.interval import Interval
from goodhart.analysis.looks import Family, Outcome, Plan, Spent, of_seeds, reached, widened
from goodhart.analysis.power import ERROR, visible
from goodhart.analysis.study_tables import Estimate, Tables
from goodhart.special import special

NO_DIFFERENCE: Final = "no difference"
"""The verdict on a value that is shown to be smaller than the size of interest."""
Verdict = Literal["supported", "contradicted", "undecided", "no difference"]


@dataclass(frozen=True)
class Decision:
    """One contrast with its estimate and verdict."""

    contrast: Contrast
    found: Estimate
    """At the look that decided, or at the last one; its interval is what that look's share of the error leaves."""
    p: float | None
    """Two-sided, of the prediction or its opposite, whichever the estimate is nearer to; with looks the sequential one.
    """
    adjusted: float | None
    """By Holm's method over all deciding contrasts of the study; None where the contrast does not decide."""
    verdict: Verdict
    companion: bool = False
    """Whether it stands beside the deciding contrast before it, and in no study file; it never decides."""
    look: int = 0
    """The look that the estimate is of, counted from 1; 0 where the study has none or has not reached the first."""
    within: float | None = None
    """The p-value of a value that is not smaller than the size of interest, corrected as `adjusted` is."""
    visible: float | None = None
    """The smallest difference that the shown test would have found with 80% power, at the error that Holm's method
    leaves it at worst; None for a prediction that a value is near 0."""


@dataclass(frozen=True)
class Ruling:
    """A hypothesis with its contrasts and verdict."""

    name: str
    hypothesis: Hypothesis
    decisions: tuple[Decision, ...]

    @property
    def verdict(self) -> Verdict:
        """Contradicted if a deciding contrast is; supported if all are; undecided if one is; else no difference."""
        deciding = {decision.verdict for decision in self.decisions if decision.contrast.decides}
        if "contradicted" in deciding:
            return "contradicted"
        if deciding == {"supported"}:
            return "supported"
        return "undecided" if "undecided" in deciding else NO_DIFFERENCE


def sides(interval: Interval, contrast: Contrast) -> tuple[float, float]:
    """One-sided p-values against the opposite of the prediction, and against the prediction itself.

    The contrast predicts something. greater, less: t tests against `than`. near: two one-sided tests of |value| <
    `than` (Schuirmann 1987), and the smaller p of the two tests of |value| > `than`.
    """
    if contrast.predicted == "near":
        upper, lower = _above(interval, contrast.than), _above(interval, -contrast.than)
        return max(lower, 1 - upper), min(upper, 1 - lower)
    over = _above(interval, contrast.than)
    return (over, 1 - over) if contrast.predicted == "greater" else (1 - over, over)


def within(interval: Interval, smallest: float) -> float:
    """The p-value against |value| >= smallest, by two one-sided t tests (Schuirmann 1987)."""
    return max(_above(interval, -smallest), 1 - _above(interval, smallest))


def _above(interval: Interval, bound: float) -> float:
    """P-value against value <= bound."""
    if interval.se == 0:
        return 0.5 if interval.estimate == bound else float(interval.estimate < bound)
    return float(special.stdtr(interval.freedom, -(interval.estimate - bound) / interval.se))


@dataclass(frozen=True)
class _Test:
    """A contrast at one look."""

    look: int
    """Counted from 0."""
    share: float
    found: Estimate
    p: float
    """Two-sided."""
    supports: bool
    within: float | None

    def visible(self, error: float) -> float:
        """What the test would have found with 80% power."""
        assert self.found.interval is not None
        return visible(self.found.interval, error)

    @property
    def shown(self) -> Estimate:
        """The estimate with the interval that the look's share leaves."""
        assert self.found.interval is not None
        return replace(self.found, interval=widened(self.found.interval, self.share))


@dataclass(frozen=True)
class _Line:
    """A contrast with its tests at the looks that it has reached, or with what there is of it."""

    contrast: Contrast
    companion: bool
    last: Estimate
    tests: tuple[_Test, ...]


def rule(tables: Tables, hypotheses: Mapping[str, Hypothesis], plan: Plan | None = None) -> tuple[Ruling, ...]:
    """The verdicts on all hypotheses; an adjusted p of at most 5% decides a contrast, by the side of the estimate.

    With looks (`plan`) a p-value is the sequential one of `looks.py`, and Holm's method is used at every look over all
    deciding contrasts. Another family, treated alike, are the tests of a value smaller than the size of interest; they
    count where the first family leaves a contrast undecided. Without looks all seeds that there are make one look.
    Companions of deciding contrasts stand behind them where they have a number; they and all that does not decide have
    the tests of the last look alone, and are not corrected.
    """
    views = _views(tables, plan)
    asked = {
        name: [
            line
            for contrast, companion in hypothesis.asked()
            if (line := _line(views, contrast, companion, plan)).last.interval or not companion
        ]
        for name, hypothesis in hypotheses.items()
    }
    lines = {(name, i): line for name, own in asked.items() for i, line in enumerate(own)}
    deciding = {at: line.tests for at, line in lines.items() if line.contrast.decides and line.tests}
    apart = Family({at: [Spent(t.look, t.share, t.p) for t in own] for at, own in deciding.items()}).outcomes()
    alike = Family({at: spent for at, own in deciding.items() if (spent := _within(own))}).outcomes()
    return tuple(
        Ruling(
            name, hypothesis, tuple(_decision(lines[name, i], (name, i), apart, alike, plan) for i in range(len(own)))
        )
        for (name, hypothesis), own in zip(hypotheses.items(), asked.values(), strict=True)
    )


def _within(tests: tuple[_Test, ...]) -> list[Spent]:
    return [Spent(test.look, test.share, test.within) for test in tests if test.within is not None]


def _views(tables: Tables, plan: Plan | None) -> list[tuple[float, Tables]]:
    """What each look sees, and its share."""
    if plan is None:
        return [(1.0, tables)]
    return [(share, of_seeds(tables, plan.arms, plan.first(k))) for k, share in enumerate(plan.looks.shares)]


def _line(views: list[tuple[float, Tables]], contrast: Contrast, companion: bool, plan: Plan | None) -> _Line:
    """A contrast at its looks: one that decides at all of them, another at the last alone."""
    known = 1 if plan is None else reached(views[-1][1], contrast, plan)
    if known == 0:
        return _Line(contrast, companion, estimate(views[0][1], contrast), ())
    looks = range(known) if contrast.decides else range(known - 1, known)
    result = [(look, views[look][0], estimate(views[look][1], contrast)) for look in looks]
    interest = contrast.interest(plan.looks.smallest if plan else 0.0)
    tests = tuple(test for each in result if (test := _test(contrast, interest, *each)))
    return _Line(contrast, companion, result[-1][2], tests)


def _test(contrast: Contrast, interest: float, look: int, share: float, given: Estimate) -> _Test | None:
    if given.interval is None or contrast.predicted == "nothing":
        return None
    supports, contradicts = sides(given.interval, contrast)
    p = min(1.0, 2 * min(supports, contradicts))
    share = share if contrast.decides else 1.0
    return _Test(look, share, given, p, supports <= contradicts, within(given.interval, interest) if interest else None)


def _decision(
    line: _Line,
    at: tuple[str, int],
    apart: Mapping[tuple[str, int], Outcome],
    alike: Mapping[tuple[str, int], Outcome],
    plan: Plan | None,
) -> Decision:
    if not line.tests:
        return Decision(line.contrast, line.last, None, None, "undecided", line.companion)
    test, error = line.tests[-1], ERROR
    p, adjusted, smaller = test.p, None, None
    differs, similar = p <= ERROR, test.within is not None and test.within <= ERROR
    if at in apart:
        first, second = apart[at], alike.get(at)
        p, adjusted, smaller = first.spent.sequential, first.adjusted, second.adjusted if second else None
        differs, similar = first.decided, second is not None and second.decided
        deciding = first if differs else second if second and similar else None
        test = next((each for each in line.tests if deciding and each.look == deciding.spent.look), test)
        error = ERROR * test.share / len(apart)
    verdict = _verdict(test, differs, similar)
    look = 0 if plan is None else test.look + 1
    seen = None if line.contrast.predicted == "near" else test.visible(error)
    return Decision(line.contrast, test.shown, p, adjusted, verdict, line.companion, look, smaller, seen)


def _verdict(test: _Test, apart: bool, alike: bool) -> Verdict:
    if apart:
        return "supported" if test.supports else "contradicted"
    return NO_DIFFERENCE if alike else "undecided"
