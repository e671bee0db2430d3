"""Prompts with several branches as one row of real tokens, and the attention that reads it.

`[prompt 0 | prompt 1 | ... | branches of prompt 0 | branches of prompt 1 | ...]`: every branch sees its prompt and
itself. The prompt is computed once for all of its branches, and nothing but attention ever computes padding.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from goodhart.models.packing import Tokens, additive

ATTENTION = "goodhart_tree"
"""The name under which Transformers knows `tree_attention`."""


WHOLE = 2
"""Up to so many branches a prompt and its branches are one row of attention: what branches waste on one another costs
less than a second table."""


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
class Tree:
    """A batch of prompts with the same number of branches each."""

    ids: Int[Tensor, " token"]
    positions: Int[Tensor, " token"]
    prompts: Block
    branches: Block
    """One row for each branch of each prompt."""
    whole: Block
    """One row for each prompt, followed by its branches."""
    predictors: Int[Tensor, " branch_token"]
    """For every token of a branch, the number of the token that predicts it."""
    _masks: dict[tuple[object, ...], Tensor | None] = field(default_factory=dict, repr=False)
    _elsewhere: dict[torch.device, Tree] = field(default_factory=dict, repr=False)

    @property
    def slots(self) -> int:
        """Branches of each prompt."""
        return self.branches.shape[0] // self.prompts.shape[0]

    def to(self, device: torch.device | str) -> Tree:
        """The tree on a device, the same one whenever it is asked for: all layers there share its masks."""
        there = torch.device(device)
        if there == self.ids.device:
            return self
        if there not in self._elsewhere:
            tensors = (self.ids, self.positions, self.prompts, self.branches, self.whole, self.predictors)
            self._elsewhere[there] = Tree(*(each.to(there) for each in tensors))  # type: ignore[arg-type]
        return self._elsewhere[there]

    def mask(self, part: Part, dtype: torch.dtype, window: int | None) -> Tensor | None:
        """What a part of the tree may attend to, additive; None is the causal mask."""
        key = part, dtype, window
        if key not in self._masks:
            self._masks[key] = self._masked(part, dtype, window)
        return self._masks[key]

    def _masked(self, part: Part, dtype: torch.dtype, window: int | None) -> Tensor | None:
        (rows, width), (_, length) = self.prompts.shape, self.branches.shape
        if part == "prompts" and (window is None or window >= width):
            return None
        slots = {"prompts": 0, "branches": 1, "whole": self.slots}[part]
        device = self.ids.device
        places = self.prompts.places
        size = places.new_zeros(rows).index_add_(0, places // width, torch.ones_like(places))[:, None]
        at = torch.arange(width, device=device).expand(rows, width)
        position = torch.cat([at, *[size + torch.arange(length, device=device)] * slots], dim=1)
        own = torch.arange(1, slots + 1, device=device).repeat_interleave(length)
        segment = torch.cat([torch.zeros(width, dtype=torch.long, device=device), own])
        behind = position[:, :, None] - position[:, None, :]
        shared = (segment == 0) & (torch.arange(len(segment), device=device) < size)
        allowed = (behind >= 0) & (shared[:, None, :] | (segment[:, None] == segment[None, :])[None])
        if window is not None:
            allowed &= behind < window
        if part == "branches":
            allowed = allowed[:, width:].repeat_interleave(self.slots, dim=0)
        return additive(allowed, dtype)


Part = Literal["whole", "prompts", "branches"]
"""Rows of attention: prompts with all their branches, prompts alone, or each branch behind its prompt."""


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
    slots, flat, total = lengths.shape[1], lengths.flatten(), int(sizes.sum())
    within = _counted(flat)
    last = (sizes.cumsum() - 1).repeat(slots).repeat(flat)
    before, behind = _table(sizes, 0), _table(flat, total)
    return Tree(
        torch.tensor([*(t for prompt in prompts for t in prompt), *(t for row in branches for b in row for t in b)]),
        torch.from_numpy(np.concatenate([_counted(sizes), sizes.repeat(slots).repeat(flat) + within])),
        Block.of(before),
        Block.of(behind),
        Block.of(np.concatenate([before, behind.reshape(len(sizes), -1)], axis=1)),
        torch.from_numpy(np.where(within == 0, last, total + np.arange(len(within)) - 1)),
    )


def _counted(lengths: Int[np.ndarray, " row"]) -> Int[np.ndarray, " token"]:
    """0, 1, ... within each row."""
    return np.arange(lengths.sum()) - (lengths.cumsum() - lengths).repeat(lengths)


def _table(lengths: Int[np.ndarray, " row"], first: int) -> Int[np.ndarray, "row column"]:
    """Right-padded rows of the numbers of tokens that follow one another from `first`; -1 on padding."""
    starts = first + lengths.cumsum() - lengths
    column = np.arange(max(1, lengths.max()))
    return np.where(column < lengths[:, None], starts[:, None] + column, -1)


class _Spread(torch.autograd.Function):
    """A block's table of values that each have one place in it."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, block: Block) -> Tensor:
        ctx.block = block
        return block.spread(values)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None]:
        return ctx.block.gather(slopes[0]), None


