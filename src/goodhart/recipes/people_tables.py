"""The tables of what people have said, pairs or marks, written while it is tokenised."""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool, Int

from goodhart.alignment import mark_table, pair_table
from goodhart.randomness import key, permutation
from goodhart.recipes.people import MARKS, PAIRS
from goodhart.tasks import prompt_table
from goodhart.tasks.distinct import Distinct
from goodhart.tasks.preference_tokens import Encoded, Ids
from goodhart.tasks.row_groups import GROUP, RowGroups

HELD_OUT = "held_out"


class PeopleTables:
    """`prompts.parquet` and `pairs.parquet`: training comparisons come first, and 8 bytes a prompt stay in memory.

    A prompt's rank is known when all held-out ones are; until then these wait in a file of the state. Marks that stand
    `alone` are in `marks.parquet` instead, in a keyed order, since data of marks often have the good ones first; for
    that they wait in a file too, and are in memory as a table at the end. Of a prompt they come with a good one first,
    if it has one.
    """

    def __init__(self, folder: Path, state: Path, tokenizer: Any, *, alone: bool = False) -> None:
        self.splits: Counter[str] = Counter()
        """Distinct prompts."""
        self.pairs: Counter[str] = Counter()
        """By split, too."""
        self._tokens: Counter[str] = Counter()
        self._tokenizer = tokenizer
        self._distinct = Distinct()
        self._path = state / "held_out.parquet"
        self._alone = alone
        self._good = array("b")
        """Of marks, for each held-out prompt whether it has a good one."""
        self._table = folder / (MARKS if alone else PAIRS)
        self._unsorted = state / MARKS
        self._pairs = (
            RowGroups(self._unsorted, mark_table.SCHEMA) if alone else RowGroups(self._table, pair_table.SCHEMA)
        )
        self._prompts = RowGroups(folder / "prompts.parquet", prompt_table.SCHEMA)
        self._waiting = RowGroups(self._path, prompt_table.SCHEMA)

    def __enter__(self) -> PeopleTables:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._waiting.__exit__(kind, fault, trace)
        if fault is None:
            self._add_ranked()
        for table in (self._pairs, self._prompts):
            table.__exit__(kind, fault, trace)
        if fault is None and self._alone:
            self._sort()

    @property
    def counts(self) -> dict[str, Any]:
        """Prompts of each split, and mean lengths in tokens."""
        number = self.splits.total()
        means = {f"{what} tokens, mean": round(self._tokens[what] / number, 1) for what in ("prompt", "response")}
        return {"splits": dict(self.splits), **means}

    def add(self, split: str, examples: Sequence[Encoded]) -> None:
        """Comparisons or marks of a split; the better response of a prompt's first one is its demonstration.

        A prompt whose first mark is bad has no demonstration.
        """
        names = [prompt_id(each.prompt) for each in examples]
        self._pairs.add_columns(len(examples), (_marks if self._alone else _pairs)(split, names, examples))
        self.pairs[split] += len(examples)
        new = self._distinct.new(np.array([int(name, 16) for name in names], dtype=np.uint64)).tolist()
        self._add_prompts(
            split, [pair for pair, is_new in zip(zip(names, examples, strict=True), new, strict=True) if is_new]
        )

    def _add_prompts(self, split: str, examples: Sequence[tuple[str, Encoded]]) -> None:
        if not examples:
            return
        lines = [each.first if each.label >= 0.5 else each.second or () for _, each in examples]
        if self._alone and split == HELD_OUT:
            self._good.extend(each.label == 1 for _, each in examples)
        (self._waiting if split == HELD_OUT else self._prompts).add_columns(
            len(examples),
            {
                "prompt": [name for name, _ in examples],
                "split": [split] * len(examples),
                "text": [self._tokenizer.decode(list(each.prompt), skip_special_tokens=True) for _, each in examples],
                "tokens": [each.prompt for _, each in examples],
                "reference_tokens": lines,
            },
        )
        self.splits[split] += len(examples)
        self._tokens["prompt"] += sum(len(each.prompt) for _, each in examples)
        self._tokens["response"] += sum(map(len, lines))

    def _add_ranked(self) -> None:
        number, done = self.splits[HELD_OUT], 0
        rank = np.empty(number, dtype=np.int32)
        order = permutation(number, 0, "held-out split")
        rank[spread_evenly(order, np.frombuffer(self._good, np.int8) > 0) if self._alone else order] = np.arange(number)
        with pq.ParquetFile(self._path, pre_buffer=False) as waiting:
            for batch in waiting.iter_batches(GROUP):
                ranks = pa.array(rank[done : done + len(batch)])
                place = prompt_table.SCHEMA.get_field_index("rank")
                self._prompts.add(
                    pa.Table.from_batches([batch]).set_column(place, prompt_table.SCHEMA.field(place), ranks)
                )
                done += len(batch)
        self._path.unlink()

    def _sort(self) -> None:
        table = pq.read_table(self._unsorted)
        places = [key(0, "order of marks", name) for name in table.column("mark").to_pylist()]
        order = pa.array(sorted(range(len(table)), key=places.__getitem__), pa.int64())
        with RowGroups(self._table, mark_table.SCHEMA) as written:
            written.add(table.take(order))
        self._unsorted.unlink()


def _pairs(split: str, names: Sequence[str], examples: Sequence[Encoded]) -> dict[str, list[Any]]:
    return {
        "pair": [each.id for each in examples],
        "split": [split] * len(examples),
        "kind": ["people"] * len(examples),
        "prompt": list(names),
        "first": [each.first for each in examples],
        "second": [each.second for each in examples],
        "label": [each.label for each in examples],
    }


def _marks(split: str, names: Sequence[str], examples: Sequence[Encoded]) -> dict[str, list[Any]]:
    return {
        "mark": [each.id for each in examples],
        "split": [split] * len(examples),
        "prompt": list(names),
        "response": [each.first for each in examples],
        "good": [each.label for each in examples],
    }


def spread_evenly(order: Int[np.ndarray, " prompt"], good: Bool[np.ndarray, " prompt"]) -> Int[np.ndarray, " prompt"]:
    """The places of an order so that those of either kind follow at even distances, each kind in its order.

    So no part of the held-out prompts is without good marks or without bad ones, unless it is too small for the
    rarer ones. Where all are of one kind it is the order itself.
    """
    kinds = [order[good[order]], order[~good[order]]]
    at = np.concatenate([(np.arange(len(each)) + 0.5) / max(len(each), 1) for each in kinds])
    return np.concatenate(kinds)[np.lexsort((np.concatenate(kinds), at))]


def prompt_id(tokens: Ids) -> str:
    """64 bits of the SHA-256 digest of a prompt's token ids, in hexadecimal."""
    return hashlib.sha256(",".join(map(str, tokens)).encode()).hexdigest()[:16]
