"""docs/reliability.md, made of what the parts found."""

from __future__ import annotations

from pathlib import Path

from campaign import REPOSITORY
from campaign.outcome import Outcome, load

PARTS = ("locks", "kills", "overlap", "clusters", "flips", "disk", "memory", "inputs", "browser", "wheel", "mutation")
"""In the order of running and of the page."""
SHOWN = 40
"""At most this many faults of a part are listed."""
HEAD = """# Reliability

What the campaign (`make campaign`, about an hour on two cores) did to the lab, and what the lab did. The numbers are
those of its last run; `python -m campaign PART` runs one part again, `python -m campaign page` writes this page from
what the parts have left in `runs/campaign`. Parts may be of different commits; a fault is listed as it was seen on the
commit of its part.

"""


def write(work: Path, path: Path) -> Path:
    """Write the page; returns its path."""
    outcomes = [load(file) for part in PARTS if (file := work / f"{part}.json").is_file()]
    text = HEAD + _summary(outcomes) + "\n".join(map(_section, outcomes))
    for place in (work, REPOSITORY):  # where a machine keeps them says nothing to a reader
        text = text.replace(f"{place}/", "")
    path.write_text(text, encoding="utf-8")
    return path


def _summary(outcomes: list[Outcome]) -> str:
    rows: list[str] = []
    for each in outcomes:
        trials, commit = sum(line.times for line in each.lines), each.commit + " (quick)" * each.quick
        name, minutes = f"[{each.part}](#{each.part})", f"{each.seconds / 60:.1f}"
        rows.append(f"| {name} | {trials:,} | {len(each.faults):,} | {minutes} | {commit} |")
    return "\n".join(["| part | trials | faults | minutes | commit |", "|---|--:|--:|--:|---|", *rows, "", ""])


def _section(outcome: Outcome) -> str:
    rows = [
        f"| {_cell(line.what)} | {line.times:,} | {line.right:,} | {_cell(line.happened)} |" for line in outcome.lines
    ]
    table = ["| what | times | as it should | what happened |", "|---|--:|--:|---|", *rows, ""]
    faults = [f"- {_cell(fault)}" for fault in outcome.faults[:SHOWN]]
    more = len(outcome.faults) - SHOWN
    listed = ["Faults:", "", *faults, *([f"- and {more} more"] if more > 0 else []), ""] if faults else []
    return "\n".join([f"## {outcome.part}", "", outcome.tried, "", *table, *listed, ""])


def _cell(text: str) -> str:
    """Text for a table; inputs are hostile, and Markdown renders HTML."""
    flat = " ".join("".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text).split())
    return flat.replace("|", "\\|").replace("<", "&lt;")
