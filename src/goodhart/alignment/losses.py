"""Pairwise losses as pure functions of log-ratios: one value per pair, no mean inside.

rho = log policy(y|x) - log reference(y|x), over the response's tokens by sum (or mean, where a study says so; see
`reduced`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

Nats = Float[Tensor, " pair"]
Margin = Callable[[Nats], Nats]
Reduction = Literal["sum", "mean"]
"""Over a response's tokens. Values of beta do not compare across the two."""


def reduced(
    rho: Float[Tensor, "pair response"], lengths: Float[Tensor, "pair response"], reduction: Reduction
) -> Float[Tensor, "pair response"]:
    """What a loss takes of log-ratios in nats per response: those, or nats per token (an empty response has none)."""
    return rho if reduction == "sum" else rho / lengths.clamp(min=1)


def ipo(z: Nats) -> Nats:
    """f(z) = (z - 1/2)^2 at z = beta (rho_w - rho_l) (arXiv 2405.08448, appendix B).

    It is beta^2 times the form (rho_w - rho_l - 1/(2 beta))^2 of arXiv 2310.12036, so the target margin
    is 1/(2 beta) nats.
    """
    return (z - 0.5).square()


def dpo(z: Nats) -> Nats:
    """f(z) = log(1 + exp(-z)) at z = beta (rho_w - rho_l) (arXiv 2305.18290, equation 7)."""
    return softplus(-z)


MARGINS: dict[str, Margin] = {"ipo": ipo, "dpo": dpo}
"""The convex function f of f(beta (rho_w - rho_l)), by name."""

BEST_OF_2 = "best-of-2"
"""The loss that has neither a margin nor a beta."""


def pair_loss(f: Margin, rho_first: Nats, rho_second: Nats, label: Nats, *, beta: float) -> Nats:
    """P f(beta D) + (1 - p) f(-beta D) with D = rho_first - rho_second and p = label.

    A hard label keeps one of the two terms; a tie (p = 1/2) is the mean over both orders.
    """
    z = beta * (rho_first - rho_second)
    return label * f(z) + (1 - label) * f(-z)


def winner_loss(rho_first: Nats, rho_second: Nats, label: Nats) -> Nats:
    """-(p rho_first + (1 - p) rho_second): supervised learning of the winner (arXiv 2405.08448, equation 3).

    It is -log policy(y_w | x) up to the reference's log-probability, which no parameter moves.
    """
    return -(label * rho_first + (1 - label) * rho_second)


def loss_of(name: str, rho_first: Nats, rho_second: Nats, label: Nats, *, beta: float | None) -> Nats:
    """The loss of that name, one value per pair. Raises ValueError for a margin loss without beta."""
    if name == BEST_OF_2:
        return winner_loss(rho_first, rho_second, label)
    if beta is None:
        raise ValueError(f"loss {name!r} needs a beta")
    return pair_loss(MARGINS[name], rho_first, rho_second, label, beta=beta)
