"""Every loss of the table in float64 against its closed form: values and gradients, limit cases, equalities."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from goodhart.alignment.batch import Batch
from goodhart.alignment.losses import LOSSES, MARGINS
from goodhart.alignment.scores import Scores, Tokenwise
from goodhart.alignment.table_policy import TablePolicy
from goodhart.alignment.terms import FUNCTIONS
from goodhart.tasks.prompts import Prompt
from goodhart.training.alignment import Facts
from goodhart.training.critic import advantages
from goodhart.training.statistics import others, quantile

nats = st.floats(-20, 20)
shares = st.floats(0, 1)
betas = st.floats(0.01, 2)


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def scores(logp, known=None, lengths=None, **more):
    """What a loss sees of some prompts; log-probabilities carry gradients."""
    logp = tensor(logp).requires_grad_()
    known = torch.zeros_like(logp) if known is None else tensor(known)
    lengths = torch.ones_like(logp) if lengths is None else tensor(lengths)
    given_ = {key: tensor(value) if isinstance(value, list) else value for key, value in more.items()}
    return Scores(logp, known, lengths, **given_)


def slopes(value, s):
    (found,) = torch.autograd.grad(value.sum(), s.logp)
    return found


def at(loss, s, **parameters):
    """(value, gradient) of one prompt."""
    value = LOSSES[loss](s, **parameters)
    assert value.shape == (len(s.logp),)
    return float(value.detach()[0]), slopes(value, s)[0].tolist()


FORMS = {
    "ipo": (lambda z: (z - 0.5) ** 2, lambda z: 2 * (z - 0.5)),
    "dpo": (lambda z: math.log1p(math.exp(-z)), lambda z: -1 / (1 + math.exp(z))),
    "squared": (lambda z: (z - 1) ** 2, lambda z: 2 * (z - 1)),
    "hinge": (lambda z: max(0.0, 1 - z), lambda z: -1.0 if z < 1 else 0.0),
    "exponential": (lambda z: math.exp(-z), lambda z: -math.exp(-z)),
    "truncated": (lambda z: max(0.0, 1 - z) ** 2, lambda z: -2 * max(0.0, 1 - z)),
    "savage": (lambda z: (1 + math.exp(z)) ** -2, lambda z: -2 * math.exp(z) * (1 + math.exp(z)) ** -3),
}


@given(st.sampled_from(sorted(MARGINS)), nats, nats, nats, betas)
def test_a_loss_of_margins_is_its_form(name, first, second, known, beta):
    s = scores([[first, second]], [[known, known + 1]], label=[1.0])
    z = beta * ((first - known) - (second - known - 1))
    value, (d_first, d_second) = at(name, s, beta=beta)
    form, slope = FORMS[name]
    assert value == pytest.approx(form(z), rel=1e-6, abs=1e-9)
    if name != "hinge" or abs(z - 1) > 1e-6:
        assert d_first == pytest.approx(beta * slope(z), rel=1e-6, abs=1e-9)
    assert d_second == pytest.approx(-d_first, abs=1e-12)


def test_margins_are_set_but_for_their_forms():
    assert set(FORMS) == set(MARGINS)


@given(nats, nats, betas)
def test_ipo_is_a_scaled_member_of_the_general_family(first, second, beta):
    """(z - 1/2)^2 = ((2 z) - 1)^2 / 4: the family's squared form at twice the beta."""
    s = scores([[first, second]], label=[1.0])
    assert at("ipo", s, beta=beta)[0] == pytest.approx(at("squared", s, beta=2 * beta)[0] / 4, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(("name", "ratio"), [("dpo", 2.0), ("squared", 1.0), ("ipo", 0.5)])
def test_near_zero_a_loss_regularises_as_its_second_derivative_says(name, ratio):
    """|f'(0)| / f''(0): 2 of DPO, 1 of the family's squared form, 1/2 of the project's IPO."""
    z = tensor([0.0]).requires_grad_()
    (first,) = torch.autograd.grad(MARGINS[name](z).sum(), z, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), z)
    assert float((-first / second).detach()) == pytest.approx(ratio)


