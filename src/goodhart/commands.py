"""What the commands do; imported only once a command has been understood."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from goodhart.errors import GoodhartError
from goodhart.printable import printable

if TYPE_CHECKING:
    from goodhart.report.grid import Grid
    from goodhart.studies.session import Workers
    from goodhart.studies.spec import Study
    from goodhart.tasks.pair_rules import Rule


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
    repair: bool,
    until_decided: bool = False,
    within: str = "",
) -> int:
    """Run a study to its report. Raises GoodhartError, once that is written, if a cell could not be made."""
    from goodhart import rounds
    from goodhart.studies import session
    from goodhart.studies.spec import origin_of, read_study

    study = read_study(study_name, overrides)
    study = study.only(only) if only else study
    limit = rounds.limit(study, until_decided=until_decided, within=within)
    console, processes = _console(), session.Workers.of(workers, gpus_per_worker)
    if dry_run:
        session.check_before(study, root)
        _dry_run(study, root, processes, console)
        return 0
    from goodhart.interface import perform

    outcome = perform(
        study,
        root,
        origin_of(study_name),
        processes,
        console,
        lambda sentence: _say(console, sentence),
        repair=repair,
        until_decided=until_decided,
        limit=limit,
    )
    _show(outcome.folder, console)
    _say(console, f"log: {outcome.folder / 'log.txt'}")
    failed = outcome.unfinished.failed
    if failed:
        problem = f"{len(failed)} of {outcome.unfinished.total} cells could not be made: {failed[0]['problem']}"
        raise GoodhartError(problem, failed[0]["remedy"])
    return 0


def _dry_run(study: Study, root: Path, workers: Workers, console: Console) -> None:
    from goodhart import rounds
    from goodhart.studies import session
    from goodhart.studies.engine import settle, settled

    study = settled(study, root) or settle(study, root, keep=False)[0]
    _, cells = session.plan(study, root)
    for cell, done in cells:
        _say(console, f"{'done   ' if done else 'missing'} {cell.id}  {cell.label}")
    _say(console, rounds.ahead(session.prospect(study, cells, workers, root, keep=False), len(cells), workers))


def _say(console: Console, sentence: str) -> None:
    """A line on the screen: names in it are no markup and no escape sequences."""
    console.print(printable(sentence), highlight=False)
    console.file.flush()


def _show(folder: Path, console: Console) -> None:
    from goodhart.report.findings import analyse
    from goodhart.report.report import write_report
    from goodhart.report.terminal import terminal_table

    findings = analyse(folder)
    path = write_report(folder, findings)
    console.print(terminal_table(findings))
    _say(console, f"report: {path}")


def status(study_name: str, overrides: list[str], root: Path, *, verify: bool) -> int:
    """Where the cells of a study stand; returns 1 if any is damaged."""
    from goodhart.cells.screen import read_progress, shown
    from goodhart.cells.store import Store
    from goodhart.studies import session
    from goodhart.studies.engine import settle, settled

    store, asked = Store(root), session.asked(study_name, overrides, root)
    study = settled(asked, root) or settle(asked, root, keep=False)[0]
    _, cells = session.plan(study, root)
    table = Table("state", "cell", "what", "seconds", "progress")
    table.columns[1].no_wrap = True  # an id is copied
    states: Counter[str] = Counter()
    console, broken = _console(), list[str]()
    for cell, _ in cells:
        state: str = store.state(cell.id, thorough=verify)
        seconds = f"{store.record(cell.id)['seconds']:.1f}" if state == "done" else ""
        note = shown(read_progress(store, cell)) if state == "begun" else ""
        who = store.holder(cell.id) if state == "begun" else ""
        failure = store.failure(cell.id) if state == "begun" and not who else None
        if failure:
            state, note = "failed", failure["problem"]
        if state == "damaged":
            note = ", ".join(path.name for path in store.faults(cell.id, thorough=verify))
            broken.append(f"damaged: {cell.id} ({note})")
        states[state] += 1
        about = "; ".join(part for part in (note, f"by {who}" if who else "") if part)
        table.add_row(*(Text(printable(each)) for each in (state, cell.id, cell.label, seconds, about)))
    console.print(table)
    _say(console, ", ".join(f"{number} {state}" for state, number in states.items()))
    for line in broken:
        _say(console, line)
    if broken:
        _say(console, "run the study with --repair to make the damaged cells anew")
    return 1 if broken else 0


def why(cell: str, study_name: str, overrides: list[str], root: Path) -> None:
    """What differs between a cell of a study and the nearest finished one."""
    from goodhart.cells.difference import explain
    from goodhart.cells.store import Store
    from goodhart.studies import session
    from goodhart.studies.engine import settle, settled

    asked = session.asked(study_name, overrides, root)
    study = settled(asked, root) or settle(asked, root, keep=False)[0]
    _, cells = session.plan(study, root)
    for line in explain(cell, [each for each, _ in cells], Store(root)):
        _say(_console(), line)


def report(words: Sequence[str], root: Path) -> None:
    """Make a study's report again, or one page of several; of a study that has not ended, from the cells that are done.

    `words` are studies, each with the settings after it that it was run with. Raises GoodhartError for a study twice.
    """
    folders = [_folder(name, overrides, root) for name, overrides in named_studies(words)]
    if len(folders) == 1:
        _show(folders[0], _console())
        return
    from goodhart.report.findings import analyse
    from goodhart.report.side_by_side import distinct, verdicts_and_gaps, write_side_by_side

    studies = {label: analyse(folder) for label, folder in distinct(folders).items()}
    path = write_side_by_side(studies, root / "comparisons" / "+".join(folder.name for folder in folders))
    console = _console()
    console.print(_table(verdicts_and_gaps(studies)))
    _say(console, f"report: {path}")


def named_studies(words: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Studies, each with the settings (`name=value`) that stand after it."""
    studies: list[tuple[str, list[str]]] = []
    for word in words:
        if studies and "=" in word and not Path(word).exists():
            studies[-1][1].append(word)
        else:
            studies.append((word, []))
    return studies


