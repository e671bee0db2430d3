"""How on-policy each arm's data were, beside what they gave."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke

from goodhart.analysis.interval import Interval
from goodhart.report import theme
from goodhart.report.findings import MAIN, Findings
from goodhart.report.grid import NONE, Grid, number
from goodhart.report.svg import titled_bar
from goodhart.report.theme import Picture, shown
from goodhart.report.verdict import spelled_share

_LETTER, _LINE = 0.0062, 0.035
"""A letter's width and a label's height, as shares of the axes."""
_NEAR, _FAR = 0.008, 0.035
"""From a mark to its label, and to one that is not at the mark's height, as shares of the axes."""


@dataclass(frozen=True)
class Spent:
    """What an arm's last checkpoints took, means over settings and seeds, and the arm's peak."""

    arm: str
    drift: float
    """Mean log policy(y|x) - log writer(y|x) of the responses learnt from, nats per response."""
    spread: float
    pairs: float
    labels: float
    operations: float
    peak: Interval | None


def spent(findings: Findings) -> list[Spent]:
    """One line for each trained arm, in the order of the study."""
    lines: list[Spent] = []
    for arm in findings.contents.arms:
        own = [(at, each) for at, each in findings.tables.budgets.items() if at.arm == arm]
        if own:
            last = max(at.step for at, _ in own)
            ends = [each for at, each in own if at.step == last]
            names = ("drift", "drift_spread", "pairs", "labels", "operations")
            drift, spread, pairs, labels, operations = (float(np.mean([each[name] for each in ends])) for name in names)
            frontier = findings.frontier(MAIN, arm)
            peak = frontier.peak.value if frontier and frontier.peak else None
            lines.append(Spent(arm, drift, spread, pairs, labels, operations, peak))
    return lines


def drift_grid(findings: Findings) -> Grid:
    """The numbers."""
    rows = [
        (
            line.arm,
            number(line.drift, 2, sign=True),
            number(line.spread, 2),
            f"{line.pairs:,.0f}",
            f"{line.labels:,.0f}",
            f"{line.operations / 1e12:.2f}",
            spelled_share(line.peak) if line.peak else NONE,
        )
        for line in spent(findings)
    ]
    note = (
        "Drift: log policy(y|x) less log writer(y|x) of the responses that an arm learnt from, each at the step that "
        "it was learnt, mean and standard deviation in nats per response: 0 is on-policy. Where the writer is not "
        "known, the SFT policy stands in. Pairs: learnt from, repetitions included; labels: golden ones that the "
        "supervision rests on; Tflop: of the run and of the runs that it reads. Means over settings and seeds at the "
        "last checkpoint."
    )
    header = ("arm", "drift", "spread", "pairs", "labels", "Tflop", "peak golden win rate")
    return Grid("How on-policy the data were, and what they took", header, tuple(rows), note)


def drift_picture(findings: Findings, resolution: int) -> Picture:
    """The peak of every arm against the drift of its data."""
    lines = [line for line in spent(findings) if line.peak is not None]
    with theme.canvas(9.6, 4.6) as figure:
        axes = figure.subplots()
        named = set(findings.shown)
        for line in lines:
            assert line.peak is not None
            bold = line.arm in named
            bars = [[line.peak.estimate - line.peak.low], [line.peak.high - line.peak.estimate]]
            bar = axes.errorbar(
                line.drift, line.peak.estimate, yerr=bars, marker="o", ms=6 if bold else 4, capsize=2, lw=1,
                color=theme.BLUE if bold else theme.REFERENCE, alpha=1.0 if bold else 0.7,
            )  # fmt: skip
            titled_bar(bar, [_said(line)])
        _label(axes, lines)
        axes.axvline(0, color=theme.INK, lw=1, ls=":")
        axes.set_xlabel("drift: mean log policy(y|x) − log writer(y|x) of what was learnt from, nats per response")
        axes.set_ylabel("peak golden win rate\nagainst the golden policy")
        drawn = theme.drawn(figure, resolution)
    caption = (
        "How on-policy an arm's data were against what they gave. Left of 0 the policy has made less likely what it "
        "learns from than its writer had it; at 0 it wrote it itself. Bars: 95% intervals of the cross-fitted peak."
    )
    return Picture("on-policy", "How on-policy the data were", caption, drawn)


def _said(line: Spent) -> str:
    drift = f"drift {number(line.drift, 2, sign=True)} nats per response"
    return f"{line.arm}\n{drift}\npeak golden win rate {spelled_share(line.peak)}" if line.peak else line.arm


def _label(axes: Axes, lines: list[Spent]) -> None:
    """Names beside the marks, each at the nearest free height; one that is moved stands off: leaders fan out."""
    axes.margins(x=0.16, y=0.08)
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    step, taken = _LINE * (high - low), list[tuple[float, float, float]]()
    for x, y, name in sorted((line.drift, line.peak.estimate, line.arm) for line in lines if line.peak is not None):
        width = _LETTER * len(shown(name, 24)) * (right - left)
        places = (
            (x + (_FAR if shift else _NEAR) * (right - left), y + shift * step)
            for shift in sorted(range(-30, 31), key=abs)
        )
        place, at = next(
            ((start, v) for start, v in places if not _covered(start, start + width, v, step, taken)), (x, y)
        )
        taken.append((place, place + width, at))
        arrow = {"arrowstyle": "-", "color": theme.REFERENCE, "lw": 0.5, "relpos": (0, 0.5), "shrinkA": 0, "shrinkB": 2}
        text = axes.annotate(shown(name, 24), (x, y), (place, at), fontsize=7, va="center", arrowprops=arrow)
        text.set_path_effects([withStroke(linewidth=2, foreground="white")])


def _covered(start: float, end: float, at: float, step: float, taken: list[tuple[float, float, float]]) -> bool:
    return any(start <= other_end and end >= other and abs(at - v) < step for other, other_end, v in taken)