@given(nats, nats, st.floats(0, 5))
def test_slic_is_a_hinge_without_a_reference(first, second, delta):
    value, (d_first, d_second) = at("slic", scores([[first, second]], label=[1.0]), delta=delta)
    assert value == pytest.approx(max(0.0, delta - first + second))
    inside = delta - first + second > 1e-9
    if inside or delta - first + second < -1e-9:
        assert (d_first, d_second) == (-inside, inside)


@given(nats, nats, st.integers(1, 9), st.integers(1, 9), betas, st.floats(0, 2))
def test_simpo_compares_nats_per_token(first, second, a, b, beta, gamma):
    s = scores([[first, second]], lengths=[[a, b]], label=[1.0], reduction="mean")
    value, (d_first, d_second) = at("simpo", s, beta=beta, gamma=gamma)
    z = beta * (first / a - second / b) - gamma
    assert value == pytest.approx(math.log1p(math.exp(-abs(z))) + max(-z, 0.0), rel=1e-9, abs=1e-12)
    assert d_first * a == pytest.approx(-d_second * b, rel=1e-9, abs=1e-12)
    assert d_first == pytest.approx(-beta / a / (1 + math.exp(z)), rel=1e-9, abs=1e-12)


@given(nats, nats, st.integers(1, 9), betas)
def test_simpo_without_a_target_is_reference_free_dpo_at_equal_lengths(first, second, length, beta):
    s = scores([[first, second]], lengths=[[length, length]], label=[1.0], reduction="mean")
    plain = scores([[first, second]], label=[1.0])
    assert at("simpo", s, beta=beta, gamma=0.0)[0] == pytest.approx(at("dpo", plain, beta=beta / length)[0], rel=1e-9)


@given(nats, nats, shares, betas)
def test_without_noise_both_noisy_losses_are_dpo(first, second, label, beta):
    s = scores([[first, second]], label=[label])
    plain = at("dpo", s, beta=beta)
    for name in ("conservative", "robust"):
        found = at(name, s, beta=beta, noise=0.0)
        assert found[0] == pytest.approx(plain[0], rel=1e-9, abs=1e-12)
        assert found[1] == pytest.approx(plain[1], rel=1e-9, abs=1e-12)


@given(nats, nats, betas, st.floats(0, 0.45))
def test_robust_dpo_is_unbiased_under_flips(first, second, beta, noise):
    right, wrong = (scores([[first, second]], label=[label]) for label in (1.0, 0.0))
    mean = (1 - noise) * at("robust", right, beta=beta, noise=noise)[0]
    mean += noise * at("robust", wrong, beta=beta, noise=noise)[0]
    assert mean == pytest.approx(at("dpo", right, beta=beta)[0], rel=1e-6, abs=1e-6)


def test_robust_dpo_refuses_labels_that_say_nothing():
    with pytest.raises(ValueError, match="say nothing"):
        at("robust", scores([[0.0, 0.0]], label=[1.0]), beta=0.1, noise=0.5)


@given(nats, nats, betas, st.floats(0, 0.4))
def test_conservative_dpo_is_dpo_of_softened_labels(first, second, beta, noise):
    s, soft = scores([[first, second]], label=[1.0]), scores([[first, second]], label=[1 - noise])
    found = at("conservative", s, beta=beta, noise=noise)
    assert found[0] == pytest.approx(at("dpo", soft, beta=beta)[0], rel=1e-9)


def kto(rho, mark, z, beta=0.3, desirable=1.0, undesirable=1.0):
    s = scores([rho], mark=[mark], statistics={"kl": tensor([z])})
    return at("kto", s, beta=beta, desirable=desirable, undesirable=undesirable)


@given(nats, st.floats(0, 3), betas)
def test_kto_pulls_good_responses_up_and_bad_ones_down(rho, z, beta):
    value, (slope,) = kto([rho], [1.0], z, beta)
    p = 1 / (1 + math.exp(-beta * (rho - z)))
    assert value == pytest.approx(1 - p, rel=1e-9, abs=1e-12)
    assert slope == pytest.approx(-beta * p * (1 - p), rel=1e-6, abs=1e-12)
    bad, (up,) = kto([rho], [0.0], z, beta)
    assert bad == pytest.approx(p, rel=1e-9, abs=1e-12)
    assert up == pytest.approx(-slope, rel=1e-6, abs=1e-12)


