"""Hypotheses: verdicts, the contrasts they rest on, and arms along what is changed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from goodhart.analysis.axes import AxisFound, Place
from goodhart.analysis.hypotheses import OF_RESPONSES, Contrast
from goodhart.analysis.interval import Interval
from goodhart.analysis.rulings import NO_DIFFERENCE, Decision, Ruling
from goodhart.paper.results import Result, result
from goodhart.report import theme
from goodhart.report.grid import NONE, Grid, number
from goodhart.report.svg import titled, titled_bar
from goodhart.report.theme import Picture, shown
from goodhart.report.verdict import MEASURES, could_see, spelled

COMPANION = "↳ "
"""What stands before a companion of a deciding contrast."""

_FEW = 2
"""So many numbers stand in a sentence."""
_RATE = MEASURES["golden_vs_policy"]
_SHIFTS = ("winner shift", "loser shift")


def verdict_grid(rulings: Sequence[Ruling]) -> Grid:
    """Each hypothesis with its verdict, what decides, and what the paper found."""
    rows = [
        (
            ruling.name,
            ruling.hypothesis.statement,
            ruling.verdict,
            "; ".join(f"{described(d)}: {_number(d)} ({said(d)})" for d in ruling.decisions if d.contrast.decides),
            ruling.hypothesis.paper.verdict or NONE,
            agreement(ruling),
        )
        for ruling in rulings
    ]
    note = (
        "A hypothesis is supported if every deciding contrast is, contradicted if one of them is, else undecided if "
        f"one is, else there is {NO_DIFFERENCE}. A contrast is decided where Holm's p over all deciding contrasts of "
        f"the study is at most 0.05; {NO_DIFFERENCE}: it was shown to be smaller than the size of interest. Contrasts, "
        "predictions and margins stood in the study file before the run. The paper is arXiv 2405.08448, which has one "
        "run per setting and no intervals; mixed: its tasks differ."
    )
    header = ("hypothesis", "statement", "verdict", "what decides", "in the paper", "agreement")
    return Grid("Verdicts", header, tuple(rows), note)


def ruling_line(ruling: Ruling) -> str:
    """A verdict in one line: at which look, and of an undecided one what its contrasts could have shown at worst."""
    deciding = [d for d in ruling.decisions if d.contrast.decides]
    if ruling.verdict != "undecided":
        looks = {d.look for d in deciding if d.look and d.verdict == ruling.verdict}
        return f"{ruling.name}: {ruling.verdict}" + (f" at look {max(looks)}" if looks else "")
    open_ones = [d for d in deciding if d.verdict == "undecided" and d.found.interval and d.visible is not None]
    if len(deciding) == 1 and open_ones:
        return f"{ruling.name}: {said(open_ones[0])}"
    each = "; ".join(f"{described(d)} {said(d)}" for d in open_ones)
    return f"{ruling.name}: undecided" + (f" ({each})" if each else "")


def estimates(ruling: Ruling) -> str:
    """The number that decides, or of two contrasts both with their names; of more, how many came out how."""
    deciding = [d for d in ruling.decisions if d.contrast.decides]
    if len(deciding) > _FEW:
        counts = Counter(decision.verdict for decision in deciding)
        return f"of {len(deciding)} contrasts: " + ", ".join(f"{number} {words}" for words, number in counts.items())
    if len(deciding) == 1:
        return f"{_number(deciding[0])}{_unseen(deciding[0])}"
    return "; ".join(f"{described(d)}: {_number(d)}{_unseen(d)}" for d in deciding)


def _unseen(decision: Decision) -> str:
    seen = decision.visible is not None and math.isfinite(decision.visible) and decision.verdict == "undecided"
    return f", {could_see(decision.visible or 0.0, _digits(decision))}" if seen else ""


def agreement(ruling: Ruling) -> str:
    """Whether the study and the paper say the same of the statement."""
    theirs = ruling.hypothesis.paper.verdict
    if not theirs:
        return "not in the paper"
    if ruling.verdict == "undecided":
        return "cannot tell"
    if ruling.verdict == NO_DIFFERENCE:
        return "no difference of interest here"
    if theirs == "mixed":
        return "as some of its tasks"
    return "agree" if ruling.verdict == theirs else "disagree"


def published_grid(rulings: Sequence[Ruling]) -> Grid:
    """The paper's findings on the study's hypotheses, with the numbers of its figures."""
    rows: list[tuple[str, ...]] = []
    for ruling in rulings:
        for place, name in enumerate(ruling.hypothesis.paper.results):
            outcome = result(name)
            rows.append((ruling.name if place == 0 else "", outcome.statement, outcome.source, _numbers(outcome)))
    note = "Numbers are read off the paper's figures: win rates to ±0.003, log KL to ±0.01, shifts in nats."
    return Grid("What the paper found", ("hypothesis", "finding", "source", "numbers"), tuple(rows), note)


def _numbers(given: Result) -> str:
    """The first quantity of each series, by task."""
    first = given.numbers[0].quantity if given.numbers else ""
    tasks: dict[str, list[str]] = {}
    for each in given.numbers:
        if each.quantity == first:
            tasks.setdefault(each.task, []).append(
                f"{each.series} {number(each.value, 3 if abs(each.value) < 2 else 0)}"
            )
    return f"{first}: " + "; ".join(f"{task}: {', '.join(values)}" for task, values in tasks.items()) if tasks else NONE


def contrast_grid(rulings: Sequence[Ruling]) -> Grid:
    """Every contrast with its prediction, estimate and p-values."""
    rows = [
        (
            ruling.name if place == 0 else "",
            f"{COMPANION}{described(decision)}" if decision.companion else described(decision),
            _prediction(decision),
            _number(decision),
            decision.found.over,
            _look(decision),
            number(decision.p),
            number(decision.adjusted),
            number(decision.within),
            number(decision.visible, _digits(decision)),
            _verdict(decision),
        )
        for ruling in rulings
        for place, decision in enumerate(ruling.decisions)
    ]
    decisions = [decision for ruling in rulings for decision in ruling.decisions]
    looks, sizes = any(each.look for each in decisions), any(each.within is not None for each in decisions)
    header = (
        *("hypothesis", "contrast", "predicted", "estimate", "over", "look"),
        *("p", "Holm p", "smaller", "could see", "verdict"),
    )
    silent = {name for name, says in (("look", looks), ("smaller", sizes)) if not says}
    kept = [i for i, name in enumerate(header) if name not in silent]
    note = _CONTRASTS + (_LOOKS if looks else "") + (_SMALLER if sizes else "") + _SEEN
    return Grid("Contrasts", tuple(header[i] for i in kept), tuple(tuple(row[i] for i in kept) for row in rows), note)


_CONTRASTS = (
    "Estimates with 95% intervals over seeds and prompts. p: two-sided. Holm: over the deciding contrasts; the "
    "others, in brackets, are not corrected and decide nothing. Nor do companions (↳), which stand behind every "
    "deciding contrast: its arms at equal setting, against SFT and by the hidden measure, and between envelopes "
    "at equal KL where it is something else. A companion without a number is left out, and one in another unit "
    "than a margin has no prediction. "
)
_LOOKS = (
    "Estimate and interval are of the look that decided, or of the last one, p is the smallest one over the "
    "looks, each divided by its share of the error, and the intervals of deciding contrasts are as wide as the "
    "share of their look asks. "
)
_SMALLER = "Smaller: Holm's p of a value that is not smaller than the size of interest. "
_SEEN = (
    "Could see: the smallest difference that the test would have found with 80% power, as one of all that decide "
    "(those in brackets: alone)."
)


def described(decision: Decision) -> str:
    """A decision's contrast in words."""
    return named(decision.contrast)


