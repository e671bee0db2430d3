import dataclasses
import math

import numpy as np
import pytest
from scipy import stats

from goodhart.analysis.classification import clustered, correct, weighted_spearman
from goodhart.analysis.crossfit import Term, curve, draw
from goodhart.analysis.diagnostics import diagnose
from goodhart.analysis.envelope import evaluate, highest, hull, trajectory
from goodhart.analysis.frontier import envelope, peak
from goodhart.analysis.gap import at_equal_settings, budgets, common_range, matched
from goodhart.analysis.interval import components, of_mean
from goodhart.analysis.summary import measure_summary, summarise
from goodhart.analysis.table import Cloud, Point, clouds, read
from goodhart.errors import GoodhartError
from goodhart.randomness import stream
from made_rows import TWO, noiseless, noisy, pairs_of, row, rows_of
from test_contrasts import tables_of

MAIN = "golden_vs_policy"


def arms(table, measure="golden_vs_policy", names=("online", "offline")):
    return clouds(read(table, "held_out"), names, measure)


def test_gap_of_noiseless_frontiers_is_the_area_between_them():
    found = arms(noiseless(TWO))
    draws = draw(2, 6, 50, 0)
    gap = matched(found.arms["online"], found.arms["offline"], "golden_vs_policy", draws)
    # online on [2, 3]: .6 + .05 (k - 2); offline: .45 + .05 (k - 1)
    assert (gap.common.low, gap.common.high) == (2.0, 3.0)
    assert gap.mean.estimate == pytest.approx(0.1, abs=1e-12)
    assert gap.mean.se == pytest.approx(0.0, abs=1e-9)
    assert [i.estimate for i in gap.curve.pointwise] == pytest.approx([0.1] * len(gap.curve.budgets))
    assert at_equal_settings(found.arms["online"], found.arms["offline"], "m", draws).mean.estimate == pytest.approx(
        0.1
    )


def test_disjoint_ranges_give_no_claim():
    curves = {"online": {0.1: [(5.0, 0.6), (6.0, 0.7)]}, "offline": {0.1: [(1.0, 0.45), (3.0, 0.55)]}}
    (comparison,) = measure_summary(tables_of(noiseless(curves)), MAIN, ("online", "offline")).comparisons
    assert comparison.gap.common.empty
    assert comparison.gap.mean is None
    assert comparison.settings.mean is None
    assert comparison.settings.each[0].gap.curve is None


def test_hull_skips_points_under_the_chord_and_never_falls():
    kl = np.array([[0.0, 1.0, 2.0, 4.0, 5.0]])
    value = np.array([[0.4, 0.41, 0.6, 0.7, 0.3]])
    at = np.array([0.0, 1.0, 2.0, 3.0, 4.0, 6.0])
    assert evaluate(hull(kl, value, at), kl, value, at)[0] == pytest.approx([0.4, 0.5, 0.6, 0.65, 0.7, 0.7])
    assert evaluate(trajectory(kl, value, at), kl, value, at)[0] == pytest.approx([0.4, 0.41, 0.6, 0.65, 0.7, 0.3])
    assert evaluate(highest(kl, value, at), kl, value, at)[0] == pytest.approx([0.7] * 6)


def test_hull_solves_the_linear_program():
    from scipy.optimize import linprog

    rng = stream(0, "test/hull")
    for _ in range(20):
        kl, value = np.concatenate([[0.0], rng.random(8) * 5]), rng.random(9)
        at = np.array([float(rng.random() * 5)])
        best = linprog(-value, A_ub=kl[None], b_ub=at, A_eq=np.ones((1, 9)), b_eq=[1.0])
        # The walk begins at the point of least KL, so it may start above the "sft" point's budget of 0 only by a tie.
        assert evaluate(hull(kl[None], value[None], at), kl[None], value[None], at)[0, 0] == pytest.approx(-best.fun)


def test_row_order_does_not_matter():
    records = noisy(prompts=12)
    shuffled = [records[i] for i in stream(1, "test/shuffle").permutation(len(records))]
    found = [
        measure_summary(tables_of(rows_of(each), resamples=20), MAIN, ("online", "offline"))
        for each in (records, shuffled)
    ]
    # As text, because NaN equals NaN there.
    assert repr(found[0]) == repr(found[1])


def test_swapping_the_arms_negates_the_gap():
    found = arms(rows_of(noisy()))
    draws = draw(3, 40, 60, 0)
    a, b = found.arms["online"], found.arms["offline"]
    one, two = matched(a, b, "m", draws).mean, matched(b, a, "m", draws).mean
    assert one.estimate == pytest.approx(-two.estimate)
    assert one.low == pytest.approx(-two.high)


def test_an_arm_against_itself_has_gap_zero_exactly():
    cloud = arms(rows_of(noisy())).arms["online"]
    gap = matched(cloud, cloud, "m", draw(3, 40, 60, 0)).mean
    assert (gap.estimate, gap.se) == (0.0, 0.0)