class _Gather(torch.autograd.Function):
    """What stands at a block's tokens."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, block: Block) -> Tensor:
        ctx.block = block
        return block.gather(table)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None]:
        return ctx.block.zeros_with(slopes[0]), None


class _SpreadApart(torch.autograd.Function):
    """Tables of the prompts and of the branches; for keys and values, of the branches behind their prompts."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, tree: Tree, behind: bool) -> tuple[Tensor, Tensor]:
        ctx.tree, ctx.behind = tree, behind
        if not behind:
            return tree.prompts.spread(values), tree.branches.spread(values)
        index = torch.cat([tree.prompts.index.repeat_interleave(tree.slots, dim=0), tree.branches.index], dim=1)
        table = values.index_select(0, index.flatten()).unflatten(0, (index.shape[0], index.shape[1]))
        return tree.prompts.spread(values), table

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None, None]:
        tree: Tree = ctx.tree
        prompts, branches = slopes
        if ctx.behind:
            rows, width = tree.prompts.shape
            prompts = branches[:, :width].unflatten(0, (rows, tree.slots)).sum(1).add_(prompts)
            branches = branches[:, width:]
        return torch.cat([tree.prompts.gather(prompts), tree.branches.gather(branches)]), None, None


class _GatherApart(torch.autograd.Function):
    """What attention found for every token of prompts and branches."""

    @staticmethod
    def forward(ctx: Any, prompts: Tensor, branches: Tensor, tree: Tree) -> Tensor:
        ctx.tree = tree
        return torch.cat([tree.prompts.gather(prompts), tree.branches.gather(branches)])

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, Tensor, None]:
        tree: Tree = ctx.tree
        first, second = slopes[0].split([len(tree.prompts.places), len(tree.branches.places)])
        return tree.prompts.zeros_with(first), tree.branches.zeros_with(second), None


def tree_attention(
    module: Any,
    query: Float[Tensor, "1 head token size"],
    key: Float[Tensor, "1 group token size"],
    value: Float[Tensor, "1 group token size"],
    attention_mask: Tensor | None,
    *,
    tree: Tree | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **settings: Any,
) -> tuple[Tensor, None]:
    """Attention along a tree, for Transformers' models; without one it is their scaled-dot-product attention.

    Raises ValueError for attention that is more than a softmax over scaled products within a window.
    """
    if tree is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **settings)
    here = tree.to(query.device)
    more = [name for name in ("softcap", "s_aux", "position_bias") if settings.get(name) is not None]
    if more:
        raise ValueError(f"attention with {', '.join(more)} does not read a tree")
    window = settings.get("sliding_window")
    flat = [x[0].transpose(0, 1) for x in (query, key, value)]

    def attend(part: Part, *tables: Tensor) -> Tensor:
        mask = here.mask(part, query.dtype, window)
        found = torch.nn.functional.scaled_dot_product_attention(
            *(table.transpose(1, 2) for table in tables),
            attn_mask=mask,
            is_causal=mask is None,
            dropout_p=dropout,
            scale=scaling,
            enable_gqa=key.shape[1] != query.shape[1],
        )
        return found.transpose(1, 2)

    if here.slots <= WHOLE:
        found = attend("whole", *(_Spread.apply(x, here.whole) for x in flat))
        return _Gather.apply(found, here.whole)[None], None
    prompts, branches = zip(*(_SpreadApart.apply(x, here, i > 0) for i, x in enumerate(flat)), strict=True)
    found = attend("prompts", *prompts), attend("branches", *branches)
    return _GatherApart.apply(*found, here)[None], None


@contextmanager
def reading_trees(model: Any) -> Generator[None]:
    """Let the model's attention be `tree_attention` for a while."""
    config = model.config
    before = config._attn_implementation
    config._attn_implementation = ATTENTION
    try:
        yield
    finally:
        config._attn_implementation = before


AttentionInterface.register(ATTENTION, tree_attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
