"""Contrasts: each statistic against its closed form, the frontier's own functions, or what must not change it."""

import functools

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from goodhart.analysis.axes import along
from goodhart.analysis.contrasts import estimate
from goodhart.analysis.crossfit import draw
from goodhart.analysis.envelope import hull, trajectory
from goodhart.analysis.gap import at_equal_settings, matched
from goodhart.analysis.hypotheses import Axis, Contrast, Hypothesis
from goodhart.analysis.interval import of_mean, prior, side
from goodhart.analysis.rulings import rule, sides
from goodhart.analysis.study_tables import Tables, read_budgets
from goodhart.analysis.table import clouds, read
from goodhart.evaluation.schema import BUDGETS, STREAM_ROWS
from goodhart.randomness import stream
from made_rows import NO_PAIRS, TWO, noiseless, noisy, pairs_of, row, rows_of

MAIN = "golden_vs_policy"
AT = "beta=0.1 lr=0.0001"


def spent(rows, operations):
    """BUDGETS where a checkpoint's operations, and a tenth of its pairs, are a function of (arm, kl)."""
    kl = {(r["arm"], r["setting"], r["seed"], r["step"]): r for r in rows.to_pylist() if r["step"]}
    other = {"labels": 8, "drift": 0.0, "drift_spread": 0.0}
    found = [
        {
            **{name: r[name] for name in ("arm", "setting", "beta", "lr", "seed", "step")},
            "operations": float(operations(r["arm"], r["kl"])),
            "pairs": round(operations(r["arm"], r["kl"]) / 1e10),
            **other,
        }
        for r in kl.values()
    ]
    return read_budgets(pa.Table.from_pylist(found, schema=BUDGETS))


def tables_of(rows, *, pairs=NO_PAIRS, budgets=None, streams=(), anchors=None, resamples=60):
    matrices = {split: read(rows, split, anchors=anchors) for split in ("held_out", "train")}
    recorded = pa.Table.from_pylist(list(streams), schema=STREAM_ROWS)
    return Tables(matrices, pairs, budgets or {}, recorded, resamples)


def contrast(statistic, first="online", second="offline", **other):
    return Contrast(statistic, first, second, **other)


def test_the_gap_at_equal_kl_is_that_of_the_frontiers():
    tables = tables_of(rows_of(noisy()))
    found = clouds(tables.matrix("held_out"), ["online", "offline"], MAIN)
    one, two, draws = found.arms["online"], found.arms["offline"], draw(3, 40, 60, 0)
    named = frozenset(point.setting for point in one.points[1:])
    gap = matched(one, two, MAIN, draws, tables.prior("held_out", MAIN, hull, named))
    assert estimate(tables, contrast("gap at equal KL")).interval == gap.mean
    assert (
        estimate(tables, contrast("gap at equal KL")).over == f"KL {gap.common.low:.1f} to {gap.common.high:.1f} nats"
    )
    equal = estimate(tables, contrast("gap at equal setting")).interval
    along = functools.partial(tables.prior, "held_out", MAIN, trajectory, named)
    assert equal == at_equal_settings(one, two, MAIN, draws, along).mean
    assert 0 < gap.mean.se < 1
    assert gap.mean.estimate != equal.estimate


def test_exchanging_the_arms_turns_every_difference_round():
    tables = tables_of(rows_of(noisy()))
    for statistic in ("gap at equal KL", "gap at equal setting", "peak"):
        one = estimate(tables, contrast(statistic)).interval
        two = estimate(tables, contrast(statistic, "offline", "online")).interval
        assert one.estimate == pytest.approx(-two.estimate)
        assert one.se == pytest.approx(two.se)
        assert one.estimate != 0


