"""What a study's arms say of the variance between seeds: each alone by the same rule, worked by hand."""

from dataclasses import replace

import numpy as np
import pytest

from goodhart.analysis.contrasts import estimate
from goodhart.analysis.crossfit import Term, contributions, folds
from goodhart.analysis.envelope import highest, hull, trajectory
from goodhart.analysis.gap import Range, budgets
from goodhart.analysis.hypotheses import Contrast
from goodhart.analysis.interval import NO_PRIOR
from goodhart.analysis.interval import prior as of_arms
from goodhart.analysis.prior import alone, each_alone, prior, trained
from goodhart.analysis.summary import measure_summary
from goodhart.analysis.table import Cloud, Point, read
from made_rows import noisy, row, rows_of
from test_contrasts import tables_of

MAIN = "golden_vs_policy"


def differing(arm, levels, *, prompts=4, settings=(0.1,), start=True):
    """Rows of an arm whose seeds each have one level at KL 2 and 4; prompts are all alike."""
    rows = [row("sft", None, 0, 0, p, 0.0, 0.4) for p in range(prompts if start else 0)]
    for beta in settings:
        for seed, level in enumerate(levels):
            rows += [row(arm, beta, seed, k, p, 2.0 * k, level) for k in (1, 2) for p in range(prompts)]
    return rows


def table(*parts):
    return read(rows_of([each for part in parts for each in part]), "held_out")


APART, ALIKE = (0.4, 0.5, 0.6), (0.5, 0.5, 0.5)
"""Variances .01 and 0 between seeds."""


def cloud(points, value, arm="arm", anchored=True):
    names = tuple(Point(f"{beta}", beta, 1e-4, step) for step, (beta, _) in enumerate(points))
    kl = np.broadcast_to(np.array([k for _, k in points])[:, None, None], value.shape)
    return Cloud(arm, names, anchored, kl, value)


POINTS = [(None, 0.0), (0.1, 1.0), (0.1, 3.0), (0.03, 2.0), (0.03, 6.0)]


def test_an_arm_alone_goes_over_its_own_range():
    own = cloud(POINTS, np.zeros((5, 2, 3)))
    (term,) = alone(own, hull)
    assert (term.rule, term.weight, term.points.tolist(), term.crossfit) == (hull, 1.0, [0, 1, 2, 3, 4], True)
    assert term.budgets == pytest.approx(budgets(Range(1.0, 6.0)))
    (term,) = alone(own, highest)
    assert (term.rule, term.weight, term.points.tolist(), term.budgets.tolist()) == (highest, 1.0, [1, 2, 3, 4], [0.0])


def test_an_arm_alone_along_its_settings_is_their_mean():
    own = cloud(POINTS, np.zeros((5, 2, 3)))
    first, second = alone(own, trajectory)
    assert [(t.weight, t.points.tolist(), t.crossfit) for t in (first, second)] == [
        *((0.5, [0, 1, 2], False), (0.5, [0, 3, 4], False)),
    ]
    assert first.budgets == pytest.approx(budgets(Range(1.0, 3.0)))
    (only,) = alone(own, trajectory, ["0.03", "9.0"])
    assert (only.weight, only.points.tolist()) == (1.0, [0, 3, 4])
    assert alone(own, trajectory, ["9.0"]) == ()


def test_the_prior_is_that_of_the_arms_contributions():
    rng = np.random.default_rng(0)
    arms = [cloud(POINTS, rng.normal(size=(5, seeds, 9)), f"arm {seeds}") for seeds in (3, 4)]
    fold = folds(9, 5)
    each = [contributions(Term(own, hull, np.arange(5), budgets(Range(1.0, 6.0)), 1.0), fold) for own in arms]
    known, expected = prior(arms, hull, 5), of_arms(each)
    assert (known.variance, known.at_budget) == pytest.approx((expected.variance, expected.at_budget))
    assert prior(arms, hull, 5) != prior(arms, hull, 6), "with the folds of its seed"
    assert prior(arms, trajectory, among=["9.0"]) == NO_PRIOR, "no arm has the setting"


def test_arms_whose_seeds_are_known_to_differ():
    """One arm with variance .01 between seeds, one with 0; where prompts are alike nothing is the interaction's."""
    found = each_alone(table(differing("one", APART), differing("two", ALIKE)), MAIN)
    arms = [each.arms[arm] for arm, each in found.items()]
    for rule in (highest, trajectory, hull):
        known = prior(arms, rule)
        assert known.freedom == 2.0
        if rule is not hull:
            assert (known.variance, known.at_budget) == pytest.approx((0.005, 0.005))


