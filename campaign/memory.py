"""Ceilings of memory at several levels: a clear error and no broken cell, or the right tables."""

from __future__ import annotations

import re
import resource
import shutil
import time
from collections import deque
from pathlib import Path

from campaign.command import Command, begin, heat
from campaign.disk import broken_cells
from campaign.outcome import Outcome, Tally
from campaign.study import Undisturbed, plain_fault, undisturbed

ROOM = (1, 2, 8, 16, 32, 48, 64, 68, 72, 80, 96, 104, 112, 128, 144, 160, 192, 224, 256, 384, 512)
"""MiB of data that a process may have beside what it has when the study begins."""
COLD = (25, 50, 100, 200, 300, 400, 500, 550, 600, 800, 1400, 2000, 3000, 4000)
"""MiB of data that each process may have, from the start of Python."""
LONGEST = 900.0
"""Seconds in which a command must end, however busy the machine is; undisturbed it takes some ten."""
IDLE, LOOK = 60.0, 0.1
"""A command goes on for ever if of looks this far apart less than a tenth find it busy for so long."""


def _busy(group: int) -> bool:
    """Whether a thread of a process group runs, or waits for a processor or a disk."""
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(file.read_text().rpartition(")")[2].split()[2]) != group:
                continue
            threads = [each.read_text() for each in file.parent.glob("task/*/stat")]
        except OSError:
            continue  # it has ended
        if any(each.rpartition(")")[2].split()[0] in "RD" for each in threads):
            return True
    return False


def goes_on_for_ever(command: Command) -> bool:
    """Wait for a command's end; whether there will be none."""
    until = time.monotonic() + LONGEST
    looks = deque[bool](maxlen=round(IDLE / LOOK))
    while command.wait(LOOK) is None and time.monotonic() < until:
        looks.append(_busy(command.pid))
        if len(looks) == looks.maxlen and sum(looks) < len(looks) / 10:
            break
    return command.poll() is None


def held() -> int:
    """Bytes of private data of this process."""
    found = re.search(r"VmData:\s+(\d+)", Path("/proc/self/status").read_text())
    return 1024 * int(found[1]) if found else 0


def _starve(limit: int) -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _other_words(command: Command) -> str:
    """What a command said that is not one line about memory."""
    said = command.errors.strip().splitlines()
    wrong = [line for line in said if not line.startswith("error: ") or "memory" not in line]
    return f"{len(said)} lines, of them {wrong[:1] or said[:1]}" if wrong or len(said) != 1 else ""


def left(root: Path) -> frozenset[str]:
    """What lies in a root, by name."""
    return frozenset(str(path.relative_to(root)) for path in root.rglob("*"))


def starved(made: Undisturbed, root: Path, room: int, cold: bool, tally: Tally, known: set[frozenset[str]]) -> None:
    """Run with a ceiling, then without, unless that was done with a root in which the same was left."""
    what = "a ceiling for the whole of a command" if cold else "a ceiling above what the libraries take"
    limit = room * 2**20 + (0 if cold else held())
    command = begin(made.run(root), root.parent / "command", cold=cold, before=lambda: _starve(limit))
    if goes_on_for_ever(command):
        command.end()
        fault = "it goes on for ever"
    elif command.code == 0:
        fault = made.differences(root)
    else:
        fault = plain_fault(command) or _other_words(command) or broken_cells(root)
    end = "the undisturbed tables" if command.code == 0 else "one line that says so"
    tally.add(what, end if not fault else "ended otherwise", f"{room} MiB: {fault}" if fault else "")
    if command.code != 0 and (found := left(root)) not in known:
        known.add(found)
        again = begin(made.run(root), root.parent / "command")
        fault = "it goes on for ever" if goes_on_for_ever(again) else ""
        again.end()
        fault = fault or (made.differences(root) if again.code == 0 else again.last_words)
        end = "ended with the undisturbed tables and cells" if not fault else "ended otherwise"
        tally.add("run again without a ceiling", end, f"{room} MiB: {fault}" if fault else "")


def run(work: Path, quick: bool) -> Outcome:
    """The part."""
    began = time.monotonic()
    heat()
    tally, folder = Tally(), work / "memory"
    made = undisturbed(folder)
    known = set[frozenset[str]]()
    levels = [(16, False)] if quick else [*((room, False) for room in ROOM), *((room, True) for room in COLD)]
    for room, cold in levels:
        root = made.new_root(folder / f"root-{room}-{'cold' if cold else 'warm'}")
        starved(made, root, room, cold, tally, known)
        shutil.rmtree(root)
    tried = (
        "A study's processes were each given so much memory for data and no more (RLIMIT_DATA). It must end with one "
        "line that says so and leave no broken cell, or end with the right tables, and go on without the ceiling (this "
        "once for each set of files that was left)."
    )
    return Outcome("memory", tried, tally.lines, tuple(tally.faults), time.monotonic() - began, quick)
