"""The command line: `goodhart run`, `status`, `report`, `compare`, `export` and others; each has its own --help."""

from __future__ import annotations

import dataclasses
import errno
import os
import signal
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal

import tyro

from goodhart.compute.memory import MIB, check_import, check_room
from goodhart.errors import GoodhartError, is_out_of_memory
from goodhart.models.presets import PRESETS
from goodhart.printable import printable
from goodhart.tasks.pair_rules import RULES, Rule

Root = Annotated[Path, tyro.conf.arg(help="Folder that keeps cells and studies.")]


@dataclass(frozen=True)
class Run:
    """Run a study (without an argument: the built-in quick study), or go on where it stopped."""

    study: tyro.conf.Positional[str] = "quick"
    """A built-in study or the path of a YAML file."""
    overrides: tyro.conf.Positional[tuple[str, ...]] = ()
    """Settings to change, for example seeds=[0,1,2] labels.number=2048."""
    root: Root = Path("runs")
    """Folder that keeps cells and studies."""
    workers: int = 0
    """Processes; 0 is one for each core, on a machine with GPUs one for each group of them."""
    gpus_per_worker: int = 1
    """GPUs in a group: a worker spreads every model over those of its group. Workers share groups in turn."""
    precision: Literal["auto", "float32", "bfloat16"] | None = None
    """What arms train in, whatever the study file says; auto measures what is faster. Measurements are float32."""
    columns: str = ""
    """What your data call a layout's columns, whatever the study file says: prompt=question,chosen=best."""
    only: tuple[str, ...] = ()
    """Run only what some hypotheses need, for example --only H3; it shares its cells with the whole study."""
    dry_run: bool = False
    """Only print the cells, which of them are done, and how long the others will take."""
    repair: bool = False
    """Read every finished cell of the study first, and make those anew that are damaged."""
    until_decided: bool = False
    """More seeds, look by look, until all is decided or no look is left; without it, no look that has not begun."""
    within: str = ""
    """With --until-decided: begin no look that would not end within this time, for example 3h, 90m or 1h30m."""


@dataclass(frozen=True)
class Status:
    """Show which cells of a study are done, being made, damaged, or missing."""

    study: tyro.conf.Positional[str] = "quick"
    """A built-in study, the path of a YAML file, or the name or folder of a study that was run."""
    overrides: tyro.conf.Positional[tuple[str, ...]] = ()
    """The settings that the study was run with."""
    root: Path = Path("runs")
    """Folder that keeps cells and studies."""
    verify: bool = False
    """Read every file of finished cells; else only those that have changed since."""


@dataclass(frozen=True)
class Why:
    """Say what differs between a cell and the nearest finished one, so why it has to be made."""

    cell: tyro.conf.Positional[str]
    """The cell's id or its beginning, as --dry-run and status print it."""
    study: tyro.conf.Positional[str] = "quick"
    """The study that it belongs to: a built-in one, a YAML file, or the name or folder of one that was run."""
    overrides: tyro.conf.Positional[tuple[str, ...]] = ()
    """The settings that the study was run with."""
    root: Path = Path("runs")
    """Folder that keeps cells and studies."""


@dataclass(frozen=True)
class Report:
    """Make the report of a study again; of one that has not ended, from what is done."""

    study: tyro.conf.Positional[str] = "quick"
    """Name of the study, its folder, or the path of its YAML file."""
    overrides: tyro.conf.Positional[tuple[str, ...]] = ()
    """The settings that the study was run with."""
    root: Root = Path("runs")
    """Folder that keeps cells and studies."""


@dataclass(frozen=True)
class Power:
    """Say what a study could show before it is run, and what other numbers of seeds and prompts would show and cost."""

    study: tyro.conf.Positional[str] = "quick"
    """A built-in study, the path of a YAML file, or the name or folder of a study that was run."""
    overrides: tyro.conf.Positional[tuple[str, ...]] = ()
    """Settings to change, for example seeds=[0,1,2,3,4]."""
    root: Root = Path("runs")
    """Folder that keeps cells and studies."""
    like: str = ""
    """Name or folder of a finished study whose noise to expect; else the study's own, or that of what ships."""
    workers: int = 0
    """Processes that the minutes are for; 0 is one for each core, on a machine with GPUs one for each group of them."""
    gpus_per_worker: int = 1
    """GPUs in a group."""


@dataclass(frozen=True)
class Compare:
    """Compare two arms of a finished study at matched KL."""

    study: tyro.conf.Positional[str]
    """Name of the study, or its folder."""
    first: tyro.conf.Positional[str]
    """An arm."""
    second: tyro.conf.Positional[str]
    """The arm that it is compared with."""
    root: Root = Path("runs")
    """Folder that keeps cells and studies."""