def _folder(name: str, overrides: list[str], root: Path) -> Path:
    """The folder of a study's tables, made anew from its cells where that can be."""
    from goodhart.studies import session

    folder = Path(name) if (Path(name) / "rows.parquet").is_file() else None
    if folder is None or (folder / session.STUDY_FILE).is_file():
        study = session.asked(name, overrides, root)
        own = root / "studies" / study.name
        known = (own / session.STUDY_FILE).is_file() or not (own / "rows.parquet").is_file()
        folder = _refreshed(study, root) if known and (root / "cells").is_dir() else session.folder_of(study.name, root)
    return folder


def _refreshed(study: Study, root: Path) -> Path:
    """The study's folder, its tables made again where cells have been finished since."""
    from goodhart.cells.store import Store
    from goodhart.studies import session
    from goodhart.studies.engine import settle, settled
    from goodhart.studies.results import Unfinished, write_results

    store = Store(root)
    folder = store.study(study.name)
    if (folder / "record.json").is_file() and not _lacks(folder):
        return folder
    study = settled(study, root) or settle(study, root, keep=False)[0]
    graph, cells = session.plan(study, root)
    cost = {"seconds of this call": 0.0, "workers": 0, **session.spent(store, [cell for cell, _ in cells])}
    return write_results(store, study, graph, None, cost, Unfinished.of(store, graph))


def _lacks(folder: Path) -> bool:
    from goodhart.report.contents import read_contents

    return bool(read_contents(folder).unfinished.get("missing"))


