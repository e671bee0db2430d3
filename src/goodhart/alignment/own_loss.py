"""A loss of the user's own: what it learns from is found by trying it, and what it returns is checked."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from goodhart import functions
from goodhart.alignment.losses import Loss, Nats
from goodhart.alignment.method import Supervision
from goodhart.alignment.scores import Scores, Tokenwise
from goodhart.errors import GoodhartError
from goodhart.functions import spoken

_PROMPTS, _TOKENS = 3, 5
_TRIAL = 0.1
"""The value of a parameter that has no default, where the loss is tried."""
_SUPERVISION: tuple[Supervision, ...] = ("label", "reward", "mark")


@dataclass(frozen=True, slots=True)
class Reads:
    """What a loss reads of the scores."""

    supervision: Supervision
    tokenwise: bool


def reads(reference: str) -> Reads:
    """Try a loss on made-up scores that have everything. Raises GoodhartError as `checked` does, or if it reads more.

    Those of a prompt are two responses, so one that takes more is tried on two as well.
    """
    from goodhart.alignment.extensions import own_defaults

    asked: set[str] = set()
    parameters = {name: _TRIAL if value is None else value for name, value in own_defaults(reference).items()}
    checked(reference)(_recording(asked), **parameters)
    learns: list[Supervision] = [kind for kind in _SUPERVISION if kind in asked]
    if len(learns) > 1:
        raise GoodhartError(
            f"the loss {reference} reads {' and '.join(learns)}, and a method has one kind of supervision",
            "read one of of_label(), of_reward() and of_mark()",
        )
    return Reads(learns[0] if learns else "none", "tokens" in asked)


def checked(reference: str) -> Loss:
    """The loss itself, which says by name what is wrong with what it returns.

    Raises GoodhartError for anything but one real number for each prompt that depends on the policy.
    """
    name = spoken(reference)
    function = functions.load(reference)

    def loss(scores: Scores, **parameters: float) -> Nats:
        try:
            value = function(scores, **parameters)
        except Exception as error:  # whatever the user's own code meets
            words = " ".join(str(error).split())[:200]
            raise GoodhartError(f"the loss {reference} failed ({type(error).__name__}: {words})", "mend it") from error
        prompts = len(scores.logp)
        if not isinstance(value, Tensor) or value.shape != (prompts,) or not value.is_floating_point():
            raise GoodhartError(
                f"the loss {reference} returned {_shape(value)}",
                f"return one value for each prompt, here a tensor of shape ({prompts},); {name} takes no mean over "
                "prompts, the loop does",
            )
        if scores.logp.requires_grad and not value.requires_grad:
            raise GoodhartError(
                f"what the loss {reference} returned does not depend on the policy",
                "compute it from scores.rho or scores.policy, without .detach() or .item()",
            )
        return value

    return loss


def _shape(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)} and {value.dtype}"
    return f"{repr(value)[:80]} ({type(value).__name__})"


class _Recording(Scores):
    """Scores that note what is read of them."""

    asked: set[str]

    def __getattribute__(self, name: str) -> Any:
        if name in _NAMES:
            object.__getattribute__(self, "asked").add(name)
        return object.__getattribute__(self, name)


_NAMES = {field.name for field in fields(Scores)}


def _recording(asked: set[str]) -> Scores:
    draw = torch.Generator().manual_seed(0)
    tokens = -torch.rand(_PROMPTS, 2, _TOKENS, generator=draw)
    leaf = tokens.clone().requires_grad_()
    flat = tokens.sum(2) - 0.1
    result = object.__new__(_Recording)
    object.__setattr__(result, "asked", asked)
    _Recording.__init__(
        result,
        leaf.sum(2),
        flat,
        torch.full((_PROMPTS, 2), float(_TOKENS)),
        label=torch.tensor([1.0, 0.0, 0.5]),
        reward=torch.tensor([[1.0, 0.0], [0.5, 0.25], [-1.0, 2.0]]),
        mark=torch.tensor([[1.0, 0.0]] * _PROMPTS),
        written=flat,
        tokens=Tokenwise(leaf, tokens, tokens - 0.02, torch.ones(_PROMPTS, 2, _TOKENS, dtype=torch.bool)),
    )
    asked.clear()
    return result
