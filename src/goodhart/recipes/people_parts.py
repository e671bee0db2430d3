"""The recipes that part what people have said by its use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from goodhart.alignment import mark_table, pair_table
from goodhart.cells.workplace import Workplace
from goodhart.errors import GoodhartError
from goodhart.recipes.people import MARKS, table_of
from goodhart.tasks.prompt_table import HeldOut, held_out_number, named, read_held_out
from goodhart.tasks.row_groups import RowGroups, tables


def peoples_pairs(work: Workplace) -> dict[str, Any]:
    """`pairs.parquet` or `marks.parquet`: what trains (train) and what stops what is trained (validation).

    Raises GoodhartError for marks that are all good or all bad in one of them.
    """
    table, schema = _table(work)
    number, given = 0, set[float]()
    with RowGroups(work.folder / table.name, schema) as written:
        for part in tables(table, schema, ds.field("split") == "train"):
            written.add(part)
            number += len(part)
            given |= _given(part)
        validation = _of_prompts(work, HeldOut(int(work.settings["validation"])).to_validate, "validation")
        written.add(validation)
    if table.name == MARKS:
        _check_both(given, "train", number)
        _check_both(_given(validation), "validation", len(validation))
    return {table.stem: {"train": number, "validation": len(validation)}}


def peoples_test_pairs(work: Workplace) -> dict[str, Any]:
    """The same of what measures preference models (test), one for each such prompt."""
    table, _ = _table(work)
    held_out = HeldOut(int(work.settings["validation"]), 0, int(work.settings["test"]))
    number = held_out_number(work.inputs["prompts"] / "prompts.parquet")
    test = _of_prompts(work, held_out.to_test(number), "test")
    first = {prompt: place for place, prompt in reversed(list(enumerate(test.column("prompt").to_pylist())))}
    test = test.take(sorted(first.values()))
    if table.name == MARKS:
        _check_both(_given(test), "test", len(test))
    pq.write_table(test, work.folder / table.name)
    return {table.stem: {"test": len(test)}}


def _table(work: Workplace) -> tuple[Path, pa.Schema]:
    """Where people's words are, and their columns."""
    table = table_of(work.inputs["prompts"])
    return table, mark_table.SCHEMA if table.name == MARKS else pair_table.SCHEMA


def _of_prompts(work: Workplace, chosen: range, split: str) -> pa.Table:
    """What is said of the held-out prompts of some ranks, under the name of a split."""
    table, schema = _table(work)
    ids = [row.prompt.id for row in read_held_out(work.inputs["prompts"] / "prompts.parquet", chosen)]
    result = pa.concat_tables([schema.empty_table(), *tables(table, schema, named(ids))])
    place = schema.get_field_index("split")
    return result.set_column(place, schema.field(place), pa.array([split] * len(result), pa.string()))


def _given(part: pa.Table) -> set[float]:
    """Which marks there are; of pairs none."""
    return set(part.column("good").to_pylist()) if "good" in part.column_names else set()


def _check_both(given: set[float], split: str, number: int) -> None:
    missing = [word for mark, word in ((1.0, "good"), (0.0, "bad")) if mark not in given]
    if missing:
        raise GoodhartError(
            f"none of the {number:,} marks for {split} is {missing[0]}",
            f"give more {missing[0]} responses" + ("" if split == "train" else f", or raise task.{split}"),
        )
