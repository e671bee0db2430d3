"""Cross-fitting and its bootstrap: against loops over a linear program, closed forms of linear statistics, counts."""

import dataclasses

import numpy as np
import pytest
from scipy import stats
from scipy.optimize import linprog

from goodhart.analysis import crossfit
from goodhart.analysis.crossfit import (
    FOLDS,
    Draws,
    Term,
    _replicates,
    _scale,
    _sums,
    _with_new_seeds,
    band_quantile,
    curve,
    draw,
)
from goodhart.analysis.envelope import highest, hull, trajectory
from goodhart.analysis.interval import Components, Prior, around, components
from goodhart.analysis.table import Cloud, Point
from goodhart.randomness import stream

GRID = np.array([1.0, 1.7, 2.6])


def cloud_of(kl, value):
    names = tuple(Point("a", 0.1, 1e-4, step) for step in range(len(kl)))
    return Cloud("arm", names, True, np.asarray(kl, dtype=float), np.asarray(value, dtype=float))


def noisy_cloud(seeds=3, prompts=10, points=5, name="test/crossfit"):
    """KLs of 0, 0.9, 1.8, … nats and values that rise ever more slowly, with much noise in both."""
    rng = stream(0, name, seeds, prompts)
    steps, shape = np.arange(points)[:, None, None], (points, seeds, prompts)
    return cloud_of(0.9 * steps * (1 + 0.1 * rng.normal(size=shape)), np.sqrt(steps) + 0.5 * rng.normal(size=shape))


def by_linear_programs(cloud, fold, budget, points):
    """For each seed and prompt, the Lagrangian of the program solved without its seed and its fold of prompts."""
    seeds, prompts = cloud.kl.shape[1:]
    found = np.zeros((seeds, prompts))
    for s in range(seeds):
        others = [t for t in range(seeds) if t != s] or [s]
        for p in range(prompts):
            rest = np.flatnonzero(fold != fold[p])
            kl, value = (cube[points][:, others][:, :, rest].mean(axis=(1, 2)) for cube in (cloud.kl, cloud.value))
            best = linprog(-value, A_ub=kl[None], b_ub=[budget], A_eq=np.ones((1, len(kl))), b_eq=[1.0])
            over = best.x @ cloud.kl[points, s, p] - budget
            found[s, p] = best.x @ cloud.value[points, s, p] + best.ineqlin.marginals[0] * over
    return found


@pytest.mark.parametrize("seeds", [1, 2, 3])
def test_what_is_picked_without_a_seed_and_a_fold_is_valued_on_them(seeds):
    cloud, draws = noisy_cloud(seeds), draw(seeds, 10, 3, 0)
    for points in (np.arange(5), np.array([0, 2, 4])):
        expected = np.array([by_linear_programs(cloud, draws.fold, k, points) for k in GRID])
        found = curve([Term(cloud, hull, points, GRID, 1.0)], draws)
        assert [each.estimate for each in found.pointwise] == pytest.approx(expected.mean(axis=(1, 2)).tolist())
        assert found.mean.estimate == pytest.approx(expected.mean())
        # the variance with the picks fixed is that of the mean of these numbers
        parts = components(expected.mean(axis=0))
        assert found.mean.freedom == pytest.approx(float(parts.freedom))
        assert (found.mean.seeds, found.mean.prompts) == (seeds, 10)


def test_terms_are_added_with_their_weights():
    one, two = noisy_cloud(), noisy_cloud(name="test/other")
    draws = draw(3, 10, 40, 0)
    alone = [curve([Term(c, hull, np.arange(5), GRID, 1.0)], draws) for c in (one, two)]
    both = curve([Term(one, hull, np.arange(5), GRID, 2.0), Term(two, hull, np.arange(5), GRID.copy(), -0.5)], draws)
    for k in range(len(GRID)):
        values = [each.pointwise[k].estimate for each in alone]
        assert both.pointwise[k].estimate == pytest.approx(2 * values[0] - 0.5 * values[1])
    assert both.budgets is GRID, "labelled with the first term's"


