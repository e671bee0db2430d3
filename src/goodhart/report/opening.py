"""What a reader sees first: the answer, what could have been seen, the frontier, and a sentence for each hypothesis."""

from __future__ import annotations

from goodhart.report.findings import MAIN, Findings
from goodhart.report.frontier_figure import first_picture
from goodhart.report.hypotheses import estimates
from goodhart.report.judges import doubts, is_rule
from goodhart.report.league import league_said
from goodhart.report.page import Opening, Point
from goodhart.report.tabular import world_said
from goodhart.report.unfinished import lacking
from goodhart.report.verdict import answer, gap_line, seeds_note

_FEW = 2
"""So many other gaps are said at once; more of them stand in the table of gaps alone."""


def opening(findings: Findings, resolution: int) -> Opening:
    """The head of a study's page."""
    said = answered(findings)
    points = tuple(
        Point(ruling.name, ruling.verdict, f"{ruling.hypothesis.statement} {estimates(ruling)}")
        for ruling in findings.rulings
    )
    picture = first_picture(findings, resolution)
    return Opening("Answer", said[0], (*said[1:], *beside(findings)), notices(findings), points, picture)


def notices(findings: Findings) -> tuple[str, ...]:
    """What a reader must not miss: cells that are missing, and judges that cannot judge."""
    return (*lacking(findings.contents.unfinished), *doubts(findings.contents.record))


def answered(findings: Findings) -> tuple[str, ...]:
    """The answer in a sentence, and what belongs to it."""
    compared = findings.comparisons(MAIN)
    if compared:
        said = answer(compared[0].gap, compared[0].settings)
    elif len(findings.contents.arms) == 1:
        said = (f"This study has one arm, {findings.contents.arms[0]}, so there is nothing to compare it with.",)
    else:
        said = ("The arms have no seed or no prompt in common, so they cannot be compared.",)
    return (league_said(findings.league), *said) if findings.league else said


def beside(findings: Findings) -> tuple[str, ...]:
    """The other gaps, and what the arms learn from."""
    study = findings.contents.record["study"]
    compared = findings.comparisons(MAIN)[1:]
    others = tuple(f"{gap_line(each.gap)}." for each in compared if len(compared) <= _FEW)
    note = seeds_note(study["seeds"])
    notes = (note,) if note else ()
    if findings.contents.tabular:
        return (*others, world_said(findings.contents.record), *notes)
    serve = "feed" if is_rule(findings.contents.record, "proxy") else "train the proxy and feed"
    adopted = findings.contents.record.get("adopted labels", {}).get("")
    number = f"{study['labels']['number']:,}"
    whose = f"{number} pairs have labels from {adopted['file']}" if adopted else f"The judge labelled {number} pairs"
    labels = f"{whose}; they {serve} the offline arms, and how much the arms differ depends on how many there are."
    return (*others, labels, *notes)