@dataclass(frozen=True)
class Where:
    """Print the folder of a checkpoint: of an arm's last one, or at a setting, a seed and a step."""

    study: tyro.conf.Positional[str]
    """A built-in study, the path of a YAML file, or the name or folder of a study that was run."""
    arm: tyro.conf.Positional[str]
    """An arm."""
    setting: tyro.conf.Positional[str] = ""
    """A point of its sweep, as tables name it, for example "beta=0.03 lr=0.0001"; by default the first."""
    seed: tyro.conf.Positional[int] = -1
    """A seed; by default the study's first."""
    step: tyro.conf.Positional[int] = 0
    """The checkpoint's step; by default the last."""
    root: Root = Path("runs")
    """Folder that keeps cells and studies."""


@dataclass(frozen=True)
class Export:
    """Write a finished study for a paper: figures as PDF and SVG, tables as LaTeX and CSV, methods, BibTeX."""

    study: tyro.conf.Positional[str]
    """Name of the study, or its folder."""
    out: Path = Path()
    """Folder of what is written; by default `paper` in the study's folder."""
    width: str = "3.25in"
    """Of figures: in, cm, mm or pt."""
    root: Root = Path("runs")
    """Folder that keeps cells and studies."""


@dataclass(frozen=True)
class List:
    """List tasks, methods, sources, model presets and built-in studies; `list methods [NAME]` explains methods."""

    what: tyro.conf.Positional[Literal["all", "methods"]] = "all"
    """Everything that a study file can name, or the table of methods."""
    name: tyro.conf.Positional[str] = ""
    """With methods: the one to explain."""


@dataclass(frozen=True)
class Data:
    """Show what is recognised in a preference data set: layout, counts, lengths, what would be filtered."""

    path: tyro.conf.Positional[str]
    """A file (JSONL, JSON, CSV, TSV, Parquet), a folder, or a Hub id."""
    layout: str = "auto"
    """The layout, if it is not to be recognised."""
    columns: str = ""
    """What the data call a layout's columns: prompt=question,chosen=best,rejected=worst."""
    pairs: Rule = RULES[0]
    """Which pairs are made where a row has several responses, as task.pairs."""
    model: str = ""
    """Count lengths in tokens of this model (preset, Hub id or path)."""
    max_prompt: int = 0
    """Show what this limit, in tokens, would filter (0: none)."""
    max_response: int = 0
    """Show what this limit, in tokens, would filter (0: none)."""
    template: str = "auto"
    """How prompts are framed for the model, as task.template: auto, none, plain, or the path of a Jinja file."""


@dataclass(frozen=True)
class Init:
    """Write a study file that runs, for a preference data set: sizes by its lengths, this machine, and your time."""

    data: tyro.conf.Positional[str]
    """A file (JSONL, JSON, CSV, TSV, Parquet), a folder, or a Hub id."""
    policy: str = ""
    """The language model: a Hub id, a folder, or a preset; without it a model that ships, to try the path."""
    golden: str = ""
    """The judge: a larger model with the policy's tokenizer; without it a model like the policy."""
    time: str = ""
    """What the study may take, for example 2h, 90m or 1h30m; without it three seeds at full length."""
    out: Path = Path("mine.yaml")
    """The file to write."""
    layout: str = "auto"
    """The layout, if it is not to be recognised."""
    columns: str = ""
    """What the data call a layout's columns: prompt=question,chosen=best,rejected=worst."""
    pairs: Rule = RULES[0]
    """Which pairs are made where a row has several responses, as task.pairs."""
    split: str = ""
    """Which split of the data; needed where there are several and none is called train."""
    force: bool = False
    """Write over a file that is there."""
    root: Root = Path("runs")
    """Folder that keeps cells and studies; it may know how fast this machine is."""


@dataclass(frozen=True)
class Pretrain:
    """Train a base model on the installed packages, or go on where it stopped."""

    preset: tyro.conf.Positional[Annotated[str, tyro.conf.arg(help=f"Model preset: {', '.join(PRESETS)}.")]] = "small"
    out: Path = Path("base_model")
    """Folder of the finished model."""
    work: Path = Path("runs/pretraining")
    """Folder of text, state and log."""
    steps: int = 2100
    """Optimiser steps of 16 rows of 256 tokens."""
    peak: float = 2e-3
    """Peak learning rate."""
    summary: float = 0.3
    """Share of rows from the task's own prompts and summaries."""
    code: float = 0.3
    """Share of rows from code followed by its first docstring line."""
    prose: float = 0.3
    """Share of rows from whole docstrings; the rest is source text."""
    threads: int = 1
    """PyTorch threads."""
    compile: bool = False
    """Compile the model (needs a C++ compiler; pays after some hundred steps)."""


