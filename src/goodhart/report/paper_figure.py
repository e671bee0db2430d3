"""A figure of the paper beside the same figure of this study."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D

from goodhart.errors import GoodhartError
from goodhart.paper import points
from goodhart.paper.points import LOG_KL_ERROR, SOURCE, TASKS, WIN_RATE_ERROR
from goodhart.report import theme
from goodhart.report.findings import MAIN, Findings
from goodhart.report.frontier_figure import draw_arm, draw_baselines, filling_handles, kl_axes
from goodhart.report.grid import listed, number
from goodhart.report.svg import titled
from goodhart.report.theme import Picture, Style, shown

_LETTERS, _MARK = 142, 6
"""Letters in a line of the legend, and those that a mark takes the place of."""
_WORDS = (
    ("offline_Donline_shuffled", "offline, shuffled online stream"),
    ("tandem", "offline, shuffled online stream,"),
    ("D_golden", "original pairs"),
    ("Bo2", "best-of-2"),
)


def paper_picture(
    findings: Findings, figure: str, panels: Sequence[str], series: Mapping[str, str], resolution: int
) -> Picture:
    """The paper's frontier of some tasks (`panels`) beside this study's, the paper's series matched with our arms.

    `series` names this study's arm for each series of the paper that is drawn; the caption says which arms are missing.
    Golden win rate against the golden policy over KL(policy || SFT) in nats, each side on its own axes.

    Raises:
        GoodhartError: the figure has no such panel or series, its x-axis is not KL, or an arm is matched twice.
    """
    look = _styles(findings, series)
    rows, columns = (len(panels) + 1) // 2, min(2, len(panels))
    with theme.canvas(9.6, 1.7 + 2.4 * max(rows, 1.4)) as canvas:
        left, right = canvas.subfigures(1, 2, squeeze=False, width_ratios=(1.0 * columns, 1.3), wspace=0.04)[0]
        grid = left.subplots(rows, columns, squeeze=False).ravel()
        for axes, panel in zip(grid, panels, strict=False):
            _draw_paper(axes, figure, panel, look)
        for axes in grid[len(panels) :]:
            axes.remove()
        _draw_study(right, findings, series, look)
        number = figure.removeprefix("fig")
        _heading(left, f"Tang et al. 2024, Figure {number}", "dots read off the figure")
        _heading(right, f"this study: {shown(findings.contents.name, 40)}", "its own task, models and judge")
        _legend(canvas, findings, series, look)
        drawn = theme.drawn(canvas, resolution)
    caption = f"{_explained(number)} {_missing(findings, figure, panels, series)}".strip()
    return Picture(f"paper-{figure}", f"Beside the paper's Figure {number}", caption, drawn)


def _styles(findings: Findings, matched: Mapping[str, str]) -> dict[str, Style]:
    """A style for each series of the paper: that of our arm, and one that no arm has where the arm is missing."""
    twice = [arm for arm in matched.values() if list(matched.values()).count(arm) > 1]
    if twice:
        raise GoodhartError(f"the arm '{twice[0]}' is matched with two series of the paper", "match each arm once")
    arms = findings.contents.arms
    look = theme.styles((*arms, *(arm for arm in matched.values() if arm not in arms)))
    return {name: look[arm] for name, arm in matched.items()}


def _draw_paper(axes: Axes, figure: str, panel: str, look: Mapping[str, Style]) -> None:
    for name, style in look.items():
        dots = points.series(figure, panel, name)
        (line,) = axes.plot(
            dots.kl, dots.y, style.marker, color=style.colour, ms=4.5, mec="white", mew=0.4, alpha=0.9, clip_on=False
        )
        said = f"the paper's {_words(name)}, {TASKS[panel]}\nread off its figure: "
        titled(
            line,
            each=[
                f"{said}KL {number(kl, 1)} nats, golden win rate {number(y)}"
                for kl, y in zip(dots.kl, dots.y, strict=True)
            ],
        )
    axes.set_title(TASKS[panel])
    axes.set_ylim(bottom=0)
    axes.set_ylabel("golden win rate\nagainst its golden policy")
    kl_axes([axes])


def _draw_study(side: SubFigure, findings: Findings, matched: Mapping[str, str], look: Mapping[str, Style]) -> None:
    axes = side.subplots()
    for name, arm in matched.items():
        draw_arm(axes, findings, MAIN, arm, look[name])
    draw_baselines(axes, findings, MAIN)
    axes.set_ylabel("golden win rate\nagainst this study's golden policy")
    kl_axes([axes])


def _heading(side: SubFigure, name: str, origin: str) -> None:
    side.suptitle(f"{name}\n({origin})", fontsize=10)


def _legend(canvas: Figure, findings: Findings, matched: Mapping[str, str], look: Mapping[str, Style]) -> None:
    labels = {name: _label(name, arm if _measured(findings, arm) else None) for name, arm in matched.items()}
    handles = [
        Line2D([], [], color=look[name].colour, ls="", marker=look[name].marker, label=shown(label, 60))
        for name, label in labels.items()
    ]
    for handle in filling_handles(findings, tuple(matched.values())):
        handle.set_label(f"{handle.get_label()} (right)")
        handles.append(handle)
    handles += [
        Line2D([], [], color=theme.INK, ls="", marker="X", ms=8, mec="white", label="SFT policy (right)"),
        Line2D([], [], color=theme.INK, ls="", marker="*", ms=12, mec="white", label="golden policy (right)"),
    ]
    columns = _columns([len(str(handle.get_label())) for handle in handles])
    canvas.legend(handles=handles, loc="outside upper center", ncols=columns, fontsize=9)


def _columns(letters: Sequence[int]) -> int:
    """As many columns, at most four, as labels of that many letters leave room for."""
    for columns in range(min(4, len(letters)), 1, -1):
        widest = [max(part, default=0) for part in np.array_split(letters, columns)]
        if sum(widest) + _MARK * columns <= _LETTERS:
            return columns
    return 1


def _label(name: str, arm: str | None) -> str:
    if arm is None:
        return f"{_words(name)} (left only)"
    return arm if _words(name) == arm else f"paper: {_words(name)}; here: {arm}"


def _measured(findings: Findings, arm: str) -> bool:
    frontier = findings.frontier(MAIN, arm)
    return frontier is not None and bool(frontier.checkpoints)


def _words(name: str) -> str:
    """A series' name for readers."""
    for short, long in _WORDS:
        name = name.replace(short, long)
    return re.sub(r"^D_(.*)_vs_(.*)$", r"pairs \1 against \2", name).replace("_", " ")


