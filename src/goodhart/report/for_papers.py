"""A study for a paper: figures as PDF and SVG, tables as LaTeX and CSV, a paragraph of methods, and BibTeX."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from goodhart.alignment.methods import METHODS
from goodhart.cells.store import write_atomically
from goodhart.errors import GoodhartError
from goodhart.report import theme
from goodhart.report.findings import MAIN, Findings
from goodhart.report.frontier_figure import LABELS, draw_arm, draw_baselines, draw_curve, kl_axes
from goodhart.report.grid import Grid, listed
from goodhart.report.headline import headline_grid
from goodhart.report.hypotheses import contrast_grid, verdict_grid
from goodhart.report.references import PAPER, bibtex, ids_in, key
from goodhart.report.theme import shown

_SHAPE = 0.8
"""Height of a figure by its width."""
_WIDTH = re.compile(r"(\d+(?:\.\d+)?)\s*(in|cm|mm|pt)?")
_INCHES = {"in": 1.0, "cm": 1 / 2.54, "mm": 1 / 25.4, "pt": 1 / 72.27}
_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    **{sign: f"\\{sign}" for sign in "$&#_%"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "−": "$-$",
    "–": "--",
    "≤": r"$\le$",
    "≥": r"$\ge$",
    "β": r"$\beta$",
    "±": r"$\pm$",
    "÷": r"$\div$",
    "‖": r"$\|$",
    "↳": r"$\hookrightarrow$",
    "√": r"$\surd$",
}


def inches(width: str) -> float:
    """A width such as 3.25in or 8cm. Raises GoodhartError for what is none."""
    result = _WIDTH.fullmatch(width.strip())
    size = float(result[1]) * _INCHES[result[2] or "in"] if result else 0.0
    if not 1 <= size <= 40:
        raise GoodhartError(f"the width is {width!r}", "give 1 to 40 inches, for example 3.25in, 8.4cm or 240pt")
    return size


def write_for_paper(findings: Findings, folder: Path, width: float) -> list[Path]:
    """Write everything into a folder; figures are `width` inches wide. Returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    files: list[Path] = []

    def text(name: str, said: str) -> None:
        write_atomically(folder / name, said)
        files.append(folder / name)

    figures: dict[str, Callable[[Axes], None]] = {
        "frontier": lambda axes: _frontier(axes, findings, MAIN),
        "frontier-vs-sft": lambda axes: _frontier(axes, findings, "golden_vs_sft"),
    }
    figures |= {
        theme.file_name("gap", comparison.gap.second): lambda axes, gap=comparison.gap: _gap(axes, gap)
        for comparison in findings.comparisons(MAIN)
        if comparison.gap.curve is not None and comparison.gap.second in findings.shown
    }
    for name, draw in figures.items():
        files += _drawn(folder / name, width, draw)
    grids = {"peaks": headline_grid(findings)}
    if findings.rulings:
        grids |= {"verdicts": verdict_grid(findings.rulings), "contrasts": contrast_grid(findings.rulings)}
    for name, grid in grids.items():
        text(f"{name}.tex", latex(grid))
        text(f"{name}.csv", _csv(grid))
    papers = _papers(findings)
    text("methods.tex", methods(findings, papers))
    text("references.bib", bibtex(papers))
    return files


