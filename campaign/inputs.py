"""Inputs by number: data files, study files, overrides and model folders, through the command line's own function."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from campaign.command import heat
from campaign.input_cases import HANGS, KINDS, Sandbox, arguments_of, fault_of, in_time
from campaign.outcome import Outcome, Tally
from campaign.study import undisturbed
from campaign.watched import Watch

CASES, QUICK = 20_000, 40
WORDS = {
    "data": "data files and folders",
    "study": "study files",
    "override": "overrides",
    "model": "model folders",
}
ROOM = 3 * 2**30
"""Bytes that a case may take: there is no input here that needs as many."""
DEATHS = 100
"""So many cases may end their process before it is of no use to go on."""


def one(number: int, box: Sandbox, watch: Watch) -> dict[str, str]:
    """Run a case in this process: its kind, its end, and what is wrong with it."""
    kind, arguments = arguments_of(number, box)
    before = _listing(box)
    watch.noted.clear()
    said = in_time(arguments, box)
    faults = [fault_of(said), *dict.fromkeys(watch.noted)]
    if box.canary.exists():
        faults.append("code of the input was run")
        box.canary.unlink()
    if _listing(box) != before:
        faults.append(f"files were written or changed: {sorted(set(_listing(box)) ^ set(before))[:3]}")
    ends = {0: "read", 1: "refused in one line", 2: "refused by the parser"}
    end = ends.get(said.code, "ended otherwise") if not said.trace else "ended otherwise"  # type: ignore[call-overload]
    return {"kind": kind, "end": end, "fault": "; ".join(filter(None, faults))}


def _listing(box: Sandbox) -> list[tuple[str, int]]:
    found = [path for path in box.folder.rglob("*") if not path.is_relative_to(box.root)]
    return [(str(path), path.lstat().st_mtime_ns) for path in found]


def sandbox(folder: Path) -> Sandbox:
    """A new one; the lab's home, caches and temporary files are in it, too."""
    made = undisturbed(folder / "good")
    box = Sandbox(folder / "box", made.path, folder / "box" / "root")
    shutil.rmtree(box.folder, ignore_errors=True)
    (box.folder / "home").mkdir(parents=True)
    shutil.copytree(made.root / "engine", box.root / "engine")
    return box


def _settle_in(box: Sandbox) -> Watch:
    """Make this process one that runs cases: no clocks are measured, and it ends if one hangs."""
    from goodhart.compute import kernels
    from goodhart.compute.choice import Choice
    from goodhart.studies import estimate

    os.chdir(box.folder / "home")
    os.environ |= {"HOME": str(box.folder / "home"), "TMPDIR": str(box.folder / "home")}
    # measuring this machine takes a second, and is not what reads the input
    estimate.probe = lambda: 1e-4
    kernels.measure = lambda *_, **__: Choice("default", "not measured")
    resource.setrlimit(resource.RLIMIT_DATA, (ROOM + _held(), ROOM + _held()))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    watch = Watch(box.root, box.given)
    watch.start()
    return watch


def _held() -> int:
    from campaign.memory import held

    return held()


