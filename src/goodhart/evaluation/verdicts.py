"""A judge's answers on several responses and several opponents for each prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from goodhart.alignment.judge import PairJudge
from goodhart.models.packing import Tokens

OPPONENTS = ("policy", "sft")
"""Whose responses are the opponents: the golden policy's and the SFT policy's."""


@dataclass(frozen=True, slots=True)
class Opponents:
    """The fixed responses that a checkpoint's responses are judged against, the same number for each prompt.

    Opponent j of a prompt is the j-th draw of the golden policy, or of the SFT policy, for this prompt; it depends on
    nothing else, so more opponents leave the earlier ones as they are.
    """

    policy: Sequence[Sequence[Tokens]]
    """By the golden policy, for each prompt."""
    sft: Sequence[Sequence[Tokens]]
    known: Float[np.ndarray, "prompt opponent 2"]
    """What a judge needs of each again and again (`PairJudge.alone`), in the order of `OPPONENTS`."""

    def __getitem__(self, prompts: slice) -> Opponents:
        return Opponents(self.policy[prompts], self.sft[prompts], self.known[prompts])

    @property
    def number(self) -> int:
        """Opponents of each writer."""
        return self.known.shape[1]

    def at(self, j: int) -> list[list[Tokens]]:
        """The j-th opponents of all prompts, by writer."""
        return [[own[j] for own in self.policy], [own[j] for own in self.sft]]


def known_of(
    judge: PairJudge, prompts: Sequence[Tokens], policy: Sequence[Sequence[Tokens]], sft: Sequence[Sequence[Tokens]]
) -> Float[np.ndarray, "prompt opponent 2"]:
    """What the judge needs of these opponents; a scalar judge reads the prompt once for all of them."""
    number = len(policy[0])
    texts = [[own[j] for own in side] for j in range(number) for side in (policy, sft)]
    if judge.scalar:
        return judge.alone(prompts, texts).reshape(len(prompts), number, 2)
    return np.stack([judge.alone(prompts, texts[2 * j : 2 * j + 2]) for j in range(number)], axis=1)


def margins(
    judge: PairJudge,
    prompts: Sequence[Tokens],
    samples: Sequence[Sequence[Tokens]],
    opponents: Opponents,
    first: int = 0,
) -> Float[np.ndarray, "prompt sample opponent 2"]:
    """r(x, response, opponent) - r(x, opponent, response) of all opponents from number `first` on.

    `samples` holds, by sample, a response to each prompt. A scalar judge scores a response once, whatever the number
    of opponents; a pairwise one reads it anew with each of them.
    """
    if first == opponents.number:
        return np.zeros((len(prompts), len(samples), 0, 2))
    if judge.scalar:
        own = judge.alone(prompts, samples)
        score = own[:, :, None, None] - opponents.known[:, None, first:]
        # sigmoid(s) - sigmoid(-s)
        result = np.tanh(score / 2)
    else:
        result = np.stack([_pairwise(judge, prompts, texts, opponents, first) for texts in samples], axis=1)
    return np.where(_same(samples, opponents, first), 0.0, result)


def _pairwise(
    judge: PairJudge, prompts: Sequence[Tokens], responses: Sequence[Tokens], opponents: Opponents, first: int
) -> Float[np.ndarray, "prompt opponent 2"]:
    result = np.zeros((len(prompts), opponents.number - first, 2))
    for j in range(first, opponents.number):
        r = judge.prefer_each(prompts, responses, opponents.at(j), opponents.known[:, j])
        result[:, j - first] = r[..., 0] - r[..., 1]
    return result


def _same(samples: Sequence[Sequence[Tokens]], opponents: Opponents, first: int) -> np.ndarray:
    """Where a response is its opponent word for word; rounding must not break that tie."""
    rows = [
        [[[list(text[i]) == list(own[i][j]) for own in (opponents.policy, opponents.sft)]
          for j in range(first, opponents.number)] for text in samples]
        for i in range(len(opponents.known))
    ]  # fmt: skip
    shape = (len(opponents.known), len(samples), opponents.number - first, 2)
    return np.asarray(rows, dtype=bool).reshape(shape)


def verdict(margin: Float[np.ndarray, "*batch"], mode: Literal["hard", "soft"]) -> Float[np.ndarray, "*batch"]:
    """The judgement of a margin r12 - r21: its sign as 1, 1/2 or 0 (hard), or the probability (1 + margin)/2 (soft)."""
    return (np.sign(margin) + 1) / 2 if mode == "hard" else (1 + margin) / 2
