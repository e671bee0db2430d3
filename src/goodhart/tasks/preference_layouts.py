"""The layouts in which preference data sets come, and how a row of each becomes a comparison."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from goodhart.errors import GoodhartError
from goodhart.tasks.preference import Message

ANSWER = "\n\nAssistant:"
"""Where an answer starts in a dialogue written as one string (Bai et al. 2022, arXiv 2204.05862)."""
QUESTION = "\n\nHuman:"
"""Where the other side's turn starts there."""
TLDR_POST = "SUBREDDIT: r/{subreddit}\n\nTITLE: {title}\n\nPOST: {post}\n\nTL;DR:"
"""The prompt for a Reddit post (Stiennon et al. 2020, arXiv 2009.01325, appendix)."""
TLDR_ARTICLE = "Article:\n\n{article}\n\nTL;DR:"
"""The prompt for a news article in the same data."""
WINNERS = {"model_a": 1.0, "model_b": 0.0} | dict.fromkeys(
    ("tie", "tie (bothbad)", "tie (both bad)", "tie (inconsistent)", "both_bad"), 0.5
)
"""What Chatbot Arena's `winner` says about the first conversation (arXiv 2306.05685)."""


class Unusable(Exception):  # noqa: N818 (no error: such rows are counted)
    """A well-formed row that cannot become a comparison; its message is the reason, which is counted."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a data set, and where it stands ("line 3 of train.jsonl") for whoever must mend it."""

    where: str
    values: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a row says, before it gets its id."""

    prompt: str | tuple[Message, ...]
    first: str
    second: str
    label: float


@dataclass(frozen=True, slots=True)
class Layout:
    """A known layout: its columns, in words, and the function that reads a row."""

    name: str
    columns: tuple[str, ...]
    summary: str
    read: Callable[[Row], Comparison]


def wrong_type(row: Row, column: str, value: object, wanted: str) -> GoodhartError:
    """The error for a value that is not what its layout has in that column."""
    return GoodhartError(
        f"{row.where}: column {column!r} holds {type(value).__name__} {_short(value)}, not {wanted}",
        "mend the row, or name another layout",
    )


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _text(row: Row, column: str, value: object) -> str:
    if not isinstance(value, str):
        raise wrong_type(row, column, value, "text")
    return value


def _content(row: Row, column: str, value: object) -> str:
    """A message's text; newer chat data writes it as a list of typed parts."""
    if value is None:
        raise Unusable("a message without text")
    if not isinstance(value, list | tuple):
        return _text(row, column, value)
    parts: list[str] = []
    for part in value:
        if not isinstance(part, Mapping) or part.get("type") != "text":
            raise Unusable("a message with a part that is not text")
        parts.append(_text(row, column, part.get("text")))
    return "\n".join(parts)


def _records(value: object) -> object:
    """A list of records; some readers hand it over as one record of equally long lists."""
    if isinstance(value, Mapping) and value and all(isinstance(v, list | tuple) for v in value.values()):
        columns: list[Sequence[object]] = list(value.values())
        return [dict(zip(value, record, strict=True)) for record in zip(*columns, strict=True)]
    return value


def _messages(row: Row, column: str) -> tuple[Message, ...]:
    value = _records(row.values.get(column))
    if not isinstance(value, list | tuple):
        raise wrong_type(row, column, value, "a list of chat messages")
    turns: list[Message] = []
    for turn in value:
        if not isinstance(turn, Mapping) or not {"role", "content"} <= set(turn):
            raise wrong_type(row, column, turn, "a chat message with role and content")
        turns.append(Message(_text(row, column, turn["role"]), _content(row, column, turn["content"])))
    return tuple(turns)


