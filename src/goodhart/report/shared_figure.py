"""The frontiers of several studies on shared axes."""

from __future__ import annotations

from collections.abc import Mapping

from goodhart.report import theme
from goodhart.report.findings import Findings
from goodhart.report.frontier_figure import LABELS, draw_panel, handles, kl_axes
from goodhart.report.theme import Picture, Style, shown
from goodhart.report.verdict import MEASURES

_ACROSS = 3


def shared_picture(studies: Mapping[str, Findings], measure: str, resolution: int) -> Picture:
    """A panel for each study by one measure; an arm looks the same in all, and all panels have the same axes."""
    look = shared_styles(studies)
    rows = -(-len(studies) // _ACROSS)
    columns = -(-len(studies) // rows)
    with theme.canvas(9.6, 0.7 + 3.5 * rows) as figure:
        grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        panels = list(grid.flat)
        for panel, (label, findings) in zip(panels, studies.items(), strict=False):
            own = {arm: look[arm] for arm in findings.shown}
            draw_panel(panel, findings, measure, own)
            panel.set_title(shown(label, 40))
        kl_axes(panels[: len(studies)])
        for panel in panels[: len(studies)]:
            panel.tick_params(labelbottom=True, labelleft=True)
            panel.set_ylabel(LABELS[measure])
        for panel in panels[len(studies) :]:
            panel.remove()
        every = handles(look)
        figure.legend(handles=every, loc="outside upper center", ncols=min(4, len(every)), fontsize=9)
        drawn = theme.drawn(figure, resolution)
    caption = (
        "Marks, lines and bands as in each study's own report, all on the same axes. Each study is measured by its own "
        "judge against its own golden policy: where these differ, compare the order of the arms and the shape of their "
        "lines, and no heights."
    )
    return Picture(theme.file_name("frontiers", measure), _title(measure), caption, drawn)


def shared_styles(studies: Mapping[str, Findings]) -> dict[str, Style]:
    """A style for each arm of any study, by its name."""
    arms = list(dict.fromkeys(arm for findings in studies.values() for arm in findings.shown))
    return theme.styles(arms)


def _title(measure: str) -> str:
    words = MEASURES[measure]
    return words[:1].upper() + words[1:]
