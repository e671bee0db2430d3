"""Two hosts run one study in one root at once: each has a name, process numbers and a clock of its own, and may die."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from campaign.outcome import Outcome, Tally
from campaign.study import Undisturbed, undisturbed

CLOCKS = {"left": -400, "right": 3}
"""Days by which each host's clock is ahead of the machine's."""
_DEATHS = (
    "none of two hosts killed",
    "one of two hosts killed and begun again",
    "each of two hosts killed and begun again",
)
LONGEST = 900.0
"""Seconds in which both must end."""
_CLOCK = """
import time
ahead, real, real_ns = {days} * 86400, time.time, time.time_ns
time.time = lambda: real() + ahead
time.time_ns = lambda: real_ns() + ahead * 10**9
"""
"""What Python reads before anything else: to the whole interpreter it is another day."""


@dataclass(slots=True)
class Host:
    """A command of Goodhart on a host of its own: it sees no process but its own, and another day."""

    name: str
    process: subprocess.Popen[bytes]

    def kill(self) -> None:
        """End the host with all its processes."""
        self.process.kill()
        self.process.wait()


def run(work: Path, quick: bool) -> Outcome:
    """The part."""
    began, tally, moments = time.monotonic(), Tally(), random.Random(0)
    trials = 2 if quick else 9
    if os.geteuid() or not shutil.which("unshare"):
        tally.add("two hosts", "NOT TRIED: it needs root and unshare (util-linux)")
    else:
        made = undisturbed(work / "hosts")
        for trial in range(trials):
            root, kills = made.new_root(work / "hosts" / f"shared-{trial}"), trial % 3
            what = _DEATHS[kills]
            fault = _together(made, root, kills, moments)
            tally.add(what, "ended otherwise" if fault else "both ended with the undisturbed tables and cells", fault)
    apart = CLOCKS["right"] - CLOCKS["left"]
    tried = (
        "The same command ran on two hosts at once in one root: processes in namespaces of their own, with names and "
        "process numbers of their own, of which neither sees the other's, and clocks (Python's `time`) that "
        f"are {apart} days apart. Hosts were killed with all their processes at random moments and begun again. Tables "
        "and cells were compared, bit for bit, with those of an undisturbed run."
    )
    return Outcome("hosts", tried, tally.lines, tuple(tally.faults), time.monotonic() - began, quick)


def _together(made: Undisturbed, root: Path, kills: int, moments: random.Random) -> str:
    """Run on both hosts to the end, with so many of them killed on the way; what is wrong."""
    hosts = [_host(name, made, root) for name in CLOCKS]
    for place in moments.sample(range(len(hosts)), kills):
        time.sleep(moments.uniform(6, 20))
        hosts[place].kill()
        hosts[place] = _host(hosts[place].name, made, root)
    until = time.monotonic() + LONGEST
    for host in hosts:
        try:
            host.process.wait(max(until - time.monotonic(), 0))
        except subprocess.TimeoutExpired:
            for each in hosts:
                each.kill()
            return f"{host.name} had not ended after {LONGEST:.0f} s"
    ended = [f"{host.name} ended with {host.process.returncode}" for host in hosts if host.process.returncode]
    return "; ".join(filter(None, [*ended, made.differences(root)]))


def _host(name: str, made: Undisturbed, root: Path) -> Host:
    apart = ["unshare", "--uts", "--pid", "--mount-proc", "--fork", "--kill-child"]
    command = [sys.executable, "-m", "goodhart.cli", *made.run(root, workers=1)]
    clock = root.parent / name
    clock.mkdir(exist_ok=True)
    (clock / "sitecustomize.py").write_text(_CLOCK.format(days=CLOCKS[name]))
    path = os.pathsep.join(filter(None, [str(clock), os.environ.get("PYTHONPATH", "")]))
    said = (root.parent / f"{root.name}-{name}.said").open("ab")
    with said:
        words = [*apart, "sh", "-c", f'hostname {name}; exec "$@"', "sh", *command]
        environment = {**os.environ, "PYTHONPATH": path}
        process = subprocess.Popen(words, env=environment, stdout=said, stderr=said, start_new_session=True)
    return Host(name, process)
