"""The prompts of a study as a Parquet table, with demonstrations and splits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from goodhart.errors import GoodhartError
from goodhart.tasks.prompts import Prompt

SCHEMA = pa.schema(
    [
        ("prompt", pa.string()),
        ("split", pa.string()),  # train, held_out
        ("rank", pa.int32()),  # of a held-out prompt in their keyed order (`HeldOut`); null for training prompts
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
    text: str
    reference: str | None
    demonstration: tuple[int, ...]


def write_prompts(path: Path, columns: dict[str, list[object]]) -> None:
    """Write the table."""
    pq.write_table(pa.table(columns, schema=SCHEMA), path)


def read_train(path: Path) -> list[PromptRow]:
    """The training prompts, in the table's order."""
    return _rows(path, [("split", "=", "train")])


def read_held_out(path: Path, ranks: range) -> list[PromptRow]:
    """The held-out prompts of some ranks, in the table's order."""
    return _rows(path, [("split", "=", "held_out"), ("rank", ">=", ranks.start), ("rank", "<", ranks.stop)])


def read_ranked(path: Path, ranks: range) -> list[PromptRow]:
    """The held-out prompts of some ranks, in the order of their ranks."""
    rows = pq.read_table(
        path, columns=["prompt", "rank"], filters=[("rank", ">=", ranks.start), ("rank", "<", ranks.stop)]
    )
    order: dict[str, int] = dict(zip(rows.column("prompt").to_pylist(), rows.column("rank").to_pylist(), strict=True))
    by_id = {row.prompt.id: row for row in read_held_out(path, ranks)}
    return [by_id[prompt] for prompt in sorted(order, key=order.__getitem__)]


def held_out_number(path: Path) -> int:
    """How many prompts are held out."""
    return len(pq.read_table(path, columns=["split"], filters=[("split", "=", "held_out")]))


def find_prompts(path: Path, ids: Iterable[str]) -> dict[str, PromptRow]:
    """The rows of the given prompts, by id. Raises GoodhartError if one is not there."""
    wanted = set(ids)
    found = {row.prompt.id: row for row in _rows(path, [("prompt", "in", sorted(wanted))])} if wanted else {}
    missing = sorted(wanted - set(found))
    if missing:
        raise GoodhartError(f"{len(missing)} prompts, {missing[0]} for one, are not in {path}", "delete both cells")
    return found


def _rows(path: Path, filters: list[tuple[str, str, Any]] | None) -> list[PromptRow]:
    rows: list[PromptRow] = []
    for row in pq.read_table(path, schema=SCHEMA, filters=filters).to_pylist():
        prompt = Prompt(row["prompt"], tuple(row["tokens"]))
        demonstration = tuple(row["reference_tokens"] or ())
        rows.append(PromptRow(prompt, row["text"], row["reference"], demonstration))
    return rows


@dataclass(frozen=True, slots=True)
class HeldOut:
    """What held-out prompts are used for, by rank: the first ones to validate, the next to evaluate, the last to test.

    So more prompts to evaluate or to test leave all others where they are.
    """

    validation: int
    """For stopping rules."""
    evaluation: int = 0
    """On which checkpoints are measured."""
    test: int = 0
    """On which preference models are measured."""

    @property
    def to_validate(self) -> range:
        """Ranks of the prompts for stopping rules."""
        return range(self.validation)

    @property
    def to_evaluate(self) -> range:
        """Ranks of the prompts on which checkpoints are measured."""
        return range(self.validation, self.validation + self.evaluation)

    def to_test(self, number: int) -> range:
        """Ranks of the prompts on which preference models are measured, out of all that there are."""
        self.check(number)
        return range(number - self.test, number)

    def check(self, number: int) -> None:
        """Raises GoodhartError if the uses do not fit into so many held-out prompts."""
        if self.validation + self.evaluation + self.test > number:
            asked = {name: getattr(self, name) for name in ("validation", "evaluation", "test") if getattr(self, name)}
            raise GoodhartError(
                f"{number} held-out prompts do not suffice for "
                + ", ".join(f"task.{name} {size}" for name, size in asked.items()),
                "lower these settings, or hold out more prompts",
            )


def ranks(order: Sequence[int]) -> list[int]:
    """The rank of each held-out prompt: its place in their keyed order."""
    found = [0] * len(order)
    for rank, place in enumerate(order):
        found[place] = rank
    return found