@pytest.mark.parametrize("statistic", ["gap at equal compute", "gap at equal pairs"])
def test_where_kl_is_what_is_spent_the_gaps_are_the_same(statistic):
    rows = noiseless(TWO)
    tables = tables_of(rows, budgets=spent(rows, lambda arm, kl: kl * 1e12))
    by_kl, by_cost = (estimate(tables, contrast(s)) for s in ("gap at equal KL", statistic))
    assert by_kl.interval.estimate == pytest.approx(0.1)
    assert by_cost.interval.estimate == pytest.approx(by_kl.interval.estimate)
    assert (by_kl.over, by_cost.over) == (
        "KL 2.0 to 3.0 nats",
        "2.00 to 3.00 Tflop" if "compute" in statistic else "200 to 300 pairs",
    )


@pytest.mark.parametrize("statistic", ["gap at equal compute", "gap at equal pairs"])
def test_an_arm_that_pays_twice_is_compared_where_it_is_half_as_far(statistic):
    rows = noiseless(TWO)
    tables = tables_of(rows, budgets=spent(rows, lambda arm, kl: kl * (2e12 if arm == "offline" else 1e12)))
    # online on [2, 4]: .6 + .05 (k - 2); offline: .45 + .025 (k - 2)
    assert estimate(tables, contrast(statistic)).interval.estimate == pytest.approx(0.15 + 0.025)


def test_a_baseline_that_is_the_same_difference_leaves_nothing():
    tables = tables_of(rows_of(noisy()))
    for statistic in ("gap at equal KL", "gap at equal setting", "peak", "best possible"):
        found = estimate(tables, contrast(statistic, baseline=("online", "offline"))).interval
        assert (found.estimate, found.se) == pytest.approx((0.0, 0.0), abs=1e-12)
        twice = estimate(tables, contrast(statistic, baseline=("offline", "online"))).interval
        if statistic != "best possible":  # a ratio's reciprocal is not its opposite
            plain = estimate(tables, contrast(statistic)).interval
            assert (twice.estimate, twice.se) == pytest.approx((2 * plain.estimate, 2 * plain.se))


def test_each_side_of_a_baseline_has_a_range_of_its_own():
    curves = {**TWO, "one": {0.1: [(10.0, 0.5), (12.0, 0.6)]}, "other": {0.1: [(9.0, 0.45), (11.0, 0.45)]}}
    found = estimate(tables_of(noiseless(curves)), contrast("gap at equal KL", baseline=("one", "other")))
    # one on [10, 11] is on the chord from (0, .4) to (12, .6); other: .45
    assert found.interval.estimate == pytest.approx(0.1 - 0.125)
    assert found.over == "KL 2.0 to 3.0 nats; KL 10.0 to 11.0 nats"


def test_a_gap_at_equal_setting_less_another_is_over_the_settings_that_have_both():
    one, other = [(10.0, 0.5), (12.0, 0.6)], [(9.0, 0.45), (11.0, 0.45)]
    curves = {**TWO, "one": {0.1: one}, "other": {0.1: other}}
    asked = contrast("gap at equal setting", baseline=("one", "other"))
    # on [2, 3] online is .6 + .05 (k - 2), offline .45 + .05 (k - 1); on [10, 11] one is .5 + .05 (k - 10), other .45
    found = estimate(tables_of(noiseless(curves)), asked)
    assert found.interval.estimate == pytest.approx(0.1 - 0.075)
    assert found.over == "1 setting, KL 2.0 to 3.0 nats; KL 10.0 to 11.0 nats"
    more = {"online": [(2.0, 0.9), (4.0, 0.9)], "offline": [(2.0, 0.1), (4.0, 0.1)]}
    apart = {"one": [(1.0, 0.9), (2.0, 0.9)], "other": [(3.0, 0.1), (4.0, 0.1)]}
    swept = {name: {**curves[name], 0.03: points} for name, points in {**more, **apart}.items()}
    tables = tables_of(noiseless(swept))
    plain = estimate(tables, contrast("gap at equal setting"))
    assert plain.interval.estimate == pytest.approx((0.1 + 0.8) / 2)
    assert plain.over == "2 settings, KL 2.0 to 4.0 nats"
    assert estimate(tables, asked).interval.estimate == pytest.approx(0.1 - 0.075)
    never = tables_of(noiseless({**TWO, "one": {0.1: apart["one"]}, "other": {0.1: apart["other"]}}))
    assert estimate(never, asked).interval is None


