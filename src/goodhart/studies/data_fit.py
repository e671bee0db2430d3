"""What some preference data can fill: limits of tokens from their own lengths, sizes of splits, number of labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from goodhart.errors import GoodhartError
from goodhart.recipes.settings import Labels
from goodhart.tasks.preference import Preference, split_by_prompt
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


@dataclass(frozen=True, slots=True)
class Measured:
    """A comparison's lengths in tokens."""

    id: str
    prompt: int
    response: int
    """Of the longer one, its end token included."""
    text: int
    """The same for the same prompt."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The longest prompt and response, and what they leave."""

    prompt: int
    response: int
    share: float
    """Of prompts, and of pairs by their longer response, that each of the two lets through."""
    kept: tuple[Measured, ...]


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


def measure(
    loaded: Loaded, tokenizer: ChatTokenizer, template: str, say: Callable[[int, int], None]
) -> tuple[Measured, ...]:
    """The lengths of all comparisons that a model can read. Raises GoodhartError if there is none of them."""
    found: list[Measured] = []
    framing = Framing.of(template, tokenizer, loaded.layout)
    reasons: set[str] = set()
    for number, each in enumerate(tokenise(loaded.examples, tokenizer, framing), start=1):
        if isinstance(each, str):
            reasons.add(each)
        else:
            longer = max(map(len, each.responses))
            found.append(Measured(each.id, len(each.prompt), longer, hash(each.prompt)))
        if number % 1024 == 0 or number == len(loaded.examples):
            say(number, len(loaded.examples))
    if not found:
        raise GoodhartError(
            f"the model can read none of the {len(loaded.examples):,} {loaded.unit} of {loaded.source} "
            f"({'; '.join(reasons)})",
            "choose another model or template; 'goodhart data' shows what is filtered",
        )
    return tuple(found)


def choose_limits(measured: Sequence[Measured], fits: Callable[[int, int], bool]) -> Limits:
    """The limits that let most through of what models can read; `fits` says so of a prompt's and a response's length.

    Raises GoodhartError if not even the shortest tenth has room.
    """
    prompts, responses = (np.array([getattr(each, what) for each in measured]) for what in ("prompt", "response"))
    for share in _SHARES:
        prompt, response = (math.ceil(np.quantile(lengths, share)) for lengths in (prompts, responses))
        response = max(2, response)
        round_prompt, round_response = (math.ceil(length / _ROUND) * _ROUND for length in (prompt, response))
        for limit, other in ((round_prompt, round_response), (prompt, response)):
            if fits(limit, other):
                kept = tuple(each for each in measured if each.prompt <= limit and each.response <= other)
                if kept:
                    return Limits(limit, other, share, kept)
    shortest = min(each.prompt + each.response for each in measured)
    raise GoodhartError(
        f"the models cannot read even a tenth of these pairs, of which the shortest has {shortest:,} tokens",
        "choose models with a longer context",
    )


def _sides(loaded: Loaded, share: float) -> tuple[Sequence[Preference], Sequence[Preference]]:
    """The training and held-out comparisons as a study splits them; of so few that one side has none, no split."""
    try:
        return split_by_prompt(loaded.examples, share, seed=0)
    except GoodhartError:
        return loaded.examples, ()


def choose_sizes(loaded: Loaded, kept: Sequence[Measured]) -> Sizes:
    """Splits and labels that the kept comparisons fill. Raises GoodhartError if they are too few."""
    by_id = {each.id: each for each in kept}
    found: tuple[float, int, int, int] | None = None
    for share in _HELD_OUT:
        train, held_out = (
            [by_id[example.id] for example in side if example.id in by_id] for side in _sides(loaded, share)
        )
        found = share, len({each.text for each in held_out}), len({each.text for each in train}), len(train)
        if found[1] >= _EVALUATION + 2 * _REST:
            break
    assert found is not None
    share, prompts, train_prompts, pairs = found
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
