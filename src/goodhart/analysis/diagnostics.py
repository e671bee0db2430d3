"""What a checkpoint's responses are like, whoever judges them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int

from goodhart.analysis.classification import Estimate, clustered
from goodhart.analysis.table import Checkpoint, by_checkpoint, floats, of_split, prompt_codes


@dataclass(frozen=True)
class Diagnostics:
    """One checkpoint's responses on one split."""

    checkpoint: Checkpoint
    rows: int
    tokens: Estimate  # mean length
    ended: Estimate  # share that wrote the end token before the cap
    entropy: Estimate  # nats per token
    unique: float  # distinct token sequences / rows
    proxy_less_golden_vs_policy: Estimate  # proxy win rate less golden win rate, the same rows
    proxy_less_golden_vs_sft: Estimate


def diagnose(rows: pa.Table, split: str) -> tuple[Diagnostics, ...]:
    """The diagnostics of every checkpoint on a split; nulls are left out, an estimate of nothing is NaN.

    Raises:
        GoodhartError: the table lacks a column.
    """
    table = of_split(rows, split)
    if table.num_rows == 0:
        return ()
    prompt = prompt_codes(table)
    columns = {name: floats(table, name) for name in ("tokens", "ended", "entropy")}
    for against in ("policy", "sft"):
        columns[against] = floats(table, f"proxy_vs_{against}") - floats(table, f"golden_vs_{against}")
    sequences = _sequences(table)
    result: list[Diagnostics] = []
    for at, own in by_checkpoint(table):
        means = {name: _known(values[own], prompt[own]) for name, values in columns.items()}
        unique = len({sequences[i] for i in own}) / len(own)
        result.append(
            Diagnostics(
                at, len(own), means["tokens"], means["ended"], means["entropy"], unique, means["policy"], means["sft"]
            )
        )
    return tuple(result)


def _known(values: Float[np.ndarray, " row"], prompt: Int[np.ndarray, " row"]) -> Estimate:
    known = np.isfinite(values)
    return clustered(values[known], prompt[known])


def _sequences(table: pa.Table) -> Sequence[bytes]:
    """Each row's token ids as bytes, to be compared."""
    lists = table.column("response").combine_chunks()
    ids = np.asarray(lists.values.to_numpy(zero_copy_only=False), dtype=np.int32)
    ends = np.asarray(lists.offsets)
    return [ids[start:end].tobytes() for start, end in pairwise(ends)]
