"""Looks: sequential p-values by hand, what is decided stays decided, and rows alone say which look is reached."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from goodhart.analysis import rulings
from goodhart.analysis.hypotheses import Contrast, Hypothesis, Looks, implied
from goodhart.analysis.interval import around
from goodhart.analysis.looks import Family, Plan, Spent, of_seeds, reached, widened
from goodhart.analysis.rulings import NO_DIFFERENCE, rule, within
from goodhart.analysis.study_tables import Estimate, Tables
from goodhart.analysis.table import Checkpoint, read
from goodhart.errors import GoodhartError
from goodhart.evaluation.schema import PAIR_ROWS, STREAM_ROWS
from made_rows import row, rows_of

LOOKS = Looks((2, 3, 4), (0.1, 0.3, 0.6))
PLAN = Plan(LOOKS, (7, 5, 3, 9), ("a", "b", "c"))
GREATER = Contrast("peak", "a", "b")


def spent(*p, shares=(0.1, 0.3, 0.6)):
    return [Spent(look, shares[look], each) for look, each in enumerate(p)]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"seeds": ()}, "looks.seeds"),
        ({"seeds": (1, 3, 5)}, "looks.seeds"),
        ({"seeds": (3, 3, 8)}, "looks.seeds"),
        ({"seeds": (8, 5, 3)}, "looks.seeds"),
        ({"shares": (0.5, 0.5)}, "looks.shares"),
        ({"shares": (0.1, 0.3, 0.5)}, "looks.shares"),
        ({"seeds": (3, 5, 9)}, "the last look has 9 seeds"),
    ],
)
def test_looks_that_are_none_are_refused(changes, problem):
    Looks().validate(8)
    with pytest.raises(GoodhartError, match=problem):
        replace(Looks(), **changes).validate(8)


def test_one_look_is_holm_alone():
    tests = {name: [Spent(0, 1.0, p)] for name, p in zip("abcd", (0.01, 0.04, 0.03, 0.005), strict=True)}
    found = Family(tests).outcomes()
    assert [found[name].adjusted for name in "abcd"] == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert [found[name].decided for name in "abcd"] == [True, False, False, True]


def test_a_p_value_is_divided_by_its_share_and_the_smallest_counts():
    """.004/.1 = .04 decides at the first look; .02/.3 = .067 does not, .029/.6 = .048 does; .04/.1 is capped at 1."""
    assert Family({"a": spent(0.004, 0.9)}).outcomes()["a"].spent.look == 0
    late = Family({"a": spent(0.3, 0.02, 0.029)}).outcomes()["a"]
    assert (late.decided, late.spent.look, late.adjusted) == (True, 2, pytest.approx(0.029 / 0.6))
    assert not Family({"a": spent(0.3, 0.02)}).outcomes()["a"].decided
    capped = Family({"a": spent(0.4)}).outcomes()["a"]
    assert capped.adjusted == capped.spent.sequential == 1.0


def test_of_equal_p_values_the_latest_is_shown():
    """.01/.25 and .02/.5 are both .04: at look 0 a is one of two, and b's fall at look 1 makes room for it."""
    tests = {"a": [Spent(0, 0.25, 0.01), Spent(1, 0.5, 0.02)], "b": [Spent(0, 0.25, 0.9), Spent(1, 0.5, 0.001)]}
    found = Family(tests).outcomes()
    assert [(found[name].decided, found[name].spent.look) for name in "ab"] == [(True, 1), (True, 1)]


def test_what_is_decided_stays_decided_and_makes_room_for_others():
    """a falls at look 0 (.002 x 2 / .1 = .04), so that b needs .05 alone afterwards, by its p of look 0 too."""
    both = Family({"a": spent(0.002, 0.9), "b": spent(0.004, 0.9)}).outcomes()
    assert both["a"].adjusted == pytest.approx(0.04)
    assert (both["b"].decided, both["b"].spent.look) == (True, 0)
    alone = Family(
        {"a": spent(0.003, 0.9), "b": spent(0.004, 0.01)}
    ).outcomes()  # .06 and .06 at first, then .06, .0667
    assert not alone["a"].decided
    later = Family({"a": spent(0.01, 0.006), "b": spent(0.01, 0.014)}).outcomes()  # .02 x 2, then .0467 alone
    assert [later[name].spent.look for name in "ab"] == [1, 1]
    assert later["b"].adjusted == pytest.approx(0.014 / 0.3)
    assert later["b"].decided


