"""A table in a terminal of any width."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from goodhart.printable import printable
from goodhart.report.grid import NONE, Grid

_INDENT = "  "


@dataclass(frozen=True, slots=True)
class TerminalGrid:
    """A grid as columns where their words have room, else each row as a block of lines; nothing is cut off."""

    grid: Grid
    whole: frozenset[int] = frozenset()
    """Columns that are not broken into lines, beside those of numbers."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """As columns or as blocks; see the class."""
        table = self._table()
        endless = options.update(width=100_000)
        if Measurement.get(console, endless, table).minimum <= options.max_width:
            yield table
        else:
            yield self._blocks()

    def _table(self) -> Table:
        title = Text(printable(self.grid.title)) if self.grid.title else None
        result = Table(title=title, title_justify="left", box=None, pad_edge=False)
        for place, (name, numeric) in enumerate(zip(self.grid.header, self.grid.numeric, strict=True)):
            right = numeric or all(" / " in row[place] for row in self.grid.rows)
            whole = right or place in self.whole
            result.add_column(name, justify="right" if right else "left", overflow="fold", no_wrap=whole)
        for row in self.grid.rows:
            result.add_row(*(Text(printable(cell)) for cell in row))
        return result

    def _blocks(self) -> Text:
        lines = [self.grid.title] if self.grid.title else []
        for first, *rest in self.grid.rows:
            named = zip(self.grid.header[1:], rest, strict=True)
            lines += [first, *(f"{_INDENT}{name} {cell}".rstrip() for name, cell in named if cell not in ("", NONE))]
        return Text(printable("\n".join(lines)), overflow="fold")
