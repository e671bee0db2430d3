"""From estimates to verdicts: Holm's correction, one-sided p-values, and the rule of a hypothesis."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from goodhart.analysis import rulings
from goodhart.analysis.hypotheses import Contrast, Hypothesis
from goodhart.analysis.interval import around
from goodhart.analysis.looks import holm
from goodhart.analysis.rulings import Decision, Ruling, rule, sides
from goodhart.analysis.study_tables import Estimate, Tables
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


def test_what_is_not_said_to_be_a_companion_is_none():
    assert not decided("supported").companion


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        (["supported"], "supported"),
        (["supported", "supported"], "supported"),
        (["supported", "undecided"], "undecided"),
        (["undecided", "contradicted"], "contradicted"),
        (["supported", "contradicted"], "contradicted"),
        (["no difference"], "no difference"),
        (["supported", "no difference"], "no difference"),
        (["undecided", "no difference"], "undecided"),
        (["contradicted", "no difference"], "contradicted"),
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
        return Contrast("accuracy", str(t), "b", **other)

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


def asked(*contrasts):
    """What a hypothesis of these contrasts asks beside them: statistics with their measures."""
    found = [(c, companion) for c, companion in Hypothesis("So.", contrasts).asked()]
    assert [c for c, companion in found if not companion] == list(contrasts)
    return [(c.statistic, c.measure) for c, companion in found if companion]


SETTING, BETWEEN = ("gap at equal setting", "golden_vs_policy"), ("gap at equal KL", "golden_vs_policy")


@pytest.mark.parametrize(
    ("statistic", "expected"),
    [
        ("gap at equal KL", [SETTING]),
        ("gap at equal setting", [BETWEEN]),
        *((name, [BETWEEN, SETTING]) for name in ("gap at equal compute", "gap at equal pairs")),
        *((name, [BETWEEN, SETTING]) for name in ("peak", "best possible")),
    ],
)
def test_deciding_contrasts_of_responses_have_companions(statistic, expected):
    contrast = Contrast(statistic, "a", "b", split="train")
    by_measure = [(statistic, "golden_vs_sft"), (statistic, "hidden")]
    assert asked(contrast) == [*expected, *by_measure]
    assert asked(replace(contrast, decides=False)) == []
    for companion in contrast.companions:
        assert (companion.first, companion.second, companion.split) == ("a", "b", "train")
        assert not companion.decides
        companion.validate("here", ("a", "b"))


@pytest.mark.parametrize("statistic", ["accuracy", "winner shift", "loser shift", "stream accuracy", "correlation"])
def test_what_is_not_of_responses_has_no_companions(statistic):
    assert asked(Contrast(statistic, "a", "b")) == []


def test_a_companion_by_the_golden_policy_is_made_where_another_measure_decides():
    assert asked(replace(GREATER, statistic="gap at equal KL", measure="hidden")) == [
        ("gap at equal setting", "hidden"),
        ("gap at equal KL", "golden_vs_policy"),
        ("gap at equal KL", "golden_vs_sft"),
    ]


def test_what_is_written_is_not_made_again_whichever_arm_comes_first():
    gap = Contrast("gap at equal KL", "a", "b", ("c", "d"))
    turned = Contrast("gap at equal setting", "b", "a", ("d", "c"), predicted="near", than=0.2, decides=False)
    other = replace(turned, baseline=("c", "d"))
    by_measure = [("gap at equal KL", "golden_vs_sft"), ("gap at equal KL", "hidden")]
    assert asked(gap, turned) == asked(turned, gap) == by_measure
    assert asked(gap, other) == [SETTING, *by_measure]
    assert asked(gap, replace(gap, measure="hidden")) == [
        *(SETTING, ("gap at equal KL", "golden_vs_sft"), ("gap at equal setting", "hidden"))
    ]
    assert len(asked(gap, replace(gap, statistic="peak"))) == 5  # the two share what is at equal setting


@pytest.mark.parametrize(
    ("contrast", "kept"),
    [
        (NEAR, {"golden_vs_policy", "golden_vs_sft"}),
        (replace(GREATER, than=0.1), {"golden_vs_policy", "golden_vs_sft"}),
        (LESS, {"golden_vs_policy", "golden_vs_sft", "hidden"}),
        (replace(NEAR, measure="hidden"), {"hidden"}),
    ],
)
def test_a_margin_stays_in_its_unit(contrast, kept):
    predictions = {c.measure: (c.predicted, c.than) for c in contrast.companions}
    for measure, prediction in predictions.items():
        own = (contrast.predicted, contrast.than)
        assert prediction == (own if measure in kept else ("nothing", 0.0)), measure
    ratio = replace(contrast, statistic="best possible")
    between = next(c for c in ratio.companions if c.statistic == "gap at equal KL")
    assert between.predicted == ("nothing" if contrast.than else contrast.predicted)


def test_what_could_have_been_seen_is_by_the_error_that_holms_method_leaves_at_worst(monkeypatch):
    """5% over all deciding contrasts that have a number; of what does not decide 5%, and of what is near nothing."""

    def estimate(tables, contrast):
        return Estimate(None if contrast.first == "none" else found(0.0, 2.0), "KL")

    monkeypatch.setattr(rulings, "estimate", estimate)
    one, two, beside = (Contrast("accuracy", name, "b", decides=name != "beside") for name in ("one", "two", "beside"))
    near, none = (Contrast("accuracy", name, "b", predicted="near", than=0.1) for name in ("near", "none"))
    (ruling,) = rule(NOTHING, {"H": Hypothesis("So.", (one, two, beside, near, none))})
    seen = [decision.visible for decision in ruling.decisions]
    by_hand = {error: 2.0 * (stats.t.ppf(1 - error / 2, 7) + stats.t.ppf(0.8, 7)) for error in (0.05 / 3, 0.05)}
    assert seen[:3] == pytest.approx([by_hand[0.05 / 3], by_hand[0.05 / 3], by_hand[0.05]])
    assert seen[3:] == [None, None]


def test_companions_never_decide_and_never_enter_the_correction(monkeypatch):
    """All of them say the opposite, as loud as can be."""

    def estimate(tables, contrast):
        return Estimate(found(2.1 if contrast.decides else -50.0, 1.0, 1e6), "KL")

    monkeypatch.setattr(rulings, "estimate", estimate)
    (ruling,) = rule(NOTHING, {"H": Hypothesis("So.", (GREATER,))})
    first, *others = ruling.decisions
    assert (ruling.verdict, first.verdict, first.adjusted) == ("supported", "supported", first.p)
    assert [d.companion for d in ruling.decisions] == [False] + [True] * 4
    assert {(d.adjusted, d.verdict, d.contrast.decides) for d in others} == {(None, "contradicted", False)}
    assert all(d.p < 1e-9 for d in others)


def test_without_looks_an_interval_is_shown_as_it_was_found_whether_its_contrast_decides_or_not(monkeypatch):
    interval = found(2.1, 1.0)
    monkeypatch.setattr(rulings, "estimate", lambda tables, contrast: Estimate(interval, "KL"))
    (ruling,) = rule(NOTHING, {"H": Hypothesis("So.", (GREATER, replace(GREATER, first="c", decides=False)))})
    assert {d.contrast.decides for d in ruling.decisions} == {True, False}
    assert all((d.found.interval, d.look) == (interval, 0) for d in ruling.decisions)


def test_without_looks_no_value_is_too_small_to_matter(monkeypatch):
    monkeypatch.setattr(rulings, "estimate", lambda tables, contrast: Estimate(found(0.0, 0.001), "KL"))
    (ruling,) = rule(NOTHING, {"H": Hypothesis("So.", (GREATER,))})
    assert ruling.verdict == "undecided"
    assert {(d.within, d.verdict) for d in ruling.decisions} == {(None, "undecided")}


def test_a_companion_without_a_number_is_left_out_and_a_contrast_is_not(monkeypatch):
    def estimate(tables, contrast):
        there = contrast.measure == "golden_vs_sft"
        return Estimate(found(2.1, 1.0) if there else None, "KL")

    monkeypatch.setattr(rulings, "estimate", estimate)
    (ruling,) = rule(NOTHING, {"H": Hypothesis("So.", (GREATER, replace(GREATER, first="c", decides=False)))})
    assert [(d.contrast.first, d.contrast.measure, d.companion) for d in ruling.decisions] == [
        ("a", "golden_vs_policy", False),
        ("a", "golden_vs_sft", True),
        ("c", "golden_vs_policy", False),
    ]
    assert ruling.verdict == "undecided"


def test_on_a_number_without_a_prediction_there_is_no_verdict(monkeypatch):
    monkeypatch.setattr(rulings, "estimate", lambda tables, contrast: Estimate(found(9.0, 0.1), ""))
    (ruling,) = rule(NOTHING, {"H": Hypothesis("So.", (NEAR,))})
    hidden = next(d for d in ruling.decisions if d.contrast.measure == "hidden")
    assert (hidden.contrast.predicted, hidden.p, hidden.adjusted, hidden.verdict) == (
        "nothing",
        None,
        None,
        "undecided",
    )
    assert hidden.found.interval.estimate == 9.0


def test_an_estimate_that_is_no_number_decides_nothing(monkeypatch):
    monkeypatch.setattr(rulings, "estimate", lambda tables, contrast: Estimate(found(math.nan, math.nan), ""))
    (ruling,) = rule(NOTHING, {"H": Hypothesis("So.", (GREATER, replace(GREATER, first="c", decides=False)))})
    assert ruling.verdict == "undecided"
    assert {d.p for d in ruling.decisions} == {1.0}


@pytest.mark.parametrize(("p", "verdict"), [(0.05, "supported"), (1 - 0.95, "supported"), (0.0501, "undecided")])
@pytest.mark.parametrize("decides", [True, False])
def test_a_p_value_of_five_percent_decides(p, verdict, decides, monkeypatch):
    """The tests' p-values are halved sides, so that two times the smaller one is p."""
    monkeypatch.setattr(rulings, "estimate", lambda tables, contrast: Estimate(found(1.0, 1.0), ""))
    monkeypatch.setattr(rulings, "sides", lambda found, contrast: (p / 2, 1 - p / 2))
    (ruling,) = rule(NOTHING, {"H": Hypothesis("So.", (replace(GREATER, decides=decides),))})
    assert ruling.decisions[0].verdict == verdict


@pytest.mark.parametrize(
    ("p", "verdict"), [(0.05, "no difference"), (1 - 0.95, "no difference"), (0.0501, "undecided")]
)
@pytest.mark.parametrize("decides", [True, False])
def test_a_p_value_of_five_percent_shows_that_a_value_is_small(p, verdict, decides, monkeypatch):
    monkeypatch.setattr(rulings, "estimate", lambda tables, contrast: Estimate(found(0.0, 1.0), ""))
    monkeypatch.setattr(rulings, "within", lambda found, smallest: p)
    asked = replace(GREATER, decides=decides, smallest=0.1)
    (ruling,) = rule(NOTHING, {"H": Hypothesis("So.", (asked,))})
    assert ruling.decisions[0].verdict == verdict
