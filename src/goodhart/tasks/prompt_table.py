"""The prompts of a study as a Parquet table, with demonstrations and splits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from goodhart.errors import GoodhartError
from goodhart.tasks.prompts import Prompt

SCHEMA = pa.schema(
    [
        ("prompt", pa.string()),
        ("split", pa.string()),  # train, validation, test, evaluation
        ("package", pa.string()),  # where it is from
        ("text", pa.string()),
        ("tokens", pa.list_(pa.int32())),
        ("reference", pa.string()),  # the human line, null where there is none
        ("reference_tokens", pa.list_(pa.int32())),
    ]
)


@dataclass(frozen=True, slots=True)
class PromptRow:
    """A prompt with what people wrote for it."""

    prompt: Prompt
    split: str
    text: str
    reference: str | None
    demonstration: tuple[int, ...]


def write_prompts(path: Path, columns: dict[str, list[object]]) -> None:
    """Write the table."""
    pq.write_table(pa.table(columns, schema=SCHEMA), path)


def read_prompts(path: Path, *splits: str) -> list[PromptRow]:
    """The rows of the given splits (all, if none is named), in the table's order."""
    return _rows(path, [("split", "in", list(splits))] if splits else None)


def find_prompts(path: Path, ids: Iterable[str]) -> dict[str, PromptRow]:
    """The rows of the given prompts, by id. Raises GoodhartError if one is not there."""
    wanted = set(ids)
    found = {row.prompt.id: row for row in _rows(path, [("prompt", "in", sorted(wanted))])} if wanted else {}
    missing = sorted(wanted - set(found))
    if missing:
        raise GoodhartError(f"{len(missing)} prompts, {missing[0]} for one, are not in {path}", "delete both cells")
    return found


def _rows(path: Path, filters: list[tuple[str, str, list[str]]] | None) -> list[PromptRow]:
    rows: list[PromptRow] = []
    for row in pq.read_table(path, schema=SCHEMA, filters=filters).to_pylist():
        prompt = Prompt(row["prompt"], tuple(row["tokens"]))
        demonstration = tuple(row["reference_tokens"] or ())
        rows.append(PromptRow(prompt, row["split"], row["text"], row["reference"], demonstration))
    return rows


def assign_splits(order: Sequence[int], validation: int, evaluation: int) -> list[str]:
    """Split held-out prompts by their keyed order: first `evaluation`, then `validation`, the rest is `test`.

    Raises GoodhartError if less than as many again are left for `test`.
    """
    if len(order) < validation + evaluation + 64:
        raise GoodhartError(
            f"{len(order)} held-out prompts do not suffice for {evaluation} to evaluate, {validation} to validate and "
            "64 to test",
            "lower task.evaluation and task.validation, or hold out more",
        )
    splits = [""] * len(order)
    for rank, place in enumerate(order):
        splits[place] = (
            "evaluation" if rank < evaluation else "validation" if rank < evaluation + validation else "test"
        )
    return splits
