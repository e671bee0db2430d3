"""Variance components and intervals of small tables, whose numbers were got elsewhere and written down.

The mean squares are those of `statsmodels.stats.anova_lm` for `y ~ C(seed) + C(prompt)` (statsmodels 0.14); a mean's
variance is the textbook's (MS_seed + MS_prompt - MS_residual) / (S P) for two crossed random effects.
"""

import numpy as np
import pytest
from scipy import stats

from goodhart.analysis.interval import NO_PRIOR, Prior, Side, around, combine, components, of_mean, prior, side
from goodhart.errors import GoodhartError
from goodhart.randomness import stream


def parts_of(table):
    found = components(np.array(table, dtype=float))
    return tuple(float(part) for part in (found.between_seeds, found.seeds, found.prompts, found.freedom))


THREE = [[1, 2, 3, 6], [2, 4, 3, 7], [3, 3, 6, 12]]
"""Mean squares 28/3 (2 degrees of freedom), 70/3 (3) and 2 (6)."""

TWO = [[0, 1, 5], [2, 3, 10]]
"""Mean squares 13.5 (1), 24.5 (2) and 1.5 (2)."""


def test_components_of_crossed_seeds_and_prompts_are_those_of_the_analysis_of_variance():
    between, own, prompts, freedom = parts_of(THREE)
    assert (between, own, prompts) == pytest.approx((28 / 3 / 12, (28 / 3 - 2) / 12, 70 / 3 / 12))
    # (23/9)^2 / ((7/9)^2 / 2 + (35/18)^2 / 3)
    assert freedom == pytest.approx(6348 / 1519)
    between, own, prompts, freedom = parts_of(TWO)
    assert (between, own, prompts) == pytest.approx((13.5 / 6, 12 / 6, 24.5 / 6))
    # (73/12)^2 / ((9/4)^2 / 1 + (49/12)^2 / 2)
    assert freedom == pytest.approx(10658 / 3859)


def test_the_interval_of_a_mean_by_hand():
    """Mean 13/3, standard error sqrt(23)/3; 2.730151 is scipy's t quantile at 0.975 with 6348/1519 degrees."""
    found = of_mean(np.array(THREE, dtype=float))
    assert found.estimate == pytest.approx(13 / 3)
    assert found.se == pytest.approx(np.sqrt(23) / 3)
    assert (found.low, found.high) == pytest.approx((13 / 3 - 4.364448023656, 13 / 3 + 4.364448023656))
    assert (found.seeds, found.prompts) == (3, 4)
    assert [of_mean(np.array(table, dtype=float)).over for table in (THREE, TWO, TWO[:1])] == [
        *("seeds and prompts", "seeds and prompts", "prompts only"),
    ]


def test_seeds_that_agree_by_chance_keep_their_term():
    """Mean squares 1/9, 37/9 and 28/9: (37/81)^2 / ((1/81)^2 / 2 + (37/81)^2 / 2), though they have no part."""
    between, own, prompts, freedom = parts_of([[4, 2, 6], [2, 6, 4], [3, 4, 6]])
    assert (between, own, prompts) == pytest.approx((1 / 81, 0.0, 37 / 81))
    assert freedom == pytest.approx(1369 / 685)


def test_two_seeds_that_agree_are_no_evidence_that_seeds_do():
    """Mean squares 0.96, 2.66 and 5.46: (133/300)^2 / ((4/25)^2 / 1 + (133/300)^2 / 2), less than the 2 of prompts."""
    between, own, prompts, freedom = parts_of([[4, 2, 6], [2.6, 6.6, 5.2]])
    assert (between, own, prompts) == pytest.approx((0.96 / 6, 0.0, 2.66 / 6))
    assert freedom == pytest.approx(35378 / 22297)


def test_there_is_no_less_than_one_degree_of_freedom():
    """V_S = 0.81 of two seeds beside V_P = 133/300 would be a quarter of a degree."""
    assert parts_of([[4, 2, 6], [3.6, 7.6, 6.2]])[3] == 1.0


def test_seeds_and_prompts_of_equal_variance_have_the_degrees_of_both():
    assert parts_of([[0, 1, 2], [1, 2, 3], [2, 3, 4]])[3] == pytest.approx(2 + 2)


@pytest.mark.parametrize("seeds", [1, 2, 3])
def test_numbers_that_are_all_the_same_have_no_variance(seeds):
    assert parts_of(np.full((seeds, 4), 5.0)) == (0.0, 0.0, 0.0, 3.0)


