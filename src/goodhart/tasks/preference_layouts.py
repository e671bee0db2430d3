"""The layouts in which preference data sets come, and which of them some data have."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from goodhart.errors import GoodhartError
from goodhart.tasks.pair_layouts import (
    WINNERS,
    read_battle,
    read_chat,
    read_dialogue,
    read_sharegpt,
    read_text,
    read_tldr,
)
from goodhart.tasks.preference_rows import Comparison, Row
from goodhart.tasks.several_responses import (
    Graded,
    read_marks,
    read_ranking,
    read_ranks,
    read_ratings,
    read_ultrafeedback,
)


@dataclass(frozen=True, slots=True)
class Layout:
    """A known layout: its columns, in words, and the function that reads a row."""

    name: str
    columns: tuple[str, ...]
    summary: str
    read: Callable[[Row], Comparison | Graded]
    several: bool = False
    """Whether a prompt has several responses, which a rule turns into comparisons of two."""


_PAIR = ("chosen", "rejected")
MARKS = "marks"
"""The layout of responses that stand alone: read together, prompt by prompt, or, by the rule `ALONE`, one by one."""
LAYOUTS = {
    layout.name: layout
    for layout in (
        Layout("text", ("prompt", *_PAIR), "prompt, chosen, rejected as plain text", read_text),
        Layout("chat", ("prompt", *_PAIR), "prompt, chosen, rejected as lists of {role, content}", read_chat),
        Layout("implicit-chat", _PAIR, "chosen, rejected as whole conversations of {role, content}", read_chat),
        Layout("dialogue", _PAIR, "chosen, rejected as 'Human: … Assistant: …' strings (Anthropic HH)", read_dialogue),
        Layout("tldr", ("info", "summaries", "choice"), "info, summaries, choice (OpenAI TL;DR)", read_tldr),
        Layout(
            "battle",
            ("conversation_a", "conversation_b", "winner"),
            "conversation_a, conversation_b, winner (Chatbot Arena)",
            read_battle,
        ),
        Layout(
            "sharegpt",
            ("conversations", *_PAIR),
            "conversations, chosen, rejected of {from, value} (ShareGPT)",
            read_sharegpt,
        ),
        Layout(
            "ranks",
            ("prompt", "responses", "ranks"),
            "prompt, responses, ranks (one for each, the smallest is best)",
            read_ranks,
            several=True,
        ),
        Layout(
            "ranking",
            ("prompt", "responses", "ranking"),
            "prompt, responses, ranking (their places from 0, the best one's first)",
            read_ranking,
            several=True,
        ),
        Layout(
            "ratings",
            ("prompt", "responses", "ratings"),
            "prompt, responses, ratings (one for each, the highest is best)",
            read_ratings,
            several=True,
        ),
        Layout(
            "ultrafeedback",
            ("instruction", "completions"),
            "instruction, completions of {response, overall_score} (UltraFeedback)",
            read_ultrafeedback,
            several=True,
        ),
        Layout(
            MARKS,
            ("prompt", "completion", "label"),
            "prompt, completion, label (true or false, of one response)",
            read_marks,
            several=True,
        ),
    )
}
"""Every layout by its name."""
VERDICTS = ("label", "winner", "preference", "tie")
"""Columns that may say, beside a layout's own, that neither response is better."""
SUPERVISION = (*VERDICTS, "choice", "score", "rating", "reward", "margin", "better", "rank", "ranking")
"""Columns by whose names a person may think that they decide which response is better; other endings count as well."""
COLUMNS = frozenset(column for layout in LAYOUTS.values() for column in layout.columns) | frozenset(VERDICTS)
"""Every column that is read."""
TELLING = ("chosen", "prompt")
"""Columns by whose first values layouts of the same columns are told apart."""
_TIES = {tie for tie, label in WINNERS.items() if label == 0.5} | {"ties", "tied", "draw", "equal", "both", "neither"}
_ALIKE = {
    "prompt": ("question", "instruction", "query", "input", "user", "problem", "context"),
    "chosen": ("best", "better", "good", "preferred", "accepted", "positive", "winner", "win", "response_chosen"),
    "rejected": ("worst", "worse", "bad", "dispreferred", "refused", "negative", "loser", "lose", "response_rejected"),
}
"""What columns of pairs are called elsewhere."""


def with_verdict(comparison: Comparison, row: Row, layout: Layout) -> Comparison:
    """The comparison with what a column beside the layout's says of it: a tie, which no mark alone is.

    Raises GoodhartError where such a column names the response as the better one that the layout calls the worse.
    """
    for column in VERDICTS:
        if column in layout.columns or comparison.second is None:
            continue
        value = row.values.get(column)
        word = value.strip().casefold() if isinstance(value, str) else ""
        if word in _TIES or (column == "tie" and value is True) or (isinstance(value, float) and value == 0.5):
            return replace(comparison, label=0.5)
        if word == "rejected" and "rejected" in layout.columns:
            raise GoodhartError(
                f"{row.where}: column {column!r} says 'rejected', and the response in 'rejected' is the worse one",
                "exchange the two responses, or rename the column",
            )
    return comparison