def _last_answers(first: tuple[Message, ...], second: tuple[Message, ...]) -> tuple[tuple[Message, ...], str, str]:
    """(common prompt, first answer, second answer) of two conversations that part at their last message."""
    if not first or not second or first[-1].role != "assistant" or second[-1].role != "assistant":
        raise Unusable("a conversation that does not end with an assistant message")
    if first[:-1] != second[:-1]:
        raise Unusable("no common prompt: the conversations part before the last answer")
    return first[:-1], first[-1].content, second[-1].content


def read_text(row: Row) -> Comparison:
    """`prompt`, `chosen` and `rejected` as plain text, taken as they are."""
    values = row.values
    texts = [_text(row, column, values.get(column)) for column in ("prompt", "chosen", "rejected")]
    return Comparison(texts[0], texts[1], texts[2], 1.0)


def read_chat(row: Row) -> Comparison:
    """`chosen` and `rejected` as chat messages, after a `prompt` or with the prompt inside them.

    A prompt that is a list is put before messages that do not begin with it; one that is plain text becomes
    a user turn before a bare answer, and is otherwise only a copy of what the messages hold.
    """
    chosen, rejected = _messages(row, "chosen"), _messages(row, "rejected")
    prompt = row.values.get("prompt")
    if isinstance(prompt, str):
        if len(chosen) == 1:
            user = (Message("user", prompt),)
            chosen, rejected = user + chosen, user + rejected
    elif prompt is not None:
        turns = _messages(row, "prompt")
        chosen, rejected = (
            answer if len(answer) > 1 and answer[: len(turns)] == turns else turns + answer
            for answer in (chosen, rejected)
        )
    return Comparison(*_last_answers(chosen, rejected), label=1.0)


def read_dialogue(row: Row) -> Comparison:
    r"""`chosen` and `rejected` as whole dialogues ("\n\nHuman: … \n\nAssistant: …"), Anthropic HH's layout.

    The prompt is their common beginning, cut after its last "\n\nAssistant:".
    """
    chosen, rejected = (_text(row, column, row.values.get(column)) for column in ("chosen", "rejected"))
    cut = chosen.rfind(ANSWER)
    while cut >= 0 and not rejected.startswith(chosen[: cut + len(ANSWER)]):
        cut = chosen.rfind(ANSWER, 0, cut)
    if cut < 0:
        raise Unusable("no common prompt: the dialogues share no Assistant turn")
    cut += len(ANSWER)
    prompt, first, second = chosen[:cut], chosen[cut:], rejected[cut:]
    if QUESTION in first or QUESTION in second:
        raise Unusable("no common prompt: the dialogues part before the last answer")
    return Comparison(prompt, first, second, 1.0)


def read_tldr(row: Row) -> Comparison:
    """`info`, `summaries` and `choice`: a post or article, two summaries, and the index of the better one.

    A summary gets exactly one space before it, since the prompt ends in "TL;DR:" and the raw texts are not
    consistent in this.
    """
    info, summaries, choice = row.values.get("info"), _records(row.values.get("summaries")), row.values.get("choice")
    if not isinstance(info, Mapping):
        raise wrong_type(row, "info", info, "a record with post or article")
    if not isinstance(summaries, list | tuple) or len(summaries) != 2:
        raise wrong_type(row, "summaries", summaries, "a list of two summaries")
    if choice not in (0, 1):
        raise wrong_type(row, "choice", choice, "0 or 1")
    texts: list[str] = []
    for summary in summaries:
        if not isinstance(summary, Mapping):
            raise wrong_type(row, "summaries", summary, "a record with text")
        texts.append(_text(row, "summaries", summary.get("text")).strip())
    spaced = [f" {text}" if text else "" for text in texts]
    return Comparison(_tldr_prompt(row, info), spaced[0], spaced[1], 1.0 if choice == 0 else 0.0)


def _tldr_prompt(row: Row, info: Mapping[object, object]) -> str:
    if info.get("post"):
        fields = {name: info.get(name) or "" for name in ("subreddit", "title", "post")}
        return TLDR_POST.format(**{name: _text(row, "info", value).strip() for name, value in fields.items()})
    if info.get("article"):
        return TLDR_ARTICLE.format(article=_text(row, "info", info["article"]).strip())
    raise Unusable("no post and no article in column 'info'")


