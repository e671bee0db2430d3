"""Hundreds of processes want the same few cells and are killed at random; no cell ever has two owners."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from pathlib import Path

from campaign.outcome import Outcome, Tally
from goodhart.cells.store import Store

CELLS = ("a", "b", "c", "d")
QUICK, WHOLE = (20, 2.0), (200, 60.0)
"""Processes, and seconds."""


def contend(root: Path, seed: int) -> None:
    """Take locks for ever; whoever holds one claims its token, and says if anybody living has claimed it."""
    draw, store = random.Random(seed), Store(root)
    while True:
        cell = draw.choice(CELLS)
        with store.lock(cell) as mine:
            if mine:
                _own(root, cell, draw)
        time.sleep(draw.uniform(0, 0.02))


def _own(root: Path, cell: str, draw: random.Random) -> None:
    token, me = root / f"{cell}.token", str(os.getpid())
    if not _claimed(token, me):
        other = _read(token)
        if not other or living(int(other)):
            _write(root / "two-owners", f"{cell}: {me} and {other or 'somebody'}\n")
            return
        token.unlink(missing_ok=True)  # a killed owner's
        if not _claimed(token, me):
            _write(root / "two-owners", f"{cell}: {me} and somebody\n")
            return
    time.sleep(draw.choice((0, 0.001, 0.01)))
    if _read(token) != me:
        _write(root / "two-owners", f"{cell}: {me} lost its token\n")
    token.unlink(missing_ok=True)
    _write(root / "taken", ".")


def _claimed(token: Path, me: str) -> bool:
    ready = token.with_name(f"{token.name}.{me}")
    ready.write_text(me)
    try:
        os.link(ready, token)  # with its content or not at all, and only if there is none
    except FileExistsError:
        return False
    finally:
        ready.unlink()
    return True


def _read(token: Path) -> str:
    try:
        return token.read_text()
    except OSError:
        return ""


def _write(path: Path, text: str) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(handle, text.encode())
    os.close(handle)


def living(pid: int) -> bool:
    """Whether a process runs: one that is killed holds nothing, though its parent has not asked for it yet."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in ("Z", "X")


def fork(root: Path, seed: int) -> int:
    """One more contender."""
    pid = os.fork()
    if pid:
        return pid
    try:
        contend(root, seed)
    except BaseException as error:
        _write(root / "broken", f"{type(error).__name__}: {error}\n")
    os._exit(0)


def run(work: Path, quick: bool) -> Outcome:
    """The part."""
    began = time.monotonic()
    processes, seconds = QUICK if quick else WHOLE
    root = work / "locks"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    draw, killed = random.Random(13), 0
    crowd = [fork(root, number) for number in range(processes)]
    try:
        while time.monotonic() < began + seconds:
            time.sleep(draw.uniform(0, 0.02))
            place = draw.randrange(processes)
            os.kill(crowd[place], signal.SIGKILL)
            os.waitpid(crowd[place], 0)
            killed += 1
            crowd[place] = fork(root, processes + killed)
    finally:
        for pid in crowd:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    taken = len(_read(root / "taken"))
    tally = Tally()
    what = f"{processes} processes at {len(CELLS)} locks for {seconds:.0f} s, {killed} of them killed"
    faults = _read(root / "two-owners").splitlines()
    broken = _read(root / "broken").splitlines()
    end = f"{taken:,} times taken, {len(faults)} times by two"
    fault = "; ".join([*faults[:3], *broken[:3]]) or ("" if taken > processes else "hardly any lock was ever taken")
    tally.add(what, end, fault)
    tried = (
        "Light processes take the locks of the same few cells as fast as they can and are killed at random, a new one "
        "for each. Who holds a lock claims a token that only one can have and looks whether a living process has it."
    )
    return Outcome("locks", tried, tally.lines, tuple(tally.faults), time.monotonic() - began, quick)
