"""Proxy, golden and hidden measure along the square root of KL, with the curves that beat a straight line."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from goodhart.analysis.bend import Candidate
from goodhart.analysis.overoptimisation import Bounded, Fit, Overoptimisation, overoptimisation
from goodhart.report import marks, theme
from goodhart.report.findings import Findings
from goodhart.report.grid import NONE, Grid, interval, number
from goodhart.report.svg import titled, titled_bar
from goodhart.report.theme import Picture, Style, shown
from goodhart.report.verdict import MEASURES

_STYLES = {
    "proxy_vs_policy": Style(theme.SKY, "v", "-"),
    "golden_vs_policy": Style(theme.ORANGE, "D", "-"),
    "hidden": Style(theme.PURPLE, "o", "-"),
}
_HEIGHTS = {"proxy_vs_policy": 0.1, "golden_vs_policy": 0.04, "hidden": 0.04}
"""Where a peak's interval is drawn, as a share of the panel's height."""
_COLUMNS = (
    (("proxy_vs_policy", "golden_vs_policy"), "win rate\nagainst the golden policy"),
    (("hidden",), "hidden measure"),
)


def along_kl(findings: Findings) -> tuple[Overoptimisation, ...]:
    """The arms that figures show by every measure that the study has, on held-out prompts."""
    matrix = findings.tables.matrix("held_out")
    measures = [name for name in _STYLES if findings.measured(name)]
    return tuple(
        overoptimisation(matrix, arm, measure, findings.tables.resamples)
        for arm in findings.shown
        for measure in measures
    )


def overoptimisation_picture(every: Sequence[Overoptimisation], resolution: int) -> Picture:
    """A row of panels for each arm: proxy and golden win rate, and the hidden measure where there is one."""
    arms = list(dict.fromkeys(each.track.arm for each in every))
    measured = {each.track.measure for each in every}
    columns = [column for column in _COLUMNS if measured & set(column[0])]
    with theme.canvas(9.6, 0.5 + 2.5 * len(arms)) as figure:
        grid = figure.subplots(len(arms), len(columns), squeeze=False, sharex=True, sharey="col")
        for row, arm in zip(grid, arms, strict=True):
            for panel, (measures, label) in zip(row, columns, strict=True):
                own = [each for each in every if each.track.arm == arm and each.track.measure in measures]
                for each in own:
                    _draw(panel, each, _STYLES[each.track.measure])
                panel.set_title(shown(arm), fontsize=9)
                panel.set_ylabel(label)
        for panel in grid[-1]:
            panel.set_xlabel("d = √KL(policy ‖ SFT), √nats")
            panel.set_xlim(left=0)
        handles = [h for panel in grid[0] for h in panel.get_legend_handles_labels()[0]]
        figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), fontsize=9)
        drawn = theme.drawn(figure, resolution)
    caption = (
        "Each mark is a checkpoint with its standard error over prompts, the cross at 0 is the SFT policy. A solid "
        "curve is reported: it bends, and is better than the straight line; a ring is its peak, the bar at the bottom "
        "the peak's 95% interval, cut at the checkpoints. Dotted: the straight line, where no bend is seen. Fitting "
        "curves is this project's addition: Tang et al. fit none."
    )
    return Picture("over-optimisation", "Over-optimisation along the square root of KL", caption, drawn)


def _draw(panel: Axes, given: Overoptimisation, style: Style) -> None:
    track = given.track
    bars = panel.errorbar(
        track.d, track.mean, yerr=track.se, fmt=style.marker, color=style.colour, ms=4.5, elinewidth=0.6, mec="white",
        mew=0.4, label=MEASURES[track.measure],
    )  # fmt: skip
    titled_bar(bars, _checkpoints(given))
    if track.start is not None:
        (mark,) = panel.plot(
            0.0, track.start.mean(), "X", color=style.colour, ms=8, mec=theme.INK, mew=0.6, clip_on=False
        )
        titled(mark, each=[f"SFT policy\n{MEASURES[track.measure]} {number(float(track.start.mean()))}"])
    if given.fits:
        _curve(panel, given, given.fits[0].curve, style, "-")
        _peak(panel, given, given.fits[0], style)
    elif given.straight is not None:
        _curve(panel, given, given.straight, style, ":")


def _checkpoints(given: Overoptimisation) -> list[str]:
    track = given.track
    values = zip(track.checkpoints, track.d, track.mean, track.se, strict=True)
    return [
        f"{marks.named(at)}\nKL {number(float(d**2), 1)} nats\n{MEASURES[track.measure]} {number(float(mean))} ± "
        f"{number(float(se))} (standard error)"
        for at, d, mean, se in values
    ]


def _curve(panel: Axes, given: Overoptimisation, curve: Candidate, style: Style, line: str) -> None:
    d = np.linspace(0.0, float(given.track.d.max()), 100)
    panel.plot(d, curve.at(d), color=style.colour, ls=line, lw=2.0 if line == "-" else 1.2)


def _peak(panel: Axes, given: Overoptimisation, fit: Fit, style: Style) -> None:
    if fit.peak is None:
        return
    height = float(fit.curve.at(np.array([fit.peak.estimate]))[0])
    first, last = float(given.track.d.min()), float(given.track.d.max())
    low, high = (float(np.clip(end, first, last)) for end in (fit.peak.low, fit.peak.high))
    across = panel.get_xaxis_transform()
    at = _HEIGHTS[given.track.measure]
    panel.plot([low, high], [at] * 2, transform=across, color=style.colour, lw=4, alpha=0.6, solid_capstyle="butt")
    panel.plot(fit.peak.estimate, at, "|", transform=across, color=theme.INK, ms=8)
    (ring,) = panel.plot(fit.peak.estimate, height, "o", mfc="none", mec=theme.INK, ms=9)
    titled(ring, each=[f"{given.track.arm}: peak at √KL {_spelled_peak(given, fit)}, value {number(height)}"])


def overoptimisation_grid(every: Sequence[Overoptimisation]) -> Grid:
    """The reported curves with their parameters and peaks, and why there is none where there is none."""
    rows = [row for each in every for row in _rows(each)]
    note = (
        "Best-of-n form: R = r0 + d (α − β d); RL form: R = r0 + d (α − β log d); d = √KL, KL in nats, r0 the SFT "
        "policy's value (Gao et al. 2022). A curve is reported where its leave-one-run-out error and its AICc are "
        "smaller than those of the straight line and the interval of β does not hold 0. Intervals: bootstrap over "
        "runs and prompts. A peak is reported inside the checkpoints' range alone; an end of its interval outside of "
        "it is written as beyond."
    )
    header = (
        "arm", "measure", "runs", "curve", "α [95%]", "β [95%]", "error", "error of the line", "AICc − line's",
        "peak √KL [95%]", "meaning",
    )  # fmt: skip
    return Grid("Over-optimisation: curves along √KL", header, tuple(rows), note).filled


def _rows(given: Overoptimisation) -> list[tuple[str, ...]]:
    track = given.track
    names = (track.arm, MEASURES[track.measure], f"{track.runs}")
    line = given.straight
    if not given.fits or line is None:
        error = number(line.error) if line else NONE
        return [(*names, NONE, NONE, NONE, NONE, error, NONE, NONE, given.reason)]
    return [
        (
            *names, fit.curve.form, _spelled(fit.alpha), _spelled(fit.beta), number(fit.curve.error),
            number(line.error), number(fit.curve.aicc - line.aicc, 1, sign=True), _spelled_peak(given, fit),
            _meaning(given, fit),
        )
        for fit in given.fits
    ]  # fmt: skip


def _meaning(given: Overoptimisation, fit: Fit) -> str:
    if fit.peak is None:
        return fit.remark
    if fit.peak.high <= float(given.track.d.max()):
        return f"turns down at KL {number(fit.peak.estimate**2, 1)} nats"
    return "flattens; undecided whether it turns down within the checkpoints"


def _spelled(bounded: Bounded) -> str:
    return interval(bounded.estimate, bounded.low, bounded.high)


def _spelled_peak(given: Overoptimisation, fit: Fit) -> str:
    if fit.peak is None:
        return NONE
    first, last = float(given.track.d.min()), float(given.track.d.max())
    low = number(fit.peak.low, 2) if fit.peak.low >= first else "below"
    high = number(fit.peak.high, 2) if fit.peak.high <= last else "beyond"
    return f"{number(fit.peak.estimate, 2)} [{low}, {high}]"