def test_one_seed_is_the_t_interval_of_its_prompts():
    """scipy: ttest_1samp([1, 2, 3, 6], 0).confidence_interval() is (-0.437435, 6.437435)."""
    found = of_mean(np.array([[1.0, 2.0, 3.0, 6.0]]))
    assert (found.low, found.estimate, found.high) == pytest.approx((-0.437435, 3.0, 6.437435), abs=1e-5)
    assert (found.freedom, found.seeds, found.prompts, found.over) == (3.0, 1, 4, "prompts only")
    assert parts_of([[1, 2, 3, 6]]) == pytest.approx((0.0, 0.0, 14 / 3 / 4, 3.0))


def test_tables_side_by_side_are_each_as_alone():
    tables = np.array([THREE, [row[::-1] for row in THREE[::-1]], np.square(THREE)], dtype=float)
    found = components(tables)
    for i, table in enumerate(tables):
        every = (found.between_seeds, found.seeds, found.prompts, found.freedom)
        assert tuple(float(part[i]) for part in every) == pytest.approx(parts_of(table))


@pytest.mark.parametrize("shape", [(1, 1), (3, 1)])
def test_one_prompt_has_no_interval(shape):
    with pytest.raises(GoodhartError, match="at least 2 prompts"):
        components(np.ones(shape))
    assert of_mean(np.array([[1.0, 2.0]])).freedom == 1.0


def test_an_interval_of_known_error():
    """The t quantile at 0.975 with 7 degrees of freedom is 2.364624 in any table."""
    found = around(0.5, 0.1, 7.0, seeds=2, prompts=9)
    assert (found.low, found.high) == pytest.approx((0.5 - 0.2364624, 0.5 + 0.2364624))
    assert (found.se, found.freedom, found.seeds, found.prompts) == (0.1, 7.0, 2, 9)


def test_a_side_has_the_mean_squares_over_the_prompts():
    found = side(np.array([THREE, np.multiply(THREE, 2)], dtype=float), 4.0)
    assert found.between == pytest.approx(np.array([7 / 3, 28 / 3]))
    assert found.mixed == pytest.approx(np.array([0.5, 2.0]))
    assert found.scale == 4.0
    alone = side(np.array(THREE[:1], dtype=float))
    assert (float(alone.between), float(alone.mixed)) == (0.0, 0.0)


ONE, OTHER = Side(1.0, 0.2), Side(0.1, 0.2, 4.0)
"""With tau^2 = 1/2, g = d = 2: joined .85, below its own 1; and (2 (4/2 + .2) + .2) / 4 = 1.15."""


def test_sides_are_joined_with_the_prior_and_never_below_their_own():
    found = combine([ONE, OTHER], 0.4, 0.3, seeds=3, prompts=101, variance=0.5, freedom=2.0)
    assert float(found.between_seeds) == pytest.approx((1 + 1.15) / 3)
    assert (float(found.seeds), float(found.prompts)) == pytest.approx((1.75 / 3, 0.3))
    assert float(found.freedom) == pytest.approx((1.75 / 3 + 0.3) ** 2 / ((1 + 1.15**2) / 9 / 4 + 0.09 / 100))


def test_without_a_prior_each_side_stands_for_itself():
    found = combine([ONE, OTHER], 0.4, 0.3, seeds=3, prompts=101, variance=9.0)
    assert float(found.seeds) == pytest.approx((1.1 - 0.4) / 3)
    assert float(found.freedom) == pytest.approx((0.7 / 3 + 0.3) ** 2 / (1.01 / 9 / 2 + 0.09 / 100))


def test_an_endless_prior_is_what_counts_and_is_known_without_error():
    """With g without end s = w^2 tau^2 + n, and the prompts alone have degrees of freedom to lose."""
    found = combine([Side(0.1, 0.2), OTHER], 0.4, 0.3, seeds=3, prompts=101, variance=0.5, freedom=1e12)
    assert float(found.seeds) == pytest.approx((0.7 + 2.2 - 0.4) / 3)
    assert float(found.freedom) == pytest.approx((2.5 / 3 + 0.3) ** 2 / (0.09 / 100))


def test_one_seed_has_no_sides():
    found = combine([ONE, OTHER], 0.4, 0.3, seeds=1, prompts=101, variance=0.5, freedom=2.0)
    assert tuple(float(part) for part in (found.seeds, found.prompts, found.freedom)) == (0.0, 0.3, 100.0)


