"""The prompts of a study as a Parquet table, with demonstrations and splits."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from jaxtyping import Int

from goodhart.errors import GoodhartError
from goodhart.tasks.chosen import Chosen, Each, token_lists
from goodhart.tasks.prompts import Prompt
from goodhart.tasks.row_groups import number_of, rows_at, tables

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
_IS_TRAIN, _IS_HELD_OUT = (ds.field("split") == side for side in ("train", "held_out"))
_LENGTH = pc.list_value_length(ds.field("reference_tokens"))  # pyright: ignore[reportAttributeAccessIssue]
_IS_SHOWN = _IS_TRAIN & (_LENGTH > 0)
"""Of marks, a prompt with bad responses alone has no demonstration."""


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
    return _rows(path, _IS_TRAIN)


@dataclass(frozen=True, slots=True)
class Demonstrations:
    """The training prompts that people wrote something for, and what; those that are used are at hand."""

    prompts: Sequence[Prompt]
    lines: Sequence[tuple[int, ...]]
    longest: int
    """Tokens of the longest training prompt, used or not."""


def read_demonstrations(path: Path, used: Callable[[int], Int[np.ndarray, " chosen"]]) -> Demonstrations:
    """Those training prompts whose places `used` gives, in increasing order, for their number."""
    longest = 0
    for part in tables(path, SCHEMA, _IS_TRAIN, ["tokens"]):
        longest = max(longest, *(int(np.diff(each.offsets).max()) for each in part.column("tokens").chunks))

    def load(places: Int[np.ndarray, " chosen"]) -> Callable[[int], tuple[Prompt, tuple[int, ...]]]:
        rows = rows_at(path, SCHEMA, _IS_SHOWN, places, ["prompt", "tokens", "reference_tokens"])
        ids, tokens, lines = rows.column("prompt"), *map(token_lists, rows.columns[1:])
        return lambda at: (Prompt(ids[at].as_py(), tokens(at)), lines(at))

    number = number_of(path, _IS_SHOWN)
    both = Chosen(number, used(number), load)
    return Demonstrations(Each(both, lambda one: one[0]), Each(both, lambda one: one[1]), longest)


def read_held_out(path: Path, ranks: range) -> list[PromptRow]:
    """The held-out prompts of some ranks, in the table's order."""
    rank = ds.field("rank")
    return _rows(path, _IS_HELD_OUT & (rank >= ranks.start) & (rank < ranks.stop))


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
    return number_of(path, _IS_HELD_OUT)


def find_prompts(path: Path, ids: Iterable[str]) -> dict[str, PromptRow]:
    """The rows of the given prompts, by id. Raises GoodhartError if one is not there."""
    wanted = set(ids)
    result = {row.prompt.id: row for row in _rows(path, named(wanted))} if wanted else {}
    _check_there(path, wanted, result)
    return result


def prompt_tokens(path: Path, ids: Iterable[str]) -> Callable[[str], tuple[int, ...]]:
    """The token ids of the given prompts by id. Raises GoodhartError if one is not there."""
    wanted, columns = set(ids), ["prompt", "tokens"]
    empty = pa.schema([SCHEMA.field(name) for name in columns]).empty_table()
    table = pa.concat_tables([empty, *tables(path, SCHEMA, named(wanted), columns)])
    place = {name: at for at, name in enumerate(table.column("prompt").to_pylist())}
    _check_there(path, wanted, place)
    tokens = token_lists(table.column("tokens"))
    return lambda name: tokens(place[name])


def _check_there(path: Path, wanted: set[str], present: Collection[str]) -> None:
    missing = sorted(wanted.difference(present))
    if missing:
        raise GoodhartError(f"{len(missing)} prompts, {missing[0]} for one, are not in {path}", "delete both cells")


def named(ids: Iterable[str]) -> ds.Expression:
    """What the rows of some prompts have in common, in tables of prompts and of pairs."""
    return ds.field("prompt").isin(pa.array(sorted(ids), pa.string()))


def _rows(path: Path, chosen: ds.Expression) -> list[PromptRow]:
    rows: list[PromptRow] = []
    for row in (row for part in tables(path, SCHEMA, chosen) for row in part.to_pylist()):
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
    result = [0] * len(order)
    for rank, place in enumerate(order):
        result[place] = rank
    return result
