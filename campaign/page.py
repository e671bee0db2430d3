"""docs/reliability.md, made of what the parts found."""

from __future__ import annotations

from pathlib import Path

from campaign import REPOSITORY
from campaign.outcome import Outcome, load

PARTS = (
    "locks",
    "kills",
    "overlap",
    "hosts",
    "clusters",
    "flips",
    "disk",
    "memory",
    "inputs",
    "browser",
    "wheel",
    "mutation",
)
"""In the order of running and of the page."""
SHOWN = 40
"""At most this many faults of a part are listed."""
HEAD = """# Reliability

What the campaign (`make campaign`, about an hour on two cores) did to the lab, and what the lab did. The numbers are
those of its last run; `python -m campaign PART` runs one part again, `python -m campaign page` writes on this page what
the parts have left in `runs/campaign`. Parts may be of different commits; a fault is listed as it was seen on the
commit of its part.

"""


def write(work: Path, path: Path) -> Path:
    """Write the page; a part that left nothing keeps what the page says of it. Returns the page's path."""
    before = _said(path.read_text(encoding="utf-8")) if path.is_file() else {}
    outcomes = {part: load(file) for part in PARTS if (file := work / f"{part}.json").is_file()}
    said = {part: (_row(outcome), _section(outcome)) for part, outcome in outcomes.items()}
    shown = [(before | said)[part] for part in PARTS if part in before | said]
    head = [
        "| part | trials | faults | minutes | commit |",
        "|---|--:|--:|--:|---|",
        *(row for row, _ in shown),
        "",
        "",
    ]
    text = HEAD + "\n".join(head) + "\n".join(section for _, section in shown)
    for place in (work, REPOSITORY):  # where a machine keeps them says nothing to a reader
        text = text.replace(f"{place}/", "")
    path.write_text(text, encoding="utf-8")
    return path


def _said(page: str) -> dict[str, tuple[str, str]]:
    """By part, its row and its section of a page that `write` wrote."""
    rows = {line.partition("[")[2].partition("]")[0]: line for line in page.splitlines() if line.startswith("| [")}
    sections = {text.partition("\n")[0]: f"## {text.rstrip()}\n\n" for text in page.split("\n## ")[1:]}
    return {part: (rows[part], sections[part]) for part in rows if part in sections}


def _row(outcome: Outcome) -> str:
    trials, commit = sum(line.times for line in outcome.lines), outcome.commit + " (quick)" * outcome.quick
    minutes = f"{outcome.seconds / 60:.1f}"
    return f"| [{outcome.part}](#{outcome.part}) | {trials:,} | {len(outcome.faults):,} | {minutes} | {commit} |"


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
