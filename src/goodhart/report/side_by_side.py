"""Several studies on one page: their answers, frontiers on shared axes, verdicts, gaps, and what differs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from goodhart.analysis.rulings import Ruling
from goodhart.cells.store import write_atomically
from goodhart.errors import GoodhartError
from goodhart.report.findings import MAIN, Findings
from goodhart.report.grid import NONE, Grid, listed, plain
from goodhart.report.headline import headlines
from goodhart.report.hypotheses import estimates
from goodhart.report.opening import answered, notices
from goodhart.report.page import Opening, Section, render
from goodhart.report.report import RESOLUTION, write_figures
from goodhart.report.shared_figure import shared_picture
from goodhart.report.verdict import MEASURES, kl_range, spelled, spelled_share, verdict

_OF_A_GAP = (MAIN, "golden_vs_sft", "hidden")
"""The measures by which gaps are laid side by side."""
_NAMES = ("name", "question")
"""What differs between any two studies and stands above."""
THERE = "only here"
"""What stands for a whole part of the settings that another study has not."""


def write_side_by_side(studies: Mapping[str, Findings], folder: Path, resolution: int = RESOLUTION) -> Path:
    """Write one page of several studies, each under its label, and its figures into a folder; returns the page's path.

    Raises:
        GoodhartError: there are fewer than two studies.
    """
    if len(studies) < 2:
        raise GoodhartError("one study cannot be laid beside itself", "name two studies or more")
    openings = [_opening(label, findings) for label, findings in studies.items()]
    sections = _sections(studies, resolution)
    footer = (
        f"Made by goodhart {version('goodhart')} from the tables of these studies; each has a report of its own. "
        "Figures are also in figures/."
    )
    write_figures(folder, (picture for section in sections for picture in section.pictures))
    page = folder / "report.html"
    question = "What do these studies say, and in which settings do they differ?"
    write_atomically(page, render(listed(list(studies)), question, footer, sections, openings))
    return page


def distinct(folders: Sequence[Path]) -> dict[str, Path]:
    """Studies' folders by their names, or where two have the same name by their paths.

    Raises:
        GoodhartError: a folder is named twice.
    """
    places = [folder.resolve() for folder in folders]
    twice = next((place for place in places if places.count(place) > 1), None)
    if twice is not None:
        raise GoodhartError(f"{twice.name!r} is laid beside itself", "name two different studies")
    names = [place.name for place in places]
    return {place.name if names.count(place.name) == 1 else str(place): place for place in places}


def _opening(label: str, findings: Findings) -> Opening:
    said = answered(findings)
    question = str(findings.contents.record["study"]["question"])
    return Opening(label, said[0], (f"Asked: {question}", *said[1:]), notices(findings))


def _sections(studies: Mapping[str, Findings], resolution: int) -> list[Section]:
    measures = [name for name in _OF_A_GAP if any(each.measured(name) for each in studies.values())]
    pictures = tuple(shared_picture(studies, name, resolution) for name in measures)
    settings = _differing(
        "Settings that differ",
        {label: _without(each.contents.record["study"], _NAMES) for label, each in studies.items()},
    )
    origins = {
        label: {part: each.contents.record[part] for part in ("versions", "machine", "git")}
        for label, each in studies.items()
    }
    return [
        Section("frontiers", "Frontiers", pictures=pictures[:1]),
        Section("verdicts", "Verdicts and gaps", grids=(verdicts_and_gaps(studies),)),
        Section("arms", "Arms", grids=(_peaks(studies),)),
        *([Section("measures", "Other measures", pictures=pictures[1:])] if pictures[1:] else []),
        Section("settings", "Settings", grids=(settings,)),
        Section("origin", "Origin", grids=(_differing("Versions and machines that differ", origins),)),
    ]


def verdicts_and_gaps(studies: Mapping[str, Findings]) -> Grid:
    """A row for each hypothesis, and for each gap by each measure; a column for each study."""
    rulings = {label: {_claim(r): r for r in each.rulings} for label, each in studies.items()}
    gaps = {label: _gaps(each) for label, each in studies.items()}
    rows = [
        (f"{name}: {statement}", "verdict", *(_ruled(rulings[label].get((name, statement))) for label in studies))
        for name, statement in _union(rulings.values())
    ]
    rows += [
        (arms, words, *(gaps[label].get((arms, words), NONE) for label in studies))
        for arms, words in _union(gaps.values())
    ]
    note = (
        "Each study by its own judge, golden policy and held-out prompts: verdicts and signs can be compared, sizes "
        "only where these are the same. Gaps are means over the KL that both arms of the study reached, with 95% "
        "intervals; a verdict is corrected for all deciding contrasts of its own study. A dash: the study has it not."
    )
    return Grid("Verdicts and gaps", ("hypothesis or arms", "by", *studies), tuple(rows), note)


def _claim(ruling: Ruling) -> tuple[str, str]:
    return ruling.name, ruling.hypothesis.statement


def _ruled(ruling: Ruling | None) -> str:
    return f"{ruling.verdict} ({estimates(ruling)})" if ruling else NONE


def _gaps(findings: Findings) -> dict[tuple[str, str], str]:
    """What is said of a gap, by its arms and by the measure."""
    said: dict[tuple[str, str], str] = {}
    for main in findings.comparisons(MAIN):
        arms = f"{main.gap.first} − {main.gap.second}"
        for measure in _OF_A_GAP:
            gap = next((c.gap for c in findings.comparisons(measure) if c.gap.second == main.gap.second), None)
            if gap is not None and gap.mean is not None:
                meaning = verdict(gap.mean, gap.first, gap.second)
                said[arms, MEASURES[measure]] = f"{spelled(gap.mean, sign=True)} over {kl_range(gap)}; {meaning}"
            elif gap is not None:
                said[arms, MEASURES[measure]] = "no KL in common"
        if main.settings.mean is not None:
            said[arms, "golden win rate at equal setting"] = spelled(main.settings.mean, sign=True)
    return said


def _peaks(studies: Mapping[str, Findings]) -> Grid:
    """Each arm's peak in each study."""
    peaks: dict[str, dict[str, str]] = {}
    for label, findings in studies.items():
        lines = [line for line in headlines(findings) if line.golden and line.kl is not None]
        peaks[label] = {line.arm: f"{spelled_share(line.golden)} at {line.kl:.1f}" for line in lines if line.golden}
    rows = tuple((arm, *(peaks[label].get(arm, NONE) for label in studies)) for arm in _union(peaks.values()))
    note = (
        "Golden win rate against each study's golden policy, 95% intervals, and the KL from SFT in nats that it is "
        "reached at; the peak is valued on other seeds and prompts than those that picked it."
    )
    return Grid("Each arm at its peak", ("arm", *studies), rows, note)


def _differing(title: str, trees: Mapping[str, Any]) -> Grid:
    """The values that are not the same in all; a part that some have not is one row."""
    note = "" if (rows := tuple(_differences(list(trees.values())))) else "There is no difference."
    return Grid(title, ("what", *trees), rows, note)


def _differences(trees: Sequence[Any], path: str = "") -> Iterable[tuple[str, ...]]:
    for name in _union(tree for tree in trees):
        values = [tree.get(name) for tree in trees]
        here = [name in tree for tree in trees]
        if all(isinstance(value, Mapping) for value in values):
            yield from _differences(values, f"{path}{name}.")
        elif len({json.dumps([is_here, v], sort_keys=True) for is_here, v in zip(here, values, strict=True)}) > 1:
            yield (f"{path}{name}", *(_shown(v) if is_here else NONE for is_here, v in zip(here, values, strict=True)))


def _shown(value: Any) -> str:
    return THERE if isinstance(value, Mapping) and value else plain(value)


def _without(tree: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: value for name, value in tree.items() if name not in names}


def _union(several: Iterable[Iterable[Any]]) -> list[Any]:
    """All that any has, in the order in which it comes."""
    return list(dict.fromkeys(each for one in several for each in one))
