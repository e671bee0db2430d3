"""Win rates and the hidden measure against KL, for every arm."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from goodhart.analysis.crossfit import Curve
from goodhart.analysis.frontier import CheckpointPoint
from goodhart.analysis.rulings import Ruling
from goodhart.report import marks, theme
from goodhart.report.contents import FEW
from goodhart.report.findings import MAIN, Findings
from goodhart.report.svg import titled
from goodhart.report.theme import Drawing, Picture, Style, shown
from goodhart.report.verdict import MEASURES

_FILLS: tuple[Any, ...] = ("full", "none", "left", "top", "right", "bottom")
_WIDE = 20.0
"""KL in nats beyond which the axis is drawn on a square-root scale."""
_TICKS = (0, 1, 5, 10, 20, 40, 60, 100, 150, 200, 300, 500, 1000)
LABELS = {
    "golden_vs_policy": "golden win rate\nagainst the golden policy",
    "golden_vs_sft": "golden win rate\nagainst SFT",
    "proxy_vs_policy": "proxy win rate\nagainst the golden policy",
    "proxy_vs_sft": "proxy win rate\nagainst SFT",
    "hidden": "hidden measure\n(similarity to the human line)",
}


def frontier_picture(findings: Findings, resolution: int) -> Picture:
    """Golden win rate against the golden policy and against SFT."""
    drawn = _panels(findings, ("golden_vs_policy", "golden_vs_sft"), findings.shown, resolution)
    caption = (
        "Golden win rate against KL(policy ‖ SFT) on held-out prompts. A mark is one checkpoint of one setting and "
        "seed, its filling is the setting, a thin line joins the checkpoints of a run. A thick line is the arm's "
        "envelope, the best that it reaches within a KL budget, picked and valued on different seeds and prompts, "
        "with a 95% band that contains the whole line at once. Dotted: the SFT policy's win rate."
    )
    return Picture("frontier", "Frontier", caption, drawn)


def first_picture(findings: Findings, resolution: int) -> Picture:
    """The frontier by the measure of the answer alone, for the head of the page."""
    with theme.canvas(5.6, 3.9) as figure:
        panel = figure.subplots()
        draw_panel(panel, findings, MAIN, theme.styles(findings.shown))
        kl_axes([panel])
        _legend(figure, findings, findings.shown, columns=3)
        drawn = theme.drawn(figure, resolution)
    caption = (
        "A dot is a checkpoint, a thick line the best that an arm reaches within a KL budget, with its 95% band; "
        "dotted: SFT. Point at a mark to read it."
    )
    return Picture("answer", "Golden win rate against KL", caption, drawn)


def draw_panel(panel: Axes, findings: Findings, measure: str, look: Mapping[str, Style]) -> None:
    """Arms and baselines by one measure, on axes that say which."""
    for arm, style in look.items():
        draw_arm(panel, findings, measure, arm, style)
    draw_baselines(panel, findings, measure)
    panel.set_ylabel(LABELS[measure])


def hacking_picture(findings: Findings, resolution: int) -> Picture:
    """Proxy, golden and hidden measure along KL."""
    measures = ["proxy_vs_policy", "golden_vs_policy", *(["hidden"] if findings.measured("hidden") else [])]
    drawn = _panels(findings, measures, findings.shown, resolution)
    caption = (
        "The same checkpoints by three measures. A proxy that goes on rising where golden falls is being exploited; "
        "so is golden where it rises and the hidden measure, which no model sees, falls. Marks, lines and bands as "
        "above."
        if findings.measured("hidden")
        else "The same checkpoints by proxy and golden. A proxy that goes on rising where golden falls is being "
        "exploited. This task has no hidden measure. Marks, lines and bands as above."
    )
    title = "Proxy, golden and hidden measure" if findings.measured("hidden") else "Proxy and golden"
    return Picture("measures", title, caption, drawn)


def hypothesis_picture(findings: Findings, ruling: Ruling, resolution: int) -> Picture:
    """The frontiers of the arms that decide a hypothesis."""
    named = {arm for d in ruling.decisions if d.contrast.decides for arm in d.contrast.arms}
    arms = [arm for arm in findings.contents.arms if arm in named][: FEW - len(findings.contents.untrained)]
    arms += [arm for arm in findings.contents.untrained if arm not in arms]
    drawn = _panels(findings, ("golden_vs_policy", "golden_vs_sft"), arms, resolution)
    beside = ", and best-of-n" if findings.contents.untrained else ""
    caption = f"The arms that decide{beside}; marks, lines and bands as above."
    return Picture(theme.file_name("hypothesis", ruling.name), ruling.name, caption, drawn)


def _panels(findings: Findings, measures: Sequence[str], arms: Sequence[str], resolution: int) -> Drawing:
    look = theme.styles(arms)
    with theme.canvas(9.6, 4.3) as figure:
        axes = list(figure.subplots(1, len(measures), squeeze=False)[0])
        for panel, measure in zip(axes, measures, strict=True):
            draw_panel(panel, findings, measure, look)
        kl_axes(axes)
        _share_win_rates(axes, measures)
        _legend(figure, findings, arms)
        return theme.drawn(figure, resolution)


def draw_arm(panel: Axes, findings: Findings, measure: str, arm: str, style: Style) -> None:
    """An arm's checkpoints, joined by run, and its envelope with its band; nothing where it was not measured."""
    result = findings.frontier(measure, arm)
    if result is None:
        return
    fills = _fillings(findings)
    runs: dict[tuple[str, int], list[CheckpointPoint]] = {}
    for at in result.checkpoints:
        runs.setdefault((at.checkpoint.setting, at.checkpoint.seed), []).append(at)
    for (setting, _), run in runs.items():
        ordered = sorted(run, key=lambda at: at.checkpoint.step)
        kl, value = [at.kl.estimate for at in ordered], [at.value.estimate for at in ordered]
        (line,) = panel.plot(
            kl, value, color=style.colour, lw=0.6, alpha=0.55, marker=style.marker, ms=4.5, mew=0.9,
            fillstyle=fills[setting], mfcalt="white", zorder=2,
        )  # fmt: skip
        titled(line, marks.run_named(ordered[0].checkpoint), [marks.point(at, measure) for at in ordered])
    if result.envelope is not None:
        what = marks.curve(f"{arm}: {MEASURES[measure]} of the best within a KL budget", result.envelope)
        draw_curve(panel, result.envelope, style, what, floor=0.0, ceiling=1.0)