def _explained(number: str) -> str:
    return (
        f"Left: Figure {number} of {SOURCE}. The paper prints no tables, so the dots are read off its figure (win rate "
        f"±{WIN_RATE_ERROR:g}, log KL ±{LOG_KL_ERROR:g}; the base of the logarithm is not stated, the natural one is "
        "assumed); a dot is one checkpoint of one configuration on training prompts, and hidden dots may be missing. "
        "Right: this study's checkpoints on held-out prompts, with marks, envelopes and 95% bands as in the frontier "
        "figure. Tasks, models, judges and golden policies are not the same, so neither KL nor win rate can be "
        "compared from one side to the other: only the order of the arms and the shape of their curves can."
    )


def _missing(findings: Findings, figure: str, panels: Sequence[str], matched: Mapping[str, str]) -> str:
    """What one of the sides has and the other has not."""
    lost: list[str] = []
    for name, arm in matched.items():
        if arm not in findings.contents.arms:
            lost.append(f"Missing on the right: “{_words(name)}”, because this study has no arm “{arm}”.")
        elif not _measured(findings, arm):
            lost.append(f"Missing on the right: the arm “{arm}”, because none of its checkpoints was measured.")
    undrawn = [
        f"“{_words(name)}”" for panel in panels[:1] for name in points.names(figure, panel) if name not in matched
    ]
    others = [f"“{arm}”" for arm in findings.contents.arms if arm not in matched.values()]
    if undrawn:
        lost.append(f"Of the paper's figure not drawn: {listed(undrawn)}.")
    if others:
        lost.append(f"Of this study not drawn: {listed(others)}.")
    return " ".join(lost)
