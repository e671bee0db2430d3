"""Gaps between arms: the range that both reached, the grid on it, and the settings that both have, by hand."""

import numpy as np
import pytest

from goodhart.analysis.crossfit import curve, draw
from goodhart.analysis.gap import (
    Range,
    along_settings,
    at_equal_settings,
    budgets,
    common_range,
    matched,
    over_settings,
)
from goodhart.analysis.table import Cloud, Point


def cloud_of(name, points, *, seeds=2, prompts=4, anchored=True):
    """points: (beta, lr, KL, value), the same for all seeds and prompts; point 0 is the SFT policy."""
    names = tuple(Point(f"{beta} {lr}", beta, lr, step) for step, (beta, lr, _, _) in enumerate(points))
    kl, value = (np.array([[[point[i]] * prompts] * seeds for point in points]) for i in (2, 3))
    return Cloud(name, names, anchored, kl, value)


START = (None, None, 0.0, 0.4)
FIRST = cloud_of("first", [START, (0.1, 1e-4, 1.0, 0.5), (0.1, 1e-4, 4.0, 0.8), (0.03, 1e-4, 6.0, 0.8)])
SECOND = cloud_of("second", [START, (0.03, 1e-4, 9.0, 0.9), (0.1, 1e-4, 2.0, 0.5), (0.1, 1e-4, 3.0, 0.5)])


def test_the_grid_has_the_midpoints_of_25_equal_parts():
    grid = budgets(Range(2.0, 4.5))
    assert len(grid) == 25
    assert grid[[0, 1, -1]] == pytest.approx([2.05, 2.15, 4.45])


def test_the_common_range_is_from_the_later_start_to_the_earlier_end_of_what_was_trained():
    assert common_range(FIRST, SECOND) == Range(2.0, 6.0)
    assert common_range(SECOND, FIRST, (np.array([2, 3]), np.array([1, 2]))) == Range(2.0, 3.0)
    assert common_range(SECOND, FIRST, (np.array([1]), np.array([1, 2, 3]))) == Range(9.0, 6.0)


def test_the_common_range_is_of_means_over_seeds_and_prompts():
    uneven = Cloud("uneven", SECOND.points, True, SECOND.kl * np.array([[[0.5], [1.5]]]), SECOND.value)
    assert common_range(FIRST, uneven) == Range(2.0, 6.0)


@pytest.mark.parametrize(("low", "high", "empty"), [(1.0, 2.0, False), (2.0, 2.0, True), (3.0, 2.0, True)])
def test_a_range_of_no_width_is_empty(low, high, empty):
    assert Range(low, high).empty is empty


def test_the_gap_between_envelopes_is_between_the_hulls_over_the_whole_range():
    """On [2, 6] the first hull is 0.4 + 0.1 k to 4 and then 0.8, the second 0.4 + 0.5 / 9 k: means 0.75 and 28/45."""
    gap = matched(FIRST, SECOND, "golden_vs_policy", draw(2, 4, 20, 0))
    assert (gap.first, gap.second, gap.measure, gap.common) == ("first", "second", "golden_vs_policy", Range(2.0, 6.0))
    # 25 midpoints meet the corner at 4 in the middle of one of them, 0.008 nats * 0.1 short of the integral each
    assert gap.mean.estimate == pytest.approx(0.75 - (0.4 + 4 * 0.5 / 9), abs=2e-4)
    assert [gap.curve.pointwise[i].estimate for i in (0, -1)] == pytest.approx(
        [0.4 + 0.208 - (0.4 + 2.08 * 0.5 / 9), 0.8 - (0.4 + 5.92 * 0.5 / 9)]
    )


def test_at_each_setting_an_arm_goes_from_its_start_along_its_own_points():
    """At 0.1 both are known on [2, 3], first 0.5 + 0.1 (k - 1), second 0.5; at 0.03 they never meet."""
    found = along_settings(FIRST, SECOND)
    assert list(found) == ["0.03 0.0001", "0.1 0.0001"]
    common, terms = found["0.1 0.0001"]
    assert common == Range(2.0, 3.0)
    assert [(term.cloud.arm, term.points.tolist(), term.weight, term.crossfit) for term in terms] == [
        ("first", [0, 1, 2], 1.0, False),
        ("second", [0, 2, 3], -1.0, False),
    ]
    assert found["0.03 0.0001"] == (Range(9.0, 6.0), ())
    gaps = at_equal_settings(FIRST, SECOND, "m", draw(2, 4, 20, 0))
    assert [(each.setting, each.gap.mean is None) for each in gaps.each] == [
        ("0.03 0.0001", True),
        ("0.1 0.0001", False),
    ]
    assert gaps.each[1].gap.mean.estimate == pytest.approx(0.15)
    assert (gaps.each[1].gap.first, gaps.each[1].gap.second, gaps.each[1].gap.measure) == ("first", "second", "m")
    assert gaps.mean.estimate == pytest.approx(0.15), "a setting without a common range has no weight"


def test_an_arm_without_a_start_goes_along_its_trained_points_alone():
    points = [(0.1, 1e-4, 1.0, 0.5), (0.1, 1e-4, 4.0, 0.8)]
    alone = cloud_of("alone", points, anchored=False)
    terms = along_settings(alone, alone)["0.1 0.0001"][1]
    assert [term.points.tolist() for term in terms] == [[0, 1], [0, 1]]


def test_settings_weigh_the_same_in_their_mean():
    """Gaps of 0.1, 0.3 and 0.5 at three betas, over ranges of different width."""
    values = {0.3: (1.0, 0.1), 0.1: (2.0, 0.3), 0.03: (8.0, 0.5)}
    arms = [
        cloud_of(
            name,
            [
                START,
                *((beta, 1e-4, end * k, 0.4 + sign * gap) for beta, (end, gap) in values.items() for k in (0.5, 1.0)),
            ],
        )
        for name, sign in (("high", 1), ("low", 0))
    ]
    draws, found = draw(2, 4, 20, 0), along_settings(*arms)
    each = [curve(terms, draws).mean.estimate for _, terms in found.values()]
    assert each == pytest.approx([0.5, 0.3, 0.1])
    assert over_settings([terms for _, terms in found.values()], draws).estimate == pytest.approx(0.3)
    assert over_settings([], draws) is None


def test_settings_are_in_the_order_of_their_numbers_and_those_without_come_last():
    points = [
        (beta, lr, k, 0.5) for beta, lr in ((None, 1e-4), (0.3, 2e-4), (0.3, 1e-4), (0.0, 1e-4)) for k in (1.0, 2.0)
    ]
    cloud = cloud_of("arm", [START, *points])
    assert list(along_settings(cloud, cloud)) == ["0.0 0.0001", "0.3 0.0001", "0.3 0.0002", "None 0.0001"]


def test_a_setting_that_one_arm_has_alone_is_left_out():
    alone = cloud_of("alone", [START, (0.1, 1e-4, 2.0, 0.5), (0.1, 1e-4, 3.0, 0.5), (0.1, 2e-4, 3.0, 0.5)])
    assert list(along_settings(FIRST, alone)) == list(along_settings(alone, FIRST)) == ["0.1 0.0001"]


def test_arms_that_never_meet_are_named_in_their_order():
    far = cloud_of("far", [START, (0.1, 1e-4, 20.0, 0.5), (0.1, 1e-4, 30.0, 0.5)])
    gap = matched(FIRST, far, "m", draw(2, 4, 20, 0))
    assert (gap.first, gap.second, gap.common, gap.mean) == ("first", "far", Range(20.0, 6.0), None)