def test_companions_are_of_the_statistic_and_measure_that_they_name():
    """The win rate against SFT is half of that against the golden policy, the hidden measure a tenth of it."""
    curves = {
        "online": {0.1: [(2.0, 0.6), (4.0, 0.7)], 0.03: [(2.0, 0.4), (4.0, 0.5)]},
        "offline": {0.1: [(1.0, 0.45), (3.0, 0.55)], 0.03: [(1.0, 0.45), (3.0, 0.45)]},
    }
    rows = noiseless(curves).to_pylist()
    for each in rows:
        each |= {"golden_vs_sft": each[MAIN] / 2, "hidden": each[MAIN] / 10}
    (ruling,) = rule(tables_of(rows_of(rows)), {"gap": Hypothesis("So.", (contrast("gap at equal KL"),))})
    found = {(d.contrast.statistic, d.contrast.measure): d.found.interval.estimate for d in ruling.decisions}
    # on [2, 3] the first beta is the best of both; at the second online is .4 + .05 (k - 2), offline .45
    assert found == pytest.approx(
        {
            ("gap at equal KL", MAIN): 0.1,
            ("gap at equal setting", MAIN): (0.1 - 0.025) / 2,
            ("gap at equal KL", "golden_vs_sft"): 0.05,
            ("gap at equal KL", "hidden"): 0.01,
        }
    )
    (ruling,) = rule(tables_of(noiseless(TWO)), {"gap": Hypothesis("So.", (contrast("peak"),))})
    assert "hidden" not in {d.contrast.measure for d in ruling.decisions}  # where it is not measured


def test_peaks_are_compared_at_any_kl():
    curves = {"online": {0.1: [(2.0, 0.8), (4.0, 0.7)]}, "offline": {0.1: [(20.0, 0.45), (30.0, 0.55)]}}
    found = estimate(tables_of(noiseless(curves)), contrast("peak"))
    assert found.interval.estimate == pytest.approx(0.8 - 0.55)


def test_only_settings_that_both_have_are_compared():
    """A setting that one arm has alone would be a bigger sweep; arms that share none are compared with all."""
    more = {**TWO, "online": {**TWO["online"], 0.03: [(2.0, 0.95), (4.0, 0.99)]}}
    assert estimate(tables_of(noiseless(more)), contrast("gap at equal KL")).interval.estimate == pytest.approx(0.1)
    apart = {"online": {0.03: [(2.0, 0.8), (4.0, 0.9)]}, "offline": TWO["offline"]}
    assert estimate(tables_of(noiseless(apart)), contrast("gap at equal KL")).interval.estimate == pytest.approx(0.3)


def test_an_arm_with_its_own_start_has_its_envelope_begin_there():
    curves = {"online": {0.1: [(2.0, 0.2), (4.0, 0.7)]}, "offline": {0.1: [(1.0, 0.45), (3.0, 0.55)]}}
    rows = pa.concat_tables(
        [noiseless(curves), rows_of([row("sft (wide)", None, 0, 0, p, 0.0, 0.1, setting="") for p in range(6)])]
    )
    own, shared = tables_of(rows, anchors={"online": "sft (wide)"}), tables_of(rows)
    start = clouds(own.matrix("held_out"), ["online", "offline"], MAIN).arms
    assert (start["online"].value[0].mean(), start["offline"].value[0].mean()) == pytest.approx((0.1, 0.4))
    # on [2, 3] online is on the chord from its start to (4, .7), offline on .45 + .05 (k - 1)
    assert estimate(own, contrast("gap at equal KL")).interval.estimate == pytest.approx(0.475 - 0.525)
    assert estimate(shared, contrast("gap at equal KL")).interval.estimate == pytest.approx(0.5875 - 0.525)


