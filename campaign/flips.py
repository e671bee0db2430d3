"""Damages one file of a finished cell at a time and looks whether the next use names it."""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from campaign.command import ended, heat
from campaign.damage import Damage, digests, drawn
from campaign.outcome import Outcome, Tally
from campaign.study import VOLATILE, Undisturbed, cells_done, plain_fault, undisturbed
from goodhart.cells.store import Store
from goodhart.errors import GoodhartError


def believed(root: Path, damage: Damage) -> str:
    """What is wrong with how a cell with that damage is opened; empty if the error names it."""
    try:
        Store(root).open(damage.cell)
    except GoodhartError as error:
        named = damage.path.name in str(error) or damage.path.name in ("DONE", "cell.json")
        return "" if named and damage.cell in str(error) else f"the error does not name it: {error}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "believed"


def in_child(work: Callable[[], str]) -> str:
    """The result of a function in a fork of this process, which has opened nothing itself."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.write(writer, work().encode()[:4000])
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        text = pipe.read().decode()
    os.waitpid(pid, 0)
    return text


def used(root: Path, damage: Damage) -> str:
    """Damage a cell, use it, mend it: what is wrong, or nothing.

    It is used by a process that has just opened it whole and could remember that, and by a new one.
    """

    def before_and_after() -> str:
        Store(root).open(damage.cell)
        damage.apply()
        return believed(root, damage)

    known = in_child(before_and_after)
    new = in_child(lambda: believed(root, damage))
    damage.take_back()
    faults = [f"{new} by a new process" if new else "", f"{known} by a process that had opened it" if known else ""]
    return "; ".join(filter(None, faults))


def cell_files(root: Path) -> list[Path]:
    """The files of all finished cells."""
    return sorted(path for path in (root / "cells").rglob("*") if path.is_file())


def through_the_store(made: Undisturbed, trials: int, draw: random.Random, tally: Tally) -> None:
    """Many damages, each opened as recipes and tables open a cell."""
    before, files = digests(made.root), cell_files(made.root)
    for _ in range(trials):
        damage = drawn(files, draw)
        fault = used(made.root, damage)
        touched = digests(made.root) != before
        end = "named, nothing else touched" if not (fault or touched) else "not named" if fault else "files touched"
        said = "; ".join(filter(None, (fault, "other files were touched" if touched else "")))
        tally.add(f"{damage.kind}: the cell is opened", end, f"{damage.words}: {said}" if said else "")


def through_the_commands(made: Undisturbed, root: Path, damage: Damage, tally: Tally) -> None:
    """`status --verify`, `run` and `run --repair` on a root in which one file is damaged."""
    damage.apply()
    broken = digests(root / "cells")
    said = root.parent / "command"
    arguments = [str(made.path), "--root", str(root)]
    status = ended(["status", *arguments, "--verify"], said)
    fault = "" if damage.cell in _damaged_lines(status.output) else f"not shown as damaged: {status.last_words}"
    if digests(root / "cells") != broken:
        fault = "; ".join(filter(None, (fault, "files of cells were touched")))
    tally.add("status --verify with a damaged cell", "named" if not fault else "not named", _case(damage, fault))
    run = ended(made.run(root), said)
    if run.code == 0:  # it has not read that file
        fault = made.differences_of_tables(root)
        end = "not read: the same tables" if not fault else "another table"
    else:
        fault = plain_fault(run) or ("" if damage.cell in run.errors + run.output else "the cell is not named")
        end = "named" if not fault else "not named"
    if _kept(digests(root / "cells"), damage.cell) != _kept(broken, damage.cell):
        fault = "; ".join(filter(None, (fault, "other cells were touched")))
    tally.add("run with a damaged cell", end, _case(damage, fault))
    repair = ended(made.run(root, "--repair"), said)
    fault = made.differences(root) if repair.code == 0 else plain_fault(repair) or repair.last_words
    fault = fault or _other_bits(made.root, root)
    tally.add("run --repair", "made anew with the same bits" if not fault else "not mended", _case(damage, fault))


def _damaged_lines(output: str) -> str:
    return "\n".join(line for line in output.splitlines() if "damaged" in line)


def _case(damage: Damage, fault: str) -> str:
    return f"{damage.words}: {fault}" if fault else ""


def _kept(files: dict[str, str], cell: str) -> dict[str, str]:
    return {name: digest for name, digest in files.items() if name.split("/")[0] != cell}


def _other_bits(one: Path, other: Path) -> str:
    """Files of cells that differ between two roots, but for those that say how long something took."""
    for cell in cells_done(one):
        files = [json.loads((at / "cells" / cell / "cell.json").read_text())["files"] for at in (one, other)]
        for name in {*files[0], *files[1]}:
            if name not in VOLATILE and files[0].get(name) != files[1].get(name):
                return f"{cell}/{name} has other bits"
    return ""


def light(folder: Path) -> Undisturbed:
    """The study, made in another process: this one is forked for every use, and is to stay small until then."""

    def make() -> str:
        heat()
        made = undisturbed(folder)
        return f"{made.path}\n{made.root}"

    path, root = in_child(make).splitlines()
    return Undisturbed(Path(path), Path(root))


def run(work: Path, quick: bool) -> Outcome:
    """The part."""
    began = time.monotonic()
    draw, tally, folder = random.Random(14), Tally(), work / "flips"
    made = light(folder)
    through_the_store(made, 30 if quick else 1000, draw, tally)
    heat()
    for number in range(1 if quick else 24):
        root = folder / f"root-{number}"
        shutil.copytree(made.root, root)
        through_the_commands(made, root, drawn(cell_files(root), draw), tally)
        shutil.rmtree(root)
    tried = (
        "In the finished cells of a small study one bit of one file was flipped (for half of them the file's time was "
        "put back), or a file was cut or deleted. Each time the cell was opened by a process that had opened it before "
        "and by a new one, and the whole root was compared before and after; some were also met by the commands."
    )
    return Outcome("flips", tried, tally.lines, tuple(tally.faults), time.monotonic() - began, quick)