def power(name: str, overrides: list[str], root: Path, *, like: str, workers: int, gpus_per_worker: int) -> None:
    """Say what a study could show, with 80% power, as it is written and at other sizes."""
    from goodhart import forecasts, variances
    from goodhart.studies import session

    console, folder, general = _console(), session.results_of(name, root), variances.shipped()
    study = forecasts.study_of(folder) if folder and not overrides else session.asked(name, overrides, root)
    forecasts.refuse_world(study)
    alike = session.folder_of(like, root) if like else folder
    noise = variances.joined(variances.of_folder(alike) if alike else None, general)
    minutes = forecasts.clock(root, session.Workers.of(workers, gpus_per_worker))
    lines, grids = forecasts.said(study, noise, general, minutes)
    for line in lines:
        _say(console, line)
    for grid in grids:
        console.print("", _table(grid))


def _table(grid: Grid) -> Table:
    """A grid for a terminal."""
    table = Table(title=Text(printable(grid.title)), title_justify="left", box=None, pad_edge=False)
    for title, numeric in zip(grid.header, grid.numeric, strict=True):
        table.add_column(title, justify="right" if numeric else "left", overflow="fold")
    for row in grid.rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    return table


def compare(name: str, first: str, second: str, root: Path) -> None:
    """The gap between two arms at matched KL, by every measure. Raises GoodhartError for an arm that is not there."""
    from goodhart.analysis.summary import measure_summary
    from goodhart.analysis.table import read
    from goodhart.report.contents import read_contents
    from goodhart.report.verdict import MEASURES, gap_line
    from goodhart.studies import session

    contents = read_contents(session.folder_of(name, root))
    matrix = read(contents.rows, "held_out", anchors=contents.anchors)
    for arm in (first, second):
        if arm not in contents.arms:
            raise GoodhartError(f"study {name!r} has no arm {arm!r}", f"its arms are: {', '.join(contents.arms)}")
    if first == second:
        raise GoodhartError(f"{first!r} is compared with itself", f"its arms are: {', '.join(contents.arms)}")
    resamples = int(contents.record["study"]["resamples"])
    for measure, title in MEASURES.items():
        for found in measure_summary(matrix, measure, (first, second), resamples).comparisons:
            _say(_console(), f"{title}: {gap_line(found.gap)}")


def where(name: str, arm: str, setting: str, seed: int, step: int, root: Path) -> None:
    """Print a checkpoint's folder. Raises GoodhartError for one that is not there, with those that are."""
    from goodhart.cells.store import Store
    from goodhart.studies import session
    from goodhart.studies.engine import settle, settled

    asked = session.asked(name, [], root)
    study = settled(asked, root) or settle(asked, root, keep=False)[0]
    graph, _ = session.plan(study, root)
    if arm not in study.arms:
        raise GoodhartError(f"study {study.name!r} has no arm {arm!r}", f"its arms are: {', '.join(study.arms)}")
    runs = {(found, at): cell for (one, found, at), cell in graph.runs.items() if one == arm}
    settings, seeds = list(dict.fromkeys(s for s, _ in runs)), list(dict.fromkeys(at for _, at in runs))
    setting, seed = setting or settings[0], seeds[0] if seed < 0 else seed
    if (setting, seed) not in runs:
        known = f"its settings are {', '.join(map(repr, settings))}, its seeds {', '.join(map(str, seeds))}"
        raise GoodhartError(f"arm {arm!r} has no run at {setting!r} with seed {seed}", known)
    steps = study.arms[arm].kept
    if step and step not in steps:
        raise GoodhartError(
            f"arm {arm!r} has no checkpoint at step {step}", f"it has them at {', '.join(map(str, steps))}"
        )
    cell, store = runs[setting, seed], Store(root)
    if not store.has(cell.id):
        raise GoodhartError(f"{cell.label or cell.id} is not finished", f"run 'goodhart run {name}' first")
    folder = store.open(cell.id) / f"step-{step or steps[-1]}"
    _console().print(Text(str(folder)), soft_wrap=True)


def export(name: str, out: Path, width: str, root: Path) -> None:
    """Write a study for a paper. Raises GoodhartError for a study that is not there, or a width that is none."""
    from goodhart.report.findings import analyse
    from goodhart.report.for_papers import inches, write_for_paper
    from goodhart.studies import session

    size, folder = inches(width), session.folder_of(name, root)
    into = folder / "paper" if out == Path() else out
    for path in write_for_paper(analyse(folder), into, size):
        _say(_console(), str(path))


