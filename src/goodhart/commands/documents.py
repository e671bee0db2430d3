"""What `--json` prints, key by key, as docs/command_line.md has it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from goodhart.analysis.interval import Interval
    from goodhart.cells.standing import Standing
    from goodhart.forecasts import Forecast
    from goodhart.result import Gap
    from goodhart.studies.checkpoints import Place
    from goodhart.tasks.data_description import DataDescription, SplitDescription

Document = dict[str, Any]
CELL = ("id", "kind", "label", "state", "seconds", "progress", "holder", "problem", "files")
SPLIT = (
    *("name", "layout", "columns", "unread", "template", "rows", "rule", "pairs", "good", "left_out", "usable"),
    *("prompts", "ties", "duplicates", "filtered"),
)


def of_cells(study: str, cells: Sequence[Standing]) -> Document:
    """Of `status`."""
    states = Counter[str](each.state for each in cells)
    return {"study": study, "states": states, "cells": [{key: getattr(each, key) for key in CELL} for each in cells]}


def of_forecast(given: Forecast) -> Document:
    """Of `power`."""
    size = given.size
    return {
        "study": given.study,
        "seeds": size.seeds,
        "prompts": size.prompts,
        "responses": size.responses,
        "noise": given.noise,
        "noise_of_one_response": given.one_response,
        "last_look": given.last_look,
        "league": given.ranking and asdict(given.ranking),
        "contrasts": [asdict(each) for each in given.contrasts],
        "sizes": given.sizes and asdict(given.sizes),
        "against_found": [asdict(each) for each in given.against_found],
        "left_out": list(given.left_out),
    }


def of_gaps(study: str, gaps: Sequence[Gap]) -> Document:
    """Of `compare`."""
    first = gaps[0]
    return {"study": study, "first": first.first, "second": first.second, "measures": [_gap(each) for each in gaps]}


def _gap(gap: Gap) -> Document:
    from goodhart.analysis.power import visible
    from goodhart.report.verdict import MEASURES

    common = None if gap.common.empty else {"low": gap.common.low, "high": gap.common.high}
    return {
        "measure": gap.measure,
        "title": MEASURES[gap.measure],
        "gap": _ends(gap.interval),
        "common_kl": common,
        "equal_setting": _ends(gap.equal_setting),
        "ahead": _ahead(gap),
        "sees": visible(gap.interval) if gap.interval else None,
    }


def _ends(interval: Interval | None) -> Document | None:
    return interval and {"estimate": interval.estimate, "low": interval.low, "high": interval.high}


def _ahead(gap: Gap) -> str | None:
    if gap.interval is None or gap.interval.low <= 0 <= gap.interval.high:
        return None
    return gap.first if gap.interval.low > 0 else gap.second


def of_place(given: Place) -> Document:
    """Of `where`."""
    return {
        "study": given.study,
        "arm": given.arm,
        "setting": given.setting,
        "seed": given.seed,
        "step": given.step,
        "folder": given.folder,
    }


def of_data(given: DataDescription) -> Document:
    """Of `data`."""
    return {"source": given.source, "splits": [_split(split) for split in given.splits]}


def _split(split: SplitDescription) -> Document:
    from goodhart.studies.check_data import default_needs
    from goodhart.tasks.preference import prompt_text

    samples = [
        {"id": e.id, "prompt": prompt_text(e.prompt), "first": e.first, "second": e.second, "label": e.label}
        for e in split.samples
    ]
    lengths = [asdict(each) for each in split.lengths]
    said = {key: getattr(split, key) for key in SPLIT}
    return {**said, "lengths": lengths, "examples": samples, "needs": default_needs(split.prompts, split.usable)}
