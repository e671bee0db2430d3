"""A user's preference data set, loaded: every usable comparison, and a count of everything that is not one."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from goodhart.errors import GoodhartError
from goodhart.tasks.data_source import Source, find_source, read_rows
from goodhart.tasks.preference import Preference, content_id, prompt_text
from goodhart.tasks.preference_layouts import (
    Comparison,
    Layout,
    Row,
    Unusable,
    named_layout,
    recognised_layout,
    with_verdict,
)


@dataclass(frozen=True, slots=True)
class Loaded:
    """One split of a data set: `rows` rows are `examples`, or counted by reason in `filtered`.

    Ties stay among the examples, with label 0.5; so do duplicates, which are rows whose prompt, responses
    and label all stood in an earlier row.
    """

    source: str
    split: str
    layout: str
    columns: tuple[str, ...]
    rows: int
    examples: tuple[Preference, ...]
    filtered: Mapping[str, int]
    ties: int
    duplicates: int
    digest: str
    """BLAKE2b of the examples' ids, whatever their order: the same comparisons give the same digest."""


def load_preferences(
    name: str | Path,
    *,
    split: str | None = None,
    layout: str | None = None,
    subset: str | None = None,
    revision: str | None = None,
    cache: Path | None = None,
) -> Loaded:
    """One split of a file, folder or Hub data set (`subset` is the Hub's configuration name, `revision` its commit).

    Without a `split` it is the only one, or `train`; without a `layout` it is recognised from the columns.
    Hub data goes into the `datasets` cache `cache`, or into the user's own.
    Raises GoodhartError if anything is missing or malformed, if the split is empty, or if every row of it
    is filtered.
    """
    source = find_source(name, subset, revision)
    loaded = load_split(source, source.chosen_split(split), layout, cache)
    if not loaded.examples:
        reasons = "; ".join(f"{reason}: {count}" for reason, count in loaded.filtered.items())
        raise GoodhartError(
            f"none of the {loaded.rows} rows in split {loaded.split!r} of {loaded.source} is usable ({reasons})",
            f"mend the data, or name another layout than {loaded.layout!r}",
        )
    return loaded


def load_split(source: Source, split: str, layout: str | None = None, cache: Path | None = None) -> Loaded:
    """One split of a source that is already found; unlike `load_preferences` it may come out without examples.

    Raises GoodhartError as `load_preferences` does.
    """
    table = read_rows(source, split, cache)
    if not table.rows:
        others = ", ".join(other for other in source.splits if other != split)
        raise GoodhartError(
            f"split {split!r} of {source.name} is empty; other splits: {others or 'none'}",
            "name another split, or put rows into it",
        )
    form = recognised_layout(table.columns, table.rows) if layout is None else named_layout(layout, table.columns)
    comparisons, reasons = _sift(table.rows, form)
    examples, duplicates = _identified(comparisons)
    ids = "\n".join(sorted(example.id for example in examples))
    return Loaded(
        source=source.name,
        split=split,
        layout=form.name,
        columns=table.columns,
        rows=len(table.rows),
        examples=examples,
        filtered=dict(reasons.most_common()),
        ties=sum(example.label == 0.5 for example in examples),
        duplicates=duplicates,
        digest=hashlib.blake2b(ids.encode(), digest_size=16).hexdigest(),
    )


def _sift(rows: Sequence[Row], layout: Layout) -> tuple[list[Comparison], Counter[str]]:
    comparisons: list[Comparison] = []
    reasons: Counter[str] = Counter()
    for row in rows:
        try:
            comparisons.append(_usable(row, layout))
        except Unusable as reason:
            reasons[str(reason)] += 1
    return comparisons, reasons


def _usable(row: Row, layout: Layout) -> Comparison:
    """The row as a comparison that says something. Raises Unusable with the reason why it does not."""
    for column in layout.columns:
        if row.values.get(column) is None:
            raise Unusable(f"no value in column {column!r}")
    comparison = with_verdict(layout.read(row), row, layout)
    prompt = prompt_text(comparison.prompt)
    if not prompt.strip():
        raise Unusable("empty prompt")
    if not comparison.first.strip() or not comparison.second.strip():
        raise Unusable("empty response")
    if comparison.first == comparison.second:
        raise Unusable("identical responses")
    try:
        "".join((prompt, comparison.first, comparison.second)).encode()
    except UnicodeEncodeError as fault:
        raise Unusable("text that is not valid Unicode (a lone surrogate)") from fault
    return comparison


def _identified(comparisons: Sequence[Comparison]) -> tuple[tuple[Preference, ...], int]:
    """Examples with unique ids, and how many are repetitions: the k-th one of the same content gets "-k"."""
    seen: Counter[str] = Counter()
    examples: list[Preference] = []
    for item in comparisons:
        name = content_id(item.prompt, item.first, item.second, item.label)
        seen[name] += 1
        unique = name if seen[name] == 1 else f"{name}-{seen[name]}"
        examples.append(Preference(unique, item.prompt, item.first, item.second, item.label))
    return tuple(examples), len(examples) - len(seen)
