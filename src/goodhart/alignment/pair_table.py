"""Pairs as Parquet tables: token ids are the truth, text is derived."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from jaxtyping import Float, Int

from goodhart.alignment.batch import Batch
from goodhart.tasks.chosen import Chosen, Each, token_lists
from goodhart.tasks.prompt_table import find_prompts, prompt_tokens
from goodhart.tasks.prompts import Prompt
from goodhart.tasks.row_groups import rows_at, tables

Pair = tuple[tuple[int, ...], tuple[int, ...]]
"""The token ids of two responses."""
SCHEMA = pa.schema(
    [
        ("pair", pa.string()),
        ("split", pa.string()),
        ("kind", pa.string()),
        ("prompt", pa.string()),
        ("first", pa.list_(pa.int32())),
        ("second", pa.list_(pa.int32())),
        ("label", pa.float64()),
        ("ref_first", pa.float64()),
        ("ref_second", pa.float64()),
        ("reference", pa.string()),
        ("writer_first", pa.float64()),
        ("writer_second", pa.float64()),
    ]
)
"""`kind` says who wrote the two sides; `ref_*` and `writer_*` (log-probabilities, nats) are null until the
reference, whose name stands in `reference`, and the policy that wrote them have scored them."""


def write_pairs(path: Path, pairs: Batch, ids: Sequence[str], splits: Sequence[str], kinds: Sequence[str]) -> None:
    """Write pairs with their identities. Raises ValueError for log-probabilities of several references."""
    label = [None] * len(pairs) if pairs.label is None else pairs.label.tolist()
    known = _both(pairs.reference, len(pairs))
    own = _both(pairs.writer, len(pairs))
    columns = {
        "pair": list(ids),
        "split": list(splits),
        "kind": list(kinds),
        "prompt": [p.id for p in pairs.prompts],
        "first": [list(r) for r in pairs.first],
        "second": [list(r) for r in pairs.second],
        "label": label,
        "ref_first": [k[0] for k in known],
        "ref_second": [k[1] for k in known],
        "reference": [next(iter(pairs.logps), "") or None] * len(pairs),
        "writer_first": [k[0] for k in own],
        "writer_second": [k[1] for k in own],
    }
    pq.write_table(pa.table(columns, schema=SCHEMA), path)


def read_pairs(
    path: Path, split: str, prompt_table: Path, most: int | None = None, of: Sequence[str] = ()
) -> tuple[Batch, list[str], list[str]]:
    """(pairs, ids, kinds) of one split, with their prompts from the prompt table.

    `most` is the number of them that is read, from the first, and `of` the kinds, where not all are wanted.
    """
    chosen = ds.field("split") == split
    if of:
        chosen &= ds.field("kind").isin(pa.array(of, pa.string()))
    rows = list(islice((row for part in tables(path, SCHEMA, chosen) for row in part.to_pylist()), most))
    prompts = find_prompts(prompt_table, (row["prompt"] for row in rows))
    labelled = bool(rows) and all(row["label"] is not None for row in rows)
    known = _columns(rows, "ref")
    pairs = Batch.of_pairs(
        [prompts[row["prompt"]].prompt for row in rows],
        [row["first"] for row in rows],
        [row["second"] for row in rows],
        label=np.array([row["label"] for row in rows]) if labelled else None,
        writer=_columns(rows, "writer"),
        logps={} if known is None else {_name(rows): known},
    )
    return pairs, [row["pair"] for row in rows], [row["kind"] for row in rows]


def read_labelled(
    path: Path, split: str, prompt_table: Path, used: Callable[[int], Int[np.ndarray, " chosen"]]
) -> Batch:
    """The pairs of a split with their labels; those are at hand whose places `used` gives for their number.

    Their tokens take 4 bytes each until they are asked for.
    """
    chosen = ds.field("split") == split

    def load(places: Int[np.ndarray, " chosen"]) -> Callable[[int], tuple[Prompt, Pair]]:
        rows = rows_at(path, SCHEMA, chosen, places, ["prompt", "first", "second"])
        ids = rows.column("prompt").to_pylist()
        tokens = prompt_tokens(prompt_table, ids)
        first, second = (token_lists(rows.column(name)) for name in ("first", "second"))
        return lambda at: (Prompt(ids[at], tokens(ids[at])), (first(at), second(at)))

    labels = [part.column("label").to_numpy() for part in tables(path, SCHEMA, chosen, ["label"])]
    label = np.concatenate([np.zeros(0), *labels])
    both = Chosen(len(label), used(len(label)), load)
    return Batch(Each(both, lambda one: one[0]), Each(both, lambda one: one[1]), label=label)


def _both(values: Float[np.ndarray, "pair 2"] | None, size: int) -> list[list[float | None]]:
    return [[None, None]] * size if values is None else values.tolist()


def _name(rows: list[dict[str, Any]]) -> str:
    """The one reference of all rows; nothing where there are several."""
    names = {row["reference"] for row in rows}
    return next(iter(names)) or "" if len(names) == 1 else ""


def _columns(rows: list[dict[str, Any]], name: str) -> Float[np.ndarray, "pair 2"] | None:
    """The two columns of that name, where every row has them."""
    if not rows or any(row[f"{name}_first"] is None for row in rows):
        return None
    return np.array([[row[f"{name}_first"], row[f"{name}_second"]] for row in rows])
