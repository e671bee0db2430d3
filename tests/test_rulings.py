"""From estimates to verdicts: Holm's correction, one-sided p-values, and the rule of a hypothesis."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from goodhart.analysis import rulings
from goodhart.analysis.contrasts import Estimate, Tables
from goodhart.analysis.hypotheses import Contrast, Hypothesis
from goodhart.analysis.interval import around
from goodhart.analysis.rulings import Decision, Ruling, holm, rule, sides
from goodhart.evaluation.schema import PAIR_ROWS, STREAM_ROWS

GREATER = Contrast("peak", "a", "b")
LESS = replace(GREATER, predicted="less")
NEAR = replace(GREATER, predicted="near", than=0.05)


def found(estimate, se, freedom=7.0):
    return around(estimate, se, freedom, seeds=3, prompts=20)


def test_holm_of_known_values():
    """0.005 * 4, 0.01 * 3, 0.03 * 2, and 0.04 * 1, which may not fall below the one before."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.02]) == [0.02]
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([0.01, 0.01, 0.01]) == pytest.approx([0.03, 0.03, 0.03])
    assert holm([]) == []


values = st.lists(st.floats(0, 1), min_size=1, max_size=8)


@given(values, st.randoms(use_true_random=False))
def test_holm_never_lowers_keeps_the_order_and_knows_no_places(p, random):
    adjusted = holm(p)
    assert all(a >= b for a, b in zip(adjusted, p, strict=True))
    assert max(adjusted) <= 1
    by_p = [adjusted[i] for i in np.argsort(p, kind="stable")]
    assert by_p == sorted(by_p)
    assert min(adjusted) == pytest.approx(min(1.0, len(p) * min(p)))  # Bonferroni's for the smallest
    places = list(range(len(p)))
    random.shuffle(places)
    assert holm([p[i] for i in places]) == [adjusted[i] for i in places]


def test_greater_and_less_are_one_sided_t_tests():
    at = found(0.1, 0.05)
    assert sides(at, GREATER) == pytest.approx((stats.t.sf(2, 7), stats.t.cdf(2, 7)))
    assert sides(at, LESS) == pytest.approx((stats.t.cdf(2, 7), stats.t.sf(2, 7)))
    assert sides(at, replace(GREATER, than=0.05)) == pytest.approx((stats.t.sf(1, 7), stats.t.cdf(1, 7)))


def test_near_is_two_one_sided_tests():
    at = found(0.02, 0.01)
    below, above = stats.t.cdf((0.02 - 0.05) / 0.01, 7), stats.t.sf((0.02 + 0.05) / 0.01, 7)
    assert sides(at, NEAR) == pytest.approx((max(below, above), min(1 - below, 1 - above)))
    assert sides(found(-0.02, 0.01), NEAR) == pytest.approx(sides(at, NEAR))
    assert sides(found(0.0, 10.0), NEAR)[0] > 0.4  # a wide interval shows no equivalence
    assert sides(found(0.0, 10.0), NEAR)[1] > 0.4  # and no difference


@pytest.mark.parametrize(
    ("estimate", "contrast", "expected"),
    [
        (0.1, GREATER, (0.0, 1.0)),
        (-0.1, GREATER, (1.0, 0.0)),
        (0.0, GREATER, (0.5, 0.5)),
        (0.1, LESS, (1.0, 0.0)),
        (-0.1, LESS, (0.0, 1.0)),
        (0.0, LESS, (0.5, 0.5)),
        (0.02, NEAR, (0.0, 1.0)),
        (0.0, NEAR, (0.0, 1.0)),
        (0.06, NEAR, (1.0, 0.0)),
        (-0.06, NEAR, (1.0, 0.0)),
        (0.05, NEAR, (0.5, 0.5)),
        (-0.05, NEAR, (0.5, 0.5)),
    ],
)
def test_without_an_error_the_estimate_decides_but_on_the_bound(estimate, contrast, expected):
    assert sides(found(estimate, 0.0), contrast) == expected