def test_the_best_possible_of_constant_values_is_their_ratio():
    curves = {arm: {0.1: [(1.0, v), (2.0, v)]} for arm, v in (("online", 0.6), ("offline", 0.4), ("other", 0.5))}
    tables = tables_of(noiseless(curves))
    found = estimate(tables, contrast("best possible")).interval
    assert (found.estimate, found.se, found.freedom) == pytest.approx((0.5, 0.0, 1.0))
    found = estimate(tables, contrast("best possible", baseline=("other", "offline"))).interval
    assert found.estimate == pytest.approx(0.5 - 0.25)


def test_the_best_possible_is_a_quantile_over_all_checkpoints():
    values = [0.05 * (i + 1) for i in range(10)]
    curves = {"online": {b: [(1.0 + i, v + b) for i, v in enumerate(values)] for b in (0.1, 0.03)}}
    curves["offline"] = {b: [(1.0, 0.5), (2.0, 0.5)] for b in (0.1, 0.03)}
    found = estimate(tables_of(noiseless(curves)), contrast("best possible")).interval
    assert found.estimate == pytest.approx(np.quantile([v + b for v in values for b in (0.1, 0.03)], 0.9) / 0.5 - 1)


def test_seeds_that_differ_make_the_best_possible_uncertain():
    """Two seeds at 0.4 and 0.6: bootstrapped means of two differ by 0.1 from 0.5 half of the time."""
    rows = [row("sft", None, 0, 0, p, 0.0, 0.4) for p in range(6)]
    for seed in (0, 1):
        rows += [row("online", 0.1, seed, 1, p, 1.0, 0.4 + 0.2 * seed) for p in range(6)]
        rows += [row("offline", 0.1, seed, 1, p, 1.0, 0.5) for p in range(6)]
    found = estimate(tables_of(rows_of(rows), resamples=1500), contrast("best possible")).interval
    quantiles = np.array([0.4, 0.58, 0.58, 0.6]) / 0.5
    assert found.estimate == pytest.approx(0.58 / 0.5 - 1)
    assert found.se == pytest.approx(np.sqrt(2 * quantiles.var()), rel=0.08)


PAIR_PROMPTS = ("q0", "q1", "q2")


def classified(split, margins, arms=("online", "offline")):
    """Pair rows by arm and seed: rho_w of three golden pairs at steps 1 and 2; a fourth pair is a tie."""
    records = []
    for arm in arms:
        for seed in (0, 1):
            for step in (1, 2):
                rho = margins[arm][seed] if step == 2 else [-m for m in margins[arm][seed]]
                at = (arm, AT, 0.1, 1e-4, seed, step, split)
                records += [(*at, f"{p}-pair", p, 1.0, w, 1.0) for p, w in zip(PAIR_PROMPTS, rho, strict=True)]
                records.append((*at, "tie", "q0", 0.5, 9.0, 9.0))
    return pairs_of(records)


MARGINS = {"online": [[2.0, -1.0, 3.0], [0.0, 4.0, 1.0]], "offline": [[-2.0, -1.0, 3.0], [-1.0, 2.0, 5.0]]}


@pytest.mark.parametrize("split", ["train", "held_out"])
def test_accuracy_and_shifts_are_means_over_the_pairs_of_the_last_checkpoints(split):
    tables = tables_of(noiseless(TWO), pairs=classified(split, MARGINS))
    # the tie counts one half, and stands beside the pair of q0; rho_l is 1, so a margin of 1 is one half too
    correct = {
        "online": [[(1 + 0.5) / 2, 0, 1], [(0 + 0.5) / 2, 1, 0.5]],
        "offline": [[(0 + 0.5) / 2, 0, 1], [(0 + 0.5) / 2, 1, 1]],
    }
    for statistic, cells in (("accuracy", correct), ("winner shift", MARGINS)):
        found = estimate(tables, contrast(statistic, split=split))
        one, two = (np.array(cells[arm], dtype=float) for arm in ("online", "offline"))
        expected = of_mean(one - two, (side(one), side(two)), prior([one[None], two[None]]))
        assert found.interval == expected
        assert found.over == f"3 prompts of {split.replace('_', '-')} pairs"
    assert estimate(tables, contrast("loser shift", split=split)).interval.estimate == 0.0
    other = "train" if split == "held_out" else "held_out"
    assert estimate(tables, contrast("accuracy", split=other)).interval is None