def test_kto_at_the_reference_is_one_half_with_a_quarter_of_beta_as_its_slope():
    value, (good, bad) = kto([0.0, 0.0], [1.0, 0.0], 0.0, beta=0.3)
    assert value == 0.5
    assert (good, bad) == pytest.approx((-0.3 / 4 / 2, 0.3 / 4 / 2))
    assert kto([5.0, -3.0], [1.0, 0.0], 1.0, beta=1e-9)[0] == pytest.approx(0.5)
    assert kto([0.0], [1.0], 0.0, desirable=3.0)[0] == 1.5
    assert kto([0.0], [0.0], 0.0, undesirable=0.5)[0] == 0.25


@given(nats, nats, nats, betas)
def test_dro_is_zero_where_the_log_ratio_is_the_advantage(rho, reward, value, beta):
    s = scores([[rho]], reward=[[reward]], statistics={"value": tensor([value])})
    found, (slope,) = at("dro", s, beta=beta)
    residual = reward - value - beta * rho
    assert found == pytest.approx(residual**2 / (2 * beta), rel=1e-9, abs=1e-9)
    assert slope == pytest.approx(-residual, rel=1e-9, abs=1e-9)
    exact = scores([[(reward - value) / beta]], reward=[[reward]], statistics={"value": tensor([value])})
    assert at("dro", exact, beta=beta)[0] == pytest.approx(0.0, abs=1e-18)


@given(nats, nats, nats, nats, st.floats(0.1, 3), st.floats(0, 1))
def test_rebel_regresses_log_ratios_on_rewards(first, second, reward, other, eta, kl):
    s = scores([[first, second]], [[-1.0, -2.0]], reward=[[reward, other]], written=[[-1.5, -2.5]])
    value, (slope, _) = at("rebel", s, eta=eta, kl=kl)
    gain = (reward - kl * (-1.5 + 1.0)) - (other - kl * (-2.5 + 2.0))
    residual = (first + 1.5) - (second + 2.5) - eta * gain
    assert value == pytest.approx(residual**2, rel=1e-9, abs=1e-9)
    assert slope == pytest.approx(2 * residual, rel=1e-9, abs=1e-9)


@given(nats, nats, st.floats(-3, 3), st.floats(-3, 3), st.floats(0.1, 3))
def test_rebels_first_gradient_is_the_policy_gradient(first, second, reward, other, eta):
    """At the writer itself: 4 eta times that of leave-one-out with two responses, whose mean is over both."""
    s = scores([[first, second]], reward=[[reward, other]])
    _, rebel = at("rebel", s, eta=eta, kl=0.0)
    _, rloo = at("rloo", s, kl=0.0, clip=0.2)
    assert rebel == pytest.approx([4 * eta * each for each in rloo], rel=1e-9, abs=1e-9)


def test_leave_one_out_is_half_the_difference_of_two_rewards():
    s = scores([[-3.0, -4.0]], reward=[[2.0, 0.5]])
    assert at("rloo", s, kl=0.05, clip=0.2)[1] == pytest.approx([-1.5 / 2 + 0.05 / 2, 1.5 / 2 - 0.05 / 2])
    same = scores([[-3.0, -3.0]], reward=[[2.0, 2.0]])
    assert at("rloo", same, kl=0.0, clip=0.2) == (0.0, [0.0, 0.0])
    with pytest.raises(ValueError, match="two responses"):
        at("rloo", scores([[-3.0]], reward=[[1.0]]), kl=0.0, clip=0.2)


def test_constant_rewards_of_a_prompt_change_nothing_for_what_compares():
    for name, parameters in (("rloo", {"kl": 0.1, "clip": 0.2}), ("rebel", {"eta": 1.0, "kl": 0.1})):
        one = at(name, scores([[-3.0, -4.0]], reward=[[2.0, 0.5]], written=[[-2.0, -5.0]]), **parameters)
        other = at(name, scores([[-3.0, -4.0]], reward=[[9.0, 7.5]], written=[[-2.0, -5.0]]), **parameters)
        assert one == (pytest.approx(other[0]), pytest.approx(other[1]))


