"""One human judgement as text, a comparison or a mark: what every preference data set is turned into."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

from goodhart.errors import GoodhartError
from goodhart.randomness import key


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


def content_id(prompt: str | tuple[Message, ...], first: str, second: str | None, label: float) -> str:
    """The id of a comparison or a mark: 96 bits of the BLAKE2b digest of its content, in hexadecimal."""
    turns = prompt if isinstance(prompt, str) else [[turn.role, turn.content] for turn in prompt]
    content = json.dumps([turns, first, second, label])
    return hashlib.blake2b(content.encode(), digest_size=12).hexdigest()


def prompt_text(prompt: str | tuple[Message, ...]) -> str:
    """A prompt for reading, measuring and comparing: plain text as it is, chat turns as `role: content` lines."""
    if isinstance(prompt, str):
        return prompt
    return "\n".join(f"{turn.role}: {turn.content}" for turn in prompt)


def split_by_prompt(
    examples: Sequence[Preference], test_share: float, seed: int
) -> tuple[tuple[Preference, ...], tuple[Preference, ...]]:
    """(train, test) parts that share no prompt, where prompts that differ in case and spacing only are one.

    A prompt's side is a function of the seed and its own text, so adding rows moves none of the others;
    the share of prompts in the test part is `test_share` in expectation. Raises GoodhartError if the share is
    not inside (0, 1) or a part comes out empty.
    """
    if not 0.0 < test_share < 1.0:
        raise GoodhartError(f"the test share {test_share} is not between 0 and 1", "choose for example 0.1")
    train: list[Preference] = []
    test: list[Preference] = []
    for example in examples:
        (test if _draw(example, seed) < test_share else train).append(example)
    for name, part in (("train", train), ("test", test)):
        if not part:
            raise GoodhartError(
                f"the {name} part of {len(examples)} comparisons, split with test share {test_share}, is empty",
                "change the share or the seed, or give more prompts",
            )
    return tuple(train), tuple(test)


def _draw(example: Preference, seed: int) -> float:
    text = " ".join(prompt_text(example.prompt).casefold().split())
    return key(seed, "split by prompt", text) / 2**128