def show_methods(name: str) -> None:
    """The table of methods, or one of them. Raises GoodhartError for an unknown one."""
    from goodhart.alignment.methods import METHODS, explained, row

    console = _console()
    if name:
        row(name)
        for label, text in explained(name):
            console.print(Text.assemble((f"{label:12}", "bold"), text))
        return
    for family in dict.fromkeys(each.family for each in METHODS.values()):
        console.print(Text(f"\n{family}", "bold"))
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
        for key, each in METHODS.items():
            if each.family == family:
                table.add_row(key, each.title, each.formula)
        console.print(table)
    console.print("\n'goodhart list methods NAME' explains one; arms name it by method: NAME")


def show_list() -> None:
    """What can be named in a study file."""
    from goodhart.alignment.method import KINDS
    from goodhart.alignment.methods import METHODS
    from goodhart.config import choices, load_yaml
    from goodhart.models.checkpoint import BASE_MODELS
    from goodhart.models.presets import PRESETS
    from goodhart.recipes.arm import Arm
    from goodhart.recipes.settings import Task
    from goodhart.studies.spec import PRESET_FOLDER, Preference, builtin_studies
    from goodhart.tasks.preference_layouts import LAYOUTS
    from goodhart.tasks.text_task import TEXT_TASKS
    from goodhart.tasks.world import World

    table = Table("setting", "value", "meaning", show_lines=False)
    table.add_row("world.kind", ", ".join(choices(World, "kind")), "a finite world: tables in place of models")
    for name in choices(Task, "kind"):
        meaning = TEXT_TASKS[name].meaning if name in TEXT_TASKS else "your data in, see task.layout"
        table.add_row("task.kind", name, meaning)
    for setting, kind, name in (
        ("arm source", Arm, "source"),
        ("arm labeller", Arm, "labeller"),
        ("arm mode", Arm, "mode"),
        ("arm reduction", Arm, "reduction"),
        ("preference kind", Preference, "kind"),
    ):
        table.add_row(setting, ", ".join(choices(kind, name)), "")
    table.add_row("arm method", ", ".join(METHODS), "see 'goodhart list methods'")
    table.add_row("arm loss", ", ".join(KINDS), "")
    table.add_row("task.layout", ", ".join(["auto", *LAYOUTS]), "see 'goodhart data PATH'")
    for name, shape in PRESETS.items():
        shipped = "ships with the package" if (BASE_MODELS / name).is_dir() else f"make it: goodhart pretrain {name}"
        table.add_row("model preset", name, f"{shape.layers} layers of {shape.hidden}; {shipped}")
    for name in builtin_studies():
        table.add_row("study", name, str(load_yaml(PRESET_FOLDER / f"{name}.yaml").get("question", "")))
    _console().print(table)


def data(
    path: str,
    layout: str,
    columns: str,
    pairs: Rule,
    model: str,
    max_prompt: int,
    max_response: int,
    template: str,
) -> None:
    """Describe a preference data set. Raises GoodhartError for what needs a model and has none."""
    from goodhart.studies.check_data import default_needs
    from goodhart.tasks.data_description import Reading, describe, render_text

    limits = {"--max-prompt": max_prompt, "--max-response": max_response}
    for name, value in limits.items():
        if value < 0:
            raise GoodhartError(f"{name} is {value}", "give a number of tokens, or leave it out")
    told = [name for name, value in {**limits, "--template": template != "auto"}.items() if value]
    if told and not model:
        raise GoodhartError(
            f"{' and '.join(told)}: without a model there are no tokens", "name its tokenizer with --model"
        )
    reading: Reading | None = None
    if model:
        from goodhart.models.checkpoint import find, load_tokenizer
        from goodhart.studies.study_file import with_template

        framed = with_template({"task": {"template": template}})["task"]["template"]
        reading = Reading(load_tokenizer(find(model).path), framed, max_prompt or None, max_response or None)
    with _bar("tokenised") as say:
        found = describe(
            path,
            reading,
            layout=None if layout == "auto" else layout,
            columns=named_columns(columns),
            rule=pairs,
            say=say,
        )
    _say(_console(), render_text(found))
    for split in found.splits:
        _say(_console(), f"split {split.name}: {default_needs(split.prompts, split.usable)}")