def test_what_is_not_trained_or_not_measured_twice_is_no_evidence():
    best = [{**each, "arm": "best of n"} for each in differing("one", APART, start=False)]
    lone = differing("lone", ALIKE[:1], start=False)
    few = differing("few", APART, prompts=1, start=False)
    matrix = table(differing("one", APART), differing("two", ALIKE, start=False), best, lone)
    assert trained(matrix, ["best of n"]) == ("lone", "one", "two")
    found = each_alone(matrix, MAIN, ["best of n"])
    assert list(found) == ["lone", "one", "two"]
    assert prior([each.arms[arm] for arm, each in found.items()], highest).variance == pytest.approx(0.005)
    assert not each_alone(table(few), MAIN), "one prompt"


def test_an_arm_with_more_seeds_has_them_all_and_counts_by_them():
    """Variances .01 of three seeds and 0 of five: (2 * .01 + 4 * 0) / 6, and two degrees of freedom at most."""
    matrix = table(differing("one", APART), differing("two", (0.5,) * 5, start=False))
    arms = [each.arms[arm] for arm, each in each_alone(matrix, MAIN).items()]
    known = prior(arms, highest)
    assert (known.variance, known.freedom) == (pytest.approx(0.02 / 6), 2.0)


def test_only_arms_that_have_the_settings_are_evidence():
    matrix = table(
        differing("one", APART, settings=(0.1, 0.03)),
        differing("two", ALIKE, settings=(0.03,), start=False),
        differing("three", APART, settings=(0.1,), start=False),
    )
    assert list(each_alone(matrix, MAIN, (), frozenset({"beta=0.1 lr=0.0001"}))) == ["one", "three"]


PEAK = Contrast("peak", "one", "two")


def test_a_contrast_rests_on_the_seeds_of_all_arms():
    """v = .01 and 0; tau^2 = (.01 + 0 + 0 + 0) / 4 of four arms, or half of .01 of two; g = d = 2.

    s is max(.01, (2 tau^2 + .02) / 4) and 2 tau^2 / 4, V = (s + s') / 3; no prompt differs, and nothing is picked.
    """
    both = [*differing("one", APART), *differing("two", ALIKE, start=False)]
    more = [each for name in ("three", "four") for each in differing(name, ALIKE, start=False)]
    for rows, tau in ((both, 0.005), (both + more, 0.0025)):
        found = estimate(tables_of(rows_of(rows), resamples=4000), PEAK).interval
        assert found.se == pytest.approx(np.sqrt((0.01 + tau / 2) / 3), rel=0.03)
        assert found.freedom == pytest.approx((0.01 + tau / 2) ** 2 / ((0.01**2 + (tau / 2) ** 2) / 4))


def test_a_prior_is_of_its_split_measure_and_settings_and_made_once():
    rows = noisy(prompts=8)
    for each in rows:
        each["golden_vs_sft"] = each[MAIN] / 2
    tables = tables_of(rows_of(rows))
    known = tables.prior("held_out", MAIN, hull)
    assert tables.prior("held_out", MAIN, hull) is known
    assert tables.prior("held_out", "golden_vs_sft", trajectory).variance == pytest.approx(
        tables.prior("held_out", MAIN, trajectory).variance / 4
    )
    assert tables.prior("train", MAIN, hull) == NO_PRIOR
    named = frozenset({"beta=0.1 lr=0.0001"})
    assert tables.prior("held_out", MAIN, hull, named) != known
    assert tables.prior("held_out", MAIN, trajectory, named) == tables.prior(
        "held_out", MAIN, trajectory, among=["beta=0.1 lr=0.0001"]
    )


def test_a_summary_has_the_prior_of_all_arms_of_its_table():
    """Arms that the summary does not show are evidence too, but for the untrained."""
    rows = [*noisy(prompts=8), *differing("third", APART, prompts=8, start=False)]
    tables = tables_of(rows_of(rows), resamples=20)
    arms = [each.arms[arm] for arm, each in each_alone(tables.matrix("held_out"), MAIN).items()]
    assert [own.arm for own in arms] == ["offline", "online", "third"]
    every = measure_summary(tables, MAIN, ("online", "offline"))
    fewer = measure_summary(replace(tables, untrained=("third",)), MAIN, ("online", "offline"))
    assert every.prior == prior(arms, hull)
    assert fewer.prior == prior(arms[:2], hull)
    assert every.comparisons[0].gap.mean.se != fewer.comparisons[0].gap.mean.se
    assert every.comparisons[0].gap.mean.estimate == fewer.comparisons[0].gap.mean.estimate


def test_the_intervals_of_a_summary_are_those_of_its_contrasts():
    """One prior for the report's tables and for its verdicts, at equal KL and at equal setting."""
    rows = rows_of(noisy(prompts=12))
    tables = tables_of(rows)
    (found,) = measure_summary(tables, MAIN, ("online", "offline")).comparisons
    for statistic, interval in (("gap at equal KL", found.gap.mean), ("gap at equal setting", found.settings.mean)):
        assert estimate(tables, Contrast(statistic, "online", "offline")).interval == interval
