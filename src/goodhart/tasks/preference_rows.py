"""What a row of preference data is, and how text and chat messages are read from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from goodhart.errors import GoodhartError
from goodhart.tasks.preference import Message

SPOKEN = frozenset(("prompt", "chosen", "rejected", "completion", "instruction"))
"""Columns of layouts that hold text or chat messages."""
Values = Mapping[str, object]
"""A row's values by the names of their columns."""
SPEAKERS = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "model": "assistant"}
"""Who speaks in ShareGPT's `from`, by the roles of chat templates; every other name is a role itself."""


class Unusable(Exception):  # noqa: N818 (no error: such rows are counted)
    """A well-formed row that cannot become a comparison; its message is the reason, which is counted."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a data set, and where it stands ("line 3 of train.jsonl") for whoever must mend it."""

    where: str
    values: Values
    names: Mapping[str, str] = field(default_factory=dict[str, str])
    """What the file calls those columns that have been given the names of a layout's."""

    def named(self, column: str) -> str:
        """A column as the file has it."""
        return self.names.get(column, column)


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a row says, before it gets its id; of a mark there is no second response (see `Preference`)."""

    prompt: str | tuple[Message, ...]
    first: str
    second: str | None
    label: float


def wrong_type(row: Row, column: str, value: object, wanted: str) -> GoodhartError:
    """The error for a value that is not what its layout has in that column."""
    return GoodhartError(
        f"{row.where}: column {row.named(column)!r} holds {type(value).__name__} {_short(value)}, not {wanted}",
        "mend the row, or name another layout",
    )


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def text_of(row: Row, column: str, value: object) -> str:
    """The value as text. Raises GoodhartError if it is something else."""
    if not isinstance(value, str):
        raise wrong_type(row, column, value, "text")
    return value


def _content(row: Row, column: str, value: object) -> str:
    """A message's text; newer chat data writes it as a list of typed parts."""
    if value is None:
        raise Unusable("a message without text")
    if not isinstance(value, list | tuple):
        return text_of(row, column, value)
    parts: list[str] = []
    for part in value:
        if not isinstance(part, Mapping) or part.get("type") != "text":
            raise Unusable("a message with a part that is not text")
        parts.append(text_of(row, column, part.get("text")))
    return "\n".join(parts)


def records_in(value: object) -> object:
    """A list of records; some readers hand it over as one record of equally long lists."""
    if isinstance(value, Mapping) and value and all(isinstance(v, list | tuple) for v in value.values()):
        columns: list[Sequence[object]] = list(value.values())
        return [dict(zip(value, record, strict=True)) for record in zip(*columns, strict=True)]
    return value


def messages_in(row: Row, column: str) -> tuple[Message, ...]:
    """A column's chat messages, each {role, content} or ShareGPT's {from, value}; a message alone is a list of one.

    Raises GoodhartError for anything else, and Unusable for a message that is not text.
    """
    value = records_in(row.values.get(column))
    if isinstance(value, Mapping):
        return (_message(row, column, value),)
    if not isinstance(value, list | tuple):
        raise wrong_type(row, column, value, "a list of chat messages")
    return tuple(_message(row, column, turn) for turn in value)


def are_messages(value: object) -> bool:
    """Whether a value is a chat message, or a list of them."""
    turns = value if isinstance(value, list | tuple) else [value]
    forms = ({"role", "content"}, {"from", "value"})
    return bool(turns) and all(isinstance(turn, Mapping) and any(form <= set(turn) for form in forms) for turn in turns)


def _message(row: Row, column: str, turn: object) -> Message:
    if isinstance(turn, Mapping):
        if {"role", "content"} <= set(turn):
            return Message(text_of(row, column, turn["role"]), _content(row, column, turn["content"]))
        if {"from", "value"} <= set(turn):
            speaker = text_of(row, column, turn["from"])
            return Message(SPEAKERS.get(speaker, speaker), _content(row, column, turn["value"]))
    raise wrong_type(row, column, turn, "a chat message with role and content, or from and value")


def prompt_in(row: Row, column: str) -> str | tuple[Message, ...]:
    """A column's prompt: text as it stands, or chat messages. Raises as `messages_in` does."""
    value = row.values.get(column)
    return value if isinstance(value, str) else messages_in(row, column)
