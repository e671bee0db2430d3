"""A table of a page, and how its numbers are written."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

NONE = "–"
"""What stands where there is no number."""
_NUMERIC = re.compile(r"[\d\s.,e+−±\[\]–-]*")


@dataclass(frozen=True)
class Grid:
    """A table of text; columns of numbers are set to the right."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""

    @property
    def numeric(self) -> tuple[bool, ...]:
        """Which columns hold nothing but numbers, intervals and dashes."""
        return tuple(all(_NUMERIC.fullmatch(row[i]) for row in self.rows) for i in range(len(self.header)))

    @property
    def filled(self) -> Grid:
        """The table without the columns in which no row has anything."""
        kept = [i for i in range(len(self.header)) if not self.rows or any(row[i] != NONE for row in self.rows)]
        rows = tuple(tuple(row[i] for i in kept) for row in self.rows)
        return Grid(self.title, tuple(self.header[i] for i in kept), rows, self.note)


def number(value: float | None, digits: int = 3, sign: bool = False) -> str:
    """A number with so many decimals and a true minus sign; a dash for None or NaN."""
    if value is None or not math.isfinite(value):
        return NONE
    return f"{value:{'+' if sign else ''}.{digits}f}".replace("-", "−")


def interval(estimate: float, low: float, high: float, digits: int = 3, sign: bool = False) -> str:
    """`estimate [low, high]`; the estimate alone where the interval is not known."""
    if not math.isfinite(low + high):
        return number(estimate, digits, sign)
    return f"{number(estimate, digits, sign)} [{number(low, digits, sign)}, {number(high, digits, sign)}]"


def duration(seconds: float) -> str:
    """Seconds below two minutes, else minutes, else hours."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def plain(value: Any) -> str:
    """A JSON value in words."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: NONE}[value]
    if isinstance(value, float):
        return f"{value:.10g}"
    if isinstance(value, list):
        return ", ".join(plain(item) for item in value) or "none"
    return str(value) if value != "" else "(empty)"


def flattened(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as (dotted path, value), in their order."""
    result: list[tuple[str, str]] = []
    for name, value in tree.items():
        path = f"{prefix}{name}"
        result += flattened(value, f"{path}.") if isinstance(value, Mapping) and value else [(path, plain(value))]
    return result


def counted(title: str, counts: Mapping[str, int], what: str, note: str = "") -> Grid:
    """Counts, the largest first."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return Grid(title, (what, "number"), tuple((name, f"{n:,}") for name, n in ordered), note)


def listed(names: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
