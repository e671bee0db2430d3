"""Text of strangers in a terminal."""

from __future__ import annotations


def printable(text: str) -> str:
    r"""The text with what a terminal would obey, or could not show, spelled out: an escape character as `\x1b`.

    New lines stay. Names and labels come from study files and data, so whatever prints them asks this first.
    """
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)