def test_shifts_are_over_prompts_that_both_arms_have():
    pairs = classified("train", MARGINS)
    gone = [r for r in pairs.to_pylist() if not (r["arm"] == "online" and r["seed"] == 1 and r["prompt"] == "q2")]
    tables = tables_of(noiseless(TWO), pairs=pa.Table.from_pylist(gone, schema=pairs.schema))
    found = estimate(tables, contrast("winner shift", split="train"))
    assert found.interval.estimate == pytest.approx(np.mean([4.0, 0.0, 1.0, 2.0]))
    assert found.interval.prompts == 2


def streamed(answers, *, setting=AT, arm="online", steps=(3,)):
    """STREAM_ROWS of answers[classifier][seed] by prompt."""
    return [
        {
            **{
                "arm": arm,
                "setting": setting,
                "seed": seed,
                "step": step,
                "pair": f"{step}-{i}",
                "prompt": f"p{i % 3}",
            },
            **{"classifier": name, "correct": float(value)},
        }
        for name, seeds in answers.items()
        for seed, values in enumerate(seeds)
        for step in steps
        for i, value in enumerate(values)
    ]


def test_stream_accuracy_is_the_difference_on_the_same_pairs():
    answers = {"proxy": [[1, 1, 1, 0], [1, 0.5, 1, 1]], "online": [[0, 1, 0, 0], [1, 1, 0, 1]]}
    tables = tables_of(noiseless(TWO), streams=streamed(answers) + streamed(answers, arm="offline", steps=(9,)))
    # p0 has the first and the last pair: by seed (p0, p1, p2) = (.5, 0, 1) and (0, -.5, 1)
    found = estimate(tables, contrast("stream accuracy", "proxy", "online", stream="online"))
    assert found.interval.estimate == pytest.approx(2 / 6)
    assert found.interval.seeds == 2
    turned = estimate(tables, contrast("stream accuracy", "online", "proxy", stream="online"))
    assert turned.interval.estimate == pytest.approx(-2 / 6)
    assert turned.interval.se == pytest.approx(found.interval.se)
    alone = estimate(tables, contrast("stream accuracy", "proxy", "proxy", stream="online")).interval
    assert (alone.estimate, alone.se) == (0.0, 0.0)
    assert estimate(tables, contrast("stream accuracy", "proxy", "nobody", stream="online")).interval is None


def test_a_setting_that_one_classifier_lacks_is_not_counted():
    both = {"proxy": [[1, 1, 0]], "offline": [[1, 0, 0]]}
    more = streamed({"proxy": [[0, 0, 0]]}, setting="beta=0.03 lr=0.0001")
    tables = tables_of(noiseless(TWO), streams=streamed(both) + more)
    found = estimate(tables, contrast("stream accuracy", "proxy", "offline", stream="online"))
    assert found.interval.estimate == pytest.approx(1 / 3)


WINS = {"online": {0.1: (0.42, 0.5, 0.7), 0.03: (0.48, 0.6, 0.62)}, "offline": {0.1: (0.3, 0.45, 0.4)}}


def falling():
    """Pair rows of `WINS`, whose accuracy falls with the step: 6, 4 and 2 of 8 pairs are right."""
    records = []
    for arm, sweep in WINS.items():
        for beta in sweep:
            for seed in (0, 1):
                for step in (1, 2, 3):
                    at = (arm, f"beta={beta} lr=0.0001", beta, 1e-4, seed, step, "train")
                    margins = [1.0 if pair >= 2 * step else -1.0 for pair in range(8)]
                    records += [(*at, f"q{i}", f"p{i % 4}", 1.0, m, 0.0) for i, m in enumerate(margins)]
    return pairs_of(records)