def unread_verdicts(columns: Sequence[str], layout: Layout) -> tuple[str, ...]:
    """Columns that sound as if they decided which response is better, and are not the layout's."""

    def sounds(column: str) -> bool:
        words = column.casefold().replace("-", "_").split("_")
        return any(word.removesuffix("s") in SUPERVISION for word in words)

    return tuple(column for column in columns if sounds(column) and column not in layout.columns)


def named_layout(name: str, columns: Sequence[str], seen: Sequence[str] | None = None) -> Layout:
    """The layout of that name. Raises GoodhartError if there is none, or if the data lacks a column of it.

    `seen` are the columns as the file has them, where some have been given other names.
    """
    if name not in LAYOUTS:
        raise GoodhartError(f"unknown data layout {name!r}", f"choose one of {', '.join(LAYOUTS)}")
    missing = [column for column in LAYOUTS[name].columns if column not in columns]
    if missing:
        raise GoodhartError(
            f"column {missing[0]!r} of layout {name!r} is missing; columns found: {', '.join(seen or columns)}",
            f"say which column it is ({_spelled({missing[0]: '...'})}), or name another layout",
        )
    return LAYOUTS[name]


def recognised_layout(columns: Sequence[str], first: Mapping[str, object], seen: Sequence[str] | None = None) -> Layout:
    """The layout that fits the columns and the first values in `TELLING` ones. Raises GoodhartError if none does.

    `seen` is as in `named_layout`.
    """
    for name in ("battle", "tldr", "sharegpt"):
        if set(LAYOUTS[name].columns) <= set(columns):
            return LAYOUTS[name]
    if not set(_PAIR) <= set(columns):
        layouts = [each for each in LAYOUTS.values() if each.several and set(each.columns) <= set(columns)]
        if not layouts:
            raise _unknown(columns, seen or columns)
        return layouts[0]
    chosen, prompt = (first.get(column) for column in TELLING)
    if isinstance(chosen, str):
        return LAYOUTS["dialogue" if prompt is None else "text"]
    return LAYOUTS["implicit-chat" if prompt is None or isinstance(prompt, str) else "chat"]


def _unknown(columns: Sequence[str], seen: Sequence[str]) -> GoodhartError:
    def lacks(layout: Layout) -> list[str]:
        return [column for column in layout.columns if column not in columns]

    near = [layout for layout in LAYOUTS.values() if 0 < len(lacks(layout)) < len(layout.columns)]
    near.sort(key=lambda layout: len(lacks(layout)))
    hint = f" (for layout {near[0].name!r} column {lacks(near[0])[0]!r} is missing)" if near else ""
    known = "; ".join(f"{layout.name}: {layout.summary}" for layout in LAYOUTS.values())
    guess = _guessed(columns)
    example = _spelled(guess or {"prompt": "...", "chosen": "...", "rejected": "..."})
    return GoodhartError(
        f"no known data layout{hint}; columns found: {', '.join(seen) or 'none'}",
        f"{'perhaps' if guess else 'say which columns they are:'} {example}; the layouts are: {known}",
    )


def _guessed(columns: Sequence[str]) -> dict[str, str]:
    """Which columns may be those of pairs; empty unless there is one for each."""
    by_word = {column.casefold(): column for column in reversed(columns)}
    alike = {ours: [by_word[word] for word in (ours, *words) if word in by_word] for ours, words in _ALIKE.items()}
    return {ours: names[0] for ours, names in alike.items() if names[0] != ours} if all(alike.values()) else {}


def _spelled(columns: Mapping[str, str]) -> str:
    """A mapping as a command line has it."""
    return f"--columns {','.join(f'{ours}={theirs}' for ours, theirs in columns.items())}"


def check_columns(columns: Mapping[str, str], seen: Sequence[str]) -> None:
    """Raises GoodhartError for a mapping to names that no layout has, or from columns that the data have not."""
    for ours, theirs in columns.items():
        if ours not in COLUMNS:
            near = difflib.get_close_matches(ours, sorted(COLUMNS), n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"the names are {', '.join(sorted(COLUMNS))}"
            raise GoodhartError(f"columns: no layout has a column {ours!r} (given as {theirs!r})", hint)
        if theirs not in seen:
            near = difflib.get_close_matches(theirs, seen, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "name one of these"
            raise GoodhartError(
                f"columns: {ours!r} is to be {theirs!r}, and the columns found are: {', '.join(seen) or 'none'}", hint
            )
