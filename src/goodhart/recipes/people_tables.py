"""The tables of a preference data set of people, written while its comparisons are tokenised."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from goodhart.alignment import pair_table
from goodhart.randomness import permutation
from goodhart.tasks import prompt_table
from goodhart.tasks.distinct import Distinct
from goodhart.tasks.preference_tokens import Encoded, Ids
from goodhart.tasks.row_groups import GROUP, RowGroups

HELD_OUT = "held_out"


class PeopleTables:
    """`prompts.parquet` and `pairs.parquet`: training comparisons come first, and 8 bytes a prompt stay in memory.

    A prompt's rank is known when all held-out ones are; until then these wait in a file of the state.
    """

    def __init__(self, folder: Path, state: Path, tokenizer: Any) -> None:
        self.splits: Counter[str] = Counter()
        """Distinct prompts."""
        self.pairs: Counter[str] = Counter()
        """By split, too."""
        self._tokens: Counter[str] = Counter()
        self._tokenizer = tokenizer
        self._distinct = Distinct()
        self._path = state / "held_out.parquet"
        self._pairs = RowGroups(folder / "pairs.parquet", pair_table.SCHEMA)
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

    @property
    def counts(self) -> dict[str, Any]:
        """Prompts of each split, and mean lengths in tokens."""
        number = self.splits.total()
        means = {f"{what} tokens, mean": round(self._tokens[what] / number, 1) for what in ("prompt", "response")}
        return {"splits": dict(self.splits), **means}

    def add(self, split: str, found: Sequence[Encoded]) -> None:
        """Comparisons of a split; the better response of a prompt's first one is its demonstration."""
        names = [prompt_id(each.prompt) for each in found]
        self._pairs.add_columns(
            len(found),
            {
                "pair": [each.id for each in found],
                "split": [split] * len(found),
                "kind": ["people"] * len(found),
                "prompt": names,
                "first": [each.first for each in found],
                "second": [each.second for each in found],
                "label": [each.label for each in found],
            },
        )
        self.pairs[split] += len(found)
        new = self._distinct.new(np.array([int(name, 16) for name in names], dtype=np.uint64)).tolist()
        self._add_prompts(
            split, [pair for pair, is_new in zip(zip(names, found, strict=True), new, strict=True) if is_new]
        )

    def _add_prompts(self, split: str, found: Sequence[tuple[str, Encoded]]) -> None:
        if not found:
            return
        lines = [each.first if each.label >= 0.5 else each.second for _, each in found]
        (self._waiting if split == HELD_OUT else self._prompts).add_columns(
            len(found),
            {
                "prompt": [name for name, _ in found],
                "split": [split] * len(found),
                "text": [self._tokenizer.decode(list(each.prompt), skip_special_tokens=True) for _, each in found],
                "tokens": [each.prompt for _, each in found],
                "reference_tokens": lines,
            },
        )
        self.splits[split] += len(found)
        self._tokens["prompt"] += sum(len(each.prompt) for _, each in found)
        self._tokens["response"] += sum(map(len, lines))

    def _add_ranked(self) -> None:
        number, done = self.splits[HELD_OUT], 0
        rank = np.empty(number, dtype=np.int32)
        rank[permutation(number, 0, "held-out split")] = np.arange(number)
        with pq.ParquetFile(self._path, pre_buffer=False) as waiting:
            for batch in waiting.iter_batches(GROUP):
                own = pa.array(rank[done : done + len(batch)])
                place = prompt_table.SCHEMA.get_field_index("rank")
                self._prompts.add(
                    pa.Table.from_batches([batch]).set_column(place, prompt_table.SCHEMA.field(place), own)
                )
                done += len(batch)
        self._path.unlink()


def prompt_id(tokens: Ids) -> str:
    """64 bits of the SHA-256 digest of a prompt's token ids, in hexadecimal."""
    return hashlib.sha256(",".join(map(str, tokens)).encode()).hexdigest()[:16]
