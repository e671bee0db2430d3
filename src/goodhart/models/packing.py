"""Rows that hold one prompt and several branches: `[left-padded prompt | branch 0 | branch 1 | ...]`.

Every branch sees the prompt and itself, so the prompt is computed once for all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Tokens = Sequence[int]
"""Token ids of a prompt or of a response."""


@dataclass(frozen=True, slots=True)
class Packed:
    """A batch of shared-prompt rows, ready for a forward pass."""

    input_ids: Int[Tensor, "row length"]
    position_ids: Int[Tensor, "row length"]
    allowed: Bool[Tensor, "row length length"]
    """Which column (last axis) each column may attend to; every column sees at least itself."""
    prompt_width: int
    widths: tuple[int, ...]
    """Columns of each branch."""
    real: Bool[Tensor, "row branches"]
    """True on real branch tokens; the columns behind the prompt, all branches side by side."""

    @property
    def kept(self) -> int:
        """How many of the last columns predict or are branch tokens: the last prompt column and all branches."""
        return 1 + sum(self.widths)

    def predictors(self) -> Int[Tensor, " branches"]:
        """For every branch column, the index among the kept columns of the column that predicts it."""
        index: list[int] = []
        for width in self.widths:
            offset = len(index)
            index.extend(0 if t == 0 else offset + t for t in range(width))
        return torch.tensor(index)

    def split(self, values: Tensor) -> list[Tensor]:
        """Cut `[row, branches, ...]` into one tensor per branch."""
        return list(values.split(list(self.widths), dim=1))


def additive(allowed: Bool[Tensor, "row query column"], dtype: torch.dtype) -> Float[Tensor, "row 1 query column"]:
    """The additive mask that Hugging Face attention takes: 0 where allowed, the least finite number elsewhere."""
    mask = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device)
    return mask.masked_fill_(~allowed, torch.finfo(dtype).min)[:, None]


def pack(prompts: Sequence[Tokens], branches: Sequence[Sequence[Tokens]], pad: int) -> Packed:
    """Pack each prompt with its branches; all rows must have the same number of branches.

    Raises ValueError for an empty prompt or rows of different branch counts.
    """
    counts = {len(row) for row in branches}
    if len(counts) != 1 or len(prompts) != len(branches):
        raise ValueError("every prompt needs the same number of branches")
    if any(len(prompt) == 0 for prompt in prompts):
        raise ValueError("a prompt must have at least one token")
    prompt_width = max(len(p) for p in prompts)
    widths = tuple(max(1, *(len(row[j]) for row in branches)) for j in range(counts.pop()))
    length = prompt_width + sum(widths)
    ids = np.full((len(prompts), length), pad, dtype=np.int64)
    positions = np.zeros((len(prompts), length), dtype=np.int64)
    real = np.zeros((len(prompts), length), dtype=bool)
    for i, (prompt, row) in enumerate(zip(prompts, branches, strict=True)):
        _place(ids[i], positions[i], real[i], prompt, prompt_width - len(prompt), 0)
        start = prompt_width
        for width, branch in zip(widths, row, strict=True):
            _place(ids[i], positions[i], real[i], branch, start, len(prompt))
            start += width
    segment = np.repeat(np.arange(len(widths) + 1), [prompt_width, *widths])
    structure = np.tri(length, dtype=bool) & ((segment[None, :] == 0) | (segment[None, :] == segment[:, None]))
    allowed = (structure[None] & real[:, None, :]) | np.eye(length, dtype=bool)[None]
    return Packed(
        input_ids=torch.from_numpy(ids),
        position_ids=torch.from_numpy(positions),
        allowed=torch.from_numpy(allowed),
        prompt_width=prompt_width,
        widths=widths,
        real=torch.from_numpy(real[:, prompt_width:]),
    )


def _place(
    ids: np.ndarray, positions: np.ndarray, real: np.ndarray, tokens: Tokens, start: int, first_position: int
) -> None:
    place = slice(start, start + len(tokens))
    ids[place] = tokens
    positions[place] = np.arange(first_position, first_position + len(tokens))
    real[place] = True


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
    """The slices of a batch that are computed at a time."""
    width = micro_batch or size
    return [slice(start, min(start + width, size)) for start in range(0, size, width)]