def named(contrast: Contrast) -> str:
    """A contrast in words."""
    arms = ", ".join(contrast.arms) if contrast.statistic == "correlation" else _difference(contrast)
    where = [] if contrast.measure == "golden_vs_policy" else [MEASURES[contrast.measure]]
    where += [f"{contrast.split.replace('_', '-')} pairs"] if contrast.statistic in ("accuracy", *_SHIFTS) else []
    if contrast.statistic in OF_RESPONSES and contrast.split == "train":
        where.append("training prompts")
    where += [f"stream of {contrast.stream}"] if contrast.stream else []
    return f"{contrast.statistic}: {arms}" + (f" ({', '.join(where)})" if where else "")


def _difference(contrast: Contrast) -> str:
    ratio = contrast.statistic == "best possible"
    sign = "÷" if ratio else "−"
    gap = f"{contrast.first} {sign} {contrast.second}" + (" − 1" if ratio and not contrast.baseline else "")
    if not contrast.baseline:
        return gap
    return f"({gap}) − ({contrast.baseline[0]} {sign} {contrast.baseline[1]})"


def _prediction(decision: Decision) -> str:
    contrast = decision.contrast
    if contrast.predicted == "nothing":
        return NONE
    if contrast.predicted == "near":
        return f"within ±{contrast.than:g}"
    return f"{'>' if contrast.predicted == 'greater' else '<'} {contrast.than:g}"


