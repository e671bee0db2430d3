"""What the study cost, by the part of the work and by stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from goodhart.report import theme
from goodhart.report.grid import Grid, duration
from goodhart.report.svg import titled
from goodhart.report.theme import Picture, shown

STAGES = ("generate", "label", "reference", "train", "evaluate", "other")
"""Stages of the work; `other` is what a cell's clock saw beside them: loading, saving, checking digests."""
_GROUPS = {
    "docstrings": "data",
    "corpus": "data",
    "prompts": "data",
    "preferences": "data",
    "people": "data",
    "test people": "data",
    "pairs": "initial pairs",
    "test pairs": "initial pairs",
    "marked pairs": "initial pairs",
    "sft": "SFT policy",
    "preference": "judges",
    "rule": "judges",
    "world": "data",
    "world labels": "golden labels",
    "quality": "judges",
    "labels": "golden labels",
    "adopted labels": "golden labels",
    "test labels": "golden labels",
    "opponents": "measuring",
    "evaluation": "measuring",
    "tabular evaluation": "measuring",
    "stream": "measuring",
    "best of n": "best of n",
    "written": "pairs of other policies",
}
_HATCHES = ("", "///", "---", "\\\\\\", "xx", "")
_FILLS = (theme.BLUE, theme.ORANGE, theme.SKY, theme.GREEN, theme.PURPLE, "#bdbdbd")


@dataclass(frozen=True)
class Share:
    """Seconds of one part of the work, by stage."""

    group: str
    cells: int
    seconds: Mapping[str, float]
    tokens: int
    """That went through a model."""
    use: float | None
    """Operations of models per second of the stages that ran them, as a share of the machine's matrix-product rate."""

    @property
    def total(self) -> float:
        """Of all stages."""
        return sum(self.seconds.values())


def shares(cells: list[dict[str, Any]]) -> list[Share]:
    """The cells' accounts in the order of the work; each arm's training runs are a part of their own."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for cell in cells:
        # records of before runs named their arm have its label alone
        group = _GROUPS.get(cell["kind"]) or f"runs: {cell.get('arm') or cell['label']}"
        groups.setdefault(group, []).append(cell)
    return [_share(group, groups[group]) for group in sorted(groups, key=lambda group: group == "measuring")]


def _share(group: str, cells: list[dict[str, Any]]) -> Share:
    seconds: dict[str, float] = dict.fromkeys(STAGES, 0.0)
    tokens, operations, possible = 0, 0.0, 0.0
    for cell in cells:
        for stage, spent in cell["stages"].items():
            seconds[stage if stage in seconds else "other"] += spent["seconds"]
            tokens += spent["tokens"]
            if spent["operations"]:
                operations += spent["operations"]
                # records of before cells could have several threads do not name their number
                possible += spent["seconds"] * cell["matrix rate"] * cell.get("threads", 1)
        seconds["other"] += max(0.0, cell["seconds"] - sum(spent["seconds"] for spent in cell["stages"].values()))
    return Share(group, len(cells), seconds, tokens, operations / possible if possible else None)


def cost_grid(parts: list[Share]) -> Grid:
    """Seconds by part and stage, tokens, and how much of the machine's arithmetic was used."""
    rows = [_row(p.group, p.cells, p.seconds, p.tokens, p.use) for p in parts]
    sums = {stage: sum(p.seconds[stage] for p in parts) for stage in STAGES}
    total = _row("all", sum(p.cells for p in parts), sums, sum(p.tokens for p in parts), None)
    note = (
        "Seconds of one process each, as measured when the cell was made; a cell that an earlier study made counts "
        "too, and one that ran alone had the threads of idle workers. “Other” is loading, saving and checking digests, "
        "and stages that a cell does not time. Tokens are real ones that went through a model, prompts included. The "
        "last column is the models’ arithmetic on those tokens (arXiv 2204.02311, appendix B) per second of the "
        "stages that ran a model, as a share of the rate at which the same process, with all its threads, multiplies "
        "large float32 matrices."
    )
    columns = ("part", "cells", *STAGES, "all", "tokens", "of the matrix rate")
    return Grid("Seconds by part and stage", columns, (*rows, total), note)


def _row(name: str, cells: int, seconds: Mapping[str, float], tokens: int, use: float | None) -> tuple[str, ...]:
    spent = (f"{seconds[stage]:.1f}" for stage in STAGES)
    share = "" if use is None else f"{use:.0%}"
    return (name, str(cells), *spent, f"{sum(seconds.values()):.1f}", f"{tokens:,}" if tokens else "", share)


def cost_sentence(cost: Mapping[str, Any], parts: int = 1) -> str:
    """Wall time and memory in one sentence; `parts` is how many results were joined."""
    calls = "The call that finished this study" if parts == 1 else f"The calls that finished the study's {parts} parts"
    return (
        f"{calls} took {duration(cost['seconds of this call'])} with {cost['workers']} "
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
            bars = axes.barh(
                y, width, left=left, color=fill, hatch=hatch, edgecolor="white", linewidth=0.5, label=stage
            )
            for bar, part in zip(bars, parts, strict=True):
                titled(bar, f"{part.group}, {stage}: {duration(part.seconds[stage])}")
            left += width
        for place, end in zip(y, left, strict=True):
            axes.annotate(f"{end:.1f}", (end, place), (4, 0), textcoords="offset points", va="center", fontsize=8)
        axes.set_yticks(y, [shown(part.group) for part in parts])
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("process time (minutes)")
        axes.margins(x=0.08)
        theme.legend_above(figure, axes)
        drawn = theme.drawn(figure, resolution)
    caption = "Process time by part of the work and by stage; the number at a bar's end is its total in minutes."
    return Picture("cost", "What the study cost", caption, drawn)
