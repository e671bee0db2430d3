"""Four studies that share their trunk run in one root at once, and their processes are killed."""

from __future__ import annotations

import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import yaml

from campaign.command import Command, begin, ended, heat
from campaign.kills import LONGEST, signal_one
from campaign.outcome import Outcome, Tally
from campaign.study import Undisturbed, must_end

OWN: dict[str, Any] = {"beta": [0.1], "lr": [0.01], "steps": 4, "batch": 8, "checkpoints": 1}
SECOND: dict[str, dict[str, Any]] = {
    "offline": {**OWN, "source": "data", "labeller": "data"},
    "replay": {**OWN, "source": "stream", "stream": "online", "labeller": "data"},
    "delayed": {**OWN, "refresh": 2},
    "winners": {**OWN, "beta": [], "loss": "best-of-2"},
}
"""The arm that each of the four studies has beside the online one."""


def studies(folder: Path) -> list[Undisturbed]:
    """The four, run one after another in one root."""
    from micro_study import write_small_study

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    plain = yaml.safe_load(write_small_study(folder).read_text())
    made: list[Undisturbed] = []
    for name, arm in SECOND.items():
        path = folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump({**plain, "name": name, "arms": {"online": OWN, name: arm}}))
        study = Undisturbed(path, folder / "undisturbed", name)
        must_end(ended(study.run(study.root), folder / f"{name}.said"))
        made.append(study)
    return made


def torment(made: list[Undisturbed], root: Path, kills: int, moments: random.Random) -> tuple[int, str]:
    """Run all at once with so many kills, then to their ends: how many there were, and what is wrong."""
    running: dict[str, Command] = {}
    done = 0
    until = time.monotonic() + LONGEST
    while time.monotonic() < until:
        for study in made:
            command = running.get(study.name)
            if command is None or (command.poll() not in (None, 0)):
                running[study.name] = begin(study.run(root, workers=1), root.parent / study.name)
        if done < kills:
            time.sleep(moments.uniform(0, 1))
            done += _kill(moments.choice(list(running.values())), moments)
        elif all(command.wait(0.1) == 0 for command in running.values()):
            return done, "; ".join(filter(None, (study.differences(root) for study in made)))
    for command in running.values():
        command.end()
    return done, f"not all had ended after {LONGEST:.0f} s"


def _kill(command: Command, moments: random.Random) -> bool:
    if command.poll() is not None:
        return False
    victim = moments.randrange(3)
    workers = command.workers()
    if victim == 0:
        command.signal_all(signal.SIGKILL)
    elif victim == 1 or not workers:
        signal_one(command.pid, signal.SIGKILL)
    else:
        signal_one(moments.choice(workers).pid, signal.SIGKILL)
    return True


def run(work: Path, quick: bool) -> Outcome:
    """The part."""
    began = time.monotonic()
    heat()
    moments, tally, folder = random.Random(12), Tally(), work / "overlap"
    made = studies(folder)
    rounds, kills = (1, 2) if quick else (4, 15)
    for number in range(rounds):
        root = made[0].new_root(folder / f"root-{number}")
        killed, fault = torment(made, root, kills, moments)
        end = "all four ended with the undisturbed tables and cells" if not fault else "ended otherwise"
        tally.add(f"four overlapping studies in one root with {killed} kills", end, fault)
        if not fault:
            shutil.rmtree(root)
    tried = (
        "Four studies of one trunk and different arms ran in one root at the same time while commands, workers or both "
        "were killed at random and begun again; then each table and each cell was compared with those of four runs "
        "one after another."
    )
    return Outcome("overlap", tried, tally.lines, tuple(tally.faults), time.monotonic() - began, quick)
