"""`python -m campaign [PART …] [--quick]`: without a part all of them, each in a process of its own, then the page."""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys
from pathlib import Path

from campaign import REPOSITORY, page
from campaign.outcome import Outcome

MUTATION = "mutation"


def main(given: list[str] | None = None) -> int:
    """The number of parts that found a fault or broke."""
    parser = argparse.ArgumentParser(prog="python -m campaign", description=__doc__)
    known = [*page.PARTS, "page"]
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(known)}; none: all")
    parser.add_argument("--quick", action="store_true", help="a few trials of each, no mutation")
    parser.add_argument("--case", type=int, help="with inputs: only the input of this number, and what it leads to")
    parser.add_argument("--work", type=Path, default=REPOSITORY / "runs" / "campaign", help="folder of what is made")
    options = parser.parse_args(given)
    for part in options.parts:
        if part not in known:
            parser.error(f"there is no part {part!r}; the parts are {', '.join(known)}")
    os.environ.update({"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"})
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    if options.case is not None:
        return importlib.import_module("campaign.inputs").show(options.case, work)
    if len(options.parts) == 1:
        return one(options.parts[0], work, options.quick)
    parts = options.parts or [*(part for part in page.PARTS if part != MUTATION or not options.quick), "page"]
    return sum(_apart(part, work, options.quick) for part in parts)


def one(part: str, work: Path, quick: bool) -> int:
    """Run a part in this process; 1 if it found a fault."""
    if part == "page":
        print(page.write(work, REPOSITORY / "docs" / "reliability.md"))
        return 0
    if part == MUTATION:
        return int(bool(importlib.import_module("campaign.mutation").main(["--work", str(work)])))
    outcome: Outcome = importlib.import_module(f"campaign.{part}").run(work, quick)
    path = outcome.save(work)
    for line in outcome.lines:
        print(f"{line.right:>6} of {line.times:>6}  {line.what}: {line.happened}")
    for fault in outcome.faults:
        print(f"FAULT  {fault}")
    print(f"{part}: {outcome.seconds:.0f} s, {len(outcome.faults)} faults; {path}")
    return int(bool(outcome.faults))


def _apart(part: str, work: Path, quick: bool) -> int:
    command = [sys.executable, "-m", "campaign", part, "--work", str(work), *(["--quick"] if quick else [])]
    print(f"== {part}", flush=True)
    return int(subprocess.run(command, cwd=REPOSITORY, check=False).returncode != 0)


if __name__ == "__main__":
    sys.exit(main())
