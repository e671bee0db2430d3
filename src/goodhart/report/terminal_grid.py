"""A table in a terminal of any width."""

from __future__ import annotations

from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from goodhart.printable import printable
from goodhart.report.grid import NONE, Grid

_INDENT = "  "
_BETWEEN = 2
"""Spaces between columns."""
_WORD = 24
"""A longer word is broken where there is little room."""


@dataclass(frozen=True, slots=True)
class TerminalGrid:
    """A grid as columns where their words have room, else each row as a block of lines; nothing is cut off."""

    grid: Grid
    whole: frozenset[int] = frozenset()
    """Columns that are not broken into lines, beside those of numbers."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """As columns or as blocks; see the class."""
        yield self._table() if self._least <= options.max_width else self._blocks()

    @property
    def _least(self) -> int:
        """The width that it needs as columns."""
        widths: list[int] = []
        for place, cells in enumerate(zip(self.grid.header, *self.grid.rows, strict=True)):
            if self._is_whole(place):
                widths.append(max(cell_len(printable(cell)) for cell in cells))
            else:
                words = [cell_len(printable(word)) for cell in cells for word in cell.split()]
                widths.append(min(max(words, default=0), _WORD))
        return sum(widths) + _BETWEEN * (len(widths) - 1)

    def _is_right(self, place: int) -> bool:
        return self.grid.numeric[place] or all(" / " in row[place] for row in self.grid.rows)

    def _is_whole(self, place: int) -> bool:
        return self._is_right(place) or place in self.whole

    def _table(self) -> Table:
        title = Text(printable(self.grid.title)) if self.grid.title else None
        result = Table(title=title, title_justify="left", box=None, pad_edge=False)
        for place, name in enumerate(self.grid.header):
            justify = "right" if self._is_right(place) else "left"
            result.add_column(name, justify=justify, overflow="fold", no_wrap=self._is_whole(place))
        for row in self.grid.rows:
            result.add_row(*(Text(printable(cell)) for cell in row))
        return result

    def _blocks(self) -> Text:
        lines = [self.grid.title] if self.grid.title else []
        for first, *rest in self.grid.rows:
            named = zip(self.grid.header[1:], rest, strict=True)
            lines += [first, *(f"{_INDENT}{name} {cell}".rstrip() for name, cell in named if cell not in ("", NONE))]
        return Text(printable("\n".join(lines)), overflow="fold")
