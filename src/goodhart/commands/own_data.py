"""Commands for data of one's own: what is recognised in them, a study file for them, and pairs to label."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from goodhart import arguments
from goodhart.commands import documents
from goodhart.commands.columns import named_columns
from goodhart.errors import GoodhartError
from goodhart.output import console, say, write_json

if TYPE_CHECKING:
    from goodhart.tasks.data_description import Reading


def data(asked: arguments.Data) -> None:
    """Describe a preference data set. Raises GoodhartError for what needs a model and has none."""
    from goodhart.studies.check_data import default_needs
    from goodhart.tasks.data_description import describe, render_text

    reading = _reading(asked)
    with _bar() as progress:
        description = describe(
            asked.path,
            reading,
            layout=None if asked.layout == "auto" else asked.layout,
            columns=named_columns(asked.columns),
            rule=None if asked.pairs == "auto" else asked.pairs,
            say=progress,
        )
    if asked.json:
        write_json(documents.of_data(description))
        return
    screen = console()
    say(screen, render_text(description))
    for split in description.splits:
        say(screen, f"split {split.name}: {default_needs(split.prompts, split.usable)}")


def _reading(asked: arguments.Data) -> Reading | None:
    limits = {"--max-prompt": asked.max_prompt, "--max-response": asked.max_response}
    for name, value in limits.items():
        if value < 0:
            raise GoodhartError(f"{name} is {value}", "give a number of tokens, or leave it out")
    told = [name for name, value in {**limits, "--template": asked.template != "auto"}.items() if value]
    if told and not asked.model:
        raise GoodhartError(
            f"{' and '.join(told)}: without a model there are no tokens", "name its tokenizer with --model"
        )
    if not asked.model:
        return None
    from goodhart.models.checkpoint import find, load_tokenizer
    from goodhart.studies.study_file import with_template
    from goodhart.tasks.data_description import Reading

    framed = with_template({"task": {"template": asked.template}})["task"]["template"]
    return Reading(load_tokenizer(find(asked.model).path), framed, asked.max_prompt or None, asked.max_response or None)


def init(asked: arguments.Init) -> None:
    """Write a study file for some data. Raises GoodhartError if it is there, or the data or the time do not do."""
    from goodhart.cells.store import write_atomically
    from goodhart.proposal import Asked, checked, propose
    from goodhart.recipes.settings import PREFERENCES, Task
    from goodhart.report.grid import duration
    from goodhart.rounds import seconds_of
    from goodhart.tasks.pair_rules import RULES

    out = asked.out
    _check_out(asked)
    rule = RULES[0] if asked.pairs == "auto" else asked.pairs
    task = Task(PREFERENCES, asked.data, asked.layout, named_columns(asked.columns), rule, asked.split)
    seconds = seconds_of("--time", asked.time) if asked.time else None
    with _bar() as progress:
        wishes = Asked(asked.data, asked.policy, asked.golden, task, seconds, asked.root, asked.pairs != "auto")
        proposal = propose(wishes, out.parent, progress)
        study = checked(proposal, out.parent, progress)
    write_atomically(out, proposal.text)
    facts, screen = proposal.facts, console()
    usable = f"{len(facts.loaded.examples):,} usable {facts.loaded.unit}"
    say(screen, f"{out}: {len(facts.limits.kept):,} of {usable} are within "
        f"{facts.limits.prompt} and {facts.limits.response} tokens; {len(study.seeds)} seeds, {study.task.evaluation} "
        f"held-out prompts")  # fmt: skip
    if proposal.shortened < 1:
        say(screen, f"so that it ends in time, every stage has {proposal.shortened:.0%} of the usual steps")
    sees = "" if proposal.sees is None else f", and sees a difference of {proposal.sees:.3f} in golden win rate"
    say(screen, f"it takes about {duration(proposal.seconds)} on this machine{sees}")
    say(screen, f"goodhart run {shlex.quote(str(out))}")


def pairs(asked: arguments.Pairs) -> None:
    """Write the pairs of a study with their texts. Raises GoodhartError if the file is there, or a cell fails."""
    from goodhart.studies.pair_texts import write_pair_texts
    from goodhart.studies.session import Workers
    from goodhart.studies.spec import read_study

    if asked.out.exists():
        raise GoodhartError(f"{asked.out} is there already", "give another --out")
    study, screen = read_study(asked.study, list(asked.overrides)), console()
    number = write_pair_texts(study, asked.root, Workers.of(asked.workers, 1, study.executor), screen, asked.out)
    say(screen, f"{asked.out}: {number:,} pairs; add the column label, and name the file in labels.file")


def _check_out(asked: arguments.Init) -> None:
    out = asked.out
    if out.suffix not in (".yaml", ".yml") or not out.stem.replace("-", "").replace("_", "").isalnum():
        raise GoodhartError(f"--out is {str(out)!r}", "name a .yaml file with letters, digits, '-' and '_'")
    if out.exists() and not asked.force:
        raise GoodhartError(f"{out} is there already", "give another --out, or --force to write over it")
    if not out.parent.is_dir():
        raise GoodhartError(f"there is no folder {out.parent}", "make it first, or give another --out")


@contextmanager
def _bar() -> Generator[Callable[[str, int, int | None], None]]:
    """A bar on standard error where that is a terminal; gives what is told what is done, and how many of how many."""
    screen = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=screen, disable=not screen.is_terminal, transient=True) as progress:
        bars: dict[tuple[str, int | None], TaskID] = {}

        def say(what: str, done: int, total: int | None) -> None:
            if (what, total) not in bars:
                for bar in bars.values():
                    progress.remove_task(bar)
                bars.clear()
                bars[what, total] = progress.add_task(what, total=total)
            progress.update(bars[what, total], completed=done)

        yield say
