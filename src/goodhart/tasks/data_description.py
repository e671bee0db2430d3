"""What a preference data set holds, for a person who is about to train on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from goodhart.tasks.data_source import find_source
from goodhart.tasks.preference import Preference, prompt_text
from goodhart.tasks.preference_data import Loaded, load_split
from goodhart.tasks.preference_tokens import ChatTokenizer, Encoded, over_limit, tokenise

_SHOWN = 2
_EXCERPT = 160


@dataclass(frozen=True, slots=True)
class Lengths:
    """How long one kind of text is in a split."""

    what: str
    unit: str
    median: float
    p90: float
    longest: int


@dataclass(frozen=True, slots=True)
class SplitDescription:
    """One split: rows, what of them is usable, and why the others are not."""

    name: str
    layout: str
    columns: tuple[str, ...]
    rows: int
    usable: int
    ties: int
    duplicates: int
    filtered: Mapping[str, int]
    lengths: tuple[Lengths, ...]
    samples: tuple[Preference, ...]


@dataclass(frozen=True, slots=True)
class DataDescription:
    """A data set, split by split."""

    source: str
    splits: tuple[SplitDescription, ...]


def describe(
    name: str | Path,
    tokenizer: ChatTokenizer | None = None,
    *,
    layout: str | None = None,
    subset: str | None = None,
    max_prompt: int | None = None,
    max_response: int | None = None,
    cache: Path | None = None,
) -> DataDescription:
    """Every split of a file, folder or Hub data set, with lengths in characters, and in tokens by the tokenizer.

    With a tokenizer, what it or the limits (in tokens) would filter is counted too. Raises GoodhartError as
    `load_preferences` does, except that a split without one usable row is described.
    """
    source = find_source(name, subset)
    limits = (max_prompt, max_response)
    splits = [_described(load_split(source, split, layout, cache), tokenizer, limits) for split in source.splits]
    return DataDescription(source.name, tuple(splits))


def _described(
    loaded: Loaded, tokenizer: ChatTokenizer | None, limits: tuple[int | None, int | None]
) -> SplitDescription:
    lengths = _character_lengths(loaded.examples)
    filtered, usable = Counter(loaded.filtered), loaded.examples
    if tokenizer is not None:
        results = [tokenise(example, tokenizer) for example in loaded.examples]
        encoded = [result for result in results if isinstance(result, Encoded)]
        lengths += _token_lengths(encoded)
        reasons = [_reason(result, limits) for result in results]
        filtered.update(reason for reason in reasons if reason is not None)
        usable = tuple(e for e, reason in zip(loaded.examples, reasons, strict=True) if reason is None)
    return SplitDescription(
        name=loaded.split,
        layout=loaded.layout,
        columns=loaded.columns,
        rows=loaded.rows,
        usable=len(usable),
        ties=sum(example.label == 0.5 for example in usable),
        duplicates=loaded.duplicates,
        filtered=dict(filtered.most_common()),
        lengths=lengths,
        samples=usable[:_SHOWN],
    )


def _reason(result: Encoded | str, limits: tuple[int | None, int | None]) -> str | None:
    if isinstance(result, str):
        return result
    longest = (len(result.prompt), max(len(result.first), len(result.second)))
    max_prompt, max_response = (longest[i] if limit is None else limit for i, limit in enumerate(limits))
    return over_limit(result, max_prompt, max_response)


def _character_lengths(examples: Sequence[Preference]) -> tuple[Lengths, ...]:
    return _both(
        [len(prompt_text(e.prompt)) for e in examples],
        [len(response) for e in examples for response in (e.first, e.second)],
        "characters",
    )


def _token_lengths(examples: Sequence[Encoded]) -> tuple[Lengths, ...]:
    return _both(
        [len(e.prompt) for e in examples],
        [len(response) for e in examples for response in (e.first, e.second)],
        "tokens",
    )


def _both(prompts: list[int], responses: list[int], unit: str) -> tuple[Lengths, ...]:
    return tuple(
        Lengths(what, unit, float(np.median(values)), float(np.percentile(values, 90)), max(values))
        for what, values in (("prompt", prompts), ("response", responses))
        if values
    )


def render_text(description: DataDescription) -> str:
    """The description as plain text for a terminal; control characters of the data are shown as escapes."""
    lines = [f"{_printable(description.source)}: {len(description.splits)} split(s)"]
    for split in description.splits:
        lines += ["", *_split_lines(split)]
    return "\n".join(lines)


def _split_lines(split: SplitDescription) -> list[str]:
    lines = [
        f"split {split.name}",
        f"  layout      {split.layout}",
        f"  columns     {_printable(', '.join(split.columns))}",
        f"  rows        {split.rows:,}",
        f"  usable      {split.usable:,}",
        f"  ties        {split.ties:,} (kept with label 0.5)",
        f"  duplicates  {split.duplicates:,} (kept)",
        f"  filtered    {sum(split.filtered.values()):,}",
        *(f"    {count:>9,}  {_printable(reason)}" for reason, count in split.filtered.items()),
    ]
    if split.lengths:
        lines.append(f"  {'length':<24}{'median':>10}{'90%':>10}{'longest':>10}")
    for row in split.lengths:
        name = f"{row.what}, {row.unit}"
        lines.append(f"    {name:<22}{row.median:>10,.0f}{row.p90:>10,.0f}{row.longest:>10,}")
    for example in split.samples:
        lines += _sample_lines(example)
    return lines


def _sample_lines(example: Preference) -> list[str]:
    texts = (("prompt", prompt_text(example.prompt)), ("first", example.first), ("second", example.second))
    shown = [f"    {name:<8}{_excerpt(text)}" for name, text in texts]
    return [f"  example {example.id}, first preferred with probability {example.label:g}", *shown]


def _excerpt(text: str) -> str:
    flat = " ".join(text.split())
    return _printable(flat if len(flat) <= _EXCERPT else f"{flat[: _EXCERPT - 1]}…")


def _printable(text: str) -> str:
    # an escape sequence in someone's data must not reach the terminal
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
