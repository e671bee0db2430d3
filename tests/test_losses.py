"""IPO, DPO and best-of-2 against closed forms: values, gradients, soft labels, symmetry."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from goodhart.alignment.losses import LOSSES as FUNCTIONS
from goodhart.alignment.losses import MARGINS, dpo, ipo, pair_loss
from goodhart.alignment.method import KINDS
from goodhart.alignment.scores import Scores, reduced
from tiny_models import gradients, llama, naive_logp, policy_of

nats = st.floats(-50, 50, allow_nan=False)
betas = st.floats(0.01, 2)
shares = st.floats(0, 1)
BEST_OF_2 = "best-of-2"
LOSSES = ["ipo", "dpo", BEST_OF_2]


def loss_of(name, first, second, label, *, beta):
    """One value for each pair of log-ratios."""
    rho = torch.stack([first, second], dim=1)
    scores = Scores(rho, torch.zeros_like(rho), torch.ones_like(rho), label=label)
    return FUNCTIONS[name](scores, **({"beta": beta} if KINDS[name].parameters else {}))


def at(name, first, second, label, beta):
    """(loss, d loss / d rho_first, d loss / d rho_second) of one pair."""
    rho = torch.tensor([[first, second]], dtype=torch.float64, requires_grad=True)
    loss = loss_of(name, rho[:, 0], rho[:, 1], torch.tensor([label], dtype=torch.float64), beta=beta)
    (gradient,) = torch.autograd.grad(loss.sum(), rho)
    return float(loss.detach()), float(gradient[0, 0]), float(gradient[0, 1])


@given(nats, nats, betas)
def test_ipo_is_the_squared_distance_from_a_margin_of_one_half(first, second, beta):
    delta = first - second
    value, d_first, d_second = at("ipo", first, second, 1.0, beta)
    assert value == pytest.approx((beta * delta - 0.5) ** 2, rel=1e-9, abs=1e-12)
    assert d_first == pytest.approx(2 * beta * (beta * delta - 0.5), rel=1e-9, abs=1e-12)
    assert d_second == -d_first


@given(nats, nats, betas)
def test_ipo_is_beta_squared_times_the_form_with_a_target_margin_in_nats(first, second, beta):
    published = (first - second - 1 / (2 * beta)) ** 2
    assert at("ipo", first, second, 1.0, beta)[0] == pytest.approx(beta**2 * published, rel=1e-9, abs=1e-9)


def test_ipo_is_zero_where_the_margin_is_one_over_two_beta():
    assert at("ipo", 1 / (2 * 0.1), 0.0, 1.0, 0.1) == pytest.approx((0, 0, 0), abs=1e-12)


@given(nats, nats, betas)
def test_dpo_is_the_logistic_loss(first, second, beta):
    z = beta * (first - second)
    value, d_first, d_second = at("dpo", first, second, 1.0, beta)
    assert value == pytest.approx(math.log1p(math.exp(-abs(z))) + max(-z, 0), rel=1e-9, abs=1e-12)
    assert d_first == pytest.approx(-beta / (1 + math.exp(z)), rel=1e-9, abs=1e-12)
    assert d_second == -d_first


def test_dpo_does_not_overflow():
    assert float(dpo(torch.tensor([-1e4]))) == 1e4
    assert float(dpo(torch.tensor([1e4]))) == 0


@given(st.sampled_from(LOSSES), nats, nats, shares, betas)
def test_a_soft_label_is_the_mixture_of_the_two_hard_ones(name, first, second, share, beta):
    soft = at(name, first, second, share, beta)
    won, lost = at(name, first, second, 1.0, beta), at(name, first, second, 0.0, beta)
    for mixed, a, b in zip(soft, won, lost, strict=True):
        assert mixed == pytest.approx(share * a + (1 - share) * b, rel=1e-9, abs=1e-9)


@given(nats, nats, betas)
def test_a_tie_under_ipo_pulls_the_margin_to_zero(first, second, beta):
    value, d_first, _ = at("ipo", first, second, 0.5, beta)
    z = beta * (first - second)
    assert value == pytest.approx(z**2 + 0.25, rel=1e-9, abs=1e-12)
    assert d_first == pytest.approx(2 * beta * z, rel=1e-9, abs=1e-9)


@given(nats, nats, shares, betas)
def test_a_soft_label_under_ipo_has_its_minimum_at_p_minus_one_half(first, second, share, beta):
    z = beta * (first - second)
    mixture = (z - (share - 0.5)) ** 2 + share * (1 - share)
    assert at("ipo", first, second, share, beta)[0] == pytest.approx(mixture, rel=1e-9, abs=1e-9)


@given(st.sampled_from(LOSSES), nats, nats, shares, betas)
def test_swapping_a_pair_with_its_label_changes_nothing_and_exchanges_the_gradients(name, first, second, share, beta):
    value, d_first, d_second = at(name, first, second, share, beta)
    swapped = at(name, second, first, 1 - share, beta)
    assert swapped == pytest.approx((value, d_second, d_first), rel=1e-9, abs=1e-9)


@given(st.sampled_from(sorted(MARGINS)), nats, nats, st.floats(-20, 20), betas)
def test_only_the_difference_of_the_log_ratios_counts(name, first, second, shift, beta):
    assert at(name, first + shift, second + shift, 1.0, beta) == pytest.approx(
        at(name, first, second, 1.0, beta), rel=1e-6, abs=1e-9
    )


def test_there_is_one_value_for_each_pair():
    rho = torch.tensor([0.0, 1.0, 2.0])
    values = pair_loss(ipo, rho, torch.zeros(3), torch.ones(3), beta=0.5)
    assert values.tolist() == [0.25, 0.0, 0.25]


@pytest.mark.parametrize(("name", "value", "slope"), [("dpo", math.log(2), -0.5), ("ipo", 0.25, -1.0)])
def test_at_the_reference_the_gradient_is_that_of_the_log_probabilities(name, value, slope):
    """DPO: -(beta/2) (grad log p_w - grad log p_l); IPO: -beta times it."""
    model, beta = llama(), 0.3
    logp = policy_of(model).log_probs([[2, 3, 4]], [([5, 6, 1], [7, 1])])
    rho = logp - logp.detach()
    loss = pair_loss(MARGINS[name], rho[:, 0], rho[:, 1], torch.ones(1), beta=beta)
    assert float(loss.detach()) == pytest.approx(value, rel=1e-6)
    found = torch.autograd.grad(loss.sum(), list(model.parameters()), retain_graph=True)
    margin = gradients(model, logp[0, 0] - logp[0, 1])
    torch.testing.assert_close(torch.cat([g.flatten() for g in found]), slope * beta * margin, rtol=1e-4, atol=1e-6)
    assert margin.norm() > 1


@pytest.mark.parametrize(("label", "winner"), [(1.0, 0), (0.0, 1)])
def test_best_of_2_has_the_gradient_of_supervised_learning_of_the_winner(label, winner):
    model, given_, pair = llama(), [2, 3, 4], ([5, 6, 1], [7, 1])
    rho = policy_of(model).log_probs([given_], [pair]) - torch.tensor([[-3.0, -50.0]])
    loss = loss_of(BEST_OF_2, rho[:, 0], rho[:, 1], torch.tensor([label]), beta=None)
    supervised = gradients(model, -naive_logp(model, given_, pair[winner]).sum())
    torch.testing.assert_close(gradients(model, loss.sum()), supervised, rtol=1e-4, atol=1e-5)
    assert supervised.norm() > 1


@given(nats, nats)
def test_a_tie_under_best_of_2_is_half_of_each(first, second):
    assert at(BEST_OF_2, first, second, 0.5, 1.0) == pytest.approx((-(first + second) / 2, -0.5, -0.5), abs=1e-9)


def test_mean_reduction_divides_by_the_response_length():
    rho, lengths = torch.tensor([[6.0, -2.0], [0.0, 5.0]]), torch.tensor([[3.0, 4.0], [0.0, 1.0]])
    assert reduced(rho, lengths, "mean").tolist() == [[2.0, -0.5], [0.0, 5.0]]
    assert reduced(rho, lengths, "sum") is rho
