"""The words of the command line: what each command is given, with examples; reading them imports no library."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args

import tyro

from goodhart.models.presets import PRESETS
from goodhart.tasks.pair_rules import Rule

Root = Annotated[Path, tyro.conf.arg(help="Folder that keeps cells and studies.")]
Known = Annotated[
    str,
    tyro.conf.Positional,
    tyro.conf.arg(help="A built-in study, the path of a YAML file, or the name or folder of a study that was run."),
]
Finished = Annotated[str, tyro.conf.Positional, tyro.conf.arg(help="Name of a study that was run, or its folder.")]
Settings = Annotated[
    tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(help="The settings that the study was run with.")
]
Columns = Annotated[
    str,
    tyro.conf.arg(help="What your data call a layout's columns: prompt=question,chosen=best,rejected=worst."),
]
Layout = Annotated[str, tyro.conf.arg(help="The layout, if it is not to be recognised.")]
PairRule = Annotated[
    Literal["auto"] | Rule,
    tyro.conf.arg(
        help="Which pairs are made of several responses, as task.pairs; auto: of marks none, if most have no partner."
    ),
]
DataPath = Annotated[
    str, tyro.conf.Positional, tyro.conf.arg(help="A file (JSONL, JSON, CSV, TSV, Parquet), a folder, or a Hub id.")
]
Track = Annotated[
    tuple[Literal["tensorboard", "wandb", "mlflow", "trackio"], ...],
    tyro.conf.arg(help="Trackers that training is forwarded to as it goes: steps, evaluations, alarms."),
]
Json = Annotated[bool, tyro.conf.arg(help="Print one JSON document on standard output, and nothing else there.")]


@dataclass(frozen=True)
class Run:
    """Run a study (without an argument: the built-in quick study), or go on where it stopped.

    Examples:
      goodhart run
      goodhart run quick labels.number=1024 seeds=[0,1,2]
      goodhart run mine.yaml --dry-run
      goodhart run paper --until-decided --within 3h
      goodhart run mine.yaml --track tensorboard
    """

    study: tyro.conf.Positional[str] = "quick"
    """A built-in study or the path of a YAML file."""
    overrides: tyro.conf.Positional[tuple[str, ...]] = ()
    """Settings to change, for example seeds=[0,1,2] labels.number=2048."""
    root: Root = Path("runs")
    workers: int = 0
    """Processes; 0 is one for each core, on a machine with GPUs one for each group of them."""
    gpus_per_worker: int = 1
    """GPUs in a group: a worker spreads every model over those of its group. Workers share groups in turn."""
    precision: Literal["auto", "float32", "bfloat16"] | None = None
    """What arms train in, whatever the study file says; auto measures what is faster. Measurements are float32."""
    columns: Columns = ""
    executor: Literal["local", "slurm", "ray"] | None = None
    """Where cells are made, whatever the study file says: here, by jobs of Slurm, by tasks of Ray."""
    only: tuple[str, ...] = ()
    """Run only what some hypotheses need, for example --only H3; it shares its cells with the whole study."""
    dry_run: bool = False
    """Only print the cells, which of them are done, and how long the others will take."""
    repair: bool = False
    """Read every finished cell of the study first, and make those anew that are damaged."""
    until_decided: bool = False
    """Go on with more seeds, look by look, until every hypothesis is decided or the study's looks are used up."""
    within: str = ""
    """With --until-decided: begin no look that would not end within this time, for example 3h, 90m or 1h30m."""
    track: Track = ()


@dataclass(frozen=True)
class Status:
    """Show which cells of a study are done, being made, damaged, or missing.

    Examples:
      goodhart status mine.yaml
      goodhart status mine.yaml --json
      goodhart status mine.yaml --watch
    """

    study: Known = "quick"
    overrides: Settings = ()
    root: Root = Path("runs")
    verify: bool = False
    """Read every file of finished cells; else only those that have changed since."""
    watch: bool = False
    """Show the cells as they are made, whoever makes them, until all are done."""
    json: Json = False


@dataclass(frozen=True)
class Make:
    """Make one cell of a study whose inputs are there, for a launcher of your own.

    Exit code 0: it is there; 1: it failed; 75: another process makes it. The same command goes on where it stopped.

    Examples:
      goodhart make mine.yaml run-3f0c
    """

    study: Known
    cell: tyro.conf.Positional[str]
    """The cell's id or its beginning, as --dry-run and status print it."""
    overrides: Settings = ()
    root: Root = Path("runs")
    threads: int = 1
    """Cores that it may use."""