def counted(cloud, fold, counts):
    """The cloud with every prompt as often as it is counted, and the folds of these."""
    at = np.repeat(np.arange(len(counts)), counts)
    folds = np.unique(fold[at], return_inverse=True)[1]
    return dataclasses.replace(cloud, kl=cloud.kl[:, :, at], value=cloud.value[:, :, at]), folds


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("rule", [hull, highest])
def test_a_replicate_is_the_estimate_on_the_prompts_that_it_has_drawn(seeds, rule, monkeypatch):
    monkeypatch.setattr(crossfit, "_CHUNK", 5)  # so that parts are joined
    cloud, fold = noisy_cloud(seeds), np.arange(10) % FOLDS
    counts = np.array([[1] * 10, [3, 0, 1, 0, 2, 1, 1, 1, 0, 1], [0, 5, 1, 1, 0, 1, 1, 1, 0, 1]])
    term = Term(cloud, rule, np.arange(5), GRID, 1.0)
    found = _replicates(term, _sums(term, fold, counts.astype(float)))
    for row, times in zip(found, counts, strict=True):
        again, folds = counted(cloud, fold, times)
        nothing = Draws(folds, np.ones((2, len(folds))), np.zeros((2, seeds, seeds)))
        expected = curve([Term(again, rule, np.arange(5), GRID, 1.0)], nothing)
        assert row == pytest.approx([each.estimate for each in expected.pointwise])


def test_a_replicate_that_has_drawn_from_one_fold_alone_is_a_number():
    cloud, fold = noisy_cloud(), np.arange(10) % FOLDS
    term = Term(cloud, hull, np.arange(5), GRID, 1.0)
    counts = np.where(fold == 2, 5.0, 0.0)[None]
    assert np.isfinite(_replicates(term, _sums(term, fold, counts))).all()


@pytest.mark.parametrize("seeds", [1, 3])
def test_without_cross_fitting_points_are_picked_and_valued_on_everything(seeds):
    cloud, draws = noisy_cloud(seeds), draw(seeds, 10, 40, 0)
    kl, value = cloud.kl.mean(axis=(1, 2)), cloud.value.mean(axis=(1, 2))
    found = curve([Term(cloud, trajectory, np.arange(5), GRID, 1.0, crossfit=False)], draws)
    expected = np.interp(GRID, kl, value)
    assert [each.estimate for each in found.pointwise] == pytest.approx(expected.tolist())
    term = Term(cloud, trajectory, np.arange(5), GRID, 1.0, crossfit=False)
    counts = np.array([[3, 0, 1, 0, 2, 1, 1, 1, 0, 1]])
    again, _ = counted(cloud, draws.fold, counts[0])
    by_hand = np.interp(GRID, again.kl.mean(axis=(1, 2)), again.value.mean(axis=(1, 2)))
    assert _replicates(term, _sums(term, draws.fold, counts.astype(float)))[0] == pytest.approx(by_hand)


LINEAR = np.array([[[1.0, 2, 3, 6], [2, 4, 3, 7], [3, 3, 6, 12]], [[9.0, 2, 0, 1], [7, 1, 1, 0], [5, 4, 1, 4]]])
"""Two points at 1 and 2 nats. The mean squares of the first are 28/3, 70/3 and 2, and those of the mean of both are
61/16, 755/144 and 233/144 (seed, prompt, residual: statsmodels' anova_lm)."""


@pytest.mark.parametrize(
    ("grid", "estimate", "squares", "freedom"),
    [
        ([1.0], 13 / 3, (28 / 3, 70 / 3, 2.0), 6348 / 1519),
        ([1.0, 2.0], 29 / 8, (61 / 16, 755 / 144, 233 / 144), 335707 / 99716),
    ],
)
def test_the_error_of_a_linear_statistic_is_its_closed_form(grid, estimate, squares, freedom):
    """At the points' own KLs the curve is their means: nothing is picked, and the bootstrap adds nothing."""
    cloud = cloud_of(np.ones_like(LINEAR) * np.array([1.0, 2.0])[:, None, None], LINEAR)
    term = Term(cloud, trajectory, np.arange(2), np.array(grid), 1.0, crossfit=False)
    found = curve([term], draw(3, 4, 800, 0)).mean
    assert found.estimate == pytest.approx(estimate)
    assert found.se == pytest.approx(np.sqrt((squares[0] - squares[2] + squares[1]) / 12))
    assert found.freedom == pytest.approx(freedom)
    half = stats.t.ppf(0.975, freedom) * found.se
    assert (found.low, found.high) == pytest.approx((estimate - half, estimate + half))