def test_an_arm_that_has_stopped_keeps_its_place_in_the_correction():
    """b ends at look 0 undecided: a is one of two at look 1 too."""
    found = Family({"a": spent(0.9, 0.01), "b": spent(0.9)}).outcomes()
    assert found["a"].adjusted == pytest.approx(2 * 0.01 / 0.3)


def test_a_test_that_is_still_to_come_has_its_place_in_the_correction():
    """b has no number at look 0, where a is one of two nevertheless: .004 x 2 / .1 = .08."""
    found = Family({"a": spent(0.004, 0.9), "b": spent(0.9, 0.9)[1:]}).outcomes()
    assert found["a"].adjusted == pytest.approx(0.08)
    assert (found["b"].spent.look, found["b"].adjusted) == (1, 1.0)
    found = Family({"a": spent(0.002, 0.9), "b": spent(0.9, 0.001)[1:]}).outcomes()
    assert (found["a"].decided, found["a"].spent.look, found["a"].adjusted) == (True, 0, pytest.approx(0.04))
    assert (found["b"].decided, found["b"].spent.look) == (True, 1)


def test_the_interval_of_a_look_leaves_a_bound_out_where_the_look_decides():
    at = around(0.3, 0.1, 6.0, seeds=3, prompts=20)
    assert widened(at, 1.0) == at
    wide = widened(at, 0.3)
    half = stats.t.ppf(1 - 0.015 / 2, 6) * 0.1
    assert (wide.low, wide.high) == pytest.approx((0.3 - half, 0.3 + half))
    for share in (0.1, 0.3, 0.6):
        p = 2 * stats.t.sf(3, 6)
        assert (p / share <= 0.05) == (widened(at, share).low > 0)


def test_with_all_of_the_error_an_interval_stays_as_it_is_though_its_ends_are_not_a_t_quantile_away():
    """A correlation's end is nowhere beyond 1."""
    at = replace(around(0.9, 0.2, 6.0, seeds=3, prompts=0), high=1.0)
    assert widened(at, 1.0) == at


def test_smaller_than_the_size_of_interest_is_two_one_sided_tests():
    at = around(0.01, 0.005, 9.0, seeds=4, prompts=20)
    assert within(at, 0.03) == pytest.approx(stats.t.cdf((0.01 - 0.03) / 0.005, 9))
    assert within(replace(at, estimate=-0.01), 0.03) == pytest.approx(within(at, 0.03))
    assert within(replace(at, estimate=0.05), 0.03) > 0.99


def cloud_rows(seeds):
    """By arm its seeds; the second checkpoint of the last seed of an arm named in capitals is missing."""
    rows = [row("sft", None, 0, 0, p, 0.0, 0.5) for p in range(4)]
    for arm, own in seeds.items():
        for seed in own:
            steps = (1,) if arm.isupper() and seed == own[-1] else (1, 2)
            rows += [row(arm.lower(), 0.1, seed, s, p, 1.0 * s, 0.5) for s in steps for p in range(4)]
    return rows_of(rows)


def tables_of(seeds):
    rows = cloud_rows(seeds)
    matrices = {split: read(rows, split) for split in ("held_out", "train")}
    return Tables(matrices, PAIR_ROWS.empty_table(), {}, STREAM_ROWS.empty_table(), 20)


def test_a_look_is_reached_where_all_arms_have_its_seeds_complete_and_in_the_order_of_the_study():
    def looks(**seeds):
        return reached(tables_of(seeds), GREATER, PLAN)

    assert looks(a=[7], b=[7, 5]) == 0
    assert looks(a=[7, 5], b=[7, 5]) == 1
    assert looks(a=[7, 5, 3], b=[7, 5]) == 1
    assert looks(a=[7, 5, 9], b=[7, 5, 9]) == 1
    assert looks(a=[7, 5, 3], b=[7, 5, 3]) == 2
    assert looks(A=[7, 5, 3], b=[7, 5, 3]) == 1
    assert looks(a=[7, 5, 3, 9], b=[7, 5, 3, 9]) == 3
    assert looks(a=[7, 5, 3], b=[7, 5, 3], c=[7]) == 2, "an arm that it is not about"
    assert looks(a=[7], b=[7], c=[7, 5, 3]) == 0