@pytest.mark.parametrize(("ratio", "reward", "moves"), [(1.5, 1.0, False), (1.5, -1.0, True), (0.5, 1.0, True),
                                                       (0.5, -1.0, False), (1.1, 1.0, True)])  # fmt: skip
def test_a_clipped_ratio_stops_where_it_has_gone_far_enough(ratio, reward, moves):
    written = -3.0
    s = scores([[written + math.log(ratio), -2.0]], reward=[[reward, 0.0]], written=[[written, -2.0]])
    _, (slope, _) = at("rloo", s, kl=0.0, clip=0.2)
    assert slope == pytest.approx(-ratio * reward / 2 if moves else 0.0)


def test_reinforce_is_the_score_function_with_a_baseline():
    s = scores([[-3.0]], [[-2.0]], reward=[[2.0]], statistics={"baseline": tensor([0.5])})
    value, (slope,) = at("reinforce", s, kl=0.1)
    advantage = 2.0 - 0.1 * (-3.0 + 2.0) - 0.5
    assert (value, slope) == pytest.approx((advantage * 3.0, -advantage))


@given(nats, nats, shares, betas)
def test_nash_md_is_a_score_function_of_the_win_rate_and_the_divergence(first, known, label, beta):
    s = scores([[first, -1.0]], [[known, -1.0]], label=[label])
    _, (slope, other) = at("nash-md", s, beta=beta)
    assert slope == pytest.approx(-(label - 0.5) + beta * (first - known), rel=1e-9, abs=1e-9)
    assert other == 0.0


def test_j_bond_is_a_likelihood_of_the_best_and_a_policy_gradient():
    statistics = {"return": tensor([-2.0]), "baseline": tensor([-0.5])}
    s = scores([[-3.0, -4.0, -5.0]], [[-2.0, -4.0, -5.0]], reward=[[0.0, 1.0, 2.0]], statistics=statistics)
    assert at("j-bond", s, mix=0.0, pull=0.0)[1] == [0.0, 0.0, -1.0]
    assert at("j-bond", s, mix=1.0, pull=0.0)[1] == [1.5, 0.0, 0.0]
    assert at("j-bond", s, mix=0.5, pull=2.0)[1] == pytest.approx([0.75 + 2.0 * -1.0, 0.0, -0.5])


def test_bond_of_two_is_j_bond_but_for_its_reward():
    statistics = {"return": tensor([-2.0]), "baseline": tensor([-0.5])}
    s = scores([[-3.0, -4.0, -5.0]], [[-2.0, -4.0, -5.0]], reward=[[0.0, 1.0, 2.0]], statistics=statistics)
    assert at("bond", s, mix=0.3) == at("j-bond", s, mix=0.3, pull=0.0)


@pytest.mark.parametrize(
    ("reward", "share"), [([0.0, 1.0, 2.0, 3.0], 1 / 4), ([1.0, 1.0, 2.0, 0.0], 3 / 4), ([9.0, 1.0, 2.0, 3.0], 1.0)]
)
def test_bonds_return_is_the_quantile_less_the_divergence(reward, share):
    policy = TablePolicy.of(np.full((1, 4), 0.25))
    batch = Batch([Prompt("0" * 12, (0,))], [[[0], [1], [2], [3]]], reward=np.array([reward]))
    known = np.log(np.full((1, 4), 0.5))
    found = quantile(Facts(batch, known, policy, policy))
    assert found["return"][0] == pytest.approx(2 * math.log(share) - math.log(0.25 / 0.5))
    assert found["baseline"].tolist() == [0.0], "there is no other prompt"


def test_a_baseline_is_of_other_prompts():
    prompts = [Prompt(f"{i:012x}", (i,)) for i in (0, 1, 1, 2)]
    assert others(np.array([1.0, 2.0, 4.0, 9.0]), prompts).tolist() == [5.0, 5.0, 5.0, 7 / 3]
    assert others(np.array([1.0, 2.0]), prompts[1:3]).tolist() == [0.0, 0.0]


