"""Prompts with several branches as one row of real tokens: where each stands, and what it may attend to.

`[prompt 0 | prompt 1 | ... | branches of prompt 0 | branches of prompt 1 | ...]`: every branch sees its prompt and
itself. The prompt is computed once for all of its branches, and nothing but attention ever computes padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from goodhart.models.packing import Tokens, additive

Part = Literal["whole", "prompts", "branches"]
"""Rows of attention: prompts with all their branches, prompts alone, or each branch behind its prompt."""


@dataclass(frozen=True, slots=True)
class Block:
    """A padded table of tokens."""

    index: Int[Tensor, "row column"]
    """The token at each place; at padding the first token, since nothing reads it."""
    places: Int[Tensor, " token"]
    """Where the block's tokens are in the flattened table, in their order."""

    @classmethod
    def of(cls, index: Int[np.ndarray, "row column"]) -> Block:
        """The block of a table of token numbers, -1 where there is none."""
        places = np.flatnonzero(index >= 0)
        places = places[np.argsort(index.flatten()[places])]
        return cls(torch.from_numpy(index.clip(min=0)), torch.from_numpy(places))

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.index.shape[0], self.index.shape[1]

    def to(self, device: torch.device | str) -> Block:
        """The block on a device."""
        return Block(self.index.to(device), self.places.to(device))

    def spread(self, values: Float[Tensor, "token *size"]) -> Float[Tensor, "row column *size"]:
        """Lay values out in the table."""
        return values.index_select(0, self.index.flatten()).unflatten(0, self.shape)

    def gather(self, table: Float[Tensor, "row column *size"]) -> Float[Tensor, "token *size"]:
        """Take the block's tokens from the table."""
        return table.flatten(0, 1).index_select(0, self.places)

    def zeros_with(self, values: Float[Tensor, "token *size"]) -> Float[Tensor, "row column *size"]:
        """A table of zeros but for the block's tokens."""
        rows, columns = self.shape
        table = values.new_zeros(rows * columns, *values.shape[1:])
        return table.index_copy_(0, self.places, values).unflatten(0, self.shape)


@dataclass(frozen=True, slots=True)
class Places:
    """Where the tokens of prompts and branches stand in tables of attention."""

    prompts: Block
    branches: Block
    """One row for each branch of each prompt."""
    whole: Block
    """One row for each prompt, followed by its branches."""

    @classmethod
    def of(cls, prompts: Int[np.ndarray, "prompt width"], branches: Int[np.ndarray, "branch length"]) -> Places:
        """The places of two tables of token numbers, -1 where there is none."""
        whole = np.concatenate([prompts, branches.reshape(len(prompts), -1)], axis=1)
        return cls(Block.of(prompts), Block.of(branches), Block.of(whole))

    @property
    def slots(self) -> int:
        """Branches of each prompt."""
        return self.branches.shape[0] // self.prompts.shape[0]

    def to(self, device: torch.device) -> Places:
        """The places where the model is."""
        return Places(*(each.to(device) for each in (self.prompts, self.branches, self.whole)))


