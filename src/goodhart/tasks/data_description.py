"""What a preference data set holds, for a person who is about to train on it."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

import numpy as np

from goodhart.tasks.data_source import Say, find_source, told, unheard
from goodhart.tasks.pair_rules import ALONE, Rule
from goodhart.tasks.preference import Preference, prompt_text
from goodhart.tasks.preference_data import Loaded, load_split
from goodhart.tasks.preference_layouts import LAYOUTS, unread_verdicts
from goodhart.tasks.preference_tokens import ChatTokenizer, Encoded, Framing, over_limit, tokenise

_SHOWN = 2
_EXCERPT = 160
_HEARD = "of label, winner, preference and tie only a tie is heard"


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
    say: Say = unheard,
) -> DataDescription:
    """Every split of a file, folder or Hub data set, with lengths in characters, and in tokens as a model reads them.

    With a `reading`, what it would filter is counted too; `say` is told how far it has come. Raises GoodhartError as
    `load_preferences` does, except that a split without one usable row is described. `columns` and `rule` are its own.
    """
    source = find_source(name, subset)
    splits = [
        _described(load_split(source, split, layout, cache, columns, rule, say), reading, say)
        for split in source.splits
    ]
    return DataDescription(source.name, tuple(splits))


@dataclass(slots=True)
class _Usable:
    """What is counted of usable comparisons: 8 bytes each."""

    number: int = 0
    ties: int = 0
    good: int = 0
    samples: list[Preference] = field(default_factory=list[Preference])
    prompts: array[int] = field(default_factory=lambda: array("Q"))
    """64 bits of the digest of each one's prompt."""

    def add(self, example: Preference) -> None:
        """Count one."""
        self.number += 1
        self.ties += example.label == 0.5
        self.good += example.label == 1
        self.prompts.append(int.from_bytes(blake2b(prompt_text(example.prompt).encode(), digest_size=8).digest()))
        if self.number <= _SHOWN:
            self.samples.append(example)


@dataclass(slots=True)
class _Measured:
    """How long texts are: 4 bytes each."""

    prompts: array[int] = field(default_factory=lambda: array("i"))
    responses: array[int] = field(default_factory=lambda: array("i"))

    def add(self, prompt: int, *responses: int) -> None:
        """Count one comparison, or one mark."""
        self.prompts.append(prompt)
        self.responses.extend(responses)

    def lengths(self, unit: str) -> tuple[Lengths, ...]:
        """In words for people."""
        return tuple(
            Lengths(what, unit, float(np.median(values)), float(np.percentile(values, 90)), max(values))
            for what, values in (("prompt", self.prompts), ("response", self.responses))
            if values
        )


def _described(loaded: Loaded, reading: Reading | None, say: Say) -> SplitDescription:
    characters, tokens, usable, filtered = _Measured(), _Measured(), _Usable(), Counter(loaded.filtered)
    framing = None if reading is None else Framing.of(reading.template, reading.tokenizer, loaded.layout)
    for example, reason in _read(loaded.examples, reading, framing, tokens, say):
        characters.add(len(prompt_text(example.prompt)), *map(len, example.responses))
        if reason:
            filtered[reason] += 1
        else:
            usable.add(example)
    return SplitDescription(
        name=loaded.split,
        layout=loaded.layout,
        columns=loaded.columns,
        unread=unread_verdicts(loaded.columns, LAYOUTS[loaded.layout]),
        template=framing.words if framing else "",
        rows=loaded.rows,
        rule=loaded.rule,
        pairs=loaded.pairs,
        good=usable.good if loaded.rule == ALONE else 0,
        left_out=loaded.left_out,
        usable=usable.number,
        prompts=len(np.unique(np.array(usable.prompts))),
        ties=usable.ties,
        duplicates=loaded.duplicates,
        filtered=dict(filtered.most_common()),
        lengths=characters.lengths("characters") + tokens.lengths("tokens"),
        samples=tuple(usable.samples),
    )


def _read(
    examples: Sequence[Preference], reading: Reading | None, framing: Framing | None, tokens: _Measured, say: Say
) -> Iterator[tuple[Preference, str | None]]:
    """Each comparison with the reason why it is filtered, counting the lengths of those that have tokens."""
    if reading is None or framing is None:
        yield from ((example, None) for example in examples)
        return
    encoded: Iterable[Encoded | str] = tokenise(examples, reading.tokenizer, framing)
    for example, each in zip(examples, told(encoded, "tokenised", len(examples), say), strict=True):
        if isinstance(each, str):
            yield example, each
            continue
        tokens.add(len(each.prompt), *map(len, each.responses))
        yield example, over_limit(each, reading.max_prompt, reading.max_response)


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
