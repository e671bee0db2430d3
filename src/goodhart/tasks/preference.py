"""One human judgement as text, a comparison or a mark: what every preference data set is turned into."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from goodhart.errors import GoodhartError
from goodhart.randomness import key

DIGEST = 12
"""Bytes of a comparison's digest."""
Places = Int[np.ndarray, " chosen"]
"""Where comparisons stand among all, in increasing order."""


@dataclass(frozen=True, slots=True)
class Message:
    """One chat turn."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Preference:
    """One prompt, two responses, and the probability that the first is preferred (1, 0, or 0.5 for a tie).

    Of a mark there is no second response, and the label says whether the first is good (1) or bad (0). The `id` is a
    hash of the content, so it does not depend on the row's place in a file. Data sets with the columns `chosen` and
    `rejected` always give the chosen response first: whoever trains on the order must draw it.
    """

    id: str
    prompt: str | tuple[Message, ...]
    first: str
    second: str | None
    label: float

    @property
    def responses(self) -> tuple[str, ...]:
        """Both, or the one that is marked."""
        return (self.first,) if self.second is None else (self.first, self.second)


def content_digest(prompt: str | tuple[Message, ...], first: str, second: str | None, label: float) -> bytes:
    """96 bits of the BLAKE2b digest of a comparison's or a mark's content."""
    turns = prompt if isinstance(prompt, str) else [[turn.role, turn.content] for turn in prompt]
    content = json.dumps([turns, first, second, label])
    return hashlib.blake2b(content.encode(), digest_size=DIGEST).digest()


def content_id(prompt: str | tuple[Message, ...], first: str, second: str | None, label: float) -> str:
    """The id of a comparison or a mark: the digest of its content, in hexadecimal."""
    return content_digest(prompt, first, second, label).hex()


def prompt_text(prompt: str | tuple[Message, ...]) -> str:
    """A prompt for reading, measuring and comparing: plain text as it is, chat turns as `role: content` lines."""
    if isinstance(prompt, str):
        return prompt
    return "\n".join(f"{turn.role}: {turn.content}" for turn in prompt)


def prompt_draws(examples: Iterable[Preference], seed: int) -> Float[np.ndarray, " pair"]:
    """A number in [0, 1) for each comparison, a function of the seed and its prompt's own text.

    Prompts that differ in case and spacing only are one.
    """
    return np.fromiter((_draw(example, seed) for example in examples), np.float64)


def split_by_prompt(
    draws: Float[np.ndarray, " pair"], test_share: float
) -> tuple[Int[np.ndarray, " train"], Int[np.ndarray, " test"]]:
    """The places of the (train, test) parts, which share no prompt, by the draws of their prompts.

    A prompt's side depends on nothing but its own text, so adding rows moves none of the others;
    the share of prompts in the test part is `test_share` in expectation. Raises GoodhartError if the share is
    not inside (0, 1) or a part comes out empty.
    """
    if not 0.0 < test_share < 1.0:
        raise GoodhartError(f"the test share {test_share} is not between 0 and 1", "choose for example 0.1")
    parts = np.flatnonzero(draws >= test_share), np.flatnonzero(draws < test_share)
    for name, part in zip(("train", "test"), parts, strict=True):
        if not len(part):
            raise GoodhartError(
                f"the {name} part of {len(draws)} comparisons, split with test share {test_share}, is empty",
                "change the share or the seed, or give more prompts",
            )
    return parts


def _draw(example: Preference, seed: int) -> float:
    text = " ".join(prompt_text(example.prompt).casefold().split())
    return key(seed, "split by prompt", text) / 2**128