def test_a_view_has_the_seeds_of_its_look_and_all_baselines():
    view = of_seeds(tables_of({"a": [7, 5, 3], "b": [7, 5]}), PLAN.arms, PLAN.first(0))
    matrix = view.matrix("held_out")
    assert {(at.arm, at.seed) for at in matrix.checkpoints} == {("sft", 0), ("a", 7), ("a", 5), ("b", 7), ("b", 5)}
    assert all(len(column) == len(matrix.checkpoints) for column in matrix.columns.values())
    assert np.array_equal(matrix.columns["kl"][matrix.checkpoints.index(matrix.checkpoints[0])], np.full(4, 1.0))


def ruled(monkeypatch, values, looks=LOOKS, **contrast):
    """The ruling on a contrast whose (estimate, standard error) at each look is given, None where there is no number.

    The last looks are not reached.
    """
    tables = {n: Tables({}, PAIR_ROWS.empty_table(), {}, STREAM_ROWS.empty_table(), n) for n in range(9)}

    def estimate(view, asked):
        there = values[min(view.resamples, len(values) - 1)]
        return Estimate(around(*there, 1e6, seeds=2, prompts=9) if there else None, f"look {view.resamples}")

    monkeypatch.setattr(rulings, "estimate", estimate)
    monkeypatch.setattr(rulings, "reached", lambda view, asked, plan: len(values))
    monkeypatch.setattr(rulings, "of_seeds", lambda view, arms, seeds: tables[LOOKS.seeds.index(len(seeds))])
    asked = Contrast("accuracy", "a", "b", **contrast)
    return rule(tables[0], {"H": Hypothesis("So.", (asked,))}, Plan(looks, PLAN.seeds, PLAN.arms))[0]


def test_the_look_that_decides_gives_estimate_interval_and_direction(monkeypatch):
    """2.9/1 at the first look (p .0037 / .1 = .037) decides for good, though the last one says the opposite louder."""
    ruling = ruled(monkeypatch, [(2.9, 1.0), (0.0, 1.0), (-9.0, 1.0)])
    (decision,) = ruling.decisions
    assert (ruling.verdict, decision.look, decision.found.over) == ("supported", 1, "look 0")
    assert decision.found.interval.low == pytest.approx(2.9 - stats.norm.ppf(1 - 0.0025), abs=1e-4)
    assert decision.p == decision.adjusted == pytest.approx(2 * stats.norm.sf(2.9) / 0.1, rel=1e-4)


def test_an_undecided_contrast_shows_its_last_look(monkeypatch):
    ruling = ruled(monkeypatch, [(2.5, 1.0), (1.0, 1.0)])
    (decision,) = ruling.decisions
    assert (ruling.verdict, decision.look, decision.found.over) == ("undecided", 2, "look 1")
    assert decision.found.interval.high == pytest.approx(1 + stats.norm.ppf(1 - 0.0075), abs=1e-4)


def test_without_a_number_at_any_look_what_the_last_one_says_is_shown(monkeypatch):
    ruling = ruled(monkeypatch, [None, None])
    assert (ruling.verdict, ruling.decisions[0].found) == ("undecided", Estimate(None, "look 1"))


def test_before_the_first_look_no_seeds_of_later_ones_are_shown():
    """The first look has 7 and 5, of which 7 is there, and the second has 3 too."""
    (ruling,) = rule(tables_of({"a": [7, 3], "b": [7, 3]}), {"H": Hypothesis("So.", (GREATER,))}, PLAN)
    assert {(decision.look, decision.found.interval.seeds) for decision in ruling.decisions} == {(0, 1)}