def test_the_correlation_is_over_the_checkpoints_of_all_arms_that_are_named():
    curves = {arm: {b: [(1.0 + i, w) for i, w in enumerate(v)] for b, v in s.items()} for arm, s in WINS.items()}
    tables = tables_of(noiseless(curves), pairs=falling())
    for second, arms, over in (
        ("offline", WINS, "18 checkpoints of 6 runs"),
        ("", ["online"], "12 checkpoints of 4 runs"),
    ):
        wins = [w for arm in arms for values in WINS[arm].values() for w in values] * 2
        found = estimate(tables, contrast("correlation", second=second, split="train"))
        assert found.interval.estimate == pytest.approx(stats.spearmanr([3, 2, 1] * (len(wins) // 3), wins).statistic)
        assert found.interval.low <= found.interval.high < 0
        assert found.over == over
    assert estimate(tables, contrast("correlation", split="held_out")).interval is None


def scattered(seed, runs):
    """Rows and pair rows of runs whose checkpoints have drawn win rates and accuracies, a little alike."""
    rng = stream(seed, "test/scattered")
    share, records, rows = rng.uniform(-1, 1), [], []
    for run in range(runs):
        for step in (1, 2, 3):
            both = rng.normal(size=2)
            right = int(np.clip(round(10 + 4 * both[0]), 0, 20))
            win = float(np.clip(0.5 + 0.1 * (share * both[0] + both[1]), 0, 1))
            at = ("online", "beta=0.1 lr=0.0001", 0.1, 1e-4, run, step, "train")
            records += [(*at, f"q{i}", f"p{i % 4}", 1.0, 1.0 if i < right else -1.0, 0.0) for i in range(20)]
            rows += [row("online", 0.1, run, step, p, float(step), win) for p in range(4)]
    return rows_of(rows), pairs_of(records)


@pytest.mark.parametrize("runs", [3, 4, 8])
def test_the_interval_of_a_correlation_leaves_out_what_its_test_rejects(runs):
    """One law for both: 0 is outside of the 95% interval where the two-sided p is below 5%, and nowhere else."""
    seen, tested = set(), contrast("correlation", second="", split="train")
    for seed in range(120):
        rows, pairs = scattered(seed, runs)
        found = estimate(tables_of(rows, pairs=pairs), tested).interval
        p = 2 * min(sides(found, tested))
        outside = not found.low <= 0 <= found.high
        assert outside == (p < 0.05), f"{found} and p = {p:.3f} disagree"
        assert -1 <= found.low <= found.estimate <= found.high <= 1
        seen.add(outside)
    assert seen == {True, False}


EVERY = [
    *("gap at equal KL", "gap at equal setting", "gap at equal compute", "gap at equal pairs", "peak"),
    *("best possible", "accuracy", "winner shift", "loser shift", "stream accuracy", "correlation"),
]


@pytest.mark.parametrize("statistic", EVERY)
def test_arms_with_nothing_in_common_get_a_reason_and_no_number(statistic):
    rows = pa.concat_tables(
        [noiseless({"online": TWO["online"]}, seeds=(0, 1)), noiseless({"offline": TWO["offline"]}, seeds=(5, 6))]
    )
    tables = tables_of(rows, budgets=spent(rows, lambda arm, kl: kl))
    stream_ = {"stream": "online"} if statistic == "stream accuracy" else {}
    found = estimate(tables, contrast(statistic, **stream_))
    assert found.interval is None
    assert len(found.over) > 10


@pytest.mark.parametrize("statistic", ["gap at equal KL", "gap at equal setting", "gap at equal compute"])
def test_budgets_that_do_not_overlap_are_named(statistic):
    rows = noiseless({"online": {0.1: [(5.0, 0.6), (6.0, 0.7)]}, "offline": TWO["offline"]})
    found = estimate(tables_of(rows, budgets=spent(rows, lambda arm, kl: kl)), contrast(statistic))
    assert found.interval is None
    assert "in common" in found.over


def test_best_of_n_spends_nothing_on_training():
    rows = noiseless(TWO)
    budgets = {at: each for at, each in spent(rows, lambda arm, kl: kl).items() if at.arm == "online"}
    found = estimate(tables_of(rows, budgets=budgets), contrast("gap at equal compute"))
    assert (found.interval, found.over) == (None, "offline is not trained")


def test_a_ratio_to_nothing_is_no_number():
    curves = {"online": TWO["online"], "offline": {0.1: [(1.0, 0.0), (3.0, 0.0)]}}
    found = estimate(tables_of(noiseless(curves)), contrast("best possible"))
    assert found.interval is None
    assert "offline wins nothing" in found.over


def test_the_measure_and_the_split_are_those_of_the_contrast():
    rows = noiseless(TWO).to_pylist()
    for each in rows:
        each["hidden"] = 1 - each[MAIN]
    train = [{**each, "split": "train", MAIN: each[MAIN] + (0.1 if each["arm"] == "online" else 0)} for each in rows]
    tables = tables_of(rows_of(rows + train))
    assert estimate(tables, contrast("peak")).interval.estimate == pytest.approx(0.15)
    assert estimate(tables, contrast("peak", split="train")).interval.estimate == pytest.approx(0.25)
    assert estimate(tables, contrast("peak", measure="hidden")).interval.estimate == pytest.approx(0.4 - 0.55)
    assert estimate(tables, contrast("peak", measure="proxy_vs_sft")).interval.estimate == pytest.approx(0.15)


def axis(**other):
    return Axis("weeks", {"a": {"online": 1.0}, "b": {"offline": 2.0}}, **other)


def test_along_an_axis_every_arm_is_valued_where_all_of_them_have_been():
    found = along(tables_of(noiseless(TWO)), "time", axis())
    assert (found.name, found.common.low, found.common.high, found.settings) == ("time", 2.0, 3.0, (AT,))
    assert [(p.line, p.arm, p.x) for p in found.places] == [("a", "online", 1.0), ("b", "offline", 2.0)]
    # on [2, 3] online is .6 + .05 (k - 2), offline .45 + .05 (k - 1)
    assert [p.level.estimate for p in found.places] == pytest.approx([0.625, 0.525])
    assert [p.peak.estimate for p in found.places] == pytest.approx([0.7, 0.55])


def test_an_arm_beside_the_axis_narrows_what_is_common():
    curves = {**TWO, "other": {0.1: [(2.5, 0.5), (9.0, 0.5)]}}
    found = along(tables_of(noiseless(curves)), "time", axis(beside=("other",)))
    assert (found.common.low, found.common.high) == (2.5, 3.0)
    assert [(p.arm, p.x) for p in found.places][-1] == ("other", None)
    assert [p.level.estimate for p in found.places] == pytest.approx([0.6375, 0.5375, 0.5])


def test_without_a_common_kl_an_axis_has_peaks_alone():
    curves = {"online": {0.1: [(5.0, 0.6), (6.0, 0.7)]}, "offline": TWO["offline"]}
    found = along(tables_of(noiseless(curves)), "time", axis())
    assert found.common.empty
    assert [p.level for p in found.places] == [None, None]
    assert [p.peak.estimate for p in found.places] == pytest.approx([0.7, 0.55])


def test_an_axis_of_arms_without_a_seed_in_common_is_none():
    rows = [noiseless({name: TWO[name]}, seeds=seeds) for name, seeds in (("online", (0, 1)), ("offline", (5,)))]
    assert along(tables_of(pa.concat_tables(rows)), "time", axis()) is None


def test_estimates_do_not_depend_on_the_order_of_the_rows():
    records = noisy(prompts=12)
    order = stream(3, "test/contrast rows").permutation(len(records))
    tables = [tables_of(rows_of(each)) for each in (records, [records[i] for i in order])]
    for statistic in ("gap at equal KL", "peak", "best possible"):
        one, two = (estimate(each, contrast(statistic)).interval for each in tables)
        assert one == two
