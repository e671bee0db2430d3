"""Kills whole studies at random moments and runs them again, until their tables can be compared."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

from campaign.command import Command, begin, heat
from campaign.outcome import Outcome, Tally
from campaign.study import Undisturbed, plain_fault, undisturbed

LONGEST = 300.0
"""Seconds in which a command must end."""
VICTIMS = ("the command alone", "a worker alone", "all processes")


@dataclass(frozen=True, slots=True)
class Blow:
    """One signal: which, to whom, and whether the command was begun as a user begins it."""

    signal: signal.Signals
    victim: str
    cold: bool

    @property
    def words(self) -> str:
        """For the table."""
        name = "Ctrl-C (SIGINT)" if self.signal == signal.SIGINT else self.signal.name
        return f"{name} of {self.victim}"


def blows(quick: bool) -> list[Blow]:
    """100 SIGKILLs, and 20 of the signals that a command may answer."""
    kills, others = (4, 2) if quick else (100, 20)
    victims = itertools.cycle(VICTIMS)
    cold = 0 if quick else 9
    found = [Blow(signal.SIGKILL, next(victims), number < cold) for number in range(kills)]
    for number in range(others):
        terminated = number % 2 == 0
        number_of = signal.SIGTERM if terminated else signal.SIGINT
        found.append(Blow(number_of, VICTIMS[0] if terminated else VICTIMS[2], not quick and number < 4))
    return found


@dataclass(slots=True)
class Tormented:
    """A root in which a study is begun, hit and begun again."""

    made: Undisturbed
    folder: Path
    tally: Tally
    studies: int = 0
    command: Command | None = None
    hit: list[Blow] = field(default_factory=list[Blow])

    @property
    def root(self) -> Path:
        """Where the present study runs."""
        return self.folder / f"root-{self.studies}"

    def running(self, cold: bool) -> Command:
        """The command of the present study, begun if it is not running."""
        if self.command is None:
            if not self.root.exists():
                self.made.new_root(self.root)
            self.command = begin(self.made.run(self.root), self.folder / "command", cold=cold)
        return self.command

    def strike(self, blow: Blow, moments: random.Random) -> bool:
        """Hit the study at a random moment; False if it ended before."""
        command = self.running(blow.cold)
        if blow.cold:  # its seconds of importing are no moments of a study
            _until_it_works(command)
        time.sleep(moments.uniform(0, 3))
        if blow.victim == VICTIMS[1]:
            _until_it_works(command)
        if command.poll() is not None:
            self.look(command)
            return False
        self._send(blow, command, moments)
        self.hit.append(blow)
        return True

    def _send(self, blow: Blow, command: Command, moments: random.Random) -> None:
        if blow.victim == VICTIMS[1]:
            workers = command.workers()
            if workers:
                moments.choice(workers).send_signal(blow.signal)
            command.wait(0.5)
            return
        if blow.victim == VICTIMS[2]:
            command.signal_all(blow.signal)
        elif command.poll() is None:
            signal_one(command.pid, blow.signal)
        fault = ""
        if command.wait(60) is None:
            fault = f"does not end on {blow.words}"
            command.end()
        elif blow.signal == signal.SIGINT and command.code != 0:  # it may have ended just before
            fault = plain_fault(command)
        if fault:
            self.tally.faults.append(f"{blow.words}: {fault}")
        self.command = None

    def look(self, command: Command) -> None:
        """What a command that ended by itself leaves: an error that was to be expected, or a study to compare."""
        self.command = None
        if command.code == 0:
            self.close(self.made.differences(self.root))
            return
        fault = plain_fault(command)
        if fault or not any(blow.victim == VICTIMS[1] for blow in self.hit):
            self.tally.faults.append(f"a command ended by itself: {fault or command.last_words}")

    def finish(self) -> None:
        """Let the present study end."""
        for _ in range(5):
            if not self.hit:
                return
            command = self.running(False)
            if command.wait(LONGEST) is None:
                command.end()
                self.close(f"it had not ended after {LONGEST:.0f} s")
                return
            self.look(command)
        self.close("it does not end after it was begun five times")

    def close(self, fault: str) -> None:
        """Count the blows that the study survived, or did not, and take another root."""
        for number, blow in enumerate(self.hit):
            end = "ended with the undisturbed tables and cells" if not fault else "ended otherwise"
            self.tally.add(blow.words, end, fault if number == 0 else "")
        if not fault:
            shutil.rmtree(self.root, ignore_errors=True)
        self.hit.clear()
        self.studies += 1


def signal_one(pid: int, number: signal.Signals) -> None:
    """To one process, which may have gone."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _until_it_works(command: Command) -> None:
    until = time.monotonic() + 60
    while command.poll() is None and not command.workers() and time.monotonic() < until:
        time.sleep(0.02)


def run(work: Path, quick: bool) -> Outcome:
    """The part."""
    began = time.monotonic()
    heat()
    moments, tally = random.Random(11), Tally()
    tormented = Tormented(undisturbed(work / "kills"), work / "kills", tally)
    for blow in blows(quick):
        while not tormented.strike(blow, moments):
            pass
    tormented.finish()
    tried = (
        f"A small study was hit {sum(tally.tried.values())} times at random moments and begun again by the same "
        f"command until it ended, which made {tormented.studies} studies. Every table and every cell's files were then "
        "compared, bit for bit, with those of an undisturbed run."
    )
    return Outcome("kills", tried, tally.lines, tuple(tally.faults), time.monotonic() - began, quick)