def test_what_a_look_could_have_seen_is_by_the_error_that_it_may_spend(monkeypatch):
    for values, share in (([(2.9, 1.0), (0.0, 1.0)], 0.1), ([(2.5, 1.0), (1.0, 1.0)], 0.3)):
        (decision,) = ruled(monkeypatch, values).decisions
        expected = stats.norm.ppf(1 - 0.05 * share / 2) + stats.norm.ppf(0.8)
        assert decision.visible == pytest.approx(expected, rel=1e-4)


def test_what_does_not_decide_has_the_test_of_its_last_look_alone_with_all_of_the_error(monkeypatch):
    (decision,) = ruled(monkeypatch, [(9.0, 1.0), (9.0, 1.0), (1.0, 1.0)], decides=False).decisions
    assert (decision.look, decision.found.over, decision.adjusted) == (3, "look 2", None)
    assert decision.found.interval == around(1.0, 1.0, 1e6, seeds=2, prompts=9)
    assert decision.p == pytest.approx(2 * stats.norm.sf(1.0), rel=1e-4)
    (decision,) = ruled(monkeypatch, [(9.0, 1.0), (9.0, 1.0), None], decides=False).decisions
    assert (decision.look, decision.found, decision.p) == (0, Estimate(None, "look 2"), None)


@pytest.mark.parametrize(("seeds", "look"), [([7], 0), ([7, 5], 1), ([7, 5, 3], 2), ([7, 5, 3, 9], 3)])
def test_the_rows_that_there_are_say_which_look_is_shown(seeds, look):
    (ruling,) = rule(tables_of({"a": seeds, "b": seeds}), {"H": Hypothesis("So.", (GREATER,))}, PLAN)
    assert {decision.look for decision in ruling.decisions} == {look}
    assert ruling.verdict == "undecided"
    assert {decision.found.interval.seeds for decision in ruling.decisions} == {len(seeds)}


def test_before_the_first_look_nothing_is_tested(monkeypatch):
    monkeypatch.setattr(rulings, "of_seeds", lambda view, arms, seeds: view)
    there = Estimate(around(9.0, 0.1, 9.0, seeds=1, prompts=9), "")
    monkeypatch.setattr(rulings, "estimate", lambda view, asked: there)
    monkeypatch.setattr(rulings, "reached", lambda view, asked, plan: 0)
    nothing = Tables({}, PAIR_ROWS.empty_table(), {}, STREAM_ROWS.empty_table())
    (ruling,) = rule(nothing, {"H": Hypothesis("So.", (Contrast("accuracy", "a", "b"),))}, PLAN)
    (decision,) = ruling.decisions
    assert (ruling.verdict, decision.p, decision.look, decision.found) == ("undecided", None, 0, there)


def test_a_value_shown_to_be_small_is_a_verdict_and_a_difference_comes_first(monkeypatch):
    looks = replace(LOOKS, smallest=0.03)
    small = ruled(monkeypatch, [(0.0, 0.02), (0.005, 0.01)], looks, smallest=0.03)
    (decision,) = small.decisions
    assert (small.verdict, decision.look) == (NO_DIFFERENCE, 2)
    assert decision.within == pytest.approx(stats.norm.cdf((0.005 - 0.03) / 0.01) / 0.3, rel=1e-3)
    assert ruled(monkeypatch, [(0.0, 0.02), (0.005, 0.01)]).verdict == "undecided"
    both = ruled(monkeypatch, [(0.0, 0.02), (0.005, 0.001)], looks, smallest=0.03)
    assert both.verdict == "supported"


def test_a_value_shown_to_be_small_at_an_early_look_is_shown_as_it_was_there(monkeypatch):
    small = ruled(monkeypatch, [(0.0, 0.005), (0.0, 0.9)], smallest=0.03)
    (decision,) = small.decisions
    assert (small.verdict, decision.look, decision.found.over) == (NO_DIFFERENCE, 1, "look 0")
    assert decision.found.interval.high == pytest.approx(0.005 * stats.norm.ppf(1 - 0.0025), rel=1e-4)