@dataclass(frozen=True)
class Why:
    """Say what differs between a cell and the nearest finished one, so why it has to be made.

    Examples:
      goodhart why run-3f0c mine.yaml
    """

    cell: tyro.conf.Positional[str]
    """The cell's id or its beginning, as --dry-run and status print it."""
    study: Known = "quick"
    overrides: Settings = ()
    root: Root = Path("runs")


@dataclass(frozen=True)
class Report:
    """Make the report of a study again, of one that has not ended from what is done; of several studies, one page.

    Examples:
      goodhart report mine.yaml
      goodhart report quick covered
    """

    study: Known = "quick"
    more: tyro.conf.Positional[tuple[str, ...]] = ()
    """The settings that the study was run with, and further studies to lay beside it, each with its settings."""
    root: Root = Path("runs")


@dataclass(frozen=True)
class Join:
    """Put results of one study with different seeds together: made on several machines, or at several times.

    Examples:
      goodhart join paper here/studies/paper there/studies/paper --root both
    """

    study: Known
    parts: tyro.conf.Positional[tuple[str, ...]]
    """Settings of the whole study (seeds=[0,1,2,3]), and the folders of the results."""
    root: Root = Path("runs")
    """Folder of the joined study's own results."""


@dataclass(frozen=True)
class Power:
    """Say what a study could show before it is run, and what other numbers of seeds and prompts would show and cost.

    Examples:
      goodhart power quick
      goodhart power mine.yaml seeds=[0,1,2,3,4] --like quick
    """

    study: Known = "quick"
    overrides: tyro.conf.Positional[tuple[str, ...]] = ()
    """Settings to change, for example seeds=[0,1,2,3,4]."""
    root: Root = Path("runs")
    like: str = ""
    """Name or folder of a finished study whose noise to expect; else the study's own, or that of what ships."""
    workers: int = 0
    """Processes that the minutes are for; 0 is one for each core, on a machine with GPUs one for each group of them."""
    gpus_per_worker: int = 1
    """GPUs in a group."""
    json: Json = False


@dataclass(frozen=True)
class Compare:
    """Compare two arms of a finished study at matched KL.

    Examples:
      goodhart compare quick online offline
      goodhart compare quick online offline --json
    """

    study: Finished
    first: tyro.conf.Positional[str]
    """An arm."""
    second: tyro.conf.Positional[str]
    """The arm that it is compared with."""
    root: Root = Path("runs")
    json: Json = False


@dataclass(frozen=True)
class Where:
    """Print the folder of a checkpoint: of an arm's last one, or at a setting, a seed and a step.

    Examples:
      goodhart where quick online
      goodhart where quick online "beta=0.03 lr=0.0001" 1 200
    """

    study: Known
    arm: tyro.conf.Positional[str]
    """An arm."""
    setting: tyro.conf.Positional[str] = ""
    """A point of its sweep, as tables name it, for example "beta=0.03 lr=0.0001"; by default the first."""
    seed: tyro.conf.Positional[int] = -1
    """A seed; by default the study's first."""
    step: tyro.conf.Positional[int] = 0
    """The checkpoint's step; by default the last."""
    merged: Path = Path()
    """Write the checkpoint there as well, as a plain Hugging Face one: an adapter is merged into its base's weights."""
    root: Root = Path("runs")
    json: Json = False


@dataclass(frozen=True)
class Push:
    """Publish a checkpoint as a plain model with a card of what was measured of it, on the Hugging Face Hub.

    Examples:
      goodhart push quick online --out my-policy
      goodhart push quick online --to name/my-policy --private
    """

    study: Known
    arm: tyro.conf.Positional[str]
    """An arm."""
    setting: tyro.conf.Positional[str] = ""
    """A point of its sweep; by default the first."""
    seed: tyro.conf.Positional[int] = -1
    """A seed; by default the study's first."""
    step: tyro.conf.Positional[int] = 0
    """The checkpoint's step; by default the last."""
    to: str = ""
    """NAME/MODEL of the Hub; needs 'hf auth login'."""
    out: Path = Path()
    """Write what would be uploaded into this folder, and upload nothing."""
    licence: str = ""
    """Of the model, as the Hub names it; by default that of the base models that ship, else other."""
    private: bool = False
    """Whom the Hub shows it to: nobody else."""
    root: Root = Path("runs")