def latex(grid: Grid) -> str:
    """A table of booktabs; columns of numbers are set to the right."""
    columns = "".join("r" if numeric else "l" for numeric in grid.numeric)
    rows = [" & ".join(escaped(cell) for cell in row) + r" \\" for row in grid.rows]
    return "\n".join(
        [
            "% \\usepackage{booktabs}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            " & ".join(escaped(name) for name in grid.header) + r" \\",
            r"\midrule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


def escaped(text: str) -> str:
    """Text that LaTeX prints as it is; what stands for no character, and line ends, are spaces."""
    plain = "".join(sign if sign.isprintable() else " " for sign in text)
    return "".join(_SPECIAL.get(sign, sign) for sign in plain)


def methods(findings: Findings, papers: list[str]) -> str:
    """A paragraph with the study's settings, in LaTeX."""
    study: dict[str, Any] = findings.contents.record["study"]
    seeds = len(study["seeds"])
    opening = (
        f"We follow the protocol of \\citet{{{key(PAPER)}}}: a golden preference model labels preference data, a proxy "
        "learns from these labels, and online and offline arms train with the same loss and code. Every checkpoint is "
        "measured by its golden win rate against a golden policy and by its KL divergence from the SFT policy on "
        f"held-out prompts, and arms are compared at equal KL. We use {seeds} seed{'s' * (seeds > 1)}."
    )
    world = study.get("world")
    models = "" if world else f" {_models(study)}{_adopted(findings.contents.record)}"
    arms = " ".join(_arm(name, arm) for name, arm in study["arms"].items())
    ends = (
        " Envelopes and gaps are cross-fitted over seeds and prompts; intervals are 95\\% and cover both, and verdicts "
        "are corrected by Holm's method over all deciding contrasts of the study."
    )
    version = findings.contents.record["versions"]["goodhart"]
    others = [each for each in papers if each != PAPER]
    cited = f" The methods are of \\citet{{{','.join(key(each) for each in others)}}}." if others else ""
    return f"{opening}{models} {arms}{cited}{ends} Runs were made with goodhart {escaped(str(version))}.\n"


def _models(study: dict[str, Any]) -> str:
    golden, proxy, task = study["golden"], study["proxy"], study["task"]
    return (
        f"The policy is {escaped(str(study['policy']))} after {study['sft']['steps']} steps of SFT; the golden model "
        f"is {_judge(golden)}, the proxy {_judge(proxy)}, and {study['labels']['number']:,} pairs are labelled. We "
        f"measure on {task['evaluation']} held-out prompts."
    )


def _adopted(record: Mapping[str, Any]) -> str:
    """Where the labels of training pairs are from, if they are not the golden model's."""
    adopted = record.get("adopted labels", {}).get("")
    if not adopted:
        return ""
    share = f"{adopted['agreement with golden']:.1%}".replace("%", "\\%")
    return (
        " In place of golden labels the training pairs have labels that we adopted from a file with SHA-256 "
        f"\\texttt{{{adopted['sha256'][:16]}}}; {share} of them agree with those of the golden model. Validation and "
        "test pairs have golden labels."
    )


def _judge(judge: dict[str, Any]) -> str:
    if judge["kind"] == "rule":
        return "a rule"
    return f"{escaped(str(judge['model']))} ({escaped(str(judge['kind']))}, {judge['steps']} steps)"


def _arm(name: str, arm: dict[str, Any]) -> str:
    swept = {"$\\beta$": arm["beta"], "learning rate": arm["lr"], **arm.get("sweep", {})}
    values = ", ".join(
        f"{escaped(what) if '$' not in what else what} {listed([f'{v:g}' for v in several])}"
        for what, several in swept.items()
        if several
    )
    how = f"{arm['steps']} steps of {arm['batch']} prompts"
    return f"\\emph{{{escaped(name)}}}: {escaped(arm['loss'])} on {_source(arm)}, {values}, {how}."


def _source(arm: dict[str, Any]) -> str:
    names = {
        "policy": "samples of the policy",
        "data": "the labelled data",
        "stream": "the recorded pairs of another arm",
        "samples": "samples of two other policies",
        "mixture": "a mixture of other arms' pairs",
    }
    return names[arm["source"]]


def _papers(findings: Findings) -> list[str]:
    arms = findings.contents.record["study"]["arms"].values()
    said = [PAPER]
    for arm in arms:
        row = METHODS.get(arm.get("name", ""))
        loss = next((r for r in METHODS.values() if r.method.loss == arm["loss"]), None)
        said += [result.papers.partition(";")[0] for result in (row or loss,) if result]
    return ids_in(said)


def _frontier(axes: Axes, findings: Findings, measure: str) -> None:
    look = theme.styles(findings.shown)
    for arm in findings.shown:
        draw_arm(axes, findings, measure, arm, look[arm])
    draw_baselines(axes, findings, measure)
    axes.set_ylabel(LABELS[measure])
    kl_axes([axes])
    handles = [Line2D([], [], color=s.colour, ls=s.line, marker=s.marker, label=shown(arm)) for arm, s in look.items()]
    axes.legend(handles=handles, fontsize=7)


def _gap(axes: Axes, gap: Any) -> None:
    style = theme.styles([gap.first])[gap.first]
    axes.axhline(0, color=theme.INK, lw=0.8)
    draw_curve(axes, gap.curve, style)
    axes.set_ylabel(f"{shown(gap.first, 20)} − {shown(gap.second, 20)}")
    kl_axes([axes])


def _drawn(path: Path, width: float, draw: Callable[[Axes], None]) -> list[Path]:
    """The figure as PDF, whose letters are fonts, and as SVG; the same bytes for the same figure."""
    files: list[Path] = []
    with theme.canvas(width, _SHAPE * width, **_LETTERS) as figure:
        draw(figure.subplots())
        for kind, about in (("pdf", {"CreationDate": None}), ("svg", {"Date": None})):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=kind, metadata=about)
            file = path.with_name(f"{path.name}.{kind}")
            file.write_bytes(buffer.getvalue())
            files.append(file)
    return files


_LETTERS: dict[Any, Any] = {
    "font.size": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "pdf.fonttype": 42,
    "svg.fonttype": "path",
    "svg.hashsalt": "goodhart",
}
"""Sizes of a two-column paper in points; fonts that publishers take; ids that do not change."""


def _csv(grid: Grid) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(grid.header)
    writer.writerows([cell.replace("−", "-") for cell in row] for row in grid.rows)
    return buffer.getvalue()
