"""Marked responses as a Parquet table, beside that of pairs: token ids are the truth."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
from jaxtyping import Int

from goodhart.alignment.batch import Batch
from goodhart.tasks.chosen import Chosen, Each, token_lists
from goodhart.tasks.prompt_table import find_prompts, prompt_tokens
from goodhart.tasks.prompts import Prompt
from goodhart.tasks.row_groups import rows_at, tables

Ids = tuple[int, ...]
"""Token ids."""

SCHEMA = pa.schema(
    [
        ("mark", pa.string()),
        ("split", pa.string()),
        ("prompt", pa.string()),
        ("response", pa.list_(pa.int32())),
        ("good", pa.float64()),
    ]
)


def read_marks(path: Path, split: str, prompt_table: Path, most: int | None = None) -> tuple[Batch, list[str]]:
    """(marked responses, ids) of one split, `most` of them from the first, with their prompts from the prompt table."""
    chosen = (row for part in tables(path, SCHEMA, ds.field("split") == split) for row in part.to_pylist())
    rows = list(islice(chosen, most))
    prompts = find_prompts(prompt_table, (row["prompt"] for row in rows))
    marks = Batch(
        [prompts[row["prompt"]].prompt for row in rows],
        [[row["response"]] for row in rows],
        mark=np.array([[row["good"]] for row in rows]).reshape(-1, 1),
    )
    return marks, [row["mark"] for row in rows]


def read_marked(path: Path, split: str, prompt_table: Path, used: Callable[[int], Int[np.ndarray, " chosen"]]) -> Batch:
    """The marked responses of a split; those are at hand whose places `used` gives for their number.

    Their tokens take 4 bytes each until they are asked for.
    """
    chosen = ds.field("split") == split

    def load(places: Int[np.ndarray, " chosen"]) -> Callable[[int], tuple[Prompt, tuple[Ids, ...]]]:
        rows = rows_at(path, SCHEMA, chosen, places, ["prompt", "response"])
        ids, responses = rows.column("prompt").to_pylist(), token_lists(rows.column("response"))
        tokens = prompt_tokens(prompt_table, ids)
        return lambda at: (Prompt(ids[at], tokens(ids[at])), (responses(at),))

    marks = [part.column("good").to_numpy() for part in tables(path, SCHEMA, chosen, ["good"])]
    mark = np.concatenate([np.zeros(0), *marks])
    both = Chosen(len(mark), used(len(mark)), load)
    return Batch(Each(both, lambda one: one[0]), Each(both, lambda one: one[1]), mark=mark.reshape(-1, 1))
