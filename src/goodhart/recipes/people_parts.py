"""The recipes that part what people have said by its use."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from goodhart.cells.workplace import Workplace
from goodhart.errors import GoodhartError
from goodhart.recipes.people import MARKS, table_of
from goodhart.tasks.prompt_table import HeldOut, held_out_number, read_held_out


def peoples_pairs(work: Workplace) -> dict[str, Any]:
    """`pairs.parquet` or `marks.parquet`: what trains (train) and what stops what is trained (validation).

    Raises GoodhartError for marks that are all good or all bad in one of them.
    """
    train = pq.read_table(table_of(work.inputs["prompts"]), filters=[("split", "=", "train")])
    validation = _of_prompts(work, HeldOut(int(work.settings["validation"])).to_validate, "validation")
    return _written(work, {"train": train, "validation": validation})


def peoples_test_pairs(work: Workplace) -> dict[str, Any]:
    """The same of what measures preference models (test), one for each such prompt."""
    held_out = HeldOut(int(work.settings["validation"]), 0, int(work.settings["test"]))
    number = held_out_number(work.inputs["prompts"] / "prompts.parquet")
    test = _of_prompts(work, held_out.to_test(number), "test")
    first = {prompt: place for place, prompt in reversed(list(enumerate(test.column("prompt").to_pylist())))}
    return _written(work, {"test": test.take(sorted(first.values()))})


def _of_prompts(work: Workplace, chosen: range, split: str) -> pa.Table:
    """What is said of the held-out prompts of some ranks, under the name of a split."""
    ids = [row.prompt.id for row in read_held_out(work.inputs["prompts"] / "prompts.parquet", chosen)]
    found = pq.read_table(table_of(work.inputs["prompts"]), filters=[("prompt", "in", ids)])
    names = pa.array([split] * len(found), pa.string())
    return found.set_column(found.schema.get_field_index("split"), "split", names)


def _written(work: Workplace, parts: dict[str, pa.Table]) -> dict[str, Any]:
    """Writes the parts as one table, and says how many each has."""
    table = table_of(work.inputs["prompts"])
    for split, part in parts.items():
        if table.name == MARKS:
            _check_both(part, split)
    pq.write_table(pa.concat_tables(list(parts.values())), work.folder / table.name)
    return {table.stem: {split: len(part) for split, part in parts.items()}}


def _check_both(marks: pa.Table, split: str) -> None:
    given = set(marks.column("good").to_pylist())
    missing = [word for mark, word in ((1.0, "good"), (0.0, "bad")) if mark not in given]
    if missing:
        raise GoodhartError(
            f"none of the {len(marks):,} marks for {split} is {missing[0]}",
            f"give more {missing[0]} responses" + ("" if split == "train" else f", or raise task.{split}"),
        )
