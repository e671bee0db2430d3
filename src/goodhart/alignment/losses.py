"""Losses as pure functions of scores: one value for each prompt, no mean over prompts inside.

rho = log policy(y|x) - log reference(y|x), over the response's tokens by sum (or mean, where a study says so; see
`goodhart.alignment.scores`). A function's keyword-only arguments are the parameters that a method has and a study can
sweep.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from goodhart.alignment.scores import Scores, Values

Nats = Float[Tensor, " prompt"]
Margin = Callable[[Nats], Nats]
"""The function f of f(beta (rho_w - rho_l))."""
Loss = Callable[..., Nats]
"""(scores, *, parameters) -> one value for each prompt."""


def ipo(z: Nats) -> Nats:
    """f(z) = (z - 1/2)^2 at z = beta (rho_w - rho_l) (arXiv 2405.08448, appendix B).

    It is beta^2 times the form (rho_w - rho_l - 1/(2 beta))^2 of arXiv 2310.12036, so the target margin
    is 1/(2 beta) nats.
    """
    return (z - 0.5).square()


def dpo(z: Nats) -> Nats:
    """f(z) = log(1 + exp(-z)) at z = beta (rho_w - rho_l) (arXiv 2305.18290, equation 7)."""
    return softplus(-z)


def hinge(z: Nats) -> Nats:
    """f(z) = max(0, 1 - z) (SLiC's margin in the family of arXiv 2402.05749)."""
    return (1 - z).relu()


def exponential(z: Nats) -> Nats:
    """f(z) = exp(-z) (the family of arXiv 2402.05749; its scaling there is not verified)."""
    return (-z).exp()


def truncated(z: Nats) -> Nats:
    """f(z) = max(0, 1 - z)^2, the truncated quadratic (the family of arXiv 2402.05749; scaling not verified)."""
    return (1 - z).relu().square()


def savage(z: Nats) -> Nats:
    """f(z) = 1 / (1 + exp(z))^2 (the family of arXiv 2402.05749; its scaling there is not verified)."""
    return (-z).sigmoid().square()


def squared(z: Nats) -> Nats:
    """f(z) = (z - 1)^2, IPO as a member of the family of arXiv 2402.05749: `ipo` with a target twice as far."""
    return (z - 1).square()


MARGINS: dict[str, Margin] = {
    "ipo": ipo,
    "dpo": dpo,
    "squared": squared,
    "hinge": hinge,
    "exponential": exponential,
    "truncated": truncated,
    "savage": savage,
}
"""The losses that are a function of beta times the margin of log-ratios, by name."""


def pair_loss(f: Margin, rho_first: Nats, rho_second: Nats, label: Nats, *, beta: float) -> Nats:
    """P f(beta D) + (1 - p) f(-beta D) with D = rho_first - rho_second and p = label.

    A hard label keeps one of the two terms; a tie (p = 1/2) is the mean over both orders.
    """
    z = beta * (rho_first - rho_second)
    return label * f(z) + (1 - label) * f(-z)


def _of_margin(f: Margin) -> Loss:
    def loss(s: Scores, *, beta: float) -> Nats:
        return pair_loss(f, s.rho[:, 0], s.rho[:, 1], s.of_label(), beta=beta)

    loss.__doc__ = f.__doc__
    return loss


def best_of_2(s: Scores) -> Nats:
    """-(p rho_first + (1 - p) rho_second): supervised learning of the winner (arXiv 2405.08448, equation 3).

    It is -log policy(y_w | x) up to the reference's log-probability, which no parameter moves.
    """
    label = s.of_label()
    return -(label * s.rho[:, 0] + (1 - label) * s.rho[:, 1])


def likelihood(s: Scores) -> Nats:
    """-log policy(y|x), the mean over the responses: supervised learning (RAFT's loss, arXiv 2304.06767)."""
    return -s.policy.mean(1)


def slic(s: Scores, *, delta: float) -> Nats:
    """max(0, delta - log policy(y_w|x) + log policy(y_l|x)) (SLiC-HF, arXiv 2305.10425), delta in nats."""
    margin, label = s.policy[:, 0] - s.policy[:, 1], s.of_label()
    return label * (delta - margin).relu() + (1 - label) * (delta + margin).relu()


def simpo(s: Scores, *, beta: float, gamma: float) -> Nats:
    """-log sigmoid(beta (log policy(y_w|x) / |y_w| - log policy(y_l|x) / |y_l|) - gamma) (SimPO, arXiv 2405.14734).

    Its log-probabilities are nats per token: reduction `mean`.
    """
    z, label = beta * (s.policy[:, 0] - s.policy[:, 1]), s.of_label()
    return label * softplus(gamma - z) + (1 - label) * softplus(gamma + z)


def conservative(s: Scores, *, beta: float, noise: float) -> Nats:
    """(1 - e) f(z) + e f(-z), f = `dpo`: DPO where a share e of labels is wrong (E. Mitchell's note on cDPO, 2023)."""
    label = s.of_label()
    softened = label * (1 - noise) + (1 - label) * noise
    return pair_loss(dpo, s.rho[:, 0], s.rho[:, 1], softened, beta=beta)


def robust(s: Scores, *, beta: float, noise: float) -> Nats:
    """((1 - e) f(z) - e f(-z)) / (1 - 2 e), f = `dpo`: unbiased under flips of probability e (arXiv 2403.00409).

    Raises ValueError for a noise of one half or more.
    """
    if noise >= 0.5:
        raise ValueError(f"labels that are flipped with probability {noise} say nothing")
    label = s.of_label()
    right = pair_loss(dpo, s.rho[:, 0], s.rho[:, 1], label, beta=beta)
    wrong = pair_loss(dpo, s.rho[:, 0], s.rho[:, 1], 1 - label, beta=beta)
    return ((1 - noise) * right - noise * wrong) / (1 - 2 * noise)


def kto(s: Scores, *, beta: float, desirable: float, undesirable: float) -> Nats:
    """W (1 - sigmoid(beta (rho - z))) of good and w (1 - sigmoid(beta (z - rho))) of bad ones (KTO, arXiv 2402.01306).

    z >= 0 is the batch's estimate of KL(policy || reference) in nats, without gradient: the mean of rho over prompts
    with another prompt's response. The mean over a prompt's responses.
    """
    mark, distance = s.of_mark(), beta * (s.rho - s.statistics["kl"][:, None])
    good, bad = desirable * (-distance).sigmoid(), undesirable * distance.sigmoid()
    return (mark * good + (1 - mark) * bad).mean(1)


def dro(s: Scores, *, beta: float) -> Nats:
    """(1/t) (r - V(x) - t rho)^2 / 2 with t = beta, V without gradient (DRO-V, arXiv 2405.19107, algorithm 1).

    The mean over a prompt's responses. r is a reward; V is learnt beside the policy.
    """
    return (s.of_reward() - s.statistics["value"][:, None] - beta * s.rho).square().mean(1) / (2 * beta)


def nash_md(s: Scores, *, beta: float) -> Nats:
    """-(p(y > y') - 1/2 - beta sg[rho(y)]) log policy(y|x), y from the policy (Nash-MD, arXiv 2312.00886).

    y' is from a mixture of policy and reference. The KL is of whole responses, so its gradient is unbiased.
    """
    gain = s.of_label() - 0.5 - beta * s.rho[:, 0].detach()
    return -gain * s.policy[:, 0]


def rebel(s: Scores, *, eta: float, kl: float) -> Nats:
    """((l_1 - l_2) - eta (R_1 - R_2))^2, l = log policy(y|x) - log writer(y|x) (REBEL, arXiv 2404.16767, algorithm 1).

    R = r - kl (log writer - log reference) in nats.
    """
    moved, gain = s.logp - s.before, shaped(s, kl)
    return ((moved[:, 0] - moved[:, 1]) - eta * (gain[:, 0] - gain[:, 1])).square()


def shaped(s: Scores, kl: float) -> Values:
    """R = r - kl (log writer(y|x) - log reference(y|x)), without gradient: the reward with its penalty in nats."""
    return s.of_reward() - kl * (s.before - s.known)


def reinforce(s: Scores, *, kl: float) -> Nats:
    """-sg[R - B] log policy(y|x), R = r - kl (log policy - log reference) (REINFORCE).

    B is the mean of R over the other prompts of the batch, on which y does not depend: the gradient stays unbiased.
    The mean over a prompt's responses.
    """
    return -((shaped(s, kl) - s.statistics["baseline"][:, None]) * s.logp).mean(1)


def _clipped(ratio: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """min(c A, clamp(c, 1 - e, 1 + e) A) (PPO, arXiv 1707.06347, equation 7)."""
    return torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)


def rloo(s: Scores, *, kl: float, clip: float) -> Nats:
    """-min(c A, clamp(c, 1 - e, 1 + e) A), c = policy(y|x) / writer(y|x) (RLOO, arXiv 2402.14740).

    A_i = R_i - the mean of the other responses' R to the same prompt, R = r - kl (log writer - log reference). The mean
    over a prompt's responses. Raises ValueError for a single response.
    """
    gain = shaped(s, kl)
    number = gain.shape[1]
    if number < 2:
        raise ValueError("leave one out takes two responses a prompt or more")
    advantage = gain - (gain.sum(1, keepdim=True) - gain) / (number - 1)
    return -_clipped((s.logp - s.before).exp(), advantage, clip).mean(1)


def grpo(s: Scores, *, kl: float, clip: float) -> Nats:
    """-mean over tokens of min(c A, clamp(c) A) - kl (q - log q - 1) (GRPO, arXiv 2402.03300, equations 3 and 4).

    A = (r - mean r) / std r over the responses to a prompt, the same for all their tokens; c = policy / writer and
    q = reference / policy of a token. The mean over a response's tokens, then over the responses.
    """
    reward, t = s.of_reward(), s.token_by_token()
    spread = reward.std(1, keepdim=True, correction=0)
    advantage = (reward - reward.mean(1, keepdim=True)) / (spread + 1e-4)
    gain = _clipped((t.policy - t.before).exp(), advantage[..., None], clip)
    away = t.reference - t.policy
    value = (gain - kl * (away.exp() - away - 1)) * t.real
    return -(value.sum(2) / s.lengths.clamp(min=1)).mean(1)


def ppo(s: Scores, *, clip: float) -> Nats:
    """-mean over tokens of min(c A, clamp(c, 1 - e, 1 + e) A) (PPO, arXiv 1707.06347, equation 7).

    A is the generalised advantage of each token (`goodhart.training.critic`), c = policy / writer of the token.
    """
    t = s.token_by_token()
    gain = _clipped((t.policy - t.before).exp(), s.statistics["advantage"], clip) * t.real
    return -(gain.sum(2) / s.lengths.clamp(min=1)).mean(1)


def bond(s: Scores, *, mix: float) -> Nats:
    """(1 - mix) -log policy(best of y1..yN) + mix (R - B) (-log policy(y)) (BOND, arXiv 2407.14622).

    y is from the policy, y1..yN from the anchor, which is the reference. In the mean over responses these are the
    forward and the backward divergence between the policy and the law of the best of N: the first up to a constant, the
    second up to the correction of ties in R = (N - 1) log p(r(y_i) <= r(y)) - rho(y), whose probability is estimated
    by the N (`goodhart.training.statistics`). B is the mean of R over the other prompts.
    """
    first = s.statistics["return"] - s.statistics["baseline"]
    best = s.of_reward()[:, 1:].argmax(1, keepdim=True) + 1
    return -(1 - mix) * s.policy.gather(1, best)[:, 0] - mix * first * s.policy[:, 0]


def j_bond(s: Scores, *, mix: float, pull: float) -> Nats:
    """(1 - mix) -log policy(best of y1, y2) + mix (R - B) (-log policy(y)) + pull sg[rho(y)] log policy(y).

    J-BOND (arXiv 2407.14622, algorithm 2): y is from the policy, y1 and y2 from the anchor, which is the reference;
    R = r_J - rho(y), r_J = -log 16 where y is worse than both and 0 elsewhere; B is the mean of R over the other
    prompts. The sign of the last term is the one that lowers KL(policy || anchor).
    """
    return bond(s, mix=mix) + pull * s.rho[:, 0].detach() * s.policy[:, 0]


def weighed(s: Scores, *, beta: float) -> Nats:
    """W f(beta D) of its label, f = `ipo` and w in [0, 1] how far the label is believed (`goodhart.training.channel`).

    The idea of H2O (arXiv 2206.13464) carried over to preferences; it is a proposal of this package.
    """
    return s.statistics["belief"] * pair_loss(ipo, s.rho[:, 0], s.rho[:, 1], s.of_label(), beta=beta)


LOSSES: dict[str, Loss] = {
    **{name: _of_margin(f) for name, f in MARGINS.items()},
    "best-of-2": best_of_2,
    "likelihood": likelihood,
    "slic": slic,
    "simpo": simpo,
    "conservative": conservative,
    "robust": robust,
    "kto": kto,
    "dro": dro,
    "nash-md": nash_md,
    "rebel": rebel,
    "reinforce": reinforce,
    "rloo": rloo,
    "grpo": grpo,
    "ppo": ppo,
    "bond": bond,
    "weighed": weighed,
    "j-bond": j_bond,
}
"""By the name that a study file knows them by."""
