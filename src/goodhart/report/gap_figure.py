"""The gap at matched KL along KL."""

from __future__ import annotations

from matplotlib.axes import Axes

from goodhart.analysis.gap import Gap
from goodhart.report import marks, theme
from goodhart.report.findings import Findings
from goodhart.report.frontier_figure import draw_curve
from goodhart.report.svg import titled
from goodhart.report.theme import Picture, shown
from goodhart.report.verdict import MEASURES, spelled

_MEASURES = {
    "golden_vs_policy": "gap in golden win rate\nagainst the golden policy",
    "golden_vs_sft": "gap in golden win rate\nagainst SFT",
    "hidden": "gap in the hidden measure",
}


def gap_picture(findings: Findings, resolution: int) -> Picture:
    """The first arm less each other arm: a row of panels for each other arm, a column for each measure."""
    measures = [name for name in _MEASURES if findings.measured(name)]
    first = findings.contents.arms[0]
    others = [arm for arm in findings.shown if arm != first]
    look = theme.styles(findings.shown)
    with theme.canvas(9.6, 0.3 + 3.0 * len(others)) as figure:
        axes = figure.subplots(len(others), len(measures), squeeze=False)
        for row, other in zip(axes, others, strict=True):
            for panel, measure in zip(row, measures, strict=True):
                gap = next((c.gap for c in findings.comparisons(measure) if c.gap.second == other), None)
                _draw(panel, gap, look[other])
                panel.set_ylabel(_MEASURES[measure])
            names = f"{shown(first, 20)} − {shown(other, 20)}"
            row[0].set_ylabel(f"{names}\n{row[0].get_ylabel()}")
        drawn = theme.drawn(figure, resolution)
    caption = (
        "The first arm's envelope less the other's at the same KL budget, with a 95% band that contains the whole line "
        "at once, over the KL that both arms reached; outside it nothing is claimed. Dashed: the mean over that range, "
        "which stands above each panel with its own 95% interval. Above the line at 0 the first arm is ahead."
    )
    return Picture("gap", "Gap at matched KL", caption, drawn)


def _draw(panel: Axes, gap: Gap | None, style: theme.Style) -> None:
    panel.axhline(0, color=theme.INK, lw=1)
    panel.set_xlabel("KL(policy ‖ SFT), nats")
    if gap is None or gap.curve is None:
        reason = "not measured in common" if gap is None else "no KL in common"
        panel.text(0.5, 0.6, reason, ha="center", va="center", transform=panel.transAxes, color=theme.REFERENCE)
        panel.set_xticks([])
        panel.set_yticks([])
        return
    what = marks.curve(f"{gap.first} − {gap.second}, {MEASURES[gap.measure]}", gap.curve, sign=True)
    draw_curve(panel, gap.curve, style, what)
    titled(panel.axhline(gap.curve.mean.estimate, color=style.colour, lw=1.2, ls=(0, (4, 3))), what)
    panel.set_title(f"mean {spelled(gap.curve.mean, sign=True)}", fontsize=8)