Command = Run | Status | Why | Report | Power | Compare | Where | Export | List | Data | Init | Pretrain


def main(arguments: list[str] | None = None) -> None:
    """Entry point; a fault that the user can mend is one line on standard error and exit code 1."""
    given = sys.argv[1:] if arguments is None else arguments
    if given == ["--version"]:
        sys.stdout.write(f"goodhart {version('goodhart')}\n")
        return
    os.environ["RUST_BACKTRACE"] = "0"  # to print one a tokenizer needs memory, and waits for ever where there is none
    try:
        with _ended_by_termination():
            command: Command = tyro.cli(Command, prog="goodhart", description=__doc__, args=given)  # type: ignore[arg-type]
            code = _dispatch(command)
    except GoodhartError as error:
        what = _NO_MEMORY if is_out_of_memory(error) else f"error: {error}"
        print(printable(what).replace("\n", "\\n"), file=sys.stderr)  # a name may hold line ends; an error is one line
        sys.exit(1)
    except _Terminated:
        print("stopped; the same command goes on from here", file=sys.stderr)
        sys.exit(143)
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(0)
    except BaseException as error:
        if is_out_of_memory(error):
            print(_NO_MEMORY, file=sys.stderr)
            sys.exit(1)
        if not isinstance(error, OSError) or error.errno not in _OF_THE_DISK:
            raise
        where = f" ({error.filename})" if error.filename else ""
        reason = f"{error.strerror}{where}; nothing that was finished is lost: mend it and run the same command again"
        print(printable(f"error: {reason}"), file=sys.stderr)
        sys.exit(1)
    if code:
        sys.exit(code)


_NO_MEMORY = "error: not enough memory for this command; lower --workers, or free some"
_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)
"""Faults that lie in what the command was given to write on."""


class _Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a command as Ctrl-C does."""


@contextmanager
def _ended_by_termination() -> Generator[None]:
    def stop(number: int, frame: object) -> None:  # noqa: ARG001
        raise _Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


_LEAST = 64 * MIB
"""Bytes that every command takes beside what it has when its words are read."""
_STATISTICS = 192 * MIB
"""Bytes that SciPy and Arrow take in a command, with their threads on two cores."""
_MODELS = 448 * MIB
"""Bytes that these, PyTorch and Transformers take in a command."""


def _check_memory(command: Command) -> None:
    """Raises OSError (ENOMEM) if a command has no memory for its libraries, some of which would abort or wait."""
    check_room(_LEAST)
    if isinstance(command, Power):
        check_import("scipy", _STATISTICS)
    elif isinstance(command, Run | Report | Compare | Export | Init | Pretrain) or (
        isinstance(command, Data) and command.model
    ):
        check_import("torch", _MODELS)


def _dispatch(command: Command) -> int | None:
    _check_memory(command)
    from goodhart import commands

    match command:
        case Run():
            return commands.run(
                command.study,
                [
                    *command.overrides,
                    *([f"precision={command.precision}"] if command.precision else []),
                    *commands.columns_override(command.columns),
                ],
                command.root,
                workers=command.workers,
                gpus_per_worker=command.gpus_per_worker,
                only=command.only,
                dry_run=command.dry_run,
                repair=command.repair,
                until_decided=command.until_decided,
                within=command.within,
            )
        case Status():
            return commands.status(command.study, list(command.overrides), command.root, verify=command.verify)
        case Why():
            commands.why(command.cell, command.study, list(command.overrides), command.root)
        case Report():
            commands.report(command.study, list(command.overrides), command.root)
        case Power():
            commands.power(
                command.study,
                list(command.overrides),
                command.root,
                like=command.like,
                workers=command.workers,
                gpus_per_worker=command.gpus_per_worker,
            )
        case Compare():
            commands.compare(command.study, command.first, command.second, command.root)
        case Where():
            commands.where(command.study, command.arm, command.setting, command.seed, command.step, command.root)
        case Export():
            commands.export(command.study, command.out, command.width, command.root)
        case List():
            if command.name and command.what != "methods":
                raise GoodhartError(f"{command.name!r} is given to no table", "write goodhart list methods NAME")
            commands.show_methods(command.name) if command.what == "methods" else commands.show_list()
        case Data():
            commands.data(**dataclasses.asdict(command))
        case Init():
            commands.init(**dataclasses.asdict(command))
        case Pretrain():
            settings = dataclasses.asdict(command)
            commands.pretrain(Path(settings.pop("out")), Path(settings.pop("work")), settings)
    return None


if __name__ == "__main__":
    main()