def said(decision: Decision) -> str:
    """The verdict on a contrast, at which look, and of an undecided one what would have been seen."""
    words = decision.verdict + (f" at look {decision.look}" if decision.look else "")
    if decision.verdict != "undecided" or decision.visible is None or not math.isfinite(decision.visible):
        return words
    return f"{words}, {could_see(decision.visible, _digits(decision))}"


def _look(decision: Decision) -> str:
    if not decision.look or decision.found.interval is None:
        return NONE
    return f"{decision.look} ({decision.found.interval.seeds} seeds)"


def _digits(decision: Decision) -> int:
    return 1 if decision.contrast.statistic in _SHIFTS else 3


def _verdict(decision: Decision) -> str:
    if decision.contrast.predicted == "nothing":
        return NONE
    return decision.verdict if decision.contrast.decides else f"({decision.verdict})"


def _number(decision: Decision) -> str:
    if decision.found.interval is None:
        return f"{NONE} ({decision.found.over})"
    return spelled(decision.found.interval, _digits(decision), sign=True)


def axis_picture(axis: AxisFound, resolution: int) -> Picture:
    """What each arm of an axis reaches at equal KL and at its peak."""
    with theme.canvas(9.6, 3.9) as figure:
        axes = figure.subplots(1, 2, squeeze=False, sharey=True)[0]
        title = f"mean over KL {number(axis.common.low, 1)} to {number(axis.common.high, 1)} nats"
        _draw(axes[0], axis, [p.level for p in axis.places], "no KL in common" if axis.common.empty else title)
        _draw(axes[1], axis, [p.peak for p in axis.places], "best checkpoint, at any KL")
        theme.legend_above(figure, axes[1])
        drawn = theme.drawn(figure, resolution)
    shared = f" Only at the setting that all of them have: {', '.join(axis.settings)}." if axis.settings else ""
    caption = (
        f"Golden win rate against the golden policy by {axis.axis.label}, with 95% intervals over seeds and prompts; "
        f"left: the arms' envelopes at the same KL, right: each arm's cross-fitted best.{shared}"
    )
    return Picture(theme.file_name("axis", axis.name), axis.name[:1].upper() + axis.name[1:], caption, drawn)


def _draw(panel: Axes, axis: AxisFound, values: Sequence[Interval | None], title: str) -> None:
    looks = theme.styles([*axis.axis.lines, *axis.axis.beside])
    for line in axis.axis.lines:
        own = [(p, v) for p, v in zip(axis.places, values, strict=True) if p.line == line and v is not None]
        own.sort(key=lambda item: item[0].x or 0.0)
        _bars(panel, own, looks[line], line)
    for place, value in zip(axis.places, values, strict=True):
        if place.x is None and value is not None:
            style = looks[place.arm]
            said = f"{place.arm}\n{_RATE} {spelled(value)}"
            line = panel.axhline(value.estimate, color=style.colour, ls=style.line, lw=1.6, label=shown(place.arm))
            titled(line, said)
            titled(panel.axhspan(value.low, value.high, color=style.colour, alpha=0.1, lw=0), said)
    if axis.axis.log:
        panel.set_xscale("log")
    ticks = sorted({p.x for p in axis.places if p.x is not None})
    panel.set_xticks(ticks, [f"{x:g}" for x in ticks])
    panel.set_xticks([], minor=True)
    panel.set_title(title, fontsize=9)
    panel.set_xlabel(shown(axis.axis.label, 80))
    panel.set_ylabel("golden win rate\nagainst the golden policy")
    panel.label_outer()


def _bars(panel: Axes, own: Sequence[tuple[Place, Interval]], style: theme.Style, line: str) -> None:
    if not own:
        return
    x = [place.x or 0.0 for place, _ in own]
    y = np.array([value.estimate for _, value in own])
    spread = np.array([[v.estimate - v.low for _, v in own], [v.high - v.estimate for _, v in own]])
    bars = panel.errorbar(
        x, y, yerr=spread, color=style.colour, marker=style.marker, ls=style.line, capsize=3, lw=1.6, label=shown(line)
    )
    titled_bar(bars, [f"{place.arm}, at {place.x:g}\n{_RATE} {spelled(value)}" for place, value in own], line)


def axis_grid(given: Sequence[AxisFound]) -> Grid:
    """The numbers of the axes."""
    rows = [
        (
            axis.name if place == 0 else "",
            at.arm,
            NONE if at.x is None else f"{at.x:g}",
            spelled(at.level) if at.level else NONE,
            spelled(at.peak),
        )
        for axis in given
        for place, at in enumerate(axis.places)
    ]
    return Grid("Arms along what is changed", ("axis", "arm", "at", "win rate at equal KL", "peak"), tuple(rows))
