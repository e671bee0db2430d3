"""How figures look: a palette and marks that survive colour blindness and a grey printer."""

from __future__ import annotations

import io
import textwrap
import warnings
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from goodhart.report import svg

INK, FAINT, REFERENCE = "#222222", "#d9d9d9", "#5b5b5b"
BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"
"""Okabe and Ito's palette (2008) without its yellow, which is lost on white paper."""

_COLOURS = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY)
_MARKERS = ("o", "s", "^", "D", "v", "P")
_LINES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 1.5, 1, 1.5)))

_SETTINGS: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.labelcolor": INK,
    "axes.edgecolor": REFERENCE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "hatch.linewidth": 0.6,
    "text.parse_math": False,  # names come from files: a dollar sign is a dollar sign
    "figure.constrained_layout.use": True,
}


@dataclass(frozen=True)
class Style:
    """The marks of one arm in every figure."""

    colour: str
    marker: str
    line: Any
    """A matplotlib line style."""


@dataclass(frozen=True)
class Drawing:
    """The same figure for a file and for a page."""

    png: bytes
    svg: str


@dataclass(frozen=True)
class Picture:
    """A figure that is drawn: a file name, what it shows in words, and its drawing."""

    name: str
    title: str
    caption: str
    drawing: Drawing


def styles(arms: Sequence[str]) -> dict[str, Style]:
    """A style for each arm, by its place in the study file."""
    return {
        arm: Style(_COLOURS[i % len(_COLOURS)], _MARKERS[(i + i // 6) % len(_MARKERS)], _LINES[i % len(_LINES)])
        for i, arm in enumerate(arms)
    }


def shown(name: str, longest: int = 32) -> str:
    """A name for a figure: on one line, cut when long; matplotlib drops names that begin with an underscore.

    What stands for no character (a lone surrogate, at which matplotlib fails) is shown as U+FFFD.
    """
    name = "".join(c if c.isprintable() or c.isspace() else "\ufffd" for c in name)
    short = textwrap.shorten(name, longest, placeholder="…") if " " in name else name
    short = short if len(short) <= longest else f"{short[: longest - 1]}…"
    return f" {short}" if short.startswith("_") else short


def file_name(kind: str, name: str) -> str:
    """A figure's file name: of letters, digits and dashes, and short enough for every file system."""
    return f"{kind}-{''.join(c if c.isalnum() else '-' for c in name)[:40]}"


@contextmanager
def canvas(width: float, height: float, **changes: Any) -> Generator[Figure]:
    """An empty figure of that many inches, drawn with this theme, or with other settings of matplotlib's."""
    settings: dict[Any, Any] = {**_SETTINGS, **changes}
    with mpl.rc_context(settings):
        figure = Figure(figsize=(width, height))
        FigureCanvasAgg(figure)
        yield figure


def png(figure: Figure, resolution: int) -> bytes:
    """The figure as PNG at this many dots per inch, the same bytes for the same figure."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # names in scripts that the font has not
        figure.savefig(buffer, format="png", dpi=resolution, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def drawn(figure: Figure, resolution: int) -> Drawing:
    """The figure for a file, at this many dots per inch, and for a page."""
    file = png(figure, resolution)
    figure.set_layout_engine("none")  # the layout is in shares of the figure, and need not be made again
    return Drawing(file, svg.drawn(figure))


def legend_above(figure: Figure, axes: Axes, columns: int = 6) -> None:
    """One legend for all panels, outside them, so that it covers no data."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside upper center", ncols=min(columns, len(handles)), fontsize=9)