@given(st.floats(-1, 1), st.floats(0.001, 1), st.integers(1, 50), st.floats(-0.5, 0.5))
def test_a_contrast_is_decided_where_its_interval_leaves_the_bound_out(estimate, se, freedom, than):
    at = found(estimate, se, float(freedom))
    supports, contradicts = sides(at, replace(GREATER, than=than))
    assert supports + contradicts == pytest.approx(1)
    if min(abs(at.low - than), abs(at.high - than)) > 1e-9:
        assert (2 * min(supports, contradicts) <= 0.05) == (not at.low <= than <= at.high)
    assert sides(found(-estimate, se, float(freedom)), replace(LESS, than=-than)) == pytest.approx(
        (supports, contradicts), abs=1e-12
    )


def decided(verdict, decides=True):
    return Decision(replace(GREATER, decides=decides), Estimate(None, ""), None, None, verdict)


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        (["supported"], "supported"),
        (["supported", "supported"], "supported"),
        (["supported", "undecided"], "undecided"),
        (["undecided", "contradicted"], "contradicted"),
        (["supported", "contradicted"], "contradicted"),
    ],
)
def test_a_hypothesis_needs_all_and_falls_with_one(verdicts, expected):
    hypothesis = Hypothesis("So.", (GREATER,))
    beside = [decided(verdict, decides=False) for verdict in ("supported", "contradicted", "undecided")]
    for decisions in ([decided(v) for v in verdicts], [decided(v) for v in verdicts[::-1]]):
        assert Ruling("H", hypothesis, tuple(decisions)).verdict == expected
        assert Ruling("H", hypothesis, (*beside, *decisions)).verdict == expected


NOTHING = Tables({}, PAIR_ROWS.empty_table(), {}, STREAM_ROWS.empty_table())


def test_the_correction_is_over_the_deciding_contrasts_that_have_a_number(monkeypatch):
    """Estimates by the name of the first arm: its t value with many degrees of freedom."""

    def estimate(tables, contrast):
        if contrast.first == "none":
            return Estimate(None, "nothing in common")
        return Estimate(found(float(contrast.first), 1.0, 1e6), "KL")

    monkeypatch.setattr(rulings, "estimate", estimate)

    def contrast(t, **other):
        return Contrast("peak", str(t), "b", **other)

    first = Hypothesis("A.", (contrast(3.0), contrast(2.1, decides=False)))
    second = Hypothesis("B.", (contrast(-2.5), contrast("none")))
    third = Hypothesis("C.", (contrast(2.1),))
    one, two, three = rule(NOTHING, {"one": first, "two": second, "three": third})
    p = {t: 2 * stats.norm.sf(t) for t in (3.0, 2.5, 2.1)}
    assert one.decisions[0].p == pytest.approx(p[3.0], rel=1e-3)
    assert one.decisions[0].adjusted == pytest.approx(3 * p[3.0], rel=1e-3)
    assert two.decisions[0].adjusted == pytest.approx(2 * p[2.5], rel=1e-3)
    assert three.decisions[0].adjusted == pytest.approx(p[2.1], rel=1e-3)
    assert (one.decisions[1].p, one.decisions[1].adjusted) == (pytest.approx(p[2.1], rel=1e-3), None)
    assert [d.verdict for d in one.decisions] == ["supported", "supported"]
    assert (two.decisions[1].p, two.decisions[1].adjusted, two.decisions[1].verdict) == (None, None, "undecided")
    assert [r.verdict for r in (one, two, three)] == ["supported", "contradicted", "supported"]
    assert [r.name for r in (one, two, three)] == ["one", "two", "three"]
    more = rule(NOTHING, {"three": third, **{f"other {i}": third for i in range(2)}})
    assert [r.verdict for r in more] == ["undecided"] * 3  # 0.036 three times over
    assert rule(NOTHING, {}) == ()


def test_an_estimate_that_is_no_number_decides_nothing(monkeypatch):
    monkeypatch.setattr(rulings, "estimate", lambda tables, contrast: Estimate(found(math.nan, math.nan), ""))
    (ruling,) = rule(NOTHING, {"H": Hypothesis("So.", (GREATER,))})
    assert ruling.verdict == "undecided"
