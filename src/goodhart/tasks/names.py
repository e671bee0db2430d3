"""The `names` task: an object's name in words, from what its docstring says about it."""

from __future__ import annotations

import re

from goodhart.tasks.docstrings import Docstring

FEWEST, MOST = 2, 6
"""Words of a usable name. One word alone is either in the text already or a guess."""
_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z0-9])(?=[A-Z][a-z])")
"""Where camel case begins a word: behind a small letter, and at the last capital of an acronym or behind a digit."""


def name_words(name: str) -> list[str]:
    """The last component of a qualified name, cut at underscores and camel case, in lower case.

    `BaseEventLoop.set_exception_handler` is set, exception, handler; `_HTTPServer` is http, server; digits stay
    with the letters before them.
    """
    last = name.rpartition(".")[2]
    return [word.lower() for part in last.split("_") for word in _HUMP.split(part) if word]


def mentions(text: str, words: list[str]) -> bool:
    """Whether the text spells the words as one identifier, in any case, with underscores or without.

    The words with spaces between them do not count: to find them in the text is the task.
    """
    return "".join(words) in text.lower().replace("_", "")


def name_example(item: Docstring) -> tuple[str, str] | str:
    """(summary line and body, name in words), or the reason why the object is left out."""
    last = item.name.rpartition(".")[2]
    if last.startswith("__") and last.endswith("__"):
        return "name is special (two underscores on both sides)"
    if not last.isascii() or not any(c.isalpha() for c in last):
        return "name without letters or not ASCII"
    words, text = name_words(item.name), f"{item.summary}\n{item.body}"
    if not FEWEST <= len(words) <= MOST:
        return "name of one word" if len(words) < FEWEST else f"name of more than {MOST} words"
    if mentions(text, words):
        return "name stands in the text"
    return text, " ".join(words)
