"""Marked responses as a Parquet table, beside that of pairs: token ids are the truth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from goodhart.alignment.batch import Batch
from goodhart.tasks.prompt_table import find_prompts

SCHEMA = pa.schema(
    [
        ("mark", pa.string()),
        ("split", pa.string()),
        ("prompt", pa.string()),
        ("response", pa.list_(pa.int32())),
        ("good", pa.float64()),
    ]
)


def write_marks(path: Path, marks: Batch, ids: Sequence[str], splits: Sequence[str]) -> None:
    """Write a marked response to each prompt with its identity."""
    assert marks.mark is not None
    columns = {
        "mark": list(ids),
        "split": list(splits),
        "prompt": [p.id for p in marks.prompts],
        "response": [list(row[0]) for row in marks.responses],
        "good": marks.mark[:, 0].tolist(),
    }
    pq.write_table(pa.table(columns, schema=SCHEMA), path)


def read_marks(path: Path, split: str, prompt_table: Path) -> tuple[Batch, list[str]]:
    """(marked responses, ids) of one split, with their prompts from the prompt table."""
    rows = pq.read_table(path, schema=SCHEMA, filters=[("split", "=", split)]).to_pylist()
    prompts = find_prompts(prompt_table, (row["prompt"] for row in rows))
    marks = Batch(
        [prompts[row["prompt"]].prompt for row in rows],
        [[row["response"]] for row in rows],
        mark=np.array([[row["good"]] for row in rows]).reshape(-1, 1),
    )
    return marks, [row["mark"] for row in rows]
