"""The command line: `goodhart run`, `status`, `report`, `compare`, `list`, `data`, `pretrain`."""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from goodhart.errors import GoodhartError
from goodhart.models.presets import PRESETS
from goodhart.printable import printable

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
    only: tuple[str, ...] = ()
    """Run only what some hypotheses need, for example --only H3; it shares its cells with the whole study."""
    dry_run: bool = False
    """Only print the cells, which of them are done, and how long the others will take."""


@dataclass(frozen=True)
class Status:
    """Show which cells of a study are done, being made, or missing."""

    study: tyro.conf.Positional[str] = "quick"
    """A built-in study or the path of a YAML file."""
    overrides: tyro.conf.Positional[tuple[str, ...]] = ()
    """The settings that the study was run with."""
    root: Root = Path("runs")
    """Folder that keeps cells and studies."""


@dataclass(frozen=True)
class Report:
    """Make the report of a finished study again from its rows."""

    study: tyro.conf.Positional[str] = "quick"
    """Name of the study, or its folder."""
    root: Root = Path("runs")
    """Folder that keeps cells and studies."""


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
class List:
    """List tasks, algorithms, sources, model presets and built-in studies."""


@dataclass(frozen=True)
class Data:
    """Show what is recognised in a preference data set: layout, counts, lengths, what would be filtered."""

    path: tyro.conf.Positional[str]
    """A file (JSONL, JSON.gz, Parquet), a folder, or a Hub id."""
    layout: str = "auto"
    """The layout, if it is not to be recognised."""
    model: str = ""
    """Count lengths in tokens of this model (preset, Hub id or path)."""
    max_prompt: int = 0
    """Show what this limit, in tokens, would filter (0: none)."""
    max_response: int = 0
    """Show what this limit, in tokens, would filter (0: none)."""


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


Command = Run | Status | Report | Compare | List | Data | Pretrain


def main(arguments: list[str] | None = None) -> None:
    """Entry point; a fault that the user can mend is one line on standard error and exit code 1."""
    given = sys.argv[1:] if arguments is None else arguments
    command: Command = tyro.cli(Command, prog="goodhart", description=__doc__, args=given)  # type: ignore[arg-type]
    try:
        _dispatch(command)
    except GoodhartError as error:
        print(printable(f"error: {error}"), file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(0)


def _dispatch(command: Command) -> None:
    from goodhart import commands

    match command:
        case Run():
            commands.run(
                command.study,
                [*command.overrides, *([f"precision={command.precision}"] if command.precision else [])],
                command.root,
                workers=command.workers,
                gpus_per_worker=command.gpus_per_worker,
                only=command.only,
                dry_run=command.dry_run,
            )
        case Status():
            commands.status(command.study, list(command.overrides), command.root)
        case Report():
            commands.report(command.study, command.root)
        case Compare():
            commands.compare(command.study, command.first, command.second, command.root)
        case List():
            commands.show_list()
        case Data():
            commands.data(command.path, command.layout, command.model, command.max_prompt, command.max_response)
        case Pretrain():
            settings = dataclasses.asdict(command)
            commands.pretrain(Path(settings.pop("out")), Path(settings.pop("work")), settings)


if __name__ == "__main__":
    main()