def test_one_seed_says_that_it_covers_prompts_only():
    found = arms(rows_of(noisy(seeds=(7,))))
    gap = matched(found.arms["online"], found.arms["offline"], "m", draw(1, 40, 60, 0)).mean
    assert gap.over == "prompts only"
    assert gap.low < gap.estimate < gap.high
    best = peak(found.arms["online"], draw(1, 40, 60, 0))
    assert best.value.seeds == 1


def test_a_measure_that_is_null_everywhere_is_absent_and_null_prompts_are_counted():
    records = noisy()
    for record in records:
        record["golden_vs_sft"] = None if record["prompt"] == "p3" and record["arm"] == "online" else 0.5
    table = rows_of(records)
    assert arms(table, "hidden") is None
    found = arms(table, "golden_vs_sft")
    assert (len(found.prompts), found.left_out_prompts) == (39, 1)
    hidden = measure_summary(tables_of(table), "hidden", ("online", "offline"))
    assert hidden.comparisons == ()
    assert hidden.arms[0].peak is None


def test_a_point_that_lacks_a_seed_is_left_out_of_the_gap_and_counted():
    records = [r for r in noisy() if not (r["arm"] == "online" and r["seed"] == 2 and r["step"] == 3)]
    found = arms(rows_of(records))
    assert found.left_out_checkpoints == 4
    assert max(p.step for p in found.arms["online"].points) == 2


def test_null_kl_is_a_fault_that_names_the_checkpoint():
    records = noisy()
    records[100]["kl"] = None
    with pytest.raises(GoodhartError, match=r"online, beta=0\.1 lr=0\.0001, seed 0, step 2"):
        read(rows_of(records), "held_out")


def test_samples_of_a_prompt_are_averaged_before_anything_else():
    records = [row("online", 0.1, 0, 1, 0, 1.0, w, sample=i) for i, w in enumerate((1.0, 0.0, 0.0))]
    records += [row("online", 0.1, 0, 1, 1, 3.0, 1.0)]
    matrix = read(rows_of(records), "held_out")
    assert matrix.columns["golden_vs_policy"].tolist() == [[pytest.approx(1 / 3), 1.0]]


def test_interval_of_one_seed_is_the_t_interval_and_components_are_recovered():
    x = stream(0, "test/t").normal(size=(1, 30))
    expected = stats.ttest_1samp(x[0], 0.0).confidence_interval(0.95)
    found = of_mean(x)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    rng = stream(0, "test/components")
    cells = rng.normal(size=(4000, 3, 1)) * 0.2 + rng.normal(size=(4000, 1, 50)) + 0.5 * rng.normal(size=(4000, 3, 50))
    parts = components(cells)
    assert float(parts.prompts.mean()) == pytest.approx(1 / 50 + 0.25 / 150, rel=0.03)
    assert float(parts.between_seeds.mean()) == pytest.approx(0.04 / 3 + 0.25 / 150, rel=0.08)


def test_interval_of_a_mean_covers_with_few_seeds():
    rng = stream(0, "test/mean coverage")
    for seeds, low, high in ((2, 0.92, 0.985), (3, 0.92, 0.975), (5, 0.93, 0.975)):
        shape = (2000, seeds, 60)
        cells = (
            0.05 * rng.normal(size=(2000, seeds, 1))
            + 0.2 * rng.normal(size=(2000, 1, 60))
            + 0.4 * rng.normal(size=shape)
        )
        parts = components(cells)
        half = stats.t.ppf(0.975, parts.freedom) * np.sqrt(parts.seeds + parts.prompts)
        assert low < np.mean(np.abs(cells.mean(axis=(1, 2))) <= half) < high


def sweep_world(rng, settings, seeds=3, prompts=64):
    """All settings and steps have win rate 1/2 at KL 1 and 2: whatever is picked, the truth is 1/2."""
    names = tuple(Point(f"beta={i}", float(i), 1e-4, step) for i in range(settings) for step in (1, 2))
    shape = (2 * settings, seeds, prompts)
    chance = 0.5 + 0.03 * rng.normal(size=shape[:2])[..., None]
    kl = np.resize([1.0, 2.0], 2 * settings)[:, None, None] * (1 + 0.2 * rng.normal(size=shape))
    return Cloud(f"sweep of {settings}", names, False, kl, (rng.random(shape) < chance).astype(float))


def test_a_bigger_sweep_is_no_effect():
    gaps, naive = [], []
    for i in range(50):
        rng = stream(i, "test/sweep")
        big, small = sweep_world(rng, 6), sweep_world(rng, 1)
        gaps.append(matched(big, small, "m", draw(3, 64, 25, i)).mean)
        at = budgets(common_range(big, small))
        means = [(c.kl.mean(axis=(1, 2))[None], c.value.mean(axis=(1, 2))[None]) for c in (big, small)]
        naive.append(np.subtract(*(evaluate(hull(k, v, at), k, v, at).mean() for k, v in means)))
    error = np.std([g.estimate for g in gaps]) / math.sqrt(len(gaps))
    assert abs(np.mean([g.estimate for g in gaps])) < 4 * error
    assert np.mean(naive) > 4 * error  # what the plain difference of maxima would have claimed
    covered = np.mean([g.low <= 0 <= g.high for g in gaps])
    assert covered > 0.85


