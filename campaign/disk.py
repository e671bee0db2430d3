"""File systems that fill up at random points or become read-only under a running study."""

from __future__ import annotations

import os
import random
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from campaign.command import Command, begin, ended, heat
from campaign.kills import LONGEST
from campaign.outcome import Outcome, Tally
from campaign.study import Undisturbed, cells_done, plain_fault, undisturbed
from goodhart.cells.store import Store
from goodhart.errors import GoodhartError

PAGE = 4096
"""Bytes that a small file takes there."""


@dataclass(frozen=True, slots=True)
class Small:
    """A file system in memory of a size that can be changed while it is in use."""

    folder: Path

    def mount(self, size: int) -> None:
        """A new and empty one."""
        self.folder.mkdir(exist_ok=True)
        _must(["mount", "-t", "tmpfs", "-o", f"size={size}", "goodhart-campaign", str(self.folder)])

    def resize(self, size: int) -> None:
        """Of so many bytes from now on."""
        _must(["mount", "-o", f"remount,size={size}", str(self.folder)])

    def writable(self, yes: bool) -> bool:
        """Make it read-only or writable again; False while a file is open for writing."""
        how = f"remount,{'rw' if yes else 'ro'}"
        return subprocess.run(["mount", "-o", how, str(self.folder)], capture_output=True, check=False).returncode == 0

    def taken(self) -> int:
        """Bytes that its files take."""
        found = os.statvfs(self.folder)
        return (found.f_blocks - found.f_bfree) * found.f_frsize

    def unmount(self) -> None:
        """End it."""
        _must(["umount", str(self.folder)])


def _must(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True)


def can_mount(folder: Path) -> bool:
    """Whether this user may mount: it takes root."""
    small = Small(folder)
    try:
        small.mount(2**20)
    except (OSError, subprocess.CalledProcessError):
        return False
    small.unmount()
    return True


def broken_cells(root: Path) -> str:
    """Finished cells that are not what was written."""
    faults: list[str] = []
    for cell in cells_done(root):
        try:
            Store(root).open(cell)
        except GoodhartError as error:
            faults.append(str(error))
    return "; ".join(faults)


def _end_fault(command: Command, words: tuple[str, ...]) -> str:
    """What is wrong with how a command ended that could not write: it must say so in one line."""
    fault = plain_fault(command)
    if not fault and not any(word in command.errors.lower() for word in words):
        fault = f"no word of the disk: {command.last_words}"
    return fault


def fill(made: Undisturbed, small: Small, points: int, draw: random.Random, tally: Tally) -> int:
    """Give a study a little more room each time it has run out: how many points it ran out at."""
    whole = int(1.3 * sum(-(-path.stat().st_size // PAGE) * PAGE for path in made.root.rglob("*") if path.is_file()))
    sizes = sorted(draw.randrange(PAGE * 16, whole) for _ in range(points))
    small.mount(sizes[0])
    try:
        root, met = made.new_root(small.folder / "root"), 0
        for size in sizes:
            small.resize(max(size, small.taken() + PAGE))
            command = ended(made.run(root), small.folder.parent / "command", LONGEST)
            if command.code == 0:
                break
            met += 1
            fault = _end_fault(command, ("space", "disk is full")) or broken_cells(root)
            end = "one line that says so" if not fault else "ended otherwise"
            place = f"at {size:,} bytes, {len(cells_done(root))} cells done: {fault}"
            tally.add("the file system is full", end, place if fault else "")
        small.resize(64 * 2**20)
        _goes_on(made, root, "run again once there is space", tally)
    finally:
        small.unmount()
    return met


def read_only(made: Undisturbed, small: Small, moment: float, tally: Tally) -> None:
    """Make the file system read-only under a running study, then writable again."""
    small.mount(64 * 2**20)
    try:
        root = made.new_root(small.folder / "root")
        command = begin(made.run(root), small.folder.parent / "command")
        time.sleep(moment)
        until = time.monotonic() + 30
        while not small.writable(False) and time.monotonic() < until and command.poll() is None:
            time.sleep(0.001)
        fault = "it goes on for ever" if command.wait(LONGEST) is None else ""
        command.end()
        if command.code == 0:
            tally.add("the file system becomes read-only", "ended before")
            return
        fault = fault or _end_fault(command, ("read-only",)) or broken_cells(root)
        end = "one line that says so" if not fault else "ended otherwise"
        tally.add("the file system becomes read-only", end, f"after {moment:.1f} s: {fault}" if fault else "")
        small.writable(True)
        _goes_on(made, root, "run again once it is writable", tally)
    finally:
        small.writable(True)
        small.unmount()


def _goes_on(made: Undisturbed, root: Path, what: str, tally: Tally) -> None:
    command = ended(made.run(root), root.parent.parent / "command", LONGEST)
    fault = made.differences(root) if command.code == 0 else f"exit code {command.code}: {command.last_words}"
    tally.add(what, "ended with the undisturbed tables and cells" if not fault else "ended otherwise", fault)


def run(work: Path, quick: bool) -> Outcome:
    """The part."""
    began = time.monotonic()
    heat()
    draw, tally, folder = random.Random(15), Tally(), work / "disk"
    tried = (
        "A study ran on a small file system that was full at random points, each time a little later, and in others "
        "that became read-only while it ran. Each time the command must end with one line that says so, leave no "
        "broken cell, and end with the undisturbed tables once there is space."
    )
    made = undisturbed(folder)
    small = Small(folder / "small")
    if not can_mount(small.folder):
        tally.faults.append("NOT TRIED: only root can mount a file system of a given size")
        return Outcome("disk", tried, (), tuple(tally.faults), time.monotonic() - began, quick)
    met, wanted = 0, 1 if quick else 50
    while met < wanted:
        met += fill(made, small, 1 if quick else 12, draw, tally)
    for _ in range(1 if quick else 8):
        read_only(made, small, draw.uniform(0.3, 5), tally)
    return Outcome("disk", tried, tally.lines, tuple(tally.faults), time.monotonic() - began, quick)
