"""Commands that make a study and say where its cells stand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from goodhart import arguments
from goodhart.commands import documents
from goodhart.commands.columns import columns_override
from goodhart.errors import GoodhartError
from goodhart.output import console, say, write_json

if TYPE_CHECKING:
    from goodhart.cells.cell import Cell
    from goodhart.cells.standing import Standing
    from goodhart.report.grid import Grid
    from goodhart.result import Result
    from goodhart.studies.session import Workers
    from goodhart.studies.spec import Study


def run(asked: arguments.Run) -> None:
    """Run a study to its report. Raises GoodhartError, once that is written, if a cell could not be made."""
    from goodhart import rounds
    from goodhart.studies import session
    from goodhart.studies.spec import origin_of, read_study

    precision = [f"precision={asked.precision}"] if asked.precision else []
    study = read_study(asked.study, [*asked.overrides, *precision, *columns_override(asked.columns)])
    study = session.launched(study.only(asked.only) if asked.only else study, asked.executor)
    screen, workers = console(), session.Workers.of(asked.workers, asked.gpus_per_worker, study.executor)
    if asked.dry_run:
        rounds.limit(study, until_decided=asked.until_decided, within=asked.within)
        session.check_before(study, asked.root)
        _dry_run(study, asked.root, workers, screen)
        return
    from goodhart.interface import perform

    result = perform(
        study,
        asked.root,
        origin_of(asked.study),
        workers,
        screen,
        repair=asked.repair,
        until_decided=asked.until_decided,
        within=asked.within,
        track=asked.track,
    )
    show(result, screen)
    say(screen, f"log: {result.folder / 'log.txt'}")
    failed = result.unfinished["failed"]
    if failed:
        problem = f"{len(failed)} of {result.unfinished['total']} cells could not be made: {failed[0]['problem']}"
        raise GoodhartError(problem, failed[0]["remedy"])


def _dry_run(study: Study, root: Path, workers: Workers, screen: Console) -> None:
    from goodhart import rounds
    from goodhart.compared import left_out_in_short
    from goodhart.studies import session

    study, _, cells = session.planned(study, root)
    for cell, done in cells:
        say(screen, f"{'done   ' if done else 'missing'} {cell.id}  {cell.label}")
    for line in left_out_in_short(study):
        say(screen, line)
    say(screen, rounds.ahead(session.prospect(study, cells, workers, root, keep=False), len(cells), workers))
    missing = [cell for cell, done in cells if not done]
    if study.world or not missing:
        return
    from goodhart.report.terminal_grid import TerminalGrid
    from goodhart.studies.cell_memory import check_memory

    memory = _memory(study, missing)
    if memory.rows:
        screen.print("", TerminalGrid(memory))
    if study.executor.kind == "local":
        check_memory(study, missing, workers.number, workers.groups)


def _memory(study: Study, cells: Sequence[Cell]) -> Grid:
    """What cells will hold, by what they are."""
    from goodhart.compute.memory import MIB
    from goodhart.report.grid import Grid
    from goodhart.studies.cell_memory import said
    from goodhart.studies.memory_fit import PARTS

    rows = [
        (name, *(f"{part / MIB:,.0f}" for part in (*holds.parts, holds.total))) for name, holds in said(study, cells)
    ]
    return Grid("Memory of a worker at the largest moment of a cell, MiB", ("cell", *PARTS, "in all"), tuple(rows))


def show(result: Result, screen: Console) -> None:
    """A result in short, and where its page is."""
    from goodhart.report.terminal import terminal_table

    screen.print(terminal_table(result.findings))
    say(screen, f"report: {result.folder / 'report.html'}")


def status(asked: arguments.Status) -> int:
    """Where the cells of a study stand; returns 1 if any is damaged."""
    from goodhart.cells.standing import standing
    from goodhart.cells.store import Store
    from goodhart.studies import session

    store = Store(asked.root)
    study, _, cells = session.planned(session.asked(asked.study, list(asked.overrides), asked.root), asked.root)
    if asked.watch:
        if asked.json:
            raise GoodhartError("--watch and --json: a screen that goes on is no document", "give one of them")
        return _watch(study, [cell for cell, _ in cells], asked.root)
    standings = [standing(store, cell, thorough=asked.verify) for cell, _ in cells]
    states = Counter[str](each.state for each in standings)
    if asked.json:
        write_json(documents.of_cells(study.name, standings))
    else:
        _say_standings(console(), standings, states)
    return 1 if states["damaged"] else 0


def _say_standings(screen: Console, standings: list[Standing], states: Counter[str]) -> None:
    from goodhart.report.grid import NONE, Grid
    from goodhart.report.terminal_grid import TerminalGrid

    rows = tuple(
        (each.state, each.id, each.label, NONE if each.seconds is None else f"{each.seconds:.1f}", each.note or NONE)
        for each in standings
    )
    grid = Grid("", ("state", "cell", "what", "seconds", "progress"), rows).filled
    screen.print(TerminalGrid(grid, whole=frozenset({0, 1})))
    say(screen, ", ".join(f"{number} {state}" for state, number in states.items()))
    damaged = [each for each in standings if each.state == "damaged"]
    for each in damaged:
        say(screen, f"damaged: {each.id} ({each.note})")
    if damaged:
        say(screen, "run the study with --repair to make the damaged cells anew")


def _watch(study: Study, cells: Sequence[Cell], root: Path) -> int:
    """Show the cells as they are made, by whoever makes them; 1 if some are not done in the end."""
    from goodhart.cells.store import Store
    from goodhart.studies import session
    from goodhart.studies.watching import watch

    planned = [(cell, Store(root).has(cell.id)) for cell in cells]
    ahead = session.prospect(study, planned, session.Workers.of(0, 1), root, keep=False)
    watch(Store(root), cells, ahead.seconds, console())
    return 0 if all(Store(root).has(cell.id) for cell in cells) else 1


def make(asked: arguments.Make) -> int:
    """Make one cell of a study; the exit code says how it ended. Raises GoodhartError as `make_cell` does."""
    from goodhart.cells.difference import named
    from goodhart.studies import session
    from goodhart.studies.engine import settle
    from goodhart.studies.one_cell import make_cell

    if asked.threads < 1:
        raise GoodhartError(f"--threads is {asked.threads}", "give the number of cores that it may use")
    study, engine = settle(session.asked(asked.study, list(asked.overrides), asked.root), asked.root, keep=True)
    _, cells = session.plan(study, asked.root)
    cell = named(asked.cell, [each for each, _ in cells])
    code = make_cell(cell, asked.root, asked.threads, engine.kernels.choice.chosen, study.executor.processes)
    say(console(), f"{cell.id} ({cell.label or cell.kind}) {'is made by another process now' if code else 'is there'}")
    return code


def why(asked: arguments.Why) -> None:
    """What differs between a cell of a study and the nearest finished one."""
    from goodhart.cells.difference import explain
    from goodhart.cells.store import Store
    from goodhart.studies import session

    study = session.asked(asked.study, list(asked.overrides), asked.root)
    _, _, cells = session.planned(study, asked.root)
    screen = console()
    for line in explain(asked.cell, [cell for cell, _ in cells], Store(asked.root)):
        say(screen, line)