@pytest.mark.parametrize("decides", [True, False])
def test_a_value_that_is_not_shown_to_be_small_is_undecided_and_shows_its_last_look(decides, monkeypatch):
    """The first look says .067/.1 and the last .38/.3, so that the first is nearer to saying so."""
    open_ = ruled(monkeypatch, [(0.0, 0.02), (0.0, 0.1)], smallest=0.03, decides=decides)
    (decision,) = open_.decisions
    assert (decision.verdict, decision.look, decision.found.over) == ("undecided", 2, "look 1")
    assert decision.within == (pytest.approx(stats.norm.cdf(-1.5) / 0.1, rel=1e-3) if decides else None)


def test_the_size_of_interest_is_the_studys_in_win_rate_and_a_contrasts_own_in_any_unit():
    assert GREATER.interest(0.03) == 0.03
    assert replace(GREATER, smallest=0.01).interest(0.03) == 0.01
    for other in (
        replace(GREATER, measure="hidden"),
        replace(GREATER, statistic="best possible"),
        replace(GREATER, statistic="accuracy"),
        replace(GREATER, predicted="near", than=0.02),
    ):
        assert other.interest(0.03) == 0.0
    assert replace(GREATER, statistic="accuracy", smallest=0.02).interest(0.03) == 0.02
    hidden = next(c for c in replace(GREATER, smallest=0.02).companions if c.measure == "hidden")
    assert (hidden.smallest, hidden.predicted) == (0.0, "greater")
    with pytest.raises(GoodhartError, match="smallest value of interest"):
        replace(GREATER, predicted="near", than=0.02, smallest=0.01).validate("here", ("a", "b"))


def test_without_hypotheses_the_first_arm_is_asked_against_each_other():
    found = implied(["on", "off", "late"])
    assert [h.contrasts[0].arms for h in found.values()] == [("on", "off"), ("on", "late")]
    for name, hypothesis in found.items():
        hypothesis.validate(name, ("on", "off", "late"))
    assert implied(["on"]) == {}


def test_rows_of_later_looks_change_nothing_of_earlier_ones():
    """Real estimates: what the first look says is the same before and after the second is there."""
    rng = np.random.default_rng(0)

    def rows(seeds):
        made = [row("sft", None, 0, 0, p, 0.0, 0.4) for p in range(12)]
        for seed in (7, 5, 3, 9)[:seeds]:
            for arm, height in (("a", 0.9), ("b", 0.1)):
                noise = np.random.default_rng([seed, ord(arm)]).normal(size=(3, 12)) * 1e-3
                made += [row(arm, 0.1, seed, s, p, 1.0 * s, height + noise[s, p]) for s in (1, 2) for p in range(12)]
        rng.shuffle(made)
        return rows_of(made)

    found = []
    for seeds in (2, 3, 4):
        matrices = {split: read(rows(seeds), split) for split in ("held_out", "train")}
        tables = Tables(matrices, PAIR_ROWS.empty_table(), {}, STREAM_ROWS.empty_table(), 50)
        (ruling,) = rule(tables, {"H": Hypothesis("So.", (Contrast("gap at equal KL", "a", "b"),))}, PLAN)
        found.append(ruling.decisions[0])
    assert found[0].verdict == "supported"
    assert found[0] == found[1] == found[2]


def test_a_look_has_the_rows_of_its_seeds_in_every_table():
    """Pairs, streams and budgets too; what is no arm of the study is kept whole."""
    names = [("a", 5), ("a", 7), ("b", 7), ("sft", 9)]
    empty = dict.fromkeys(PAIR_ROWS.names)
    pairs = pa.Table.from_pylist([{**empty, "arm": arm, "seed": seed} for arm, seed in names], schema=PAIR_ROWS)
    empty = dict.fromkeys(STREAM_ROWS.names)
    streams = pa.Table.from_pylist([{**empty, "arm": arm, "seed": seed} for arm, seed in names], schema=STREAM_ROWS)
    budgets = {Checkpoint(arm, "s", 0.1, 1e-4, seed, 3): {"pairs": 1.0} for arm, seed in names}
    view = of_seeds(Tables({}, pairs, budgets, streams), ("a", "b"), [7])
    expected = [("a", 7), ("b", 7), ("sft", 9)]
    for table in (view.pairs, view.streams):
        assert [(row["arm"], row["seed"]) for row in table.to_pylist()] == expected
    assert [(at.arm, at.seed) for at in view.budgets] == expected
