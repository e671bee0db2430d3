"""From a study's folder to its report."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import get_args

from goodhart.analysis.rulings import Verdict
from goodhart.cells.store import write_atomically
from goodhart.paper.points import panels
from goodhart.report import provenance, statistics
from goodhart.report.classification_figure import accuracy_picture, shift_picture
from goodhart.report.cost import cost_grid, cost_picture, cost_sentence, shares
from goodhart.report.export import to_csv, to_json
from goodhart.report.findings import Findings, analyse
from goodhart.report.frontier_figure import frontier_picture, hacking_picture, hypothesis_picture
from goodhart.report.gap_figure import gap_picture
from goodhart.report.headline import headline_grid
from goodhart.report.hypotheses import (
    axis_grid,
    axis_picture,
    contrast_grid,
    published_grid,
    verdict_grid,
)
from goodhart.report.judges import is_rule, quality_grid, quality_picture, rules_said, validation_picture
from goodhart.report.league import league_grid, unranked_grid
from goodhart.report.league_figure import league_picture
from goodhart.report.map_figure import map_picture
from goodhart.report.on_policy import drift_grid, drift_picture
from goodhart.report.opening import opening
from goodhart.report.overoptimisation_figure import along_kl, overoptimisation_grid, overoptimisation_picture
from goodhart.report.page import Opening, Section, render
from goodhart.report.paper_figure import paper_picture
from goodhart.report.samples import select
from goodhart.report.tabular import optimum_grid, world_section
from goodhart.report.theme import Picture

RESOLUTION = 200
"""Dots per inch of the figures, enough for print."""


def write_report(folder: Path, findings: Findings | None = None, resolution: int = RESOLUTION) -> Path:
    """Write a study's page, figures, `summary.json` and `checkpoints.csv` into its folder; returns the page's path.

    `findings` are those of `analyse`, where the caller has them already.

    Raises:
        GoodhartError: a file, a column, or a section of the record is missing or unreadable; it is named.
    """
    result = findings or analyse(folder)
    sections, head = _sections(result, resolution), opening(result, resolution)
    write_figures(folder, [*head.pictures, *(picture for section in sections for picture in section.pictures)])
    write_atomically(folder / "summary.json", to_json(result))
    write_atomically(folder / "checkpoints.csv", to_csv(result))
    page = folder / "report.html"
    write_atomically(page, _page(result, (head,), sections))
    return page


def write_figures(folder: Path, pictures: Iterable[Picture]) -> None:
    """Every picture as PNG into the folder's `figures`."""
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    for picture in pictures:
        path = folder / "figures" / f"{picture.name}.png"
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
        temporary.write_bytes(picture.drawing.png)
        temporary.replace(path)


def _sections(findings: Findings, resolution: int) -> list[Section]:
    if findings.contents.tabular:
        return _of_tables(findings, resolution)
    return [
        _arms(findings),
        *_league(findings, resolution),
        *_hypotheses(findings, resolution),
        _frontier(findings, resolution),
        _gap(findings, resolution),
        _measures(findings, resolution),
        _classification(findings, resolution),
        _on_policy(findings, resolution),
        _responses(findings),
        _judges(findings, resolution),
        _samples(findings),
        _data(findings),
        _cost(findings, resolution),
        _settings(findings),
        _origin(findings),
    ]


def first_page(findings: Findings, resolution: int = 110) -> str:
    """The head of the page and its first sections: the answer, the arms, the verdicts and the frontier."""
    sections = [_arms(findings), *_hypotheses(findings, resolution)[:1], _frontier(findings, resolution)]
    return _page(findings, (opening(findings, resolution),), sections)


def _page(findings: Findings, openings: tuple[Opening, ...], sections: list[Section]) -> str:
    record = findings.contents.record
    footer = (
        f"Made by goodhart {record['versions']['goodhart']} from the study's tables. Figures are also in figures/, "
        "numbers in summary.json."
    )
    return render(findings.contents.name, str(record["study"]["question"]), footer, sections, openings)


def _of_tables(findings: Findings, resolution: int) -> list[Section]:
    """What a tabular study has: no texts, no data and no trained judges."""
    optima = Section("optima", "Optima", grids=(optimum_grid(findings.contents),))
    return [
        _arms(findings),
        *_league(findings, resolution),
        *_hypotheses(findings, resolution),
        optima,
        _frontier(findings, resolution),
        _gap(findings, resolution),
        _measures(findings, resolution),
        _classification(findings, resolution),
        world_section(findings.contents),
        _cost(findings, resolution),
        _settings(findings),
        _origin(findings),
    ]


def _arms(findings: Findings) -> Section:
    return Section("arms", "Arms", grids=(headline_grid(findings),))


def _league(findings: Findings, resolution: int) -> list[Section]:
    """The ranking; nothing for a study without one."""
    if findings.league is None:
        return []
    pictures = (league_picture(findings, findings.league, resolution),) if findings.league.places else ()
    grids = (league_grid(findings, findings.league),) if findings.league.places else ()
    grids += (unranked_grid(findings.league),) if findings.league.unranked else ()
    return [Section("league", "League", pictures=pictures, grids=grids)]


