"""Whether there are as many prompts and pairs as a study's splits and labels ask for."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from goodhart.errors import GoodhartError
from goodhart.models.checkpoint import load_tokenizer
from goodhart.recipes.people import load_people, table_of
from goodhart.recipes.pool_kinds import kinds
from goodhart.recipes.settings import Labels, Task
from goodhart.studies.spec import Study
from goodhart.tasks.data_source import Say, unheard
from goodhart.tasks.label_file import read_labels
from goodhart.tasks.pair_rules import ALONE
from goodhart.tasks.preference import prompt_draws, split_by_prompt
from goodhart.tasks.preference_tokens import Encoded, Framing, encode_examples
from goodhart.tasks.prompt_table import held_out_number

_MOST_HELD_OUT = 0.5
"""Of the data; more is not proposed."""


@dataclass(frozen=True, slots=True)
class Supply:
    """What usable data a study has."""

    held_out: int
    """Distinct held-out prompts."""
    train: int
    """Distinct training prompts."""
    pairs: int
    """Training pairs, or marks."""


def held_out_need(task: Task) -> int:
    """Held-out prompts that the splits ask for."""
    return task.evaluation + task.validation + task.test


def labels_need(study: Study) -> dict[str, int]:
    """Pairs that the golden model is to label, by the keys that say so."""
    return {f"{key}.number": labels.number for key, labels in labels_of(study).items()}


def supply(study: Study, policy: Path, say: Say = unheard) -> Supply:
    """What the study's preference data give, with the policy's tokenizer; counts no further than the study needs.

    Raises GoodhartError for data that cannot be read, and for chat turns without a template.
    """
    task, tokenizer = study.task, load_tokenizer(policy)
    loaded = load_people(task, task.data, say=say)
    framing = Framing.of(task.template, tokenizer, loaded.layout)
    train, held_out = (
        encode_examples(loaded.examples.at(side), tokenizer, framing, task.max_prompt, task.max_response)
        for side in split_by_prompt(prompt_draws(loaded.examples, 0), task.held_out)
    )
    prompts, _ = _counted(held_out, held_out_need(task), 0)
    return Supply(prompts, *_counted(train, task.train_evaluation, max(labels_need(study).values())))


def supply_of(prompts: Path) -> Supply:
    """What the finished cell of a study's preference data has."""
    train = pq.read_table(table_of(prompts), columns=["prompt"], filters=[("split", "=", "train")])
    return Supply(held_out_number(prompts / "prompts.parquet"), len(train.column("prompt").unique()), len(train))


def _counted(encoded: Iterable[Encoded | str], prompts: int, pairs: int) -> tuple[int, int]:
    """(distinct prompts, pairs) among those that are not filtered; stops where there are enough of both."""
    seen: set[int] = set()
    number = 0
    for each in encoded:
        if isinstance(each, Encoded):
            seen.add(hash(each.prompt))
            number += 1
            if len(seen) >= prompts and number >= pairs:
                break
    return len(seen), number


def check_supply(study: Study, given: Supply) -> None:
    """Raises GoodhartError if the data cannot fill the splits or the labels, with numbers that would fit."""
    task, need = study.task, held_out_need(study.task)
    if given.held_out < need:
        asked = f"task.evaluation={task.evaluation}, task.validation={task.validation} and task.test={task.test}"
        raise GoodhartError(
            f"{task.data} has {given.held_out:,} usable held-out prompts (task.held_out={task.held_out:g}), and "
            f"{asked} ask for {need:,}",
            f"{remedy(task, given.held_out)}; 'goodhart data' shows what is filtered",
        )
    what = "marks" if task.pairs == ALONE else "pairs"
    for key, number in labels_need(study).items():
        if given.pairs < number:
            raise GoodhartError(
                f"{key} is {number:,}, and {task.data} has {given.pairs:,} usable training {what}",
                f"set {key}={given.pairs}, lower task.held_out, or raise task.max_prompt and task.max_response",
            )
    if given.train < task.train_evaluation:
        raise GoodhartError(
            f"task.train_evaluation is {task.train_evaluation}, and {task.data} has {given.train} training prompts",
            f"set task.train_evaluation={given.train}",
        )


def remedy(task: Task, held_out: int) -> str:
    """Sizes of the splits that so many held-out prompts fill, and a share that fills the splits as they are."""
    need = held_out_need(task)
    share = math.ceil(100 * 1.05 * task.held_out * need / held_out) / 100 if held_out else 1.0
    more = f", or task.held_out={share:g}" if share <= _MOST_HELD_OUT else ""
    if held_out < 6:  # two of each
        return f"give more data{more}"
    test, validation = (max(2, held_out * size // need) for size in (task.test, task.validation))
    sizes = f"task.evaluation={held_out - test - validation} task.validation={validation} task.test={test}"
    return f"set {sizes}{more}"


def check_pool(study: Study) -> None:
    """Raises GoodhartError if a built-in task's initial pairs cannot fill the labels."""
    pool, pool_kinds = study.pool, kinds(study.pool, study.pool.pairs)
    for section, labels in labels_of(study).items():
        key = f"{section}.number"
        there = sum(kind in labels.of for kind in pool_kinds)
        share = sum(getattr(pool, kind) for kind in set(labels.of))
        if there < labels.number:
            shares = " and ".join(f"pool.{kind}={getattr(pool, kind):g}" for kind in dict.fromkeys(labels.of))
            what = "two samples" if labels.of == ("samples",) else ", ".join(labels.of)
            raise GoodhartError(
                f"{key} is {labels.number:,}, and of pool.pairs={pool.pairs:,} only the {there:,} of {what} "
                f"({shares}) are labelled",
                f"set {key}={there} or pool.pairs={math.ceil(labels.number / share)}"
                if there
                else f"raise pool.{labels.of[0]}",
            )


def check_label_files(study: Study) -> None:
    """Raises GoodhartError for a file of adopted labels that cannot be read, or has fewer than are asked for."""
    for key, labels in labels_of(study).items():
        if not labels.file:
            continue
        there = len(read_labels(Path(labels.file)))
        if there < labels.number:
            raise GoodhartError(
                f"{key}.number is {labels.number:,}, and {labels.file} has {there:,} labels",
                f"set {key}.number={there}, or label more pairs" if there else "label pairs, in the column label",
            )


def labels_of(study: Study) -> dict[str, Labels]:
    """The sections of labels by the keys that name them."""
    named = {f"variants.{name}.labels": variant.labels for name, variant in study.variants.items()}
    return {"labels": study.labels, **{key: labels for key, labels in named.items() if labels}}


def default_needs(prompts: int, rows: int) -> str:
    """What a study that leaves all sizes at their defaults needs of data, for a person who has so many."""
    task, number = Task(), Labels().number
    need = math.ceil(held_out_need(task) / task.held_out)
    asked = f"a study with the default sizes needs {need:,} distinct prompts and {number:,} training pairs"
    if prompts >= need and rows * (1 - task.held_out) >= number:
        return f"{asked}: there are enough"
    held_out, pairs = math.floor(0.95 * prompts * task.held_out), math.floor(0.95 * rows * (1 - task.held_out))
    labels = f" labels.number={pairs}" if pairs < number else ""
    return f"{asked}; for {prompts:,} prompts {remedy(task, held_out) if prompts < need else 'set'}{labels}"
