"""Goodhart from Python: studies are read, run and opened. The command line stands on the same functions."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from goodhart import functions, rounds
from goodhart.cells.launch import Kind
from goodhart.cells.store import Store
from goodhart.config import plain_data, stated
from goodhart.joining import join as join_parts
from goodhart.output import console, say
from goodhart.report.report import write_report
from goodhart.result import Result
from goodhart.studies import session
from goodhart.studies.cell_memory import check_memory
from goodhart.studies.engine import settle
from goodhart.studies.named_functions import try_functions
from goodhart.studies.session import Workers
from goodhart.studies.spec import Study, origin_of, read_study, study_of
from goodhart.tracking.tracker import check_trackers

PYTHON = "Python"
"""Where a study is written down that no file holds."""


def study(source: str | Path | Mapping[str, Any] | Study, /, **changes: Any) -> Study:
    """A study: a built-in one by name, a file by path, or what a file would say as a mapping; with other settings.

    `changes` are settings as the command line has them: `seeds=[0, 1]`, `**{"sft.steps": 100}`. A function of one's own
    can stand for a judge's reward, an arm's loss, labeller or sampler (docs/new-method.md). Raises GoodhartError for an
    unknown name or key, a wrong value, or a function that cannot be one.
    """
    result = _read(source, {key: functions.replaced(value, key) for key, value in changes.items()})
    try_functions(result)
    return result


def _read(source: str | Path | Mapping[str, Any] | Study, changes: Mapping[str, Any]) -> Study:
    overrides = [f"{key}={json.dumps(plain_data(value))}" for key, value in changes.items()]
    if isinstance(source, Study):
        said = {key: value for key, value in stated(source).items() if key != "unnamed"}  # no key of a file
        return study_of({"name": source.name, **said}, overrides) if overrides else source
    if isinstance(source, Mapping):
        return study_of({"name": "study", **plain_data(functions.replaced(source))}, overrides)
    return read_study(str(source), overrides)


def run(
    source: str | Path | Mapping[str, Any] | Study,
    /,
    root: str | Path = "runs",
    *,
    workers: int = 0,
    gpus_per_worker: int = 1,
    executor: Kind | None = None,
    only: Sequence[str] = (),
    repair: bool = False,
    until_decided: bool = False,
    within: str = "",
    track: Sequence[str] = (),
    quiet: bool = False,
) -> Result:
    """Run a study to its report, or go on where it stopped; as `goodhart run`, with a progress bar unless `quiet`.

    `executor` says where cells are made, whatever the study says: "local", "slurm", "ray" (docs/scale.md). `track`
    names what training is forwarded to: "tensorboard", "wandb", "mlflow", "trackio" (docs/tracking.md). A cell that
    cannot be made is warned of, and what does not need it is there. Raises GoodhartError for what can be told before
    the first cell, and where too little could be made for a report.
    """
    asked = study(source)
    asked = session.launched(asked.only(list(only)) if only else asked, executor)
    origin = origin_of(str(source)) if isinstance(source, str | Path) else PYTHON
    result = perform(
        asked,
        Path(root),
        origin,
        Workers.of(workers, gpus_per_worker, asked.executor),
        console(quiet=quiet),
        repair=repair,
        until_decided=until_decided,
        within=within,
        track=track,
    )
    for failed in result.unfinished["failed"]:
        warnings.warn(f"{failed['what']}: {failed['problem']}; {failed['remedy']}", RuntimeWarning, stacklevel=2)
    return result


def perform(
    study: Study,
    root: Path,
    origin: str,
    workers: Workers,
    screen: Console,
    *,
    repair: bool,
    until_decided: bool,
    within: str,
    track: Sequence[str],
) -> Result:
    """Make what a study lacks, its tables and its report. Raises GoodhartError as `run` does."""
    trackers = check_trackers(track)
    limit = rounds.limit(study, until_decided=until_decided, within=within)
    session.check_before(study, root)
    session.remember(study, root, origin)
    study, engine = settle(study, root, keep=True, gpus=len(workers.groups[0]) if workers.groups else 1)
    for sentence in engine.sentences():
        say(screen, sentence)
    _, cells = session.plan(study, root)
    if study.executor.kind == "local":
        check_memory(study, [cell for cell, done in cells if not done], workers.number, workers.groups)
    for what in session.damaged_cells([cell for cell, _ in cells], Store(root), repair=repair):
        say(screen, f"damaged, to be made anew: {what}")
    job = rounds.Job(study, engine, root, workers, screen, lambda sentence: say(screen, sentence), trackers)
    result = Result(rounds.run(job, until_decided=until_decided, limit=limit).folder)
    write_report(result.folder, result.findings)
    return result


def open(study: str | Path, root: str | Path = "runs") -> Result:
    """A study that was run: its folder, or its name below `root`. Raises GoodhartError if there is none."""
    return Result(session.folder_of(str(study), Path(root)))


def join(
    source: str | Path | Mapping[str, Any] | Study, /, parts: Sequence[str | Path], root: str | Path = "runs"
) -> Result:
    """Results of one study with different seeds, put together below `root` with a report; as `goodhart join`.

    `source` is the whole study, with all seeds. Raises GoodhartError for parts that are not of that study, that have a
    seed in common, or that have not ended.
    """
    result = Result(join_parts(study(source), [Path(part) for part in parts], Path(root)))
    write_report(result.folder, result.findings)
    return result