def read_battle(row: Row) -> Comparison:
    """`conversation_a`, `conversation_b` and `winner`, Chatbot Arena's layout.

    The vote is about whole conversations. So one whose earlier answers differ is left out (and counted), and
    its vote is not given to first answers that nobody judged by themselves.
    """
    winner = row.values.get("winner")
    label = WINNERS.get(winner) if isinstance(winner, str) else None
    if label is None:
        raise wrong_type(row, "winner", winner, f"one of {', '.join(WINNERS)}")
    first, second = _messages(row, "conversation_a"), _messages(row, "conversation_b")
    return Comparison(*_last_answers(first, second), label=label)


_PAIR = ("chosen", "rejected")
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
    )
}
"""Every layout by its name."""
VERDICTS = ("label", "winner", "preference", "tie")
"""Columns that may say, beside a layout's own, that neither response is better."""
SUPERVISION = (*VERDICTS, "choice", "score", "rating", "reward", "margin", "better")
"""Columns by whose names a person may think that they decide which response is better; other endings count as well."""
COLUMNS = frozenset(column for layout in LAYOUTS.values() for column in layout.columns) | frozenset(VERDICTS)
"""Every column that is read."""
_TIES = {tie for tie, label in WINNERS.items() if label == 0.5} | {"ties", "tied", "draw", "equal", "both", "neither"}


def with_verdict(comparison: Comparison, row: Row, layout: Layout) -> Comparison:
    """The comparison with what a column beside the layout's says of it: a tie.

    Raises GoodhartError where such a column names the response as the better one that the layout calls the worse.
    """
    for column in VERDICTS:
        if column in layout.columns:
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


def named_layout(name: str, columns: Sequence[str]) -> Layout:
    """The layout of that name. Raises GoodhartError if there is none, or if the data lacks a column of it."""
    if name not in LAYOUTS:
        raise GoodhartError(f"unknown data layout {name!r}", f"choose one of {', '.join(LAYOUTS)}")
    missing = [column for column in LAYOUTS[name].columns if column not in columns]
    if missing:
        raise GoodhartError(
            f"column {missing[0]!r} of layout {name!r} is missing; columns found: {', '.join(columns)}",
            "rename a column, or name another layout",
        )
    return LAYOUTS[name]


def recognised_layout(columns: Sequence[str], rows: Sequence[Row]) -> Layout:
    """The layout that fits the columns and the first values in them. Raises GoodhartError if none does."""
    for name in ("battle", "tldr"):
        if set(LAYOUTS[name].columns) <= set(columns):
            return LAYOUTS[name]
    if not set(_PAIR) <= set(columns):
        raise _unknown(columns)
    chosen, prompt = _first_value(rows, "chosen"), _first_value(rows, "prompt")
    if isinstance(chosen, str):
        return LAYOUTS["dialogue" if prompt is None else "text"]
    return LAYOUTS["implicit-chat" if prompt is None or isinstance(prompt, str) else "chat"]


def _first_value(rows: Sequence[Row], column: str) -> object:
    return next((row.values[column] for row in rows if row.values.get(column) is not None), None)


def _unknown(columns: Sequence[str]) -> GoodhartError:
    def lacks(layout: Layout) -> list[str]:
        return [column for column in layout.columns if column not in columns]

    near = [layout for layout in LAYOUTS.values() if 0 < len(lacks(layout)) < len(layout.columns)]
    hint = f" (for layout {near[0].name!r} column {lacks(near[0])[0]!r} is missing)" if near else ""
    known = "; ".join(f"{layout.name}: {layout.summary}" for layout in LAYOUTS.values())
    return GoodhartError(
        f"no known data layout{hint}; columns found: {', '.join(columns) or 'none'}",
        f"rename the columns to one of these layouts: {known}",
    )
