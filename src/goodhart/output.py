"""What commands write on standard output: lines for people, and JSON for programs."""

from __future__ import annotations

import json
import math
import os
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from goodhart.printable import printable

if TYPE_CHECKING:
    from rich.console import Console

PAGE = 80
"""Columns of text where there is no terminal that has a width."""
_ROOM = 28
"""Columns that a meaning has beside its name at least, else it stands below it."""
_ENDLESS = 100_000
"""Columns of a table where there is no terminal: a row stays a line, which other programs read."""


def console(*, quiet: bool = False) -> Console:
    """Standard output: no escape sequences in a pipe, and no colours or bold letters where NO_COLOR is set."""
    from rich.console import Console

    plain = bool(os.environ.get("NO_COLOR"))
    result = Console(
        soft_wrap=True,
        markup=False,  # names are no markup
        emoji=False,
        quiet=quiet,
        color_system=None if plain else "auto",
    )
    if not result.is_terminal and not os.environ.get("COLUMNS"):
        result.width = _ENDLESS
    return result


def page_width(given: Console) -> int:
    """Columns of text that is to be read: those of the terminal or of COLUMNS, else 80."""
    return min(given.width, PAGE) if given.width == _ENDLESS else given.width


def paragraphs(meanings: Mapping[str, str], width: int, indent: int = 0) -> Sequence[str]:
    """Names with their meanings beside them, or below them where that leaves little room, in lines of a width."""
    left = indent + 2 + max(map(len, meanings), default=0)
    beside = width - left >= _ROOM
    start = left if beside else indent + 4
    lines: list[str] = []
    for name, meaning in meanings.items():
        head = f"{' ' * indent}{name}"
        wrapped = textwrap.wrap(meaning, max(width - start, 8), break_on_hyphens=False) or [""]
        if beside:
            lines.append(f"{head.ljust(start)}{wrapped.pop(0)}".rstrip())
        else:
            lines.append(head)
        lines += [f"{' ' * start}{line}" for line in wrapped if line]
    return lines


def say(given: Console, sentence: str) -> None:
    """A line on the screen: names in it are no markup and no escape sequences."""
    given.print(printable(sentence), highlight=False)
    given.file.flush()


def write_json(document: Mapping[str, Any]) -> None:
    """One JSON document on standard output, in ASCII; see `json_data`."""
    sys.stdout.write(json.dumps(json_data(document), indent=1, allow_nan=False) + "\n")
    sys.stdout.flush()


def json_data(value: Any) -> Any:
    """Dataclasses, arrays, tuples and paths as JSON has them: NaN and infinities are null, a key (a, b) is `a/b`."""
    if is_dataclass(value) and not isinstance(value, type):
        return {each.name: json_data(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, Mapping):
        return {"/".join(key) if isinstance(key, tuple) else str(key): json_data(each) for key, each in value.items()}
    if isinstance(value, str | Path):
        return str(value)
    if isinstance(value, Sequence):
        return [json_data(each) for each in value]
    listed = getattr(value, "tolist", None)
    if listed is not None:
        return json_data(listed())
    return None if isinstance(value, float) and not math.isfinite(value) else value