def test_peak_of_equal_points_is_not_their_maximum():
    found = [peak(sweep_world(stream(i, "test/peak"), 8), draw(3, 64, 25, i)) for i in range(30)]
    assert np.mean([p.apparent for p in found]) > 0.55
    assert abs(np.mean([p.value.estimate for p in found]) - 0.5) < 0.02
    assert np.mean([p.value.low <= 0.5 <= p.value.high for p in found]) > 0.8


def test_seed_variation_widens_the_interval():
    rng = stream(0, "test/widen")
    quiet = sweep_world(rng, 2)
    loud = dataclasses.replace(quiet, value=quiet.value + np.array([-0.4, 0.0, 0.4])[None, :, None])
    draws = draw(3, 64, 60, 0)
    one, two = (
        curve([Term(c, trajectory, c.trained, np.array([1.5]), 1.0, crossfit=False)], draws).mean for c in (quiet, loud)
    )
    assert one.estimate == pytest.approx(two.estimate)
    assert two.high - two.low > 5 * (one.high - one.low)


def test_envelope_is_reported_between_its_lowest_and_largest_trained_kl():
    cloud = arms(noiseless(TWO)).arms["online"]
    found = envelope(cloud, draw(2, 6, 20, 0))
    assert (found.budgets[0], found.budgets[-1]) == (2.0, 4.0)
    assert found.pointwise[-1].estimate == pytest.approx(0.7)


def test_ties_and_zero_margins_count_one_half():
    label, rho_w, rho_l = (
        np.array([1.0, 0.0, 0.5, 1.0]),
        np.array([1.0, -1.0, 5.0, 0.0]),
        np.array([0.0, 0.0, 0.0, 0.0]),
    )
    assert correct(label, rho_w, rho_l).tolist() == [1.0, 0.0, 0.5, 0.5]


def test_clustered_error_of_singletons_is_the_plain_one_and_copies_add_nothing():
    x = stream(0, "test/cluster").normal(size=25)
    assert clustered(x, np.arange(25)).se == pytest.approx(x.std(ddof=1) / 5)
    assert clustered(np.tile(x, 4), np.tile(np.arange(25), 4)).se == pytest.approx(x.std(ddof=1) / 5)


def test_weighted_spearman_is_spearman_of_the_repeated_items():
    rng = stream(0, "test/spearman")
    x, y, w = rng.integers(0, 5, 12).astype(float), rng.normal(size=12), rng.integers(0, 4, (1, 12)).astype(float)
    at = np.repeat(np.arange(12), w[0].astype(int))
    assert weighted_spearman(x, y, w)[0] == pytest.approx(stats.spearmanr(x[at], y[at]).statistic)
    assert math.isnan(weighted_spearman(np.ones(12), y, w)[0])


def test_summary_joins_classification_and_win_rate():
    records = []
    for arm in ("online", "offline"):
        for beta in (0.1, 0.03):
            for seed in (0, 1, 2):
                for step in (1, 2, 3):
                    for pair in range(8):
                        # accuracy falls with the step, the win rate of `noisy` rises with it
                        margin = 1.0 if pair >= 2 * step else -1.0
                        name = f"beta={beta} lr=0.0001"
                        at = (arm, name, beta, 1e-4, seed, step, "train", f"q{pair}", f"p{pair % 4}")
                        records.append((*at, 0.5 if pair == 7 else 1.0, margin, 0.0))
    rows = rows_of(noisy())
    found = summarise(rows, tables_of(rows, pairs=pairs_of(records)))
    first = next(c for c in found.classification if c.checkpoint.step == 2)
    assert (first.pairs, first.ties) == (8, 1)
    assert first.accuracy.mean == pytest.approx(3.5 / 8)
    assert first.winner_shift.mean == pytest.approx((3 - 4) / 7)
    overall = next(c for c in found.correlations if c.arm == "all arms")
    assert (overall.checkpoints, overall.runs, overall.split) == (36, 12, "train")
    assert overall.low <= overall.estimate <= overall.high < 0
    assert len(found.measures["held_out", "golden_vs_policy"].arms[0].points) == 6


def test_diagnostics_count_distinct_responses_and_skip_nulls():
    records = [row("online", 0.1, 0, 1, p, 1.0, 0.5, response=[1, 2 * (p % 2)]) for p in range(6)]
    records[0] |= {"proxy_vs_policy": 1.0, "ended": False}
    records[1] |= {"proxy_vs_policy": None}
    found = diagnose(rows_of(records), "held_out")[0]
    assert found.unique == pytest.approx(2 / 6)
    assert found.ended.mean == pytest.approx(5 / 6)
    assert found.proxy_less_golden_vs_policy.mean == pytest.approx(0.5 / 5)
    assert diagnose(rows_of(records), "train") == ()