def _runner(numbers: list[int], folder: Path, box: Sandbox) -> int:
    """A process that runs cases and writes a line for each; returns its id."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.dup2(os.open(folder / "noise", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
        watch = _settle_in(box)
        with (folder / "results").open("a", buffering=1) as results:
            for number in numbers:
                results.write(json.dumps({"begun": number}) + "\n")
                results.write(json.dumps({"number": number, **one(number, box, watch)}) + "\n")
        code = 0
    except BaseException:
        traceback.print_exc()
    os._exit(code)


def results(numbers: list[int], folder: Path, box: Sandbox) -> Iterator[dict[str, Any]]:
    """The results of the cases, those that end their process among them."""
    tried: set[int] = set()
    while numbers and len(tried) <= DEATHS:
        (folder / "results").unlink(missing_ok=True)
        _, status = os.waitpid(_runner(numbers, folder, box), 0)
        lines = [json.loads(line) for line in (folder / "results").read_text().splitlines()]
        yield from (line for line in lines if "number" in line)
        done = sum("number" in line for line in lines)
        if done == len(numbers):
            return
        number, numbers = numbers[done], numbers[done:]
        if number in tried:  # a busy machine may be slow once
            code = os.waitstatus_to_exitcode(status)
            fault = f"takes longer than {HANGS} s" if code == -signal.SIGALRM else f"ends its process with {code}"
            yield {"number": number, "kind": KINDS[number % len(KINDS)], "end": "ended otherwise", "fault": fault}
            numbers = numbers[1:]
        tried.add(number)


def run(work: Path, quick: bool) -> Outcome:
    """The part, in two processes at once."""
    began = time.monotonic()
    heat()
    _warm_up()
    folder, tally = work / "inputs", Tally()
    shutil.rmtree(folder, ignore_errors=True)
    count = QUICK if quick else CASES
    sides = [(side, list(range(side, count, 2))) for side in range(2)]
    children = [_side(folder / f"side-{side}", numbers) for side, numbers in sides]
    for pid in children:
        os.waitpid(pid, 0)
    found = [
        json.loads(line) for side, _ in sides for line in (folder / f"side-{side}" / "all").read_text().splitlines()
    ]
    kinds = {
        "data": "data files and folders",
        "study": "study files",
        "override": "overrides",
        "model": "model folders",
    }
    for each in sorted(found, key=lambda each: each["number"]):
        tally.add(
            kinds[each["kind"]], each["end"], f"--case {each['number']}: {each['fault']}" if each["fault"] else ""
        )
    tally.faults[:] = alike(found)
    if len(found) != count:
        tally.faults.append(f"only {len(found)} of {count} cases were run")
    tried = (
        "Inputs drawn by number (`python -m campaign inputs --case NUMBER` runs one again): data files in every layout "
        "and kind, study files, overrides and model folders, most of them broken or hostile. Each is to be read or "
        f"refused in one line within {HANGS} s; no code of it is run, no program or connection begun, nothing written "
        "but in the root, and no control character printed."
    )
    return Outcome("inputs", tried, tally.lines, tuple(tally.faults), time.monotonic() - began, quick)


def alike(found: list[dict[str, Any]]) -> list[str]:
    """The faults, each kind of them once: how often, the first case, and what it says."""
    kinds: dict[str, list[dict[str, Any]]] = {}
    for each in sorted(found, key=lambda each: each["number"]):
        if each["fault"]:
            plain = re.sub(r"'[^']*'|\"[^\"]*\"|/[^ ]+|\d+|[^ -~]+", "~", each["fault"])
            kinds.setdefault(" ".join(plain.split()[:9]), []).append(each)
    by_number = sorted(kinds.values(), key=len, reverse=True)
    return [f"{len(same)} of {same[0]['kind']}, --case {same[0]['number']}: {same[0]['fault']}" for same in by_number]


def _warm_up() -> None:
    """Import what the first case of each kind would import."""
    import datasets  # noqa: F401
    import pyarrow.parquet  # noqa: F401
    from transformers import AutoTokenizer, LlamaForCausalLM  # noqa: F401


def _side(folder: Path, numbers: list[int]) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        folder.mkdir(parents=True)
        box = sandbox(folder)
        with (folder / "all").open("w") as file:
            for each in results(numbers, folder, box):
                file.write(json.dumps(each) + "\n")
        code = 0
    except BaseException:
        traceback.print_exc()
    os._exit(code)


def show(number: int, work: Path) -> int:
    """Run one case and print what it is and what it leads to; 1 if something is wrong."""
    heat()
    box = sandbox(work / "one-input")
    watch = _settle_in(box)
    kind, arguments = arguments_of(number, box)
    print(f"case {number}, {kind}: {' '.join(map(repr, arguments))}", flush=True)
    signal.signal(signal.SIGALRM, lambda *_: sys.exit(f"takes longer than {HANGS} s"))
    said = in_time(arguments, box)
    print(f"exit code {said.code}\n{said.out}{said.err}{said.trace}".encode(errors="backslashreplace").decode())
    found = one(number, box, watch)
    print(f"{found['end']}{'; FAULT: ' + found['fault'] if found['fault'] else ''}")
    return int(bool(found["fault"]))