def test_the_share_of_new_effects_is_the_seeds_own_part_of_their_variance_in_the_mean_over_budgets(monkeypatch):
    """The mean square of the seeds is 61/16, of which the residual's 233/144 is not their own."""
    cloud, shares = cloud_of(np.ones_like(LINEAR) * np.array([1.0, 2.0])[:, None, None], LINEAR), []

    def seen(term, sums, mixing, share):
        shares.append(share)
        return _with_new_seeds(term, sums, mixing, share)

    monkeypatch.setattr(crossfit, "_with_new_seeds", seen)
    curve([Term(cloud, trajectory, np.arange(2), np.array([1.0, 2.0]), 1.0, crossfit=False)], draw(3, 4, 2, 0))
    assert shares == [pytest.approx(np.sqrt(1 - 233 / 144 / (61 / 16)))]


def test_a_prior_is_joined_with_each_arms_side():
    """One arm at weight 2: v = 4 * 7/3, n = 4 * 1/2; with tau^2 = 5, w^2 = 4, g = 2 it is (2 * 22 + 2 * 28/3) / 4."""
    term = Term(cloud_of(np.ones_like(LINEAR[:1]), LINEAR[:1]), highest, np.arange(1), np.ones(1), 2.0)
    found = curve([term], draw(3, 4, 800, 0), Prior(5.0, 3.0, 2.0))
    joined, prompts = (2 * 22 + 2 * 28 / 3) / 4, 4 * 70 / 3 / 12
    own = (joined - 2) / 3
    assert found.mean.se == pytest.approx(np.sqrt(own + prompts))
    assert found.mean.freedom == pytest.approx((own + prompts) ** 2 / ((joined / 3) ** 2 / 4 + prompts**2 / 3))
    joined = (2 * (12 + 2) + 2 * 28 / 3) / 4
    assert found.pointwise[0].se == pytest.approx(np.sqrt((joined - 2) / 3 + prompts)), "at one budget tau^2 is 3"


def test_an_arms_weights_add_up_by_their_signs_but_for_the_same_term():
    cloud, other = noisy_cloud(), dataclasses.replace(noisy_cloud(), arm="other")
    first, second = (Term(cloud, hull, np.arange(n), GRID, 1.0) for n in (5, 4))

    def weighed(*terms):
        return _scale([dataclasses.replace(term, weight=weight) for term, weight in terms], "arm")

    assert weighed((first, 0.5), (second, 0.5)) == 1.0
    assert weighed((first, 1.0), (second, -1.0)) == 2.0
    assert weighed((first, 1.0), (first, -1.0)) == 0.0
    assert weighed((first, 1.0), (first, 1.0)) == 4.0
    assert weighed((first, 2.0), (Term(other, hull, np.arange(5), GRID, 1.0), 3.0)) == 4.0


def test_seeds_that_are_all_alike_add_nothing_to_the_error():
    cells = np.broadcast_to(np.array([1.0, 2, 3, 6]), (1, 3, 4))
    term = Term(cloud_of(np.ones_like(cells), cells), highest, np.arange(1), np.ones(1), 1.0)
    found = curve([term], draw(3, 4, 800, 0)).mean
    assert found.se == pytest.approx(np.sqrt(14 / 3 / 4))
    assert found.freedom == 3.0


def test_seeds_that_are_alike_where_the_picks_fall_add_nothing_though_they_differ_elsewhere():
    """What is never picked has no part, and no new effect of its seeds lets it be picked in a replicate."""
    same = np.broadcast_to(np.array([1.0, 2, 3, 6]), (3, 4))
    cells = np.stack([same, same - 5 + np.array([-4.0, 0.0, 4.0])[:, None]])
    term = Term(cloud_of(np.ones_like(cells), cells), highest, np.arange(2), np.ones(1), 1.0)
    found = curve([term], draw(3, 4, 800, 0)).mean
    assert (found.estimate, found.se) == pytest.approx((3.0, np.sqrt(14 / 3 / 4)))