@dataclass(frozen=True, slots=True)
class Tree:
    """A batch of prompts with the same number of branches each."""

    ids: Int[Tensor, " token"]
    positions: Int[Tensor, " token"]
    sizes: Int[Tensor, " prompt"]
    """Tokens of each prompt."""
    all: Places
    kept: Int[Tensor, " kept"]
    """The last token of every prompt and the tokens of the branches: those whose last states anything reads."""
    ends: Places
    """The places of the kept tokens, by their numbers among themselves; a prompt is one column."""
    predictors: Int[Tensor, " branch_token"]
    """For every token of a branch, the number of the token that predicts it."""
    _masks: dict[tuple[object, ...], Tensor | None] = field(default_factory=dict, repr=False)
    _elsewhere: dict[torch.device, Tree] = field(default_factory=dict, repr=False)

    @property
    def slots(self) -> int:
        """Branches of each prompt."""
        return self.all.slots

    @property
    def written(self) -> Int[Tensor, " branch_token"]:
        """The tokens of the branches."""
        return self.ids[len(self.ids) - len(self.predictors) :]

    def to(self, device: torch.device | str) -> Tree:
        """The tree on a device, the same one whenever it is asked for: all layers there share its masks."""
        there = torch.device(device)
        if there == self.ids.device:
            return self
        if there not in self._elsewhere:
            parts = (self.ids, self.positions, self.sizes, self.all, self.kept, self.ends, self.predictors)
            self._elsewhere[there] = Tree(*(each.to(there) for each in parts))  # type: ignore[arg-type]
        return self._elsewhere[there]

    def mask(self, part: Part, dtype: torch.dtype, window: int | None, *, last: bool = False) -> Tensor | None:
        """What a part of the tree, or of it the kept tokens, may attend to, additive; None is the causal mask."""
        key = part, dtype, window, last
        if key not in self._masks:
            self._masks[key] = self._masked(part, dtype, window, last)
        return self._masks[key]

    def _masked(self, part: Part, dtype: torch.dtype, window: int | None, last: bool) -> Tensor | None:
        (rows, width), (_, length) = self.all.prompts.shape, self.all.branches.shape
        if part == "prompts" and not last and (window is None or window >= width):
            return None
        slots = {"prompts": 0, "branches": 1, "whole": self.slots}[part]
        device = self.ids.device
        size = self.sizes[:, None]
        behind = [size + torch.arange(length, device=device)] * slots
        position = torch.cat([torch.arange(width, device=device).expand(rows, width), *behind], dim=1)
        segment = _segments(width, length, slots, device)
        asked = torch.cat([size - 1, *behind], dim=1) if last else position
        its = _segments(1, length, slots, device) if last else segment
        ahead = asked[:, :, None] - position[:, None, :]
        shared = (segment == 0) & (torch.arange(len(segment), device=device) < size)
        allowed = (ahead >= 0) & (shared[:, None, :] | (its[:, None] == segment[None, :])[None])
        if window is not None:
            allowed &= ahead < window
        if part == "branches":
            allowed = allowed[:, -length:].repeat_interleave(self.slots, dim=0)
        return additive(allowed, dtype)


def _segments(width: int, length: int, slots: int, device: torch.device) -> Int[Tensor, " column"]:
    """0 for the columns of the prompt, 1, 2, ... for those of each branch."""
    branches = torch.arange(1, slots + 1, device=device).repeat_interleave(length)
    return torch.cat([torch.zeros(width, dtype=torch.long, device=device), branches])


def plant(prompts: Sequence[Tokens], branches: Sequence[Sequence[Tokens]]) -> Tree:
    """The tree of prompts and their branches.

    Raises ValueError for an empty prompt or for prompts with different numbers of branches.
    """
    if len({len(row) for row in branches}) != 1 or len(prompts) != len(branches):
        raise ValueError("every prompt needs the same number of branches")
    if any(len(prompt) == 0 for prompt in prompts):
        raise ValueError("a prompt must have at least one token")
    sizes = np.array([len(prompt) for prompt in prompts])
    lengths = np.array([[len(branch) for branch in row] for row in branches])
    slots, flat, total, number = lengths.shape[1], lengths.flatten(), int(sizes.sum()), len(sizes)
    within = _counted(flat)
    owner, ends, behind = (
        np.arange(number).repeat(slots).repeat(flat),
        sizes.cumsum() - 1,
        total + np.arange(flat.sum()),
    )
    return Tree(
        torch.tensor([*(t for prompt in prompts for t in prompt), *(t for row in branches for b in row for t in b)]),
        torch.from_numpy(np.concatenate([_counted(sizes), sizes[owner] + within])),
        torch.from_numpy(sizes),
        Places.of(_table(sizes, 0), _table(flat, total)),
        torch.from_numpy(np.concatenate([ends, behind])),
        Places.of(np.arange(number)[:, None], _table(flat, number)),
        torch.from_numpy(np.where(within == 0, ends[owner], behind - 1)),
    )


def _counted(lengths: Int[np.ndarray, " row"]) -> Int[np.ndarray, " token"]:
    """0, 1, ... within each row."""
    return np.arange(lengths.sum()) - (lengths.cumsum() - lengths).repeat(lengths)


def _table(lengths: Int[np.ndarray, " row"], first: int) -> Int[np.ndarray, "row column"]:
    """Right-padded rows of the numbers of tokens that follow one another from `first`; -1 on padding."""
    starts = first + lengths.cumsum() - lengths
    column = np.arange(max(1, lengths.max()))
    return np.where(column < lengths[:, None], starts[:, None] + column, -1)
