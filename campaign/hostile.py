"""Texts and values that data, study files and models of others may hold, drawn by a generator."""

from __future__ import annotations

import random
from typing import Any

SCRIPT = "<script>alert(1)</script>"
TEXTS = (
    "",
    " ",
    "\n\n",
    "\x00",
    "a\x00b",
    "\x1b[31mred\x1b[0m",
    "\x1b]0;title\x07",
    "\x9b31m",
    "\r\roverwritten",
    "\x08\x08\x08",
    SCRIPT,
    "<img src=x onerror=alert(1)>",
    "</style></title><svg/onload=alert(1)>",
    "{{ 7 * 7 }}{% for x in y %}",
    "{0.__class__}%s%n",
    "[bold]x[/bold][/]",
    "[link=http://localhost]x[/link]",
    "$\\frac{$_{^",
    "\ud800",
    "\udfff\ud800",
    "\u202eright to left",
    "\ufeffbom",
    "\u2028\u2029\x85",
    "e" + "\u0301" * 50,
    "💥" * 20,
    "<|endoftext|>",
    "<s></s>",
    "\n\nHuman: hi\n\nAssistant:",
    "../../../etc/passwd",
    "/etc/passwd",
    "C:\\con",
    "~root",
    "null",
    "NaN",
    "1e999",
    "-" * 5,
    "=cmd|' /C calc'!A0",
    "a" * 5000,
    "no/such-thing",
    "__class__",
    "{}",
    "- [",
)
NUMBERS = (0, -1, 1, 2, 0.5, -0.0, 1e-320, 1e308, 2**31, 2**63, -(2**64), 10**30, float("nan"), float("inf"), 10**400)


def text(draw: random.Random) -> str:
    """One of the texts, or two, or characters at random."""
    kind = draw.random()
    if kind < 0.7:
        return draw.choice(TEXTS)
    if kind < 0.9:
        return draw.choice(TEXTS) + draw.choice(TEXTS)
    return "".join(chr(draw.choice((draw.randrange(128), draw.randrange(0xD7FF)))) for _ in range(draw.randrange(40)))


def value(draw: random.Random, depth: int = 0) -> Any:
    """Anything that JSON or YAML can write."""
    kind = draw.random()
    if kind < 0.45 or depth > 3:
        return text(draw)
    if kind < 0.65:
        return draw.choice(NUMBERS)
    if kind < 0.75:
        return draw.choice((None, True, False))
    if kind < 0.85:
        return [value(draw, depth + 1) for _ in range(draw.randrange(4))]
    if kind < 0.97:
        keys = (text, lambda d: d.choice(("role", "content", "text", "type", "prompt", "name")))
        return {draw.choice(keys)(draw): value(draw, depth + 1) for _ in range(draw.randrange(4))}
    return deep(draw.choice((10, 200)))


def deep(levels: int) -> Any:
    """A list in a list in a list."""
    found: Any = "bottom"
    for _ in range(levels):
        found = [found]
    return found


def changed(draw: random.Random, data: Any) -> Any:
    """A copy of nested data in which one place, at any depth, is gone, renamed, doubled or something else."""
    if isinstance(data, dict) and data and draw.random() < 0.8:
        key = draw.choice(list(data))
        how = draw.random()
        if how < 0.55:
            return {**data, key: changed(draw, data[key])}
        if how < 0.7:
            return {k: v for k, v in data.items() if k != key}
        if how < 0.8:
            return {**{k: v for k, v in data.items() if k != key}, misspelt(draw, str(key)): data[key]}
        if how < 0.9:
            return {**data, text(draw): value(draw)}
        return {**data, key: value(draw)}
    if isinstance(data, list) and data and draw.random() < 0.8:
        place = draw.randrange(len(data))
        how = draw.random()
        if how < 0.7:
            return [*data[:place], changed(draw, data[place]), *data[place + 1 :]]
        return [*data[:place], *data[place + (how < 0.85) :], *data[:place]]
    return value(draw)


def misspelt(draw: random.Random, word: str) -> str:
    """A word with one letter gone or one that is wrong."""
    if not word:
        return "x"
    place = draw.randrange(len(word))
    return word[:place] + draw.choice(("", "x", word[place].upper(), "\u0430")) + word[place + 1 :]


def spoilt(draw: random.Random, data: bytes) -> bytes:
    """Bytes with a few of them changed, gone or added."""
    place = draw.randrange(len(data) + 1)
    how = draw.randrange(6)
    if how == 0:
        return data[:place]
    if how == 1:
        return data[:place] + bytes([draw.randrange(256)]) + data[place + 1 :]
    if how == 2:
        return data[:place] + draw.choice((b"\xff\xfe", b"\x80", b"\xed\xa0\x80", b"\x00", b"\xc3(")) + data[place:]
    if how == 3:
        return data[:place] + data[place:] * 2
    if how == 4:
        return draw.choice((b"\xef\xbb\xbf", b"\xff\xfe", b"\x1f\x8b", b"PAR1", b"{", b"[")) + data
    return bytes(draw.randrange(256) for _ in range(draw.randrange(200)))
