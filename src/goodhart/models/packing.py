"""Batches of token ids: padding, masks and cuts."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from goodhart.compute.ranks import number

Tokens = Sequence[int]
"""Token ids of a prompt or of a response."""


def additive(allowed: Bool[Tensor, "row query column"], dtype: torch.dtype) -> Float[Tensor, "row 1 query column"]:
    """The additive mask that Hugging Face attention takes: 0 where allowed, the least finite number elsewhere."""
    mask = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device)
    return mask.masked_fill_(~allowed, torch.finfo(dtype).min)[:, None]


def pad_right(rows: Sequence[Tokens], pad: int) -> tuple[Int[Tensor, "row length"], Bool[Tensor, "row length"]]:
    """Right-padded ids and the mask that is true on real tokens."""
    width = max(1, *(len(row) for row in rows))
    ids = torch.full((len(rows), width), pad, dtype=torch.long)
    real = torch.zeros((len(rows), width), dtype=torch.bool)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.as_tensor(row, dtype=torch.long)
        real[i, : len(row)] = True
    return ids, real


def cuts(size: int, micro_batch: int) -> list[slice]:
    """The slices of a batch that are computed at a time; processes that make a cell together have one each at least."""
    width = max(1, min(micro_batch or size, -(-size // number())))
    return [slice(start, min(start + width, size)) for start in range(0, size, width)]


def even_cuts(size: int, most: int) -> list[slice]:
    """As few slices of at most `most` rows as there can be, as even as they can be.

    Processes that make a cell together have as many slices each.
    """
    pieces = min(size, number() * -(-size // (most * number())))
    edges = [size * i // pieces for i in range(pieces + 1)] if pieces else [0]
    return [slice(start, end) for start, end in pairwise(edges)]
