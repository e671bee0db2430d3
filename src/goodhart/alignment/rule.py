"""A rule as a judge of pairs: a score for each response that is an exact function of its text."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float

from goodhart import functions
from goodhart.alignment.batch import Batch
from goodhart.config import build, plain_data
from goodhart.errors import GoodhartError
from goodhart.functions import is_function
from goodhart.models.checkpoint import load_tokenizer
from goodhart.models.packing import Tokens
from goodhart.randomness import stream
from goodhart.special import special
from goodhart.tasks.reward import Rule, rewards

FILE = "rule.json"
"""Marks the folder of a rule."""
_LINES, _TOKENIZER = "lines.parquet", "tokenizer"

Lines = Mapping[bytes, tuple[str, ...]]
"""The human lines of each prompt, by its token ids (`prompt_key`)."""


def prompt_key(tokens: Tokens) -> bytes:
    """Names a prompt where only its token ids are known: 32-bit integers, one after the other."""
    return np.asarray(tokens, dtype="<i4").tobytes()


@dataclass(frozen=True, slots=True)
class RuleJudge:
    """Prefers the response of higher score: P(first preferred) = sigmoid(s1 - s2).

    A score is s = scale (reward + noise e), e ~ N(0, 1) drawn by a key of (seed, prompt, text), in logits: the same
    response to the same prompt has the same score in every call, and a tie is exact.
    """

    rule: Rule
    tokenizer: Any
    """Of the policy: responses come as token ids, rewards read text."""
    lines: Lines
    """For `similarity` alone, else empty; prompts that were cut to the same tokens have several."""
    seed: int = 0
    """Of the noise."""

    @property
    def scalar(self) -> bool:
        """Whether a judgement is a function of one score for each response: always."""
        return True

    def prefer(self, pairs: Batch) -> Float[np.ndarray, "pair 2"]:
        """r(x, first, second) and r(x, second, first), which add up to 1."""
        return self.prefer_each(pairs.prompt_tokens, pairs.first, [pairs.second])[:, 0]

    def prefer_each(
        self,
        prompts: Sequence[Tokens],
        responses: Sequence[Tokens],
        opponents: Sequence[Sequence[Tokens]],
        known: Float[np.ndarray, "response opponent"] | None = None,
    ) -> Float[np.ndarray, "response opponent 2"]:
        """The same for several opponents of each response; `known` is what `alone` gave for the opponents."""
        theirs = self.alone(prompts, opponents) if known is None else known
        margin = self.alone(prompts, [responses]) - theirs
        return special.expit(np.stack([margin, -margin], axis=2))

    def alone(self, prompts: Sequence[Tokens], texts: Sequence[Sequence[Tokens]]) -> Float[np.ndarray, "prompt text"]:
        """The scores in logits of one or more responses to each prompt.

        Raises GoodhartError for a prompt without a human line, where the reward needs one.
        """
        return np.stack([self._scores(prompts, each) for each in texts], axis=1)

    def _scores(self, prompts: Sequence[Tokens], responses: Sequence[Tokens]) -> Float[np.ndarray, " prompt"]:
        texts = self._decoded(responses)
        reads_prompts = self.rule.reward == "copy" or is_function(self.rule.reward)
        asked = self._decoded(prompts) if reads_prompts else [""] * len(texts)
        lines = [self._lines(prompt) for prompt in prompts] if self.rule.reward == "similarity" else []
        result = rewards(self.rule, asked, texts, lines)
        if self.rule.noise:
            keys = zip(prompts, texts, strict=True)
            result = result + self.rule.noise * np.array([self._error(prompt, text) for prompt, text in keys])
        return self.rule.scale * result

    def _error(self, prompt: Tokens, text: str) -> float:
        return float(stream(self.seed, "rule noise", prompt_key(prompt).hex(), text).standard_normal())

    def _decoded(self, responses: Sequence[Tokens]) -> list[str]:
        batch = [list(tokens) for tokens in responses]  # an empty batch would be read as one empty text
        return self.tokenizer.batch_decode(batch, skip_special_tokens=True) if batch else []

    def _lines(self, prompt: Tokens) -> tuple[str, ...]:
        result = self.lines.get(prompt_key(prompt))
        if result is None:
            raise GoodhartError(
                f"a prompt of {len(prompt)} tokens is not among those whose human lines the rule has",
                "delete the rule's cell and run again",
            )
        return result

    def save(self, folder: Path) -> None:
        """Write the rule as `rule.json`, with the tokenizer and the human lines that it reads beside it.

        A function of the user's own is kept there too: whoever reads the judge has the text that it was made of.
        """
        functions.keep(folder, self.rule.reward)
        (folder / FILE).write_text(json.dumps({"rule": plain_data(self.rule), "seed": self.seed}, indent=1))
        self.tokenizer.save_pretrained(folder / _TOKENIZER)
        rows = [(key, line) for key, several in self.lines.items() for line in several]
        columns = {"prompt": [key for key, _ in rows], "line": [line for _, line in rows]}
        pq.write_table(
            pa.table(columns, schema=pa.schema([("prompt", pa.binary()), ("line", pa.string())])), folder / _LINES
        )

    @classmethod
    def load(cls, folder: Path) -> RuleJudge:
        """Read what `save` wrote."""
        functions.recall(folder)
        settings = json.loads((folder / FILE).read_text())
        table = pq.read_table(folder / _LINES)
        lines = by_prompt(zip(table.column("prompt").to_pylist(), table.column("line").to_pylist(), strict=True))
        return cls(build(Rule, settings["rule"]), load_tokenizer(folder / _TOKENIZER), lines, settings["seed"])


def by_prompt(rows: Iterable[tuple[bytes, str]]) -> dict[bytes, tuple[str, ...]]:
    """(key of a prompt, human line) as the different lines of each prompt, in their order."""
    result: dict[bytes, dict[str, None]] = {}
    for key, line in rows:
        result.setdefault(key, {})[line] = None
    return {key: tuple(lines) for key, lines in result.items()}
