"""Hypotheses: verdicts, the contrasts they rest on, and arms along what is changed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from goodhart.analysis.axes import AxisFound, Place
from goodhart.analysis.interval import Interval
from goodhart.analysis.rulings import Decision, Ruling
from goodhart.report import theme
from goodhart.report.findings import Findings
from goodhart.report.grid import NONE, Grid, number
from goodhart.report.theme import Picture, shown
from goodhart.report.verdict import MEASURES, spelled

_SHIFTS = ("winner shift", "loser shift")


def verdict_grid(rulings: Sequence[Ruling], published: dict[str, str]) -> Grid:
    """Each hypothesis with its verdict, what decides, and what the paper found."""
    rows = [
        (
            ruling.name,
            ruling.hypothesis.statement,
            ruling.verdict,
            "; ".join(f"{_number(d)} ({d.verdict})" for d in ruling.decisions if d.contrast.decides),
            published.get(ruling.hypothesis.paper, NONE),
        )
        for ruling in rulings
    ]
    note = (
        "A hypothesis is supported if every deciding contrast is, contradicted if one of them is, else undecided. A "
        "contrast is decided where Holm's p over all deciding contrasts of the study is at most 0.05. Contrasts, "
        "predictions and margins stood in the study file before the run."
    )
    header = ("hypothesis", "statement", "verdict", "what decides", "in the paper")
    return Grid("Verdicts", header, tuple(rows), note)


def contrast_grid(rulings: Sequence[Ruling]) -> Grid:
    """Every contrast with its prediction, estimate and p-values."""
    rows = [
        (
            ruling.name if place == 0 else "",
            described(decision),
            _prediction(decision),
            _number(decision),
            decision.found.over,
            number(decision.p),
            number(decision.adjusted),
            decision.verdict if decision.contrast.decides else f"({decision.verdict})",
        )
        for ruling in rulings
        for place, decision in enumerate(ruling.decisions)
    ]
    note = (
        "Estimates with 95% intervals over seeds and prompts. p: two-sided. Holm: over the deciding contrasts; the "
        "others, in brackets, are not corrected and decide nothing."
    )
    header = ("hypothesis", "contrast", "predicted", "estimate", "over", "p", "Holm p", "verdict")
    return Grid("Contrasts", header, tuple(rows), note)


def described(decision: Decision) -> str:
    """A contrast in words."""
    contrast = decision.contrast
    arms = ", ".join(contrast.arms) if contrast.statistic == "correlation" else _difference(decision)
    where = [] if contrast.measure == "golden_vs_policy" else [MEASURES[contrast.measure]]
    where += [f"{contrast.split.replace('_', '-')} pairs"] if contrast.statistic in ("accuracy", *_SHIFTS) else []
    if contrast.statistic.startswith("gap") and contrast.split == "train":
        where.append("training prompts")
    where += [f"stream of {contrast.stream}"] if contrast.stream else []
    return f"{contrast.statistic}: {arms}" + (f" ({', '.join(where)})" if where else "")


def _difference(decision: Decision) -> str:
    contrast = decision.contrast
    ratio = contrast.statistic == "best possible"
    sign = "÷" if ratio else "−"
    gap = f"{contrast.first} {sign} {contrast.second}" + (" − 1" if ratio and not contrast.baseline else "")
    if not contrast.baseline:
        return gap
    return f"({gap}) − ({contrast.baseline[0]} {sign} {contrast.baseline[1]})"


def _prediction(decision: Decision) -> str:
    contrast = decision.contrast
    if contrast.predicted == "near":
        return f"within ±{contrast.than:g}"
    return f"{'>' if contrast.predicted == 'greater' else '<'} {contrast.than:g}"


def _number(decision: Decision) -> str:
    if decision.found.interval is None:
        return f"{NONE} ({decision.found.over})"
    return spelled(decision.found.interval, 1 if decision.contrast.statistic in _SHIFTS else 3, sign=True)


def axis_picture(found: AxisFound, resolution: int) -> Picture:
    """What each arm of an axis reaches at equal KL and at its peak."""
    with theme.canvas(9.6, 3.9) as figure:
        axes = figure.subplots(1, 2, squeeze=False)[0]
        title = f"mean over KL {number(found.common.low, 1)} to {number(found.common.high, 1)} nats"
        _draw(axes[0], found, [p.level for p in found.places], "no KL in common" if found.common.empty else title)
        _draw(axes[1], found, [p.peak for p in found.places], "best checkpoint, at any KL")
        theme.legend_above(figure, axes[1])
        drawn = theme.png(figure, resolution)
    shared = f" Only at the setting that all of them have: {', '.join(found.settings)}." if found.settings else ""
    caption = (
        f"Golden win rate against the golden policy by {found.axis.label}, with 95% intervals over seeds and prompts; "
        f"left: the arms' envelopes at the same KL, right: each arm's cross-fitted best.{shared}"
    )
    return Picture(theme.file_name("axis", found.name), found.name[:1].upper() + found.name[1:], caption, drawn)


def _draw(panel: Axes, found: AxisFound, values: Sequence[Interval | None], title: str) -> None:
    looks = theme.styles([*found.axis.lines, *found.axis.beside])
    for line in found.axis.lines:
        own = [(p, v) for p, v in zip(found.places, values, strict=True) if p.line == line and v is not None]
        own.sort(key=lambda item: item[0].x or 0.0)
        _bars(panel, own, looks[line], line)
    for place, value in zip(found.places, values, strict=True):
        if place.x is None and value is not None:
            style = looks[place.arm]
            panel.axhline(value.estimate, color=style.colour, ls=style.line, lw=1.6, label=shown(place.arm))
            panel.axhspan(value.low, value.high, color=style.colour, alpha=0.1, lw=0)
    if found.axis.log:
        panel.set_xscale("log")
    ticks = sorted({p.x for p in found.places if p.x is not None})
    panel.set_xticks(ticks, [f"{x:g}" for x in ticks])
    panel.set_xticks([], minor=True)
    panel.set_title(title, fontsize=9)
    panel.set_xlabel(found.axis.label)
    panel.set_ylabel("golden win rate\nagainst the golden policy")


def _bars(panel: Axes, own: Sequence[tuple[Place, Interval]], style: theme.Style, line: str) -> None:
    if not own:
        return
    x = [place.x for place, _ in own]
    y = np.array([value.estimate for _, value in own])
    spread = np.array([[v.estimate - v.low for _, v in own], [v.high - v.estimate for _, v in own]])
    panel.errorbar(
        x, y, yerr=spread, color=style.colour, marker=style.marker, ls=style.line, capsize=3, lw=1.6, label=shown(line)
    )


def axis_grid(found: Sequence[AxisFound]) -> Grid:
    """The numbers of the axes."""
    rows = [
        (
            axis.name if place == 0 else "",
            at.arm,
            NONE if at.x is None else f"{at.x:g}",
            spelled(at.level) if at.level else NONE,
            spelled(at.peak),
        )
        for axis in found
        for place, at in enumerate(axis.places)
    ]
    return Grid("Arms along what is changed", ("axis", "arm", "at", "win rate at equal KL", "peak"), tuple(rows))


def drift_grid(findings: Findings) -> Grid:
    """How on-policy each arm's data were at its last checkpoints, beside the win rate at its peak."""
    rows: list[tuple[str, ...]] = []
    for arm in findings.contents.arms:
        own = [(at, spent) for at, spent in findings.tables.budgets.items() if at.arm == arm]
        if own:
            last = max(at.step for at, _ in own)
            ends = [spent for at, spent in own if at.step == last]
            frontier = findings.frontier("golden_vs_policy", arm)
            peak = spelled(frontier.peak.value) if frontier and frontier.peak else NONE
            drift, spread = (float(np.mean([spent[name] for spent in ends])) for name in ("drift", "drift_spread"))
            size = (f"{np.mean([spent[name] for spent in ends]):,.0f}" for name in ("pairs", "labels"))
            cost = f"{np.mean([spent['operations'] for spent in ends]) / 1e12:.2f}"
            rows.append((arm, number(drift, 2, sign=True), number(spread, 2), *size, cost, peak))
    note = (
        "log policy(y|x) less log writer(y|x) of the responses that an arm learnt from, each at the step that it was "
        "learnt, mean and standard deviation in nats: 0 is on-policy. Where the writer is not known, the SFT policy "
        "stands in. Pairs: learnt from, repetitions included; labels: golden ones that the supervision rests on; "
        "Tflop: of the run and of the runs that it reads. Means over settings and seeds at the last checkpoint."
    )
    header = ("arm", "drift", "spread", "pairs", "labels", "Tflop", "peak golden win rate")
    return Grid("How on-policy the data were, and what they took", header, tuple(rows), note)
