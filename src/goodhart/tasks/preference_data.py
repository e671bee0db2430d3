"""A user's preference data set, read: every usable comparison or mark, and a count of everything that is none."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from goodhart.errors import GoodhartError
from goodhart.tasks.data_source import Rows, Say, Source, find_source, read_rows, told, unheard
from goodhart.tasks.examples import Examples, stored
from goodhart.tasks.pair_rules import ALONE, RULES, Rule
from goodhart.tasks.preference import prompt_text
from goodhart.tasks.preference_layouts import MARKS, Layout, named_layout, recognised_layout, with_verdict
from goodhart.tasks.preference_rows import Comparison, Row, Unusable
from goodhart.tasks.several_responses import (
    Alike,
    Graded,
    by_prompt,
    comparisons,
    lone_marks,
    mostly_alone,
    read_mark,
)

_LONE = (
    f"with task.pairs={ALONE} (--pairs {ALONE}) the golden model learns from the marks themselves; else give prompts "
    f"both a good and a bad response"
)


@dataclass(frozen=True, slots=True)
class Loaded:
    """One split of a data set: its rows make `pairs` comparisons, which are `examples`, or counted in `filtered`.

    A row makes one, except where it has several responses: there a rule makes them, and what it makes none of is
    counted in `left_out`. By the rule `ALONE` the examples are marks, and so are `pairs`. A row that cannot be read as
    comparisons counts as one that is filtered. Ties stay among the examples, with label 0.5; so do duplicates, which
    are comparisons whose prompt, responses and label all stood in an earlier one.
    """

    source: str
    split: str
    layout: str
    columns: tuple[str, ...]
    rows: int
    pairs: int
    rule: Rule | Literal[""]
    """By which rule rows of several responses became pairs; empty for other layouts."""
    examples: Examples = field(compare=False)
    filtered: Mapping[str, int]
    left_out: Mapping[str, int]
    ties: int
    duplicates: int
    digest: str
    """BLAKE2b of the examples' ids, whatever their order: the same comparisons give the same digest."""

    @property
    def unit(self) -> str:
        """What the examples are, in a word."""
        return "marks" if self.rule == ALONE else "pairs"


def load_preferences(
    name: str | Path,
    *,
    split: str | None = None,
    layout: str | None = None,
    subset: str | None = None,
    revision: str | None = None,
    cache: Path | None = None,
    columns: Mapping[str, str] | None = None,
    rule: Rule | None = None,
    say: Say = unheard,
) -> Loaded:
    """One split of a file, folder or Hub data set (`subset` is the Hub's configuration name, `revision` its commit).

    Without a `split` it is the only one, or `train`; without a `layout` it is recognised from the columns. `columns`
    says of a layout's columns what the data call them, and `rule` how rows of several responses become pairs; without
    it marks become none where most of them have no partner, and all else the best and the worst. Hub data goes into the
    `datasets` cache `cache`, or into the user's own. `say` is told how far it has come.
    Raises GoodhartError if anything is missing or malformed, if the split is empty, if every row of it is filtered, or
    if it has marks of one kind alone.
    """
    source = find_source(name, subset, revision)
    loaded = load_split(source, source.chosen_split(split), layout, cache, columns, rule, say)
    if not loaded.examples:
        reasons = "; ".join(f"{reason}: {count}" for reason, count in loaded.filtered.items())
        raise GoodhartError(
            f"none of the {loaded.rows} rows in split {loaded.split!r} of {loaded.source} is usable ({reasons})",
            _LONE
            if loaded.layout == MARKS and loaded.rule != ALONE
            else f"mend the data, or name another layout than {loaded.layout!r}",
        )
    marks = {example.label for example in loaded.examples}
    if loaded.rule == ALONE and len(marks) == 1:
        mark, other = ("good", "bad") if marks == {1.0} else ("bad", "good")
        raise GoodhartError(
            f"all {len(loaded.examples):,} usable marks in split {loaded.split!r} of {loaded.source} say {mark!r}",
            f"a judge learns from both what is good: add responses that are {other}",
        )
    return loaded