def tokenwise(policy, before, reference, lengths):
    policy, before, reference = (tensor([[row]]) for row in (policy, before, reference))
    real = torch.arange(policy.shape[2]) < lengths
    return Tokenwise(policy.requires_grad_(), before, reference, real.expand_as(policy))


def token_slopes(value, t):
    (found,) = torch.autograd.grad(value.sum(), t.policy)
    return found[0, 0].tolist()


def test_ppo_weighs_tokens_and_leaves_padding_alone():
    t = tokenwise([-1.0, -2.0, 0.0], [-1.0, -2.0 - math.log(1.5), 0.0], [0.0, 0.0, 0.0], 2)
    s = scores([[-3.0]], lengths=[[2.0]], tokens=t, statistics={"advantage": tensor([[[2.0, 1.0, 7.0]]])})
    value = LOSSES["ppo"](s, clip=0.2)
    assert float(value.detach()) == pytest.approx(-(2.0 + 1.2) / 2)
    assert token_slopes(value, t) == pytest.approx([-1.0, 0.0, 0.0])


def test_grpo_normalises_rewards_and_penalises_tokens():
    policy, reference = [-1.0, -2.0], [-1.5, -1.0]
    t = Tokenwise(*(tensor([[row, row]]) for row in (policy, policy, reference)), torch.ones(1, 2, 2, dtype=torch.bool))
    t.policy.requires_grad_()
    s = scores([[-3.0, -3.0]], lengths=[[2.0, 2.0]], tokens=t, reward=[[3.0, 1.0]])
    value = LOSSES["grpo"](s, kl=0.5, clip=0.2)
    k3 = [math.exp(r - p) - (r - p) - 1 for p, r in zip(policy, reference, strict=True)]
    assert float(value.detach()) == pytest.approx(0.5 * sum(k3) / 2)
    (found,) = torch.autograd.grad(value.sum(), t.policy)
    advantage = 1 / (1 + 1e-4)
    for row, sign in zip(found[0].tolist(), (1, -1), strict=True):
        slope = [1 - math.exp(r - p) for p, r in zip(policy, reference, strict=True)]
        assert row == pytest.approx([(-sign * advantage + 0.5 * k) / 4 for k in slope])


def test_advantages_are_the_sum_of_what_was_not_expected():
    reward, value = np.array([[[0.5, -1.0, 2.0]]]), np.array([[[0.3, 0.2, 0.1]]])
    delta = [0.5 + 0.9 * 0.2 - 0.3, -1.0 + 0.9 * 0.1 - 0.2, 2.0 - 0.1]
    rate = 0.9 * 0.8
    expected = [delta[0] + rate * delta[1] + rate**2 * delta[2], delta[1] + rate * delta[2], delta[2]]
    np.testing.assert_allclose(advantages(reward, value, 0.9, 0.8)[0, 0], expected)
    whole = advantages(reward, value, 1.0, 1.0)[0, 0]
    np.testing.assert_allclose(whole, [1.5 - 0.3, 1.0 - 0.2, 2.0 - 0.1], err_msg="rewards to go less the value")


@given(st.lists(nats, min_size=1, max_size=4))
def test_the_divergence_term_has_a_baseline_of_the_others(rho):
    s = scores([rho])
    found = slopes(FUNCTIONS["divergence"](s), s)[0].tolist()
    number = len(rho)
    others = [(sum(rho) - r) / (number - 1) if number > 1 else 0.0 for r in rho]
    expected = [(r - o) / number for r, o in zip(rho, others, strict=True)]
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_what_a_loss_needs_and_does_not_get_is_named():
    bare = scores([[0.0, 0.0]], statistics={"kl": tensor([0.0])})
    for name, parameters, missing in (
        ("dpo", {"beta": 0.1}, "label"),
        ("kto", {"beta": 0.1, "desirable": 1.0, "undesirable": 1.0}, "mark"),
        ("rloo", {"kl": 0.0, "clip": 0.2}, "reward"),
        ("ppo", {"clip": 0.2}, "tokens"),
    ):
        with pytest.raises(ValueError, match=missing):
            LOSSES[name](bare, **parameters)
