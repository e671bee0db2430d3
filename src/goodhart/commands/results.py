"""Commands that look at what studies have found, or could find."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from goodhart import arguments
from goodhart.commands import documents
from goodhart.commands.study import show
from goodhart.errors import GoodhartError
from goodhart.output import console, say, write_json

if TYPE_CHECKING:
    from goodhart.studies.spec import Study


def report(asked: arguments.Report) -> None:
    """Make a study's report again, of one that has not ended from the cells that are done; of several, one page.

    Raises GoodhartError for a study twice.
    """
    from goodhart.report.report import write_report
    from goodhart.result import Result

    folders = [_folder(name, settings, asked.root) for name, settings in named_studies([asked.study, *asked.more])]
    if len(folders) == 1:
        result = Result(folders[0])
        write_report(result.folder, result.findings)
        show(result, console())
        return
    from goodhart.report.side_by_side import distinct, verdicts_and_gaps, write_side_by_side
    from goodhart.report.terminal_grid import TerminalGrid

    studies = {label: Result(folder).findings for label, folder in distinct(folders).items()}
    path = write_side_by_side(studies, asked.root / "comparisons" / "+".join(folder.name for folder in folders))
    screen = console()
    screen.print(TerminalGrid(verdicts_and_gaps(studies)))
    say(screen, f"report: {path}")


def join(asked: arguments.Join) -> None:
    """Put results of one study with different seeds together, and make their report."""
    from goodhart.interface import join as join_results
    from goodhart.studies.spec import read_study

    settings = [word for word in asked.parts if "=" in word and not Path(word).exists()]
    folders = [word for word in asked.parts if word not in settings]
    show(join_results(read_study(asked.study, settings), folders, asked.root), console())


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

    given = Path(name)
    if (given / "rows.parquet").is_file() and not (given / session.STUDY_FILE).is_file():
        return given
    study = session.asked(name, overrides, root)
    folder = root / "studies" / study.name
    known = (folder / session.STUDY_FILE).is_file() or not (folder / "rows.parquet").is_file()
    return _refreshed(study, root) if known and (root / "cells").is_dir() else session.folder_of(study.name, root)


def _refreshed(study: Study, root: Path) -> Path:
    """The study's folder, its tables made again where cells have been finished since."""
    from goodhart.cells.store import Store
    from goodhart.report.contents import read_contents
    from goodhart.studies import session
    from goodhart.studies.results import Unfinished, write_results

    store = Store(root)
    folder = store.study(study.name)
    if (folder / "record.json").is_file() and not read_contents(folder).unfinished.get("missing"):
        return folder
    study, graph, cells = session.planned(study, root)
    cost = {"seconds of this call": 0.0, "workers": 0, **session.spent(store, [cell for cell, _ in cells])}
    return write_results(store, study, graph, None, cost, Unfinished.of(store, graph))


def power(asked: arguments.Power) -> None:
    """Say what a study could show, with 80% power, as it is written and at other sizes."""
    from goodhart import forecasts, variances
    from goodhart.report.terminal_grid import TerminalGrid
    from goodhart.studies import session

    root, folder, general = asked.root, session.results_of(asked.study, asked.root), variances.shipped()
    overrides = list(asked.overrides)
    study = forecasts.study_of(folder) if folder and not overrides else session.asked(asked.study, overrides, root)
    forecasts.refuse_world(study)
    alike = session.folder_of(asked.like, root) if asked.like else folder
    noise = variances.joined(variances.of_folder(alike) if alike else None, general)
    minutes = forecasts.clock(root, session.Workers.of(asked.workers, asked.gpus_per_worker))
    forecast, screen = forecasts.forecast_of(study, noise, general, minutes), console()
    if asked.json:
        write_json(documents.of_forecast(forecast))
        return
    for line in forecasts.preface(forecast):
        say(screen, line)
    for grid in forecasts.grids(forecast):
        screen.print("", TerminalGrid(grid))


def compare(asked: arguments.Compare) -> None:
    """The gap between two arms at matched KL, by every measure. Raises GoodhartError for an arm that is not there."""
    from goodhart.interface import open as open_result
    from goodhart.report.verdict import MEASURES

    result, screen = open_result(asked.study, asked.root), console()
    gaps = result.gaps(asked.first, asked.second)
    if asked.json:
        write_json(documents.of_gaps(result.name, gaps))
        return
    for gap in gaps:
        say(screen, f"{MEASURES[gap.measure]}: {gap.line}")


def where(asked: arguments.Where) -> None:
    """Print a checkpoint's folder, or write it whole into another and print that.

    Raises GoodhartError for one that is not there, with those that are, and for a folder that holds something else.
    """
    from goodhart.studies import session
    from goodhart.studies.checkpoints import merged, place_of

    study, screen = session.asked(asked.study, [], asked.root), console()
    place = place_of(study, asked.root, asked.arm, asked.setting, asked.seed, asked.step)
    if asked.merged != Path():
        place = merged(place, asked.merged, asked.root)
    if asked.json:
        write_json(documents.of_place(place))
    else:
        say(screen, str(place.folder))


def push(asked: arguments.Push) -> None:
    """Publish a checkpoint, or write what would be. Raises GoodhartError for one that is not there or not measured."""
    from goodhart import publication
    from goodhart.interface import open as open_result
    from goodhart.studies import session
    from goodhart.studies.checkpoints import place_of

    if bool(asked.to) == (asked.out != Path()):
        raise GoodhartError("push needs one of --to and --out", "give --to NAME/MODEL, or --out FOLDER to look at it")
    study, screen = session.asked(asked.study, [], asked.root), console()
    place = place_of(study, asked.root, asked.arm, asked.setting, asked.seed, asked.step)
    result = open_result(study.name, asked.root)
    if asked.to:
        say(screen, publication.push(result, place, asked.to, asked.root, asked.licence, private=asked.private))
        return
    for path in publication.prepare(result, place, asked.out, asked.root, asked.licence):
        say(screen, str(path))


def export(asked: arguments.Export) -> None:
    """Write a study for a paper. Raises GoodhartError for a study that is not there, or a width that is none."""
    from goodhart.interface import open as open_result
    from goodhart.report.for_papers import inches, write_for_paper

    size, result, screen = inches(asked.width), open_result(asked.study, asked.root), console()
    into = result.folder / "paper" if asked.out == Path() else asked.out
    for path in write_for_paper(result.findings, into, size):
        say(screen, str(path))
