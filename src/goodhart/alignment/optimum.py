"""Where a method ends in a finite world, computed: the law at which its mean step rests, for each prompt.

With h = beta rho up to a constant, pairs from a law m and their preferences p: squared margins rest at
h(y) = 2 t p(y > m), t the target margin (IPO: 1/2); logistic ones where sum m(y') (p(y > y') - sigmoid(h(y) - h(y')))
is 0 for every y, the Bradley-Terry fit; maximisers of a reward at h = r. Where m is the policy itself that is a fixed
point, of squared margins the Nash equilibrium of p(pi > pi') - beta KL(pi || ref) + beta KL(pi' || ref).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from goodhart.alignment.method import Method
from goodhart.alignment.terms import coefficient
from goodhart.tasks.tables import Law, Tables, Wins

Field = Callable[[Law], tuple[Law, Wins]]
"""What has to be 0 as a function of h, and its derivatives [prompt, of, by]."""
_STEPS, _CLOSE = 200, 1e-11
_FAR = 20.0
"""Logits of a preference that no law of full support has: at more of them a sigmoid is 1 in its rounding."""
_TARGETS = {"ipo": 0.5, "squared": 1.0}


@dataclass(frozen=True)
class Optimum:
    """Where a method ends."""

    law: Law
    words: str
    """What it is, for a table."""


@dataclass(frozen=True)
class Seen:
    """What a method sees of a world."""

    tables: Tables
    """With the preferences and rewards of who labels."""
    data: Law | None
    """The law that both responses of the data's pairs are from, whose labels are the preferences; None for another."""


def tilted(ref: Law, h: Law, beta: float) -> Law:
    """Ref exp(h / beta) / Z."""
    logits = np.log(ref) + h / beta
    logits -= logits.max(1, keepdims=True)
    weight = np.exp(logits)
    return weight / weight.sum(1, keepdims=True)


def mixed(law: Law, ref: Law, share: float) -> Law:
    """law^(1 - share) ref^share / Z."""
    weight = law ** (1 - share) * ref**share
    return weight / weight.sum(1, keepdims=True)


def best_of(law: Law, reward: Law, number: int) -> Law:
    """Of the best of N: p(r(y') <= r(y))^N - p(r(y') < r(y))^N (arXiv 2407.14622), shared by equals as by the law."""
    better = reward[:, :, None] > reward[:, None, :]
    below = np.einsum("xij,xj->xi", better, law)
    equal = np.einsum("xij,xj->xi", reward[:, :, None] == reward[:, None, :], law)
    return ((below + equal) ** number - below**number) * law / equal


def equilibrium(ref: Law, wins: Wins, beta: float, share: float = 0.0, target: float = 0.5) -> Law:
    """The fixed point of pi = tilted(ref, 2 t p(y > m), beta), m the mixture of pi and ref by `share`.

    At t = 1/2 and share 0 the regularised Nash equilibrium. Raises ValueError where none is found.
    """

    def at(h: Law) -> tuple[Law, Wins]:
        law = mixed(tilted(ref, h, beta), ref, share)
        spread = law[:, :, None] * np.eye(law.shape[1]) - law[:, :, None] * law[:, None, :]
        slope = np.eye(law.shape[1]) - 2 * target * (1 - share) / beta * wins @ spread
        return _centred(h - 2 * target * _against(wins, law), slope)

    return tilted(ref, _rest(at, np.zeros_like(ref)), beta)


def logistic_rest(wins: Wins, ref: Law, beta: float, pairs: Law | None, pull: float = 0.0) -> Law:
    """H where 2 m(y) sum m(y') (p(y > y') - sigmoid(h(y) - h(y'))) = pull (ref - pi); m is `pairs`, else the policy.

    Without pull it is the Bradley-Terry fit to pairs from m. Raises ValueError where none is found.
    """

    def at(h: Law) -> tuple[Law, Wins]:
        law, eye = tilted(ref, h, beta), np.eye(h.shape[1])
        spread = (law[:, :, None] * eye - law[:, :, None] * law[:, None, :]) / beta
        m, moves = (law, spread) if pairs is None else (pairs, np.zeros_like(wins))
        likely = (1 + np.tanh((h[:, :, None] - h[:, None, :]) / 2)) / 2
        left, s = wins - likely, likely * (1 - likely)
        value = _against(left, m)
        slope = left @ moves + m[:, None, :] * s - eye * _against(s, m)[:, :, None]
        if pull:
            slope = 2 * (m[:, :, None] * slope + value[:, :, None] * moves) + pull * spread
            value = 2 * m * value - pull * (ref - law)
        return _centred(value, slope)

    result = _rest(at, np.zeros_like(ref))
    if np.ptp(result, axis=1).max() > _FAR:
        raise ValueError("the labels are separable, so that margins grow for ever")
    return result


def optimum_of(method: Method, seen: Seen, beta: float | None) -> Optimum | None:
    """Where a method ends at its parameters; None where that is not known, or is no law of full support."""
    parameters = {**method.parameters, **({} if beta is None else {"beta": beta})}
    if method.reference not in ("sft", "none"):
        return None
    try:
        if method.kind.supervision == "reward":
            return None if method.terms else _of_rewards(method, seen, parameters)
        return _of_labels(method, seen, parameters)
    except ValueError:
        return None


