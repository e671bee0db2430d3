"""Exact rewards of a response's text, for judges that are a rule and learn nothing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Annotated, Any

import numpy as np
from jaxtyping import Float

from goodhart import functions
from goodhart.config import Count, Positive, Range
from goodhart.errors import GoodhartError
from goodhart.functions import Names, is_function, spoken

_WORD = re.compile(r"[^\W_]+")
READS = {"length": "target", "word": "words", "copy": "target", "similarity": ""}
"""By reward, the setting that says what it wants; similarity wants the human line."""


@dataclass(frozen=True)
class Rule:
    """An exact reward that stands in a preference model's place."""

    reward: Annotated[str, Names(tuple(READS))] = "length"
    """length: minus the distance of the number of words from `target`; word: the share of `words` that the response
    has; copy: the prompt's own words in a line of `target` words; similarity: chrF with the human line; or a function
    of the user's own, (prompt, response) -> a number."""
    target: Count = 8
    """Words, for `length` and `copy`."""
    words: tuple[str, ...] = ()
    """What `word` wants, each a single word."""
    scale: Positive = 4.0
    """Logits per unit of reward: P(first preferred) = sigmoid(scale (reward of first - reward of second))."""
    noise: Annotated[float, Range(0)] = 0.0
    """Standard deviation, in units of reward, of the error of each response's score, drawn once for ever."""

    def validate(self, where: str) -> None:
        """Raises GoodhartError for words that are none, and for a setting that the reward does not read."""
        default = Rule()
        for name in ("target", "words"):
            if READS.get(self.reward) != name and getattr(self, name) != getattr(default, name):
                raise GoodhartError(
                    f"{where}.{name} is set, which the reward {self.reward!r} does not read",
                    f"leave {where}.{name} out, or choose another reward",
                )
        odd = [word for word in self.words if words_of(word) != [word.casefold()]]
        if odd or (self.reward == "word" and not self.words):
            raise GoodhartError(
                f"{where}.words holds {odd[0]!r}, which is not one word" if odd else f"{where}.words is empty",
                "give single words, for example [value, object]",
            )

    @property
    def meaning(self) -> str:
        """What is rewarded, for people."""
        if is_function(self.reward):
            return f"what the user's function {spoken(self.reward)} returns ({self.reward})"
        return {
            "length": f"minus the distance of the number of words from {self.target}",
            "word": f"the share of the words {', '.join(self.words)} that the response has",
            "copy": f"the prompt's own words in a line of {self.target} words",
            "similarity": "the similarity to the human line (the hidden measure)",
        }[self.reward]


def words_of(text: str) -> list[str]:
    """The words of a text: runs of letters and digits, without case; an underscore parts two words."""
    return [word.casefold() for word in _WORD.findall(text)]


def rewards(
    rule: Rule, prompts: Sequence[str], texts: Sequence[str], lines: Sequence[Sequence[str]]
) -> Float[np.ndarray, " text"]:
    """The reward of each text, a function of that text, its prompt and its human lines alone.

    length: -|n - t|, with n words and t the target. word: |W ∩ R| / |W|, with W the wanted words and R the response's.
    copy: (|P ∩ R| - |n - t|) / t, with P the prompt's words; at most 1, which t different words of the prompt reach.
    similarity: chrF in [0, 1] (`goodhart.tasks.similarity`), the largest of several lines. `lines` is read by the last
    alone. A function of the user's own: what it returns; raises GoodhartError for what is no finite number.
    """
    if is_function(rule.reward):
        return np.array([_returned(rule.reward, *each) for each in zip(prompts, texts, strict=True)])
    if rule.reward == "similarity":
        return _similarity(texts, lines)
    words_by_text = [words_of(text) for text in texts]
    away = np.array([abs(len(words) - rule.target) for words in words_by_text], dtype=np.float64)
    if rule.reward == "length":
        return -away
    if rule.reward == "word":
        wanted = {word.casefold() for word in rule.words}
        return np.array([len(wanted & set(words)) / len(wanted) for words in words_by_text])
    in_prompt = [len(set(words_of(prompt)) & set(words)) for prompt, words in zip(prompts, words_by_text, strict=True)]
    return (np.array(in_prompt, dtype=np.float64) - away) / rule.target


def _returned(reference: str, prompt: str, text: str) -> float:
    on = f"the response {text[:60]!r}"
    return as_number(functions.call(reference, prompt, text, on=on), reference, on)


def as_number(value: Any, reference: str, on: str) -> float:
    """What a function returned. Raises GoodhartError if it is no finite number."""
    if not isinstance(value, Real | np.bool_) or not np.isfinite(float(value)):
        raise GoodhartError(
            f"{reference} returned {repr(value)[:80]} ({type(value).__name__}) for {on}", "return one finite number"
        )
    return float(value)


def _similarity(texts: Sequence[str], lines: Sequence[Sequence[str]]) -> Float[np.ndarray, " text"]:
    from goodhart.tasks.similarity import similarity  # its library is slow to import, and settings need none of it

    pairs = [(text, line) for text, several in zip(texts, lines, strict=True) for line in several]
    scores = iter(similarity([text for text, _ in pairs], [line for _, line in pairs]))
    return np.array([max(next(scores) for _ in several) for several in lines])
