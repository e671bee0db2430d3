"""What some preference data can fill: limits of tokens from their own lengths, sizes of splits, number of labels."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from goodhart.errors import GoodhartError
from goodhart.recipes.settings import Labels
from goodhart.tasks.data_source import Say, told
from goodhart.tasks.preference import prompt_draws
from goodhart.tasks.preference_data import Loaded
from goodhart.tasks.preference_tokens import ChatTokenizer, Framing, tokenise

_SHARES = (0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
"""Of prompts, and of pairs by their longer response, that the limits let through; the first that models can read."""
_ROUND = 8
"""Limits are multiples of it where the models have the room."""
_HELD_OUT = (0.2, 0.3, 0.4)
"""Shares of prompts that nothing is trained on: the first that fills the largest splits, else the last."""
_EVALUATION, _REST = 512, 256
"""Held-out prompts that measure checkpoints, and that stop training or measure judges, where there are so many."""
_TRAIN_SHARE = 8
"""Held-out prompts for each training prompt that measures."""
FEWEST = 6
"""Held-out prompts: two for each of the three purposes."""


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """Comparisons by their lengths in tokens: 24 bytes each."""

    place: Int[np.ndarray, " pair"]
    """Among all comparisons of the data."""
    prompt: Int[np.ndarray, " pair"]
    response: Int[np.ndarray, " pair"]
    """Of the longer one, its end token included."""
    text: Int[np.ndarray, " pair"]
    """The same for the same prompt."""

    def __len__(self) -> int:
        return len(self.place)

    def take(self, chosen: Bool[np.ndarray, " pair"]) -> Measured:
        """Some of them."""
        return Measured(self.place[chosen], self.prompt[chosen], self.response[chosen], self.text[chosen])


@dataclass(frozen=True, slots=True)
class Limits:
    """The longest prompt and response, and what they leave."""

    prompt: int
    response: int
    share: float
    """Of prompts, and of pairs by their longer response, that each of the two lets through."""
    kept: Measured


@dataclass(frozen=True, slots=True)
class Sizes:
    """What the kept comparisons fill."""

    held_out: float
    held_out_prompts: int
    train_pairs: int
    evaluation: int
    validation: int
    test: int
    train_prompts: int
    labels: int

    def train_evaluation(self, evaluation: int) -> int:
        """Training prompts that measure beside so many held-out ones, in the proportion of what ships."""
        return max(2, min(self.train_prompts, evaluation // _TRAIN_SHARE))


def measure(loaded: Loaded, tokenizer: ChatTokenizer, template: str, say: Say) -> Measured:
    """The lengths of all comparisons that a model can read. Raises GoodhartError if there is none of them."""
    places, texts, prompts, responses = array("q"), array("q"), array("i"), array("i")
    encoded = tokenise(loaded.examples, tokenizer, Framing.of(template, tokenizer, loaded.layout))
    reasons: set[str] = set()
    for place, each in enumerate(told(encoded, "tokenised", len(loaded.examples), say)):
        if isinstance(each, str):
            reasons.add(each)
            continue
        places.append(place)
        prompts.append(len(each.prompt))
        responses.append(max(map(len, each.responses)))
        texts.append(hash(each.prompt))
    if not places:
        raise GoodhartError(
            f"the model can read none of the {len(loaded.examples):,} {loaded.unit} of {loaded.source} "
            f"({'; '.join(reasons)})",
            "choose another model or template; 'goodhart data' shows what is filtered",
        )
    return Measured(
        np.frombuffer(places, np.int64),
        np.frombuffer(prompts, np.int32),
        np.frombuffer(responses, np.int32),
        np.frombuffer(texts, np.int64),
    )


def choose_limits(measured: Measured, fits: Callable[[int, int], bool]) -> Limits:
    """The limits that let most through of what models can read; `fits` says so of a prompt's and a response's length.

    Raises GoodhartError if not even the shortest tenth has room.
    """
    for share in _SHARES:
        prompt, response = (math.ceil(np.quantile(each, share)) for each in (measured.prompt, measured.response))
        response = max(2, response)
        round_prompt, round_response = (math.ceil(length / _ROUND) * _ROUND for length in (prompt, response))
        for limit, other in ((round_prompt, round_response), (prompt, response)):
            if fits(limit, other):
                kept = measured.take((measured.prompt <= limit) & (measured.response <= other))
                if len(kept):
                    return Limits(limit, other, share, kept)
    raise GoodhartError(
        f"the models cannot read even a tenth of these pairs, of which the shortest has "
        f"{(measured.prompt + measured.response).min():,} tokens",
        "choose models with a longer context",
    )


def _held_out(draws: Float[np.ndarray, " pair"], share: float) -> Bool[np.ndarray, " pair"]:
    """Which comparisons a study holds out; of so few that one side has none, no split."""
    held_out = draws < share
    return held_out if held_out.any() and not held_out.all() else np.zeros_like(held_out)


def choose_sizes(loaded: Loaded, kept: Measured) -> Sizes:
    """Splits and labels that the kept comparisons fill. Raises GoodhartError if they are too few."""
    draws = prompt_draws(loaded.examples, 0)
    split: tuple[float, int, int, int] | None = None
    for share in _HELD_OUT:
        held_out = _held_out(draws, share)[kept.place]
        sides = kept.text[held_out], kept.text[~held_out]
        split = share, len(np.unique(sides[0])), len(np.unique(sides[1])), len(sides[1])
        if split[1] >= _EVALUATION + 2 * _REST:
            break
    assert split is not None
    share, prompts, train_prompts, pairs = split
    if prompts < FEWEST or train_prompts < 2:
        raise GoodhartError(
            f"{loaded.source} has {len(kept):,} {loaded.unit} that fit, of {prompts + train_prompts:,} prompts",
            f"give more: with {share:g} of the prompts held out, {FEWEST} must be among these, and 2 among the others",
        )
    rest = max(2, min(_REST, prompts // 4))
    return Sizes(
        held_out=share,
        held_out_prompts=prompts,
        train_pairs=pairs,
        evaluation=min(_EVALUATION, prompts - 2 * rest),
        validation=rest,
        test=rest,
        train_prompts=train_prompts,
        labels=min(Labels().number, pairs),
    )