def init(
    data: str,
    out: Path,
    root: Path,
    *,
    policy: str,
    golden: str,
    time: str,
    layout: str,
    columns: str,
    pairs: Rule,
    split: str,
    force: bool,
) -> None:
    """Write a study file for some data. Raises GoodhartError if it is there, or the data or the time do not do."""
    import shlex

    from goodhart.cells.store import write_atomically
    from goodhart.proposal import Asked, checked, propose
    from goodhart.recipes.settings import PREFERENCES, Task
    from goodhart.report.grid import duration
    from goodhart.rounds import seconds_of

    if out.suffix not in (".yaml", ".yml") or not out.stem.replace("-", "").replace("_", "").isalnum():
        raise GoodhartError(f"--out is {str(out)!r}", "name a .yaml file with letters, digits, '-' and '_'")
    if out.exists() and not force:
        raise GoodhartError(f"{out} is there already", "give another --out, or --force to write over it")
    if not out.parent.is_dir():
        raise GoodhartError(f"there is no folder {out.parent}", "make it first, or give another --out")
    task = Task(PREFERENCES, data, layout, named_columns(columns), pairs, split)
    seconds = seconds_of("--time", time) if time else None
    with _bar("tokenised") as say:
        proposal = propose(Asked(data, policy, golden, task, seconds, root), out.parent, say)
    study = checked(proposal, out.parent)
    write_atomically(out, proposal.text)
    facts, console = proposal.facts, _console()
    _say(console, f"{out}: {len(facts.limits.kept):,} of {len(facts.loaded.examples):,} usable pairs are within "
         f"{facts.limits.prompt} and {facts.limits.response} tokens; {len(study.seeds)} seeds, {study.task.evaluation} "
         f"held-out prompts")  # fmt: skip
    if proposal.shortened < 1:
        _say(console, f"so that it ends in time, every stage has {proposal.shortened:.0%} of the usual steps")
    sees = "" if proposal.sees is None else f", and sees a difference of {proposal.sees:.3f} in golden win rate"
    _say(console, f"it takes about {duration(proposal.seconds)} on this machine{sees}")
    _say(console, f"goodhart run {shlex.quote(str(out))}")


def named_columns(text: str) -> dict[str, str]:
    """What `--columns` says. Raises GoodhartError for what is not name=column, or names one column twice."""
    found: dict[str, str] = {}
    for part in filter(None, (each.strip() for each in text.split(","))):
        ours, equals, theirs = part.partition("=")
        if not equals or not ours or not theirs or ours in found:
            raise GoodhartError(
                f"--columns: cannot understand {part!r}", "write prompt=question,chosen=best,rejected=worst"
            )
        found[ours] = theirs
    return found


def columns_override(text: str) -> list[str]:
    """The same as what is set in a study's file; nothing where nothing is said."""
    return [f"task.columns={json.dumps(named_columns(text), ensure_ascii=False)}"] if text else []


@contextmanager
def _bar(what: str) -> Generator[Callable[[int, int], None]]:
    """A bar on standard error where that is a terminal; gives what is told how many of how many are done."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        bar = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(bar, completed=done, total=total)


def pretrain(out: Path, work: Path, settings: dict[str, Any]) -> None:
    """Train a base model."""
    from goodhart.training.pretraining import Pretraining
    from goodhart.training.pretraining import pretrain as train

    train(Pretraining(**settings), out, work)
    _console().print(f"base model: {out}")
