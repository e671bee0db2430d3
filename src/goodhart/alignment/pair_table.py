"""Pairs as Parquet tables: token ids are the truth, text is derived."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float

from goodhart.alignment.batch import Batch
from goodhart.tasks.prompt_table import find_prompts

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


def read_pairs(path: Path, split: str, prompt_table: Path) -> tuple[Batch, list[str], list[str]]:
    """(pairs, ids, kinds) of one split, with their prompts from the prompt table."""
    rows = pq.read_table(path, schema=SCHEMA, filters=[("split", "=", split)]).to_pylist()
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
