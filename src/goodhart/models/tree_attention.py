"""The attention that reads a tree, for models of Transformers."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from goodhart.models.tree import Block, Part, Places, Tree

ATTENTION = "goodhart_tree"
"""The name under which Transformers knows `tree_attention`."""


WHOLE = 2
"""Up to this many branches a prompt and its branches are one row of attention: what branches waste on one another costs
less than a second table."""


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
    def forward(ctx: Any, values: Tensor, places: Places, behind: bool) -> tuple[Tensor, Tensor]:
        ctx.places, ctx.behind = places, behind
        if not behind:
            return places.prompts.spread(values), places.branches.spread(values)
        prompts = places.prompts.index.repeat_interleave(places.slots, dim=0)
        index = torch.cat([prompts, places.branches.index], dim=1)
        table = values.index_select(0, index.flatten()).unflatten(0, (index.shape[0], index.shape[1]))
        return places.prompts.spread(values), table

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None, None]:
        places: Places = ctx.places
        prompts, branches = slopes
        if ctx.behind:
            rows, width = places.prompts.shape
            prompts = branches[:, :width].unflatten(0, (rows, places.slots)).sum(1).add_(prompts)
            branches = branches[:, width:]
        return torch.cat([places.prompts.gather(prompts), places.branches.gather(branches)]), None, None


class _GatherApart(torch.autograd.Function):
    """What attention found for every token of prompts and branches."""

    @staticmethod
    def forward(ctx: Any, prompts: Tensor, branches: Tensor, places: Places) -> Tensor:
        ctx.places = places
        return torch.cat([places.prompts.gather(prompts), places.branches.gather(branches)])

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, Tensor, None]:
        places: Places = ctx.places
        first, second = slopes[0].split([len(places.prompts.places), len(places.branches.places)])
        return places.prompts.zeros_with(first), places.branches.zeros_with(second), None


@dataclass(frozen=True, slots=True)
class Ends:
    """A tree of which the kept tokens alone ask; of the prompts keys and values are known."""

    tree: Tree
    keys: Float[Tensor, "1 group token size"]
    values: Float[Tensor, "1 group token size"]


class KeysKnown(Exception):  # noqa: N818 - no fault
    """Leaves a layer whose keys and values are all that is wanted: through code that is not ours there is no other way.

    Raised by `tree_attention` where `KEYS_ONLY` stands in the place of a tree.
    """

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.keys, self.values = keys, values


KEYS_ONLY = object()
"""What is read in the place of a tree where keys and values are all that is asked for."""


def tree_attention(
    module: Any,
    query: Float[Tensor, "1 head token size"],
    key: Float[Tensor, "1 group token size"],
    value: Float[Tensor, "1 group token size"],
    attention_mask: Tensor | None,
    *,
    tree: Any = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **settings: Any,
) -> tuple[Tensor, None]:
    """Attention along a tree, for Transformers' models; without one it is their scaled-dot-product attention.

    Raises ValueError for attention that is more than a softmax over scaled products within a window.
    """
    if tree is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **settings)
    if tree is KEYS_ONLY:
        raise KeysKnown(key, value)
    more = [name for name in ("softcap", "s_aux", "position_bias") if settings.get(name) is not None]
    if more:
        raise ValueError(f"attention with {', '.join(more)} does not read a tree")
    last = isinstance(tree, Ends)
    if last:
        number = len(tree.tree.sizes)
        key = torch.cat([tree.keys, key[:, :, number:]], dim=2)
        value = torch.cat([tree.values, value[:, :, number:]], dim=2)
    read: Tree = (tree.tree if last else tree).to(query.device)
    asked = read.ends if last else read.all
    window = settings.get("sliding_window")
    flat = [x[0].transpose(0, 1) for x in (query, key, value)]

    def attend(part: Part, *tables: Tensor) -> Tensor:
        mask = read.mask(part, query.dtype, window, last=last)
        result = torch.nn.functional.scaled_dot_product_attention(
            *(table.transpose(1, 2) for table in tables),
            attn_mask=mask,
            is_causal=mask is None,
            dropout_p=dropout,
            scale=scaling,
            enable_gqa=key.shape[1] != query.shape[1],
        )
        return result.transpose(1, 2)

    if read.slots <= WHOLE:
        result = attend("whole", *(_Spread.apply(x, (read.all if i else asked).whole) for i, x in enumerate(flat)))
        return _Gather.apply(result, asked.whole)[None], None
    parts = (_SpreadApart.apply(x, read.all if i else asked, i > 0) for i, x in enumerate(flat))
    prompts, branches = zip(*parts, strict=True)
    result = attend("prompts", *prompts), attend("branches", *branches)
    return _GatherApart.apply(*result, asked)[None], None


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
