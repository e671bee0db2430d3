"""The rules that pick an arm's points, as points, shares and prices, and what their choices are worth on other data."""

import numpy as np
import pytest
from scipy.optimize import linprog

from goodhart.analysis.envelope import Choice, evaluate, highest, hull, trajectory
from goodhart.randomness import stream

KL = np.array([[0.5, 1.0, 2.0, 4.0, 5.0]])
VALUE = np.array([[0.4, 0.41, 0.7, 0.8, 0.3]])
"""The hull's edges: 0.2 a nat from 0.5 to 2, 0.05 a nat from 2 to 4, and flat."""


def parts(choice, row=0):
    return [list(map(float, part[row])) for part in (choice.left, choice.right, choice.share, choice.price)]


def test_the_hull_mixes_the_ends_of_its_edges_at_the_edge_s_price():
    left, right, share, price = parts(hull(KL, VALUE, np.array([0.2, 0.5, 0.8, 2.0, 3.0, 4.0, 9.0])))
    assert left == [0, 0, 0, 2, 2, 3, 3], "the point before the budget"
    assert right == [0, 2, 2, 3, 3, 3, 3], "the next corner, which skips what lies below the chord"
    assert share == pytest.approx([0, 0, 0.2, 0, 0.5, 0, 0])
    assert price == pytest.approx([0, 0.2, 0.2, 0.05, 0.05, 0, 0]), "no price where KL does not bind"


def test_a_trajectory_takes_every_point_in_the_order_of_its_kl():
    order = np.array([3, 0, 4, 2, 1])
    left, right, share, price = parts(
        trajectory(KL[:, order], VALUE[:, order], np.array([0.2, 0.75, 1.0, 1.25, 4.5, 5.0, 9.0]))
    )
    assert [order[int(i)] for i in left] == [0, 0, 1, 1, 3, 4, 4]
    assert [order[int(i)] for i in right] == [0, 1, 2, 2, 4, 4, 4]
    assert share == pytest.approx([0, 0.5, 0, 0.25, 0.5, 0, 0])
    assert price == pytest.approx([0, 0.02, 0.29, 0.29, -0.5, 0, 0]), "a falling curve has a price below 0"


def test_the_highest_point_is_taken_at_any_budget_and_kl_costs_nothing():
    assert parts(highest(KL, VALUE, np.array([0.0, 3.0]))) == [[3, 3], [3, 3], [0, 0], [0, 0]]


def test_a_hull_that_is_shorter_than_its_neighbour_s_is_as_it_is_alone():
    kl, value = np.concatenate([KL, KL]), np.concatenate([VALUE, [[0.9, 0.1, 0.2, 0.3, 0.95]]])
    at = np.array([0.2, 0.8, 3.0, 5.0, 9.0])
    both = hull(kl, value, at)
    for row in (0, 1):
        alone = hull(kl[row : row + 1], value[row : row + 1], at)
        assert parts(both, row) == parts(alone)
    assert parts(both, 1)[0] == [0, 0, 0, 4, 4]
    assert parts(both, 1)[3] == pytest.approx([0, 0.05 / 4.5, 0.05 / 4.5, 0, 0])


def test_points_of_equal_kl_or_of_equal_value_make_no_edge():
    """The walk begins at the first of two points of least KL, never goes straight up, and ends before it goes level."""
    kl, value = np.array([[1.0, 1.0, 2.0, 3.0]]), np.array([[0.5, 0.9, 0.6, 0.6]])
    assert parts(hull(kl, value, np.array([1.5, 2.5]))) == [[0, 2], [2, 2], [0.5, 0], pytest.approx([0.1, 0])]


def test_a_choice_is_worth_its_mixture_less_the_price_of_what_it_overspends():
    """A quarter of (3 nats, 0.9) in (1, 0.5): 1.5 nats and 0.6; at a price of 0.1 a nat."""
    one = np.ones((1, 2), dtype=int)
    choice = Choice(0 * one, one, np.full((1, 2), 0.25), np.full((1, 2), 0.1))
    kl, value = np.array([[1.0, 3.0]]), np.array([[0.5, 0.9]])
    under, over = evaluate(choice, kl, value, np.array([2.0, 1.0]))[0]
    assert under == pytest.approx(0.65), "half a nat is left, worth 0.05"
    assert over == pytest.approx(0.55), "half a nat is missing"


def test_prices_are_the_multipliers_of_the_linear_program():
    """On other data than those that picked, a choice is worth what scipy's dual solution says."""
    rng = stream(0, "test/multipliers")
    for _ in range(20):
        kl, value = np.concatenate([[0.0], rng.random(8) * 5]), np.concatenate([[0.0], rng.random(8)])
        budget, others = float(rng.random() * 4), rng.random((2, 9))
        best = linprog(-value, A_ub=kl[None], b_ub=[budget], A_eq=np.ones((1, 9)), b_eq=[1.0])
        worth = best.x @ others[1] + best.ineqlin.marginals[0] * (best.x @ others[0] - budget)
        at = np.array([budget])
        found = evaluate(hull(kl[None], value[None], at), others[:1], others[1:], at)
        assert float(found[0, 0]) == pytest.approx(worth)


def test_points_of_equal_kl_keep_their_order_on_a_trajectory():
    kl, value = np.tile([2.0, 1.0], 200)[None], stream(0, "test/equal kl").random((1, 400))
    found = trajectory(kl, value, np.array([0.5, 1.5, 2.5]))
    assert parts(found)[0] == [1, 399, 398], "the first of 1 nat, the last of 1 and the last of 2"
    assert parts(found)[1] == [1, 0, 398], "the first of 2 nats follows the last of 1"
