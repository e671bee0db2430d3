"""One input by its number: written, read through the command line's own function, and judged by how that ended."""

from __future__ import annotations

import contextlib
import io
import json
import random
import re
import shutil
import signal
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from campaign.input_data import write_data
from campaign.input_models import write_model_folder
from campaign.input_studies import overrides, write_study
from goodhart.printable import printable

KINDS = ("data",) * 13 + ("study",) * 3 + ("override",) * 2 + ("model",) * 2
"""What the case of a number (modulo their count) is about."""
HANGS = 10
"""Seconds after which a case is a hang."""
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@dataclass(frozen=True, slots=True)
class Sandbox:
    """Where cases are made: `given` is the input of one, `root` is where the lab may write."""

    folder: Path
    study: Path
    """A good study file."""
    root: Path
    """A root that knows its engine."""

    @property
    def canary(self) -> Path:
        """A file that only hostile code makes."""
        return self.folder / "CANARY"

    @property
    def given(self) -> Path:
        """The input of the present case."""
        return self.folder / "given"

    @property
    def good(self) -> Path:
        """Good data."""
        return self.study.parent / "preferences.jsonl"

    @property
    def model(self) -> Path:
        """A good model."""
        return self.study.parent / "model"


@dataclass(frozen=True, slots=True)
class Said:
    """How a case ended."""

    code: object
    out: str
    err: str
    trace: str


def arguments_of(number: int, box: Sandbox) -> tuple[str, list[str]]:
    """Write the input of a case; returns its kind and the command that reads it."""
    draw, kind = random.Random(number), KINDS[number % len(KINDS)]
    shutil.rmtree(box.given, ignore_errors=True)
    box.given.mkdir()
    plain: dict[str, Any] = yaml.safe_load(box.study.read_text())
    dry = ["--root", str(box.root), "--dry-run"]
    if kind == "data":
        return kind, _data_command(write_data(box.given / "d", draw, box.canary), draw, box)
    if kind == "study":
        path = write_study(box.given / "s.yaml", plain, draw, box.canary)
        more = ["--root", str(box.root)]
        return kind, draw.choice((["run", str(path), *dry], ["run", str(path), *dry], ["status", str(path), *more]))
    if kind == "override":
        return kind, ["run", str(box.study), *dry, "--", *overrides(plain, draw)]
    folder = write_model_folder(box.given / "m", box.model, draw, box.canary)
    if draw.random() < 0.5:
        return kind, ["data", str(box.good), "--model", str(folder)]
    key = draw.choice(("policy", "golden.model", "proxy.model"))
    return kind, ["run", str(box.study), f"{key}={folder}", *dry]


def _data_command(path: Path, draw: random.Random, box: Sandbox) -> list[str]:
    how = draw.random()
    if how < 0.6:
        return ["data", str(path)]
    if how < 0.75:
        return ["data", str(path), "--layout", draw.choice(("text", "chat", "dialogue", "tldr", "battle", "odd"))]
    if how < 0.9:
        return ["data", str(path), "--model", str(box.model), "--max-prompt", str(draw.choice((1, 24)))]
    return ["make", str(path)]


def obey(arguments: list[str], box: Sandbox) -> Said:
    """What the command says and how it ends; `make PATH` makes the cell of a study's data."""
    from goodhart.cli import main
    from goodhart.errors import GoodhartError

    out, err, code, trace = io.StringIO(), io.StringIO(), 0, ""
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            if arguments[0] == "make":
                _make_data(Path(arguments[1]), box)
            else:
                main(arguments)
        except SystemExit as end:
            code = end.code
        except GoodhartError as error:
            code = 1
            print(printable(f"error: {error}").replace("\n", "\\n"), file=sys.stderr)
        except BaseException:
            trace = traceback.format_exc(limit=-6)
    return Said(code, out.getvalue(), err.getvalue(), trace)


def in_time(arguments: list[str], box: Sandbox) -> Said:
    """The same under an alarm."""
    signal.setitimer(signal.ITIMER_REAL, HANGS)
    try:
        return obey(arguments, box)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _make_data(path: Path, box: Sandbox) -> None:
    from goodhart.cells.make import make
    from goodhart.cells.store import Store
    from goodhart.studies.graph import build_graph
    from goodhart.studies.spec import read_study

    study = read_study(str(box.study), [f"task.data={json.dumps(str(path))}"])
    shutil.rmtree(box.root / "cells", ignore_errors=True)
    make(Store(box.root), build_graph(study).prompts)


def fault_of(said: Said) -> str:
    """What is wrong with how a case ended; empty if nothing is."""
    if said.trace:
        last = said.trace.strip().splitlines()[-1]
        place = re.findall(r'File "(?:.*/)?(\w+\.py)", line (\d+), in (\w+)', said.trace)
        return f"{last[:200]} in {' < '.join(f'{f}:{n} {w}' for f, n, w in reversed(place[-3:]))}"
    if said.code not in (0, 1, 2):
        return f"exit code {said.code}"
    shown = said.out + said.err
    if _CONTROL.search(shown):
        return f"a control character reaches the terminal: {_CONTROL.search(shown)!r}"
    if said.code == 1 and (not said.err.startswith("error: ") or said.err.strip().count("\n")):
        return f"not one line 'error: …' but {said.err[:200]!r}"
    return ""