def test_the_error_has_a_share_of_what_drawing_the_picks_again_adds():
    """a = (1 + 1/4)/2 of V_bootstrap - V_fixed = 8 - 4 beside 2 + 3; where less is drawn than fixed, nothing."""
    cells = np.zeros((4, 2, 2))
    cells[0] = [[1.0, 2.0], [3.0, 6.0]]
    zero = np.zeros(4)
    fixed = Components(zero, np.array([1.0, 0.0, 0.1, 1.0]), np.array([3.0, 0.0, 0.3, 3.0]), zero)
    parts = Components(zero, np.array([2.0, 0.0, 0.2, 2.0]), np.array([3.0, 0.0, 0.3, 3.0]), np.array([5.0, 1, 1, 7]))
    first, second, third, fourth = crossfit._intervals(cells, parts, fixed, np.array([8.0, 2.0, 0.8, 1.0]))
    assert third.se == pytest.approx(np.sqrt(0.75)), "the same in a tenth of the unit"
    assert (first.estimate, first.se, first.freedom) == pytest.approx((3.0, np.sqrt(7.5), 5.0))
    assert (first.seeds, first.prompts) == (2, 2)
    assert second.se == pytest.approx(1.0), "where nothing is fixed, half of what is drawn"
    assert (fourth.se, fourth.freedom) == (pytest.approx(np.sqrt(5.0)), 7.0)


def test_the_quantile_of_a_band_of_one_budget_is_the_t_quantile():
    rng = stream(0, "test/band")
    replicates = rng.normal(size=(300, 1))
    assert band_quantile(replicates, 5.0, 0) == pytest.approx(stats.t.ppf(0.975, 5), rel=0.06)
    assert band_quantile(np.repeat(replicates, 9, axis=1) * np.arange(1, 10) + 3.0, 5.0, 0) == pytest.approx(
        band_quantile(replicates, 5.0, 0), rel=0.06
    ), "what goes together is one budget, whatever its unit"


def test_the_quantile_of_a_band_is_that_of_4000_draws_by_the_seed_and_the_number_of_budgets():
    """By hand of one budget, so that a report that is made again has its band, however many replicates there were."""
    replicates = stream(0, "test/band").normal(size=(300, 1))
    for seed in (0, 1):
        rng = stream(seed, "analysis/band", 1)
        normal, chi2 = np.abs(rng.standard_normal(4000)), rng.chisquare(5.0, 4000)
        expected = pytest.approx(np.quantile(normal / np.sqrt(chi2 / 5.0), 0.95), rel=1e-9)
        assert band_quantile(replicates, 5.0, seed) == expected
        assert band_quantile(np.concatenate([replicates, replicates]), 5.0, seed) == expected


def test_the_quantile_of_a_band_of_independent_budgets_is_sidaks():
    replicates = np.linalg.qr(stream(0, "test/independent").normal(size=(400, 20)))[0] + 1.0
    replicates -= replicates.mean(axis=0)
    replicates = np.linalg.qr(replicates)[0]
    expected = stats.norm.ppf((1 + 0.95 ** (1 / 20)) / 2)
    assert band_quantile(replicates, 1e9, 0) == pytest.approx(expected, rel=0.03)
    assert band_quantile(replicates, 4.0, 0) > 1.3 * expected, "an error from few seeds widens it"


def test_budgets_that_do_not_vary_have_no_part_in_a_band():
    replicates = stream(0, "test/band").normal(size=(300, 1))
    still = np.concatenate([replicates, np.ones((300, 3))], axis=1)
    assert band_quantile(still, 5.0, 0) == band_quantile(replicates, 5.0, 0)
    assert band_quantile(np.ones((10, 3)), 5.0, 0) == 0.0


def test_the_band_is_around_the_curve_and_never_inside_of_its_intervals():
    found = curve([Term(noisy_cloud(), hull, np.arange(5), GRID, 1.0)], draw(3, 10, 200, 0))
    for low, high, at in zip(found.simultaneous.low, found.simultaneous.high, found.pointwise, strict=True):
        assert (low + high) / 2 == pytest.approx(at.estimate)
        assert low < at.low < at.high < high
    again = curve([Term(noisy_cloud(), hull, np.arange(5), GRID, 1.0)], draw(3, 10, 200, 0))
    assert np.array_equal(again.simultaneous.low, found.simultaneous.low), "keyed"


