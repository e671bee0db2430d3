"""A map: hypotheses as tiles, by what differs between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle

from goodhart.analysis.hypotheses import Contrast, Map
from goodhart.analysis.rulings import Decision, Ruling
from goodhart.report import theme
from goodhart.report.grid import NONE, number
from goodhart.report.svg import titled
from goodhart.report.theme import Picture, shown

_SCALE = 0.2
"""The estimate, in win rate, from which on a tile has the full colour."""


def map_picture(name: str, given: Map, rulings: Sequence[Ruling], resolution: int) -> Picture:
    """The first deciding contrast of every hypothesis: its estimate and interval, prediction and verdict."""
    decisions = {ruling.name: _deciding(ruling) for ruling in rulings}
    rows = list(dict.fromkeys(row for own in given.panels.values() for row in own))
    columns = list(dict.fromkeys(c for own in given.panels.values() for row in own.values() for c in row))
    width = max(6.5, 1.0 + len(given.panels) * (0.5 + 1.35 * len(columns)))
    with theme.canvas(width, 1.4 + 0.85 * len(rows)) as figure:
        panels = figure.subplots(1, len(given.panels), squeeze=False, sharey=True)[0]
        for panel, (title, own) in zip(panels, given.panels.items(), strict=True):
            _axes(panel, title, rows, columns, given)
            for y, row in enumerate(rows):
                for x, column in enumerate(columns):
                    hypothesis = own.get(row, {}).get(column)
                    if hypothesis is not None:
                        _tile(panel, x, y, decisions[hypothesis], hypothesis)
        drawn = theme.drawn(figure, resolution)
    caption = (
        f"Each tile is a hypothesis, by {given.rows} and {given.columns}. In it: what was predicted before the run, "
        "the estimate (blue above 0, vermillion below), and its 95% interval. A black frame: decided, after Holm's "
        "correction over all tiles; a tick: as predicted."
    )
    return Picture(theme.file_name("map", name), name[:1].upper() + name[1:], caption, drawn)


def _deciding(ruling: Ruling) -> tuple[Decision, str]:
    decision = next(each for each in ruling.decisions if each.contrast.decides)
    return decision, ruling.verdict


def _axes(panel: Axes, title: str, rows: Sequence[str], columns: Sequence[str], given: Map) -> None:
    panel.set_title(shown(title, 40))
    panel.set_xlim(-0.5, len(columns) - 0.5)
    panel.set_ylim(len(rows) - 0.5, -0.5)
    panel.set_xticks(range(len(columns)), [shown(each) for each in columns])
    panel.set_yticks(range(len(rows)), [shown(each) for each in rows])
    panel.set_xlabel(shown(given.columns, 60))
    panel.set_ylabel(shown(given.rows, 60))
    panel.label_outer()
    panel.grid(visible=False)
    panel.tick_params(length=0)
    for side in panel.spines.values():
        side.set_visible(False)


def _tile(panel: Axes, x: int, y: int, decisions: tuple[Decision, str], hypothesis: str) -> None:
    decision, verdict = decisions
    interval = decision.found.interval
    decided = verdict != "undecided"
    share = 0.0 if interval is None else max(-1.0, min(1.0, interval.estimate / _SCALE))
    edge, width = (theme.INK, 2.2) if decided else (theme.FAINT, 0.8)
    tile = Rectangle((x - 0.46, y - 0.46), 0.92, 0.92, fc=_colour(share), ec=edge, lw=width, zorder=1)
    panel.add_patch(tile)
    middle = NONE if interval is None else number(interval.estimate, 3, sign=True)
    below = "no KL in common" if interval is None else f"[{_end(interval.low)}, {_end(interval.high)}]"
    titled(tile, f"{hypothesis}: {verdict}\npredicted {predicted(decision.contrast)}\nestimate {middle} {below}")
    mark = " ✓" if verdict == "supported" else ""
    panel.text(x, y - 0.26, f"predicted {predicted(decision.contrast)}", ha="center", va="center", fontsize=6.5)
    panel.text(
        x, y + 0.02, middle + mark, ha="center", va="center", fontsize=10, fontweight="bold" if decided else None
    )
    panel.text(x, y + 0.29, below, ha="center", va="center", fontsize=6.5)


def _end(value: float) -> str:
    return number(value, 3, sign=True)


def predicted(contrast: Contrast) -> str:
    """The prediction in a few characters."""
    than = f"{contrast.than:g}"
    by: Mapping[str, str] = {"greater": f"> {than}", "less": f"< {than}", "near": f"within ±{than}", "nothing": NONE}
    return by[contrast.predicted]


def _colour(share: float) -> tuple[float, float, float]:
    """White at 0, towards the theme's blue or vermillion at 1 and -1, light enough for black letters."""
    full = to_rgb(theme.BLUE if share > 0 else theme.VERMILLION)
    depth = 0.6 * abs(share)
    red, green, blue = (1 - depth * (1 - part) for part in full)
    return red, green, blue
