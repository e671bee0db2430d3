"""A labeller of the user's own: it reads text, and what it returns is what is learnt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from goodhart import functions
from goodhart.alignment.batch import SUPERVISION, Batch
from goodhart.alignment.judge import PairJudge
from goodhart.alignment.method import Supervision
from goodhart.alignment.rewards import judged
from goodhart.errors import GoodhartError
from goodhart.models.packing import Tokens
from goodhart.tasks.reward import as_number

Decode = Callable[[Sequence[Tokens]], list[str]]
"""Token ids as text, without special tokens."""
_RETURNS = {
    "label": "return the probability that the first is preferred, a number from 0 to 1",
    "reward": "return a list with one finite number for each response",
    "mark": "return a list with a number from 0 (bad) to 1 (good) for each response",
}


def returned(reference: str, supervision: Supervision, prompt: str, responses: Sequence[str], *rewards: Any) -> Any:
    """What a labeller says of the responses to one prompt.

    Raises GoodhartError if it fails, or returns what is no supervision of that kind.
    """
    on = f"the prompt {prompt[:60]!r}"
    value = functions.call(reference, prompt, list(responses), *rewards, on=on)
    try:
        if supervision == "label":
            result = as_number(value, reference, on)
            fits = 0 <= result <= 1
        else:
            result = [as_number(each, reference, on) for each in value]
            fits = len(result) == len(responses) and (supervision == "reward" or all(0 <= each <= 1 for each in result))
    except (GoodhartError, TypeError) as error:
        raise _wrong(reference, supervision, value, on) from error
    if not fits:
        raise _wrong(reference, supervision, value, on)
    return result


def _wrong(reference: str, supervision: Supervision, value: Any, on: str) -> GoodhartError:
    shown = f"{repr(value)[:80]} ({type(value).__name__})"
    return GoodhartError(f"the labeller {reference} returned {shown} for {on}", _RETURNS[supervision])


@dataclass(frozen=True, slots=True)
class OwnLabels:
    """Supervision by a function of the user's own."""

    reference: str
    supervision: Supervision
    """What the loss learns from."""
    decode: Decode
    judge: PairJudge | None = None
    """The proxy, for a function that asks what it says of each response."""

    def label(self, batch: Batch, step: int) -> Batch:  # noqa: ARG002 - nothing is drawn
        """The same responses with what the function says of them. Raises GoodhartError as `returned` does."""
        read = batch.whole
        prompts = self.decode(read.prompt_tokens)
        flat = iter(self.decode([text for row in read.responses for text in row]))
        texts = [[next(flat) for _ in row] for row in read.responses]
        more = [()] * len(batch) if self.judge is None else [(row.tolist(),) for row in judged(self.judge, batch)]
        asked = zip(prompts, texts, more, strict=True)
        say = partial(returned, self.reference, self.supervision)
        values = np.array([say(prompt, row, *rewards) for prompt, row, rewards in asked])
        return replace(batch, **{**dict.fromkeys(SUPERVISION), self.supervision: values})
