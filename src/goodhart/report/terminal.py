"""The short result for a terminal."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from goodhart.analysis.interval import Interval
from goodhart.printable import printable
from goodhart.report.findings import MAIN, Findings
from goodhart.report.grid import NONE, Grid, number
from goodhart.report.headline import Headline, headlines
from goodhart.report.hypotheses import ruling_line
from goodhart.report.judges import doubts
from goodhart.report.league import short_grid, unranked_lines
from goodhart.report.tabular import optimum_grid
from goodhart.report.terminal_grid import TerminalGrid
from goodhart.report.unfinished import lacking
from goodhart.report.verdict import gap_line, seeds_note, spelled, spelled_share

_NOTE = "Golden win rates are against the golden policy, on held-out prompts; [95% intervals]."


def terminal_table(findings: Findings) -> RenderableType:
    """Each arm at its peak, then the gap at matched KL and what it means."""
    header = ("arm", "golden win rate", "at KL", "vs SFT", "hidden", "length")
    peaks = Grid(f"{findings.contents.name}: each arm at its peak", header, tuple(map(_row, headlines(findings))))
    optima = (Text(""), TerminalGrid(optimum_grid(findings.contents))) if findings.contents.tabular else ()
    league = (Text(""), TerminalGrid(short_grid(findings.league))) if findings.league and findings.league.places else ()
    return Group(TerminalGrid(peaks), *optima, *league, Text(""), *(Text(printable(line)) for line in _lines(findings)))


def _row(line: Headline) -> tuple[str, ...]:
    golden = spelled_share(line.golden) if line.golden else NONE
    return line.arm, golden, number(line.kl, 1), _mean(line.vs_sft), _mean(line.hidden), number(line.length, 1)


def _mean(interval: Interval | None) -> str:
    return number(interval.estimate) if interval else NONE


def _lines(findings: Findings) -> list[str]:
    result = findings.comparisons(MAIN)
    lines = [gap_line(comparison.gap) for comparison in result]
    for comparison in result:
        if comparison.settings.mean:
            gap = comparison.gap
            equal = spelled(comparison.settings.mean, sign=True)
            lines.append(f"{gap.first} − {gap.second} at equal β and learning rate: {equal}")
    lines += unranked_lines(findings.league) if findings.league else []
    lines += [ruling_line(ruling) for ruling in findings.rulings]
    lines.append(_NOTE)
    note = seeds_note(findings.contents.record["study"]["seeds"])
    notices = [*lacking(findings.contents.unfinished), *doubts(findings.contents.record)]
    return [*lines, *([note] if note else []), *notices]
