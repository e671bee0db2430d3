"""Goodhart from Python: studies are read, run and opened. The command line stands on the same functions."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from goodhart import functions, rounds
from goodhart.cells.store import Store
from goodhart.config import essential, plain_data
from goodhart.printable import printable
from goodhart.report.report import write_report
from goodhart.result import Result
from goodhart.studies import session
from goodhart.studies.engine import settle
from goodhart.studies.named_functions import try_functions
from goodhart.studies.session import Outcome, Workers
from goodhart.studies.spec import Study, origin_of, read_study, study_of

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
        said = {key: value for key, value in essential(source).items() if key != "unnamed"}  # no key of a file
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
    only: Sequence[str] = (),
    repair: bool = False,
    until_decided: bool = False,
    within: str = "",
    quiet: bool = False,
) -> Result:
    """Run a study to its report, or go on where it stopped; as `goodhart run`, with a progress bar unless `quiet`.

    A cell that cannot be made is warned of, and what does not need it is there. Raises GoodhartError for what can be
    told before the first cell, and where too little could be made for a report.
    """
    asked = study(source)
    asked = asked.only(list(only)) if only else asked
    console = Console(quiet=quiet, soft_wrap=True, markup=False, emoji=False)
    processes = Workers.of(workers, gpus_per_worker)
    limit = rounds.limit(asked, until_decided=until_decided, within=within)
    origin = origin_of(str(source)) if isinstance(source, str | Path) else PYTHON

    def say(sentence: str) -> None:
        console.print(printable(sentence), highlight=False)

    outcome = perform(
        asked, Path(root), origin, processes, console, say, repair=repair, until_decided=until_decided, limit=limit
    )
    result = Result(outcome.folder)
    write_report(outcome.folder, result.findings)
    for failed in outcome.unfinished.failed:
        warnings.warn(f"{failed['what']}: {failed['problem']}; {failed['remedy']}", RuntimeWarning, stacklevel=2)
    return result


def perform(
    study: Study,
    root: Path,
    origin: str,
    workers: Workers,
    console: Console,
    say: Callable[[str], None],
    *,
    repair: bool,
    until_decided: bool,
    limit: float | None,
) -> Outcome:
    """Make what a study lacks, and its tables. Raises GoodhartError as `run` does."""
    session.check_before(study, root)
    session.remember(study, root, origin)
    study, engine = settle(study, root, keep=True, gpus=len(workers.groups[0]) if workers.groups else 1)
    for sentence in engine.sentences():
        say(sentence)
    _, cells = session.plan(study, root)
    for what in session.damaged_cells([cell for cell, _ in cells], Store(root), repair=repair):
        say(f"damaged, to be made anew: {what}")
    job = rounds.Job(study, engine, root, workers, console, say)
    return rounds.run(job, until_decided=until_decided, limit=limit)


def open(study: str | Path, root: str | Path = "runs") -> Result:
    """A study that was run: its folder, or its name below `root`. Raises GoodhartError if there is none."""
    return Result(session.folder_of(str(study), Path(root)))