def draw_curve(
    panel: Axes,
    curve: Curve,
    style: Style,
    what: str = "",
    floor: float = float("-inf"),
    ceiling: float = float("inf"),
) -> None:
    """A curve over KL with the band that contains the whole of it, cut at what the measure can be."""
    panel.plot(
        curve.budgets, [at.estimate for at in curve.pointwise], color=style.colour, ls=style.line, lw=2.2, zorder=4
    )
    low, high = np.maximum(curve.simultaneous.low, floor), np.minimum(curve.simultaneous.high, ceiling)
    band = panel.fill_between(curve.budgets, low, high, color=style.colour, alpha=0.15, lw=0, zorder=1)
    if what:  # said by the band alone, which lies below the dots: the line would hide those that it passes
        titled(band, f"{what}\nwith the 95% band that contains the whole line")


def draw_baselines(panel: Axes, findings: Findings, measure: str) -> None:
    """The SFT policy with its level, and the golden policy's last checkpoint."""
    start, golden = findings.start(measure), findings.golden_policy.get(measure)
    if start is not None:
        panel.axhline(start.value.estimate, color=theme.REFERENCE, lw=1, ls=":", zorder=0)
        (mark,) = panel.plot(
            start.kl.estimate, start.value.estimate, "X", color=theme.INK, ms=8, mec="white", zorder=5, clip_on=False
        )
        titled(mark, each=[marks.point(start, measure)])
    if golden is not None:
        (mark,) = panel.plot(
            golden.kl.estimate, golden.value.estimate, "*", color=theme.INK, ms=12, mec="white", zorder=5
        )
        titled(mark, each=[marks.point(golden, measure)])


def _fillings(findings: Findings) -> dict[str, Any]:
    """A filling for each setting, in the order of the study's sweep."""
    measure = findings.held_out("golden_vs_policy")
    points = [p.point for arm in measure.arms for p in arm.points] if measure else []
    names = dict.fromkeys(point.setting for point in points)
    return {name: _FILLS[i % len(_FILLS)] for i, name in enumerate(names)}


def filling_handles(findings: Findings, arms: Sequence[str]) -> list[Line2D]:
    """The legend of the settings that the arms have; empty where there is only one."""
    drawn = {at.checkpoint.setting for arm in arms if (f := findings.frontier(MAIN, arm)) for at in f.checkpoints}
    fills = {setting: fill for setting, fill in _fillings(findings).items() if setting in drawn}
    return [
        Line2D([], [], color=theme.REFERENCE, ls="", marker="o", fillstyle=fill, mfcalt="white", label=shown(setting))
        for setting, fill in fills.items()
        if len(fills) > 1
    ]


def kl_axes(axes: Iterable[Axes]) -> None:
    """KL in nats from 0 on as the x-axis, on a square-root scale where it is wide."""
    for panel in axes:
        wide = panel.get_xlim()[1] > _WIDE
        if wide:
            panel.set_xscale("function", functions=(_root, np.square))
            panel.set_xticks([tick for tick in _TICKS if tick <= panel.get_xlim()[1]])
        panel.set_xlim(left=0)
        panel.set_xlabel("KL(policy ‖ SFT), nats" + (" (√ scale)" if wide else ""))


def _root(kl: np.ndarray) -> np.ndarray:
    return np.sqrt(np.maximum(kl, 0.0))


def _share_win_rates(axes: Sequence[Axes], measures: Sequence[str]) -> None:
    """Panels of the same opponent have the same limits, so that proxy and golden can be compared by eye."""
    same = [panel for panel, measure in zip(axes, measures, strict=True) if measure.endswith("_vs_policy")]
    ends = [panel.get_ylim() for panel in same]
    for panel in same:
        panel.set_ylim(min(low for low, _ in ends), max(high for _, high in ends))


def _legend(figure: Figure, findings: Findings, arms: Sequence[str], columns: int = 4) -> None:
    arm_handles = handles(theme.styles(arms))
    every = [*arm_handles[:-2], *filling_handles(findings, arms), *arm_handles[-2:]]
    figure.legend(handles=every, loc="outside upper center", ncols=min(columns, len(every)), fontsize=9)


def handles(look: Mapping[str, Style]) -> list[Line2D]:
    """The legend of some arms, and last of the two baselines."""
    arms = [
        Line2D([], [], color=s.colour, ls=s.line, marker=s.marker, lw=2.2, label=shown(arm)) for arm, s in look.items()
    ]
    return [
        *arms,
        Line2D([], [], color=theme.INK, ls="", marker="X", ms=8, mec="white", label="SFT policy"),
        Line2D([], [], color=theme.INK, ls="", marker="*", ms=12, mec="white", label="golden policy"),
    ]
