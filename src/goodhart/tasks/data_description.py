"""What a preference data set holds, for a person who is about to train on it."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from goodhart.tasks.data_source import find_source
from goodhart.tasks.pair_rules import ALONE, Rule
from goodhart.tasks.preference import Preference, prompt_text
from goodhart.tasks.preference_data import Loaded, load_split
from goodhart.tasks.preference_layouts import LAYOUTS, unread_verdicts
from goodhart.tasks.preference_tokens import ChatTokenizer, Framing, over_limit, tokenise

_SHOWN = 2
_EXCERPT = 160
_SAID = 2048
"""Comparisons between two messages about progress."""
_HEARD = "of label, winner, preference and tie only a tie is heard"
Say = Callable[[int, int], None]
"""Told how many of how many are done."""


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
    unread: tuple[str, ...]
    """Columns that sound as if they said which response is better, and are not the layout's."""
    template: str
    """How prompts are framed for the model; empty without one."""
    rows: int
    rule: str
    """How rows of several responses became pairs; empty where a row is a pair."""
    pairs: int
    good: int
    """Of marks that are learnt from one by one, the usable ones that say good."""
    left_out: Mapping[str, int]
    """What no pair was made of."""
    usable: int
    prompts: int
    """Distinct ones among the usable rows; a study splits the data by them."""
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


@dataclass(frozen=True, slots=True)
class Reading:
    """How a study with some model would read the data: in tokens, by a template, within limits where there are any."""

    tokenizer: ChatTokenizer
    template: str = "auto"
    max_prompt: int | None = None
    max_response: int | None = None


def describe(
    name: str | Path,
    reading: Reading | None = None,
    *,
    layout: str | None = None,
    subset: str | None = None,
    cache: Path | None = None,
    columns: Mapping[str, str] | None = None,
    rule: Rule | None = None,
    say: Say = lambda _, __: None,
) -> DataDescription:
    """Every split of a file, folder or Hub data set, with lengths in characters, and in tokens as a model reads them.

    With a `reading`, what it would filter is counted too; `say` gets the comparisons that are tokenised and the number
    of all in a split. Raises GoodhartError as `load_preferences` does, except that a split without one usable row is
    described. `columns` and `rule` are those of `load_preferences`.
    """
    source = find_source(name, subset)
    splits = [
        _described(load_split(source, split, layout, cache, columns, rule), reading, say) for split in source.splits
    ]
    return DataDescription(source.name, tuple(splits))


def _described(loaded: Loaded, reading: Reading | None, say: Say) -> SplitDescription:
    lengths, usable = _character_lengths(loaded.examples), loaded.examples
    filtered, framing = Counter(loaded.filtered), ""
    if reading is not None:
        chosen = Framing.of(reading.template, reading.tokenizer, loaded.layout)
        framing, (more, reasons) = chosen.words, _tokenised(loaded.examples, reading, chosen, say)
        lengths += more
        filtered.update(reason for reason in reasons if reason)
        usable = tuple(e for e, reason in zip(loaded.examples, reasons, strict=True) if not reason)
    return SplitDescription(
        name=loaded.split,
        layout=loaded.layout,
        columns=loaded.columns,
        unread=unread_verdicts(loaded.columns, LAYOUTS[loaded.layout]),
        template=framing,
        rows=loaded.rows,
        rule=loaded.rule,
        pairs=loaded.pairs,
        good=sum(example.label == 1 for example in usable) if loaded.rule == ALONE else 0,
        left_out=loaded.left_out,
        usable=len(usable),
        prompts=len({prompt_text(example.prompt) for example in usable}),
        ties=sum(example.label == 0.5 for example in usable),
        duplicates=loaded.duplicates,
        filtered=dict(filtered.most_common()),
        lengths=lengths,
        samples=usable[:_SHOWN],
    )


def _tokenised(
    examples: Sequence[Preference], reading: Reading, framing: Framing, say: Say
) -> tuple[tuple[Lengths, ...], list[str]]:
    """Lengths in tokens, and for each comparison the reason why it is filtered, empty where it is not."""
    prompts, responses, reasons = array("l"), array("l"), list[str]()
    for found in tokenise(examples, reading.tokenizer, framing):
        if isinstance(found, str):
            reasons.append(found)
        else:
            prompts.append(len(found.prompt))
            responses.extend(map(len, found.responses))
            reasons.append(over_limit(found, reading.max_prompt, reading.max_response) or "")
        if len(reasons) % _SAID == 0 or len(reasons) == len(examples):
            say(len(reasons), len(examples))
    return _both(prompts, responses, "tokens"), reasons


def _character_lengths(examples: Sequence[Preference]) -> tuple[Lengths, ...]:
    return _both(
        [len(prompt_text(e.prompt)) for e in examples],
        [len(response) for e in examples for response in e.responses],
        "characters",
    )


def _both(prompts: Sequence[int], responses: Sequence[int], unit: str) -> tuple[Lengths, ...]:
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
        *([f"  not read    {_printable(', '.join(split.unread))} ({_HEARD})"] if split.unread else []),
        *([f"  template    {split.template}"] if split.template else []),
        f"  rows        {split.rows:,}",
        *(_pair_lines(split) if split.rule else []),
        f"  usable      {split.usable:,}",
        f"  prompts     {split.prompts:,} distinct",
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


def _pair_lines(split: SplitDescription) -> list[str]:
    """How the rule turned several responses into pairs, and what it made none of."""
    if split.rule == ALONE:
        bad = split.usable - split.good
        return [f"  marks       {split.good:,} good and {bad:,} bad, learnt from one by one (task.pairs: {ALONE})"]
    return [
        f"  pairs       {split.pairs:,} by the rule '{split.rule}' (task.pairs), unreadable rows counted as one",
        *(f"    {count:>9,}  {what}" for what, count in split.left_out.items()),
    ]


def _sample_lines(example: Preference) -> list[str]:
    texts = zip(("prompt", "first", "second"), (prompt_text(example.prompt), *example.responses), strict=False)
    shown = [f"    {name:<8}{_excerpt(text)}" for name, text in texts]
    alone = "good" if example.label == 1 else "bad"
    said = alone if example.second is None else f"first preferred with probability {example.label:g}"
    return [f"  example {example.id}, {said}", *shown]


def _excerpt(text: str) -> str:
    flat = " ".join(text.split())
    return _printable(flat if len(flat) <= _EXCERPT else f"{flat[: _EXCERPT - 1]}…")


def _printable(text: str) -> str:
    # an escape sequence in someone's data must not reach the terminal
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
