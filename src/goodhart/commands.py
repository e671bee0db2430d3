"""What the commands do; imported only once a command has been understood."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from goodhart.errors import GoodhartError
from goodhart.printable import printable


def _console() -> Console:
    return Console(soft_wrap=True, markup=False, emoji=False)  # names are no markup


def run(
    study_name: str,
    overrides: list[str],
    root: Path,
    *,
    workers: int,
    gpus_per_worker: int,
    only: Sequence[str],
    dry_run: bool,
) -> None:
    """Run a study to its report."""
    from goodhart.report.grid import duration
    from goodhart.study.engine import settle
    from goodhart.study.session import Crew, plan, prospect, run_study
    from goodhart.study.spec import read_study

    study = read_study(study_name, overrides)
    study = study.only(only) if only else study
    console, crew = _console(), Crew.of(workers, gpus_per_worker)
    study, engine = settle(study, root, keep=not dry_run, gpus=gpus_per_worker)
    for sentence in engine.sentences():
        console.print(sentence, highlight=False, markup=False)
    _, cells = plan(study, root)
    if dry_run:
        for cell, done in cells:
            line = printable(f"{'done   ' if done else 'missing'} {cell.id}  {cell.label}")
            console.print(line, highlight=False)
    ahead = prospect(study, cells, crew)
    line = f"{len(cells) - ahead.missing} of {len(cells)} cells are done"
    about = f"; the others take about {duration(ahead.wall)} with {crew.workers} workers on this machine"
    console.print(line + (about if ahead.missing else ""), highlight=False)
    if not dry_run:
        _show(run_study(study, engine, root, crew, console, ahead).folder, console)


def _show(folder: Path, console: Console) -> None:
    from goodhart.report.findings import analyse
    from goodhart.report.report import write_report
    from goodhart.report.terminal import terminal_table

    findings = analyse(folder)
    path = write_report(folder, findings)
    console.print(terminal_table(findings))
    console.print(printable(f"report: {path}"), highlight=False)


def status(study_name: str, overrides: list[str], root: Path) -> None:
    """Which cells are done, being made, or missing."""
    from goodhart.store import Store
    from goodhart.study.engine import settle
    from goodhart.study.session import plan
    from goodhart.study.spec import read_study

    store = Store(root)
    study, _ = settle(read_study(study_name, overrides), root, keep=False)
    _, cells = plan(study, root)
    table = Table("state", "cell", "what", "seconds")
    for cell, done in cells:
        seconds = f"{store.record(cell.id)['seconds']:.1f}" if done else ""
        state = "done" if done else "begun" if store.partial(cell.id).exists() else "missing"
        table.add_row(state, cell.id, printable(cell.label), seconds)
    _console().print(table)


def study_path(name: str, root: Path) -> Path:
    """The folder of a finished study. Raises GoodhartError if there is none."""
    for folder in (root / "studies" / name, Path(name)):
        if (folder / "rows.parquet").is_file():
            return folder
    known = sorted(p.parent.name for p in (root / "studies").glob("*/rows.parquet"))
    raise GoodhartError(
        f"there is no finished study {name!r} below {root}",
        f"finished are: {', '.join(known)}" if known else f"run 'goodhart run {name}' first",
    )


def report(name: str, root: Path) -> None:
    """Make the report again."""
    _show(study_path(name, root), _console())


def compare(name: str, first: str, second: str, root: Path) -> None:
    """The gap between two arms at matched KL, by every measure. Raises GoodhartError for an arm that is not there."""
    from goodhart.analysis.summary import measure_summary
    from goodhart.analysis.table import read
    from goodhart.report.contents import read_contents
    from goodhart.report.verdict import MEASURES, gap_line

    contents = read_contents(study_path(name, root))
    matrix = read(contents.rows, "held_out", anchors=contents.anchors)
    known = dict.fromkeys(checkpoint.arm for checkpoint in matrix.checkpoints)
    for arm in (first, second):
        if arm not in known:
            raise GoodhartError(f"study {name!r} has no arm {arm!r}", f"its arms are: {', '.join(known)}")
    resamples = int(contents.record["study"]["resamples"])
    for measure, title in MEASURES.items():
        for found in measure_summary(matrix, measure, (first, second), resamples).comparisons:
            _console().print(printable(f"{title}: {gap_line(found.gap)}"), highlight=False)


def show_list() -> None:
    """What can be named in a study file."""
    from goodhart.config import choices, load_yaml
    from goodhart.models.checkpoint import BASE_MODELS
    from goodhart.models.presets import PRESETS
    from goodhart.study.arm import Arm
    from goodhart.study.spec import PRESET_FOLDER, Preference, Task, builtin_studies
    from goodhart.tasks.preference_layouts import LAYOUTS
    from goodhart.tasks.text_task import TEXT_TASKS

    table = Table("setting", "value", "meaning", show_lines=False)
    for name in choices(Task, "kind"):
        meaning = TEXT_TASKS[name].meaning if name in TEXT_TASKS else "your data in, see task.layout"
        table.add_row("task.kind", name, meaning)
    for setting, kind, name in (
        ("arm source", Arm, "source"),
        ("arm labeller", Arm, "labeller"),
        ("arm loss", Arm, "loss"),
        ("arm mode", Arm, "mode"),
        ("arm reduction", Arm, "reduction"),
        ("preference kind", Preference, "kind"),
    ):
        table.add_row(setting, ", ".join(choices(kind, name)), "")
    table.add_row("task.layout", ", ".join(["auto", *LAYOUTS]), "see 'goodhart data PATH'")
    for name, shape in PRESETS.items():
        shipped = "ships with the package" if (BASE_MODELS / name).is_dir() else f"make it: goodhart pretrain {name}"
        table.add_row("model preset", name, f"{shape.layers} layers of {shape.hidden}; {shipped}")
    for name in builtin_studies():
        table.add_row("study", name, str(load_yaml(PRESET_FOLDER / f"{name}.yaml").get("question", "")))
    _console().print(table)


def data(path: str, layout: str, model: str, max_prompt: int, max_response: int) -> None:
    """Describe a preference data set."""
    from goodhart.tasks.data_description import describe, render_text

    tokenizer: Any = None
    if model:
        from goodhart.models.checkpoint import find, load_tokenizer

        tokenizer = load_tokenizer(find(model).path)
    found = describe(
        path,
        tokenizer,
        layout=None if layout == "auto" else layout,
        max_prompt=max_prompt or None,
        max_response=max_response or None,
    )
    _console().print(printable(render_text(found)), highlight=False)


def pretrain(out: Path, work: Path, settings: dict[str, Any]) -> None:
    """Train a base model."""
    from goodhart.training.pretraining import Pretraining
    from goodhart.training.pretraining import pretrain as train

    train(Pretraining(**settings), out, work)
    _console().print(f"base model: {out}")