def _of_rewards(method: Method, seen: Seen, parameters: Mapping[str, float]) -> Optimum | None:
    ref, wins = seen.tables.reference, seen.tables.wins
    if method.loss == "dro" and method.source == "data" and seen.data is not None:
        return Optimum(tilted(ref, 2 * _against(wins, seen.data), parameters["beta"]), "tilted by 2 p(y > data)")
    if method.loss == "bond" and parameters["mix"] == 0 and set(method.drawn[1:]) == {"reference"}:
        return Optimum(best_of(ref, seen.tables.reward, len(method.drawn) - 1), f"best of {len(method.drawn) - 1}")
    own = method.source == "policy" and method.refresh == 1 and set(method.drawn) == {"policy"}
    strength = parameters.get("beta" if method.loss == "dro" else "kl", 0.0)
    if own and method.selection == "all" and strength and method.loss in ("dro", "rloo", "reinforce", "ppo", "rebel"):
        return Optimum(tilted(ref, seen.tables.reward, strength), "tilted by the reward")
    return None


def _of_labels(method: Method, seen: Seen, parameters: Mapping[str, float]) -> Optimum | None:
    wins, law = _labels(method, seen.tables.wins), _pairs(method, seen)
    if wins is None or law is None or method.selection != "all":
        return None
    ref, (pairs, share), beta = _base(method, seen.tables.reference), law, parameters.get("beta", 0.0)
    if method.loss in ("dpo", "conservative") and share == 0:
        noise = parameters.get("noise", 0.0) if method.loss == "conservative" else 0.0
        pull = _pull(method, parameters)
        if pull is None:
            return None
        softened = (1 - noise) * wins + noise * (1 - wins)
        words = "tilted by its Bradley-Terry fit" + (", pulled to the reference" if pull else "")
        return Optimum(tilted(ref, logistic_rest(softened, ref, beta, pairs, pull), beta), words)
    if method.terms:
        return None
    if method.loss == "best-of-2" and pairs is not None:
        return Optimum(2 * pairs * _against(wins, pairs), "law of the winners")
    if method.loss not in (*_TARGETS, "nash-md"):
        return None
    target = _TARGETS.get(method.loss, 0.5)
    if pairs is not None:
        twice = "" if target == 0.5 else "2 "
        who = "data" if method.source == "data" else "reference"
        return Optimum(tilted(ref, 2 * target * _against(wins, pairs), beta), f"tilted by {twice}p(y > {who})")
    words = "Nash equilibrium" if not share and target == 0.5 else "fixed point of its mean step"
    return Optimum(equilibrium(ref, wins, beta, share, target), words)


def _labels(method: Method, wins: Wins) -> Wins | None:
    """The preferences as a method's labels have them in the mean; of a data set they are the preferences."""
    if method.kind.supervision != "label":
        return None
    hard = method.source == "policy" and method.mode == "hard"
    return (np.sign(wins - 0.5) + 1) / 2 if hard else wins


def _pairs(method: Method, seen: Seen) -> tuple[Law | None, float] | None:
    """The fixed law of both responses, or None and the share of the reference in that of the opponent."""
    if method.source == "data":
        return None if seen.data is None else (seen.data, 0.0)
    if method.loss == "nash-md":
        own = method.refresh == 1 and method.drawn in (("policy", "mixture"), ("policy", "policy"))
        return (None, method.parameters["share"] if "mixture" in method.drawn else 0.0) if own else None
    if method.drawn == ("mixture", "mixture"):
        return None, method.parameters["share"]
    if method.drawn != ("policy", "policy"):
        return (seen.tables.reference, 0.0) if method.drawn == ("reference", "reference") else None
    return (None, 0.0) if method.refresh else (seen.tables.reference, 0.0)


def _base(method: Method, ref: Law) -> Law:
    """What the log-ratios are against."""
    return np.full_like(ref, 1 / ref.shape[1]) if method.reference == "none" else ref


def _pull(method: Method, parameters: Mapping[str, float]) -> float | None:
    """What terms on the reference's responses add to h's derivative; None for other terms."""
    if any(t.law != "reference" or t.function == "divergence" for t in method.terms) or (
        method.terms and method.reference == "none"
    ):
        return None
    return sum(coefficient(term.coefficient, parameters) for term in method.terms) / parameters["beta"]


def _against(wins: Wins, law: Law) -> Law:
    """sum_y' p(y, y') law(y')."""
    return np.einsum("xij,xj->xi", wins, law)


def _centred(value: Law, slope: Wins) -> tuple[Law, Wins]:
    """Without what is constant in y, which moves no law; the constant of h is held at its mean."""
    size = value.shape[1]
    return value - value.mean(1, keepdims=True), slope - slope.mean(1, keepdims=True) + np.ones((size, size)) / size


def _rest(at: Field, start: Law) -> Float[np.ndarray, "prompt response"]:
    """Newton's method with halved steps, each prompt by its own. Raises ValueError where it does not end."""
    h = start
    value, slope = at(h)
    for _ in range(_STEPS):
        norm = np.abs(value).max(1)
        if norm.max() < _CLOSE:
            return h
        move = np.linalg.solve(slope, value[..., None])[..., 0]
        scale = np.ones_like(norm)
        for _ in range(40):
            tried = h - scale[:, None] * move
            after = np.abs(at(tried)[0]).max(1)
            worse = ~(after < norm) & (norm >= _CLOSE)
            if not worse.any():
                break
            scale = np.where(worse, scale / 2, scale)
        h = h - np.where(norm >= _CLOSE, scale, 0.0)[:, None] * move
        value, slope = at(h)
    raise ValueError("no rest was found")
