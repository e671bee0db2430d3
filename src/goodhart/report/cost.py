"""What the study cost, by the part of the work and by stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from goodhart.report import theme
from goodhart.report.grid import Grid, duration
from goodhart.report.theme import Picture, shown

STAGES = ("generate", "label", "reference", "train", "evaluate", "other")
"""Stages of the work; `other` is what a cell's clock saw beside them: loading, saving, checking digests."""
_GROUPS = {
    "corpus": "data",
    "prompts": "data",
    "preferences": "data",
    "pairs": "initial pairs",
    "sft": "SFT policy",
    "preference": "preference models",
    "labels": "golden labels",
    "opponents": "measuring",
    "evaluation": "measuring",
}
_HATCHES = ("", "///", "...", "\\\\\\", "xx", "")
_FILLS = (theme.BLUE, theme.ORANGE, theme.SKY, theme.GREEN, theme.PURPLE, "#bdbdbd")


@dataclass(frozen=True)
class Share:
    """Seconds of one part of the work, by stage."""

    group: str
    cells: int
    seconds: Mapping[str, float]

    @property
    def total(self) -> float:
        """Of all stages."""
        return sum(self.seconds.values())


def shares(cells: list[dict[str, Any]]) -> list[Share]:
    """The cells' seconds in the order of the work; each arm's training runs are a part of their own."""
    found: dict[str, dict[str, float]] = {}
    count: dict[str, int] = {}
    for cell in cells:
        group = _GROUPS.get(cell["kind"]) or f"runs: {cell['label'].rsplit(' beta=', 1)[0]}"
        seconds = found.setdefault(group, dict.fromkeys(STAGES, 0.0))
        count[group] = count.get(group, 0) + 1
        for stage, spent in cell["stages"].items():
            seconds[stage if stage in seconds else "other"] += spent
        seconds["other"] += max(0.0, cell["seconds"] - sum(cell["stages"].values()))
    ordered = sorted(found, key=lambda group: group == "measuring")
    return [Share(group, count[group], found[group]) for group in ordered]


def cost_grid(parts: list[Share]) -> Grid:
    """Seconds by part and stage."""
    rows = [(p.group, str(p.cells), *(f"{p.seconds[s]:.1f}" for s in STAGES), f"{p.total:.1f}") for p in parts]
    sums = {stage: sum(p.seconds[stage] for p in parts) for stage in STAGES}
    total = (str(sum(p.cells for p in parts)), *(f"{sums[s]:.1f}" for s in STAGES), f"{sum(sums.values()):.1f}")
    note = (
        "Seconds of one process each, as measured when the cell was made; a cell that an earlier study made counts "
        "too. “Other” is loading, saving and checking digests, and stages that a cell does not time."
    )
    return Grid("Seconds by part and stage", ("part", "cells", *STAGES, "all"), (*rows, ("all", *total)), note)


def cost_sentence(cost: Mapping[str, Any]) -> str:
    """Wall time and memory in one sentence."""
    return (
        f"The call that finished this study took {duration(cost['seconds of this call'])} with {cost['workers']} "
        f"worker processes, made {cost['cells made']} cells and reused {cost['cells reused']}; all cells together cost "
        f"{duration(cost['seconds of all cells'])} of process time. The largest worker held "
        f"{cost['largest worker, GiB']:.2f} GiB."
    )


def cost_picture(parts: list[Share], resolution: int) -> Picture:
    """Stacked bars: a part of the work on each line, its stages in it."""
    with theme.canvas(9.0, 1.2 + 0.34 * len(parts)) as figure:
        axes = figure.subplots()
        y, left = np.arange(len(parts)), np.zeros(len(parts))
        for stage, fill, hatch in zip(STAGES, _FILLS, _HATCHES, strict=True):
            width = np.array([part.seconds[stage] for part in parts]) / 60
            axes.barh(y, width, left=left, color=fill, hatch=hatch, edgecolor="white", linewidth=0.5, label=stage)
            left += width
        for place, end in zip(y, left, strict=True):
            axes.annotate(f"{end:.1f}", (end, place), (4, 0), textcoords="offset points", va="center", fontsize=8)
        axes.set_yticks(y, [shown(part.group) for part in parts])
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("process time (minutes)")
        axes.margins(x=0.08)
        theme.legend_above(figure, axes)
        drawn = theme.png(figure, resolution)
    caption = "Process time by part of the work and by stage; the number at a bar's end is its total in minutes."
    return Picture("cost", "What the study cost", caption, drawn)