def load_split(
    source: Source,
    split: str,
    layout: str | None = None,
    cache: Path | None = None,
    columns: Mapping[str, str] | None = None,
    rule: Rule | None = None,
    say: Say = unheard,
) -> Loaded:
    """One split of a source that is already found; unlike `load_preferences` it may come out without examples.

    Raises GoodhartError as `load_preferences` does.
    """
    table = read_rows(source, split, cache, columns, say)
    if not table.number:
        others = ", ".join(other for other in source.splits if other != split)
        raise GoodhartError(
            f"split {split!r} of {source.name} is empty; other splits: {others or 'none'}",
            "name another split, or put rows into it",
        )
    known = table.read_as, table.columns
    form = recognised_layout(known[0], table.first, known[1]) if layout is None else named_layout(layout, *known)
    if rule == ALONE and form.name != MARKS:
        raise GoodhartError(
            f"pairs is {rule!r}, and layout {form.name!r} of {source.name} has no marks",
            "leave pairs out, or name another rule",
        )
    if rule not in (None, RULES[0]) and not form.several:
        raise GoodhartError(
            f"pairs is {rule!r}, and layout {form.name!r} of {source.name} has one pair in each row", "leave pairs out"
        )
    rule = rule or (ALONE if form.name == MARKS and mostly_alone(table) else RULES[0])
    counted = _Counted(Counter(), Counter())
    examples = stored(_usable_of(_same_rows(table, source.name, say), form, rule, counted))
    return Loaded(
        source=source.name,
        split=split,
        layout=form.name,
        columns=table.columns,
        rows=table.number,
        pairs=len(examples) + counted.reasons.total(),
        rule=rule if form.several else "",
        examples=examples,
        filtered=dict(counted.reasons.most_common()),
        left_out={what: number for what, number in counted.left_out.most_common() if number},
        ties=examples.ties,
        duplicates=examples.duplicates,
        digest=examples.digest,
    )


def _same_rows(table: Rows, name: str, say: Say) -> Iterator[Row]:
    """The rows, read again. Raises GoodhartError if they are not as many as before."""
    number = 0
    for row in told(table, "rows read", table.number, say):
        number += 1
        yield row
    if number != table.number:
        raise GoodhartError(f"{name} has changed while it was read", "run the command again")


@dataclass(frozen=True, slots=True)
class _Counted:
    """Why comparisons are not usable, and what no comparison was made of."""

    reasons: Counter[str]
    left_out: Counter[str]


def _usable_of(rows: Iterable[Row], layout: Layout, rule: Rule, counted: _Counted) -> Iterator[Comparison]:
    """The usable comparisons or marks of some rows, counting all others."""
    if layout.name == MARKS:
        layout, rows = (replace(layout, read=read_mark), rows) if rule == ALONE else (layout, by_prompt(rows))
    for row in rows:
        try:
            made = _made(row, layout, rule, counted.left_out)
        except Unusable as reason:
            counted.reasons[str(reason)] += 1
            if layout.name == MARKS and isinstance(reason, Alike):  # which no mark alone is
                counted.left_out.update(lone_marks(row))
            continue
        for comparison in made:
            try:
                usable = _usable(with_verdict(comparison, row, layout))
            except Unusable as reason:
                counted.reasons[str(reason)] += 1
                continue
            yield usable


def _made(row: Row, layout: Layout, rule: Rule, left_out: Counter[str]) -> list[Comparison]:
    """The comparisons that a row says, counting what it leaves out. Raises Unusable if it says none."""
    for column in layout.columns:
        if row.values.get(column) is None:
            raise Unusable(f"no value in column {row.named(column)!r}")
    content = layout.read(row)
    if not isinstance(content, Graded):
        return [content]
    made = comparisons(content, rule)
    left_out["pairs of responses that the rule does not make"] += math.comb(len(content.responses), 2) - len(made)
    left_out["responses that nobody has graded"] += content.ungraded
    return made


def _usable(comparison: Comparison) -> Comparison:
    """The comparison if it says something. Raises Unusable with the reason why it does not."""
    prompt = prompt_text(comparison.prompt)
    if not prompt.strip():
        raise Unusable("empty prompt")
    responses = [comparison.first] if comparison.second is None else [comparison.first, comparison.second]
    if not all(response.strip() for response in responses):
        raise Unusable("empty response")
    if comparison.first == comparison.second:
        raise Unusable("identical responses")
    try:
        "".join((prompt, *responses)).encode()
    except UnicodeEncodeError as fault:
        raise Unusable("text that is not valid Unicode (a lone surrogate)") from fault
    return comparison