def test_a_band_is_as_wide_as_its_intervals_where_no_replicate_varies():
    pointwise = [around(1.0, 0.5, 7.0, seeds=3, prompts=20), around(-2.0, 0.1, 4.0, seeds=3, prompts=20)]
    band = crossfit._band(pointwise, np.ones((10, 2)), 0)
    assert band.low == pytest.approx([each.low for each in pointwise])
    assert band.high == pytest.approx([each.high for each in pointwise])


def test_new_effects_take_the_place_of_a_share_of_the_seeds_own():
    """Seeds' means 1 and 3: effects -1 and 1; a half of them goes, and what is drawn of that half comes."""
    cells = np.array([[[0.0, 2.0], [2.0, 4.0]]])
    term = Term(cloud_of(10 * cells, cells), highest, np.arange(1), np.ones(1), 1.0)
    sums = _sums(term, np.array([0, 1]), np.array([[1.0, 1.0], [2.0, 0.0]]))
    assert sums.value[:, 0].tolist() == [[[0, 2], [2, 4]], [[0, 0], [4, 0]]]
    assert sums.count.tolist() == [[1, 1], [2, 0]]
    nothing, drawn = np.zeros((2, 2, 2)), np.array([[[0.0, 3.0], [1.0, 2.0]], [[0.0, 1.0], [0.0, 0.0]]])
    found = _with_new_seeds(term, sums, nothing, 0.5)
    assert found.value[:, 0].tolist() == [[[0.5, 2.5], [1.5, 3.5]], [[1, 0], [3, 0]]]
    assert found.kl[:, 0].tolist() == [[[5, 25], [15, 35]], [[10, 0], [30, 0]]]
    found = _with_new_seeds(term, sums, drawn, 0.5)
    # new effects: 3 * 0.5 and -0.5 + 2 * 0.5; in the second replicate 0.5 and 0
    assert found.value[:, 0].tolist() == [[[2, 4], [2, 4]], [[2, 0], [3, 0]]]
    assert found.count is sums.count


def test_draws_are_prompts_with_replacement_even_folds_and_effects_of_the_observed_variance():
    draws = draw(3, 10, 4000, 0)
    assert (draws.prompts.shape, draws.seeds.shape) == ((4000, 10), (4000, 3, 3))
    assert set(draws.prompts.sum(axis=1)) == {10.0}
    assert draws.prompts.var() == pytest.approx(10 * 0.1 * 0.9, rel=0.03), "the multinomial's"
    assert sorted(np.bincount(draws.fold)) == [2, 2, 3, 3]
    effects = np.array([-2.0, 0.5, 1.5])
    assert (draws.seeds @ effects).var() == pytest.approx(effects.var(ddof=1), rel=0.05)
    assert draw(1, 3, 4000, 0).seeds.std() == pytest.approx(1.0, rel=0.05)
    assert sorted(draw(1, 3, 1, 0).fold) == [0, 1, 2], "no more folds than prompts"
    assert not np.array_equal(draws.prompts, draw(3, 10, 4000, 1).prompts), "keyed by the seed"
    assert np.array_equal(draws.seeds, draw(3, 10, 4000, 0).seeds)


def test_the_variance_of_the_replicates_is_that_of_a_sample():
    """Two replicates of one seed at 1 and 6 have variance 25/2; the prompts' is 14/3 / 4, and a is 1/2."""
    cells = np.array([[[1.0, 2.0, 3.0, 6.0]]])
    term = Term(cloud_of(np.ones_like(cells), cells), highest, np.arange(1), np.ones(1), 1.0)
    counts = np.array([[4.0, 0, 0, 0], [0, 0, 0, 4.0]])
    found = curve([term], Draws(np.arange(4), counts, np.zeros((2, 1, 1)))).mean
    assert found.se == pytest.approx(np.sqrt((7 / 6 + 25 / 2) / 2))