def _hypotheses(findings: Findings, resolution: int) -> list[Section]:
    """Verdicts first, then what they rest on; nothing for a study without hypotheses and axes."""
    sections: list[Section] = []
    if findings.rulings:
        counts = Counter(ruling.verdict for ruling in findings.rulings)
        lead = ", ".join(f"{counts[v]} {v}" for v in get_args(Verdict) if counts[v])
        grids = (verdict_grid(findings.rulings), contrast_grid(findings.rulings))
        maps = findings.contents.maps.items()
        pictures = tuple(map_picture(name, each, findings.rulings, resolution) for name, each in maps)
        sections.append(Section("hypotheses", "Hypotheses", f"Verdicts: {lead}.", pictures=pictures, grids=grids))
    if findings.axes:
        pictures = tuple(axis_picture(axis, resolution) for axis in findings.axes)
        sections.append(Section("axes", "Axes", pictures=pictures, folded=(axis_grid(findings.axes),)))
    drawn = [ruling.hypothesis.paper for ruling in findings.rulings if ruling.hypothesis.paper.figure]
    if any(ruling.hypothesis.paper.results for ruling in findings.rulings):
        pictures = tuple(
            paper_picture(findings, each.figure, each.panels or panels(each.figure), each.series, resolution)
            for each in drawn
        )
        folded = (published_grid(findings.rulings),)
        sections.append(Section("paper", "Beside the paper", pictures=pictures, folded=folded))
    return sections


def _frontier(findings: Findings, resolution: int) -> Section:
    pictures = (
        frontier_picture(findings, resolution),
        *(hypothesis_picture(findings, ruling, resolution) for ruling in findings.rulings[1:]),
    )
    return Section("frontier", "Frontier", pictures=pictures, grids=(statistics.peak_grid(findings),))


def _gap(findings: Findings, resolution: int) -> Section:
    if len(findings.contents.arms) == 1:
        return Section("gap", "Gap", paragraphs=("One arm has no gap to another.",))
    compared = [c for measure in ("golden_vs_policy", "golden_vs_sft") for c in findings.comparisons(measure)]
    pictures = (gap_picture(findings, resolution),) if any(c.gap.mean for c in compared) else ()
    text = () if pictures else ("No two arms have a KL in common, so there is no gap at matched KL to draw.",)
    grids = (statistics.gap_grid(findings, "held_out"), statistics.setting_grid(findings))
    folded = (statistics.gap_grid(findings, "train"),)
    return Section("gap", "Gap", paragraphs=text, pictures=pictures, grids=grids, folded=folded)


def _measures(findings: Findings, resolution: int) -> Section:
    text = _measures_said(findings)
    curves = along_kl(findings)
    pictures = (hacking_picture(findings, resolution), overoptimisation_picture(curves, resolution))
    grids = (overoptimisation_grid(curves),)
    return Section("measures", "Measures", paragraphs=(text,), pictures=pictures, grids=grids)


def _measures_said(findings: Findings) -> str:
    learnt = "The proxy is what online arms learn from, the golden model judges"
    if findings.contents.tabular:
        return f"{learnt}: the world's own preferences."
    if findings.contents.has_hidden:
        return (
            f"{learnt}, and the hidden measure, the similarity to the human line, is seen by no model. A measure that "
            "becomes a target can be gained without what it stands for."
        )
    return (
        f"{learnt}. This task has no hidden measure, because its data has no human line that no model was trained on: "
        "that golden itself is exploited would not be seen here."
    )


def _classification(findings: Findings, resolution: int) -> Section:
    pictures = (accuracy_picture(findings, resolution), shift_picture(findings, resolution))
    grids, folded = (statistics.correlation_grid(findings),), (statistics.classification_grid(findings),)
    return Section("classification", "Classification", pictures=pictures, grids=grids, folded=folded)


def _responses(findings: Findings) -> Section:
    last, every = (statistics.diagnostics_grid(findings, last=last) for last in (True, False))
    return Section("responses", "Responses", grids=(last,), folded=(every,))


def _on_policy(findings: Findings, resolution: int) -> Section:
    pictures = (drift_picture(findings, resolution),)
    return Section("on-policy", "On-policy", pictures=pictures, grids=(drift_grid(findings),))


def _judges(findings: Findings, resolution: int) -> Section:
    record = findings.contents.record
    pictures = (quality_picture(record, resolution),)
    if not all(is_rule(record, role) for role in ("golden", "proxy")):
        pictures = (*pictures, validation_picture(record, resolution))
    labels = provenance.label_grid(record["labels"], record.get("test labels", {}), record["sft"])
    grids = (quality_grid(record), labels, *provenance.adopted_grids(record.get("adopted labels", {})))
    return Section("judges", "Judges", paragraphs=rules_said(record), pictures=pictures, grids=grids)


def _samples(findings: Findings) -> Section:
    selection = select(findings.contents)
    return Section("samples", "Samples", paragraphs=(selection.origin,), samples=selection.samples)


def _data(findings: Findings) -> Section:
    grids = provenance.data_grids(findings.contents.record["data"])
    long = tuple(grid for grid in grids if "package" in grid.header)
    return Section("data", "Data", grids=tuple(g for g in grids if g not in long), folded=long)


def _cost(findings: Findings, resolution: int) -> Section:
    record = findings.contents.record
    parts, text = shares(record["cells"]), cost_sentence(record["cost"], len(record.get("parts", [None])))
    return Section(
        "cost", "Cost", paragraphs=(text,), pictures=(cost_picture(parts, resolution),), grids=(cost_grid(parts),)
    )


def _settings(findings: Findings) -> Section:
    return Section("settings", "Settings", folded=(provenance.settings_grid(findings.contents.record["study"]),))


def _origin(findings: Findings) -> Section:
    record = findings.contents.record
    grids = tuple(provenance.origin_grids(record))
    return Section("origin", "Origin", grids=grids, folded=(provenance.cell_grid(record["cells"]),))