@pytest.mark.parametrize("freedom", [0.0, 2.0])
def test_nothing_jumps_where_the_seeds_part_comes_to_nothing(freedom):
    """The seeds' part becomes 0 at one variance between seeds; on both sides of it the error is nearly the same."""
    at = [combine([Side(v, 1.0)], 1.0, 0.3, seeds=3, prompts=256, freedom=freedom) for v in np.linspace(0.9, 1.1, 201)]
    degrees = np.array([float(found.freedom) for found in at])
    assert min(float(found.seeds) for found in at) == 0.0
    assert np.abs(np.diff(degrees)).max() < 0.2
    assert degrees.max() < 10


def test_the_prior_is_the_mean_over_arms_of_what_seeds_have_beyond_the_interaction():
    """7/3 - 1/2 with two degrees of freedom, 9/2 - 1/2 with one: (2 * 11/6 + 4) / 3; all arms but one have 1."""
    arms = [np.array([table], dtype=float) for table in (THREE, TWO)]
    known = prior(arms)
    assert (known.variance, known.at_budget, known.freedom) == pytest.approx((23 / 9, 23 / 9, 1.0))
    assert prior([*arms, arms[0]]).freedom == 2.0
    assert prior([*arms, arms[0], arms[0]]).freedom == 2.0, "and no more, whatever the number of arms"
    assert prior([*arms, np.ones((1, 1, 4))]) == known, "one seed says nothing"
    assert prior(arms[:1]) == prior([]) == NO_PRIOR, "one arm alone says nothing of others"


def test_the_prior_at_one_budget_is_not_that_of_the_mean():
    """At twice and four times the table a budget has (4 + 16) / 2 times its variance, and their mean has 9 times."""
    known = prior([np.array([np.multiply(THREE, 2), np.multiply(THREE, 4)], dtype=float)] * 2)
    assert (known.variance, known.at_budget) == pytest.approx((9 * 11 / 6, 10 * 11 / 6))
    assert known.each(2).tolist() == pytest.approx([10 * 11 / 6, 10 * 11 / 6, 9 * 11 / 6])


def test_a_prior_is_not_negative():
    crossed = np.array([[[4, 2, 6], [2, 6, 4], [3, 4, 6]]], dtype=float)
    assert prior([crossed, crossed]) == Prior(0.0, 0.0, 2.0)


def test_the_mean_of_a_difference_has_a_side_for_each_arm():
    """Of equal cells nothing is left but what the sides and the prior say: s = 7/3 twice, from v = 7/3 and n = 1/2."""
    cells = np.array(THREE, dtype=float)
    found = of_mean(cells - cells, (side(cells), side(cells)), Prior(11 / 6, 11 / 6, 2.0))
    assert found.estimate == 0.0
    assert found.se == pytest.approx(np.sqrt(2 * 7 / 3 / 3))
    assert found.freedom == pytest.approx((14 / 3) ** 2 / (2 * (7 / 3) ** 2 / 4))


def false_claims(ratio, seeds, first=1.0):
    """How often Holm claims one of nine comparisons of neighbours among ten equal arms; how often the first is covered.

    The interaction's part n of a seed's mean has variance 1, the seeds' own `ratio`, that of the first arm `first`
    times as much; prompts cancel in a difference, so by_prompt is 2 n / S.
    """
    rng = stream(0, "test/family", seeds)
    own = np.sqrt(ratio * np.where(np.arange(10) == 0, first, 1.0))
    means = own * rng.normal(size=(6000, seeds, 10)) + rng.normal(size=(6000, seeds, 10))
    between = means.var(axis=1, ddof=1)
    tau = np.maximum((between - 1).mean(axis=1), 0.0)
    p = []
    for i in range(9):
        sides = [Side(between[:, arm], 1.0) for arm in (i, i + 1)]
        found = combine(sides, 2.0, np.full(6000, 2 / seeds), seeds=seeds, prompts=256, variance=tau, freedom=2.0)
        difference = np.abs((means[:, :, i] - means[:, :, i + 1]).mean(axis=1))
        p.append(2 * stats.t.sf(difference / np.sqrt(found.seeds + found.prompts), found.freedom))
    return float((9 * np.min(p, axis=0) <= 0.05).mean()), float((p[0] > 0.05).mean())


@pytest.mark.parametrize("ratio", [0.0, 0.35, 1.4])
@pytest.mark.parametrize("seeds", [3, 5])
def test_nine_comparisons_without_any_gap_are_seldom_claimed(ratio, seeds):
    """As in recorded rows the seeds' variance is .35 of the interaction's with one response, 1.4 with four."""
    claimed, covered = false_claims(ratio, seeds)
    assert claimed < 0.05
    assert 0.95 <= covered < 0.99


def test_an_arm_that_is_unlike_the_others_costs_little():
    claimed, covered = false_claims(1.4, 3, first=3.0)
    assert claimed < 0.06
    assert covered > 0.945