@dataclass(frozen=True)
class Export:
    """Write a finished study for a paper: figures as PDF and SVG, tables as LaTeX and CSV, methods, BibTeX.

    Examples:
      goodhart export quick --out paper --width 3.25in
    """

    study: Finished
    out: Path = Path()
    """Folder of what is written; by default `paper` in the study's folder."""
    width: str = "3.25in"
    """Of figures: in, cm, mm or pt."""
    root: Root = Path("runs")


@dataclass(frozen=True)
class List:
    """List tasks, methods, sources, model presets and built-in studies; `list methods [NAME]` explains methods.

    Examples:
      goodhart list
      goodhart list methods
      goodhart list methods kto
    """

    what: tyro.conf.Positional[Literal["all", "methods"]] = "all"
    """Everything that a study file can name, or the table of methods."""
    name: tyro.conf.Positional[str] = ""
    """With methods: the one to explain."""
    json: Json = False


@dataclass(frozen=True)
class Data:
    """Show what is recognised in a preference data set: layout, counts, lengths, what would be filtered.

    Examples:
      goodhart data my_pairs.jsonl
      goodhart data my_pairs.jsonl --model Qwen/Qwen2.5-0.5B-Instruct
      goodhart data my_pairs.csv --columns prompt=question,chosen=best,rejected=worst
    """

    path: DataPath
    layout: Layout = "auto"
    columns: str = ""
    """What the data call a layout's columns: prompt=question,chosen=best,rejected=worst."""
    pairs: PairRule = "auto"
    model: str = ""
    """Count lengths in tokens of this model (preset, Hub id or path)."""
    max_prompt: int = 0
    """Show what this limit, in tokens, would filter (0: none)."""
    max_response: int = 0
    """Show what this limit, in tokens, would filter (0: none)."""
    template: str = "auto"
    """How prompts are framed for the model, as task.template: auto, none, plain, or the path of a Jinja file."""
    json: Json = False


@dataclass(frozen=True)
class Init:
    """Write a study file that runs, for a preference data set: sizes by its lengths, this machine, and your time.

    Examples:
      goodhart init my_pairs.jsonl --policy Qwen/Qwen2.5-0.5B-Instruct --time 2h
    """

    data: DataPath
    policy: str = ""
    """The language model: a Hub id, a folder, or a preset; without it a model that ships, to try the path."""
    golden: str = ""
    """The judge: a larger model with the policy's tokenizer; without it a model like the policy."""
    time: str = ""
    """What the study may take, for example 2h, 90m or 1h30m; without it three seeds at full length."""
    out: Path = Path("mine.yaml")
    """The file to write."""
    layout: Layout = "auto"
    columns: str = ""
    """What the data call a layout's columns: prompt=question,chosen=best,rejected=worst."""
    pairs: PairRule = "auto"
    split: str = ""
    """Which split of the data; needed where there are several and none is called train."""
    force: bool = False
    """Write over a file that is there."""
    root: Root = Path("runs")


@dataclass(frozen=True)
class Pairs:
    """Write the training pairs that a study has labelled, with their texts, for labels of your own (labels.file).

    Makes what the pairs need: the data, and where responses are sampled the SFT policy. Of them come the first
    labels.number.

    Examples:
      goodhart pairs mine.yaml --out pairs.jsonl
    """

    study: Known
    overrides: Settings = ()
    out: Path = Path("pairs.jsonl")
    """The file to write: JSON lines with the columns pair, texts, prompt, first and second; label is yours to add."""
    root: Root = Path("runs")
    workers: int = 0
    """Processes; 0 is one for each core, on a machine with GPUs one for each GPU."""


@dataclass(frozen=True)
class Pretrain:
    """Train a base model on the installed packages, or go on where it stopped.

    Examples:
      goodhart pretrain nano --steps 100 --out nano_model
    """

    preset: Annotated[str, tyro.conf.Positional, tyro.conf.arg(help=f"Model preset: {', '.join(PRESETS)}.")] = "small"
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
    track: Track = ()


Command = (
    Run
    | Status
    | Make
    | Why
    | Report
    | Join
    | Power
    | Compare
    | Where
    | Push
    | Export
    | List
    | Data
    | Init
    | Pairs
    | Pretrain
)
COMMANDS: dict[str, type[Command]] = {kind.__name__.lower(): kind for kind in get_args(Command)}
"""By the word that a person writes."""
_EXAMPLES = "\n\nExamples:\n"


def described(kind: type[Command]) -> tuple[str, list[str]]:
    """What a command does, in a sentence, and examples of it."""
    sentence, _, examples = inspect.cleandoc(kind.__doc__ or "").partition(_EXAMPLES)
    return sentence, [line.strip() for line in examples.splitlines()]
