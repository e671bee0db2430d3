"""Prompts with several branches as one row of real tokens, and the attention that reads it.

`[prompt 0 | prompt 1 | ... | branches of prompt 0 | branches of prompt 1 | ...]`: every branch sees its prompt and
itself. The prompt is computed once for all of its branches, and nothing but attention ever computes padding. Of a
prompt the last layer needs keys and values only, but for the token that predicts what follows.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal
from weakref import WeakKeyDictionary

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from goodhart.models.packing import Tokens, additive

ATTENTION = "goodhart_tree"
"""The name under which Transformers knows `tree_attention`."""


WHOLE = 2
"""Up to this many branches a prompt and its branches are one row of attention: what branches waste on one another costs
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


Part = Literal["whole", "prompts", "branches"]
"""Rows of attention: prompts with all their branches, prompts alone, or each branch behind its prompt."""


def _segments(width: int, length: int, slots: int, device: torch.device) -> Int[Tensor, " column"]:
    """0 for the columns of the prompt, 1, 2, ... for those of each branch."""
    own = torch.arange(1, slots + 1, device=device).repeat_interleave(length)
    return torch.cat([torch.zeros(width, dtype=torch.long, device=device), own])


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
class _Last:
    """A tree as the last layer reads it: the kept tokens ask, and of the prompts keys and values are known."""

    tree: Tree
    keys: Float[Tensor, "1 group token size"]
    values: Float[Tensor, "1 group token size"]


class _Found(Exception):  # noqa: N818 - no fault
    """Keys and values, on their way out of a layer of which no more is needed."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.keys, self.values = keys, values


_KEYS_ONLY = object()
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
    if tree is _KEYS_ONLY:
        raise _Found(key, value)
    more = [name for name in ("softcap", "s_aux", "position_bias") if settings.get(name) is not None]
    if more:
        raise ValueError(f"attention with {', '.join(more)} does not read a tree")
    last = isinstance(tree, _Last)
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
        found = torch.nn.functional.scaled_dot_product_attention(
            *(table.transpose(1, 2) for table in tables),
            attn_mask=mask,
            is_causal=mask is None,
            dropout_p=dropout,
            scale=scaling,
            enable_gqa=key.shape[1] != query.shape[1],
        )
        return found.transpose(1, 2)

    if read.slots <= WHOLE:
        found = attend("whole", *(_Spread.apply(x, (read.all if i else asked).whole) for i, x in enumerate(flat)))
        return _Gather.apply(found, asked.whole)[None], None
    parts = (_SpreadApart.apply(x, read.all if i else asked, i > 0) for i, x in enumerate(flat))
    prompts, branches = zip(*parts, strict=True)
    found = attend("prompts", *prompts), attend("branches", *branches)
    return _GatherApart.apply(*found, asked)[None], None


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


_LAST: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()


def last_layer(model: Any) -> Any:
    """The last of a model's layers, where they are found in one list. Raises ValueError if they are not."""
    if model not in _LAST:
        number = model.config.get_text_config(decoder=True).num_hidden_layers
        lists = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == number]
        if len(lists) != 1:
            raise ValueError("the model has no single list of its layers")
        _LAST[model] = lists[0][-1]
    return _LAST[model]


@contextmanager
def keeping_ends(model: Any, tree: Tree) -> Generator[None]:
    """Let the model's last layer compute the tree's kept tokens alone; it gives zeros for the others.

    It is asked twice: for the keys and values of the prompts, where it is left as soon as it has them, and for the
    kept tokens. Nothing of its code is known but that it attends through `tree_attention`.
    """
    layer = last_layer(model)
    before = vars(layer).get("forward")
    layer.forward = _keep_ends(layer.forward, tree)
    try:
        yield
    finally:
        if before is None:
            del layer.forward
        else:
            layer.forward = before


def _keep_ends(layer: Callable[..., Any], tree: Tree) -> Callable[..., Any]:
    tokens, prompts = len(tree.ids), len(tree.ids) - len(tree.predictors)

    def forward(*args: Any, **settings: Any) -> Any:
        def front(x: Tensor) -> Tensor:
            return x[:, :prompts]

        def kept(x: Tensor) -> Tensor:
            return x.index_select(1, tree.to(x.device).kept)

        def spread(x: Tensor) -> Tensor:
            return x.new_zeros(len(x), tokens, *x.shape[2:]).index_copy(1, tree.to(x.device).kept, x)

        if tokens == len(tree.kept):
            return layer(*args, **settings)
        try:
            layer(*_each(args, tokens, front), **{**_each(settings, tokens, front), "tree": _KEYS_ONLY})
        except _Found as found:
            last = _Last(tree, found.keys, found.values)
        else:
            raise ValueError("the model's last layer does not attend")
        found = layer(*_each(args, tokens, kept), **{**_each(settings, tokens, kept), "tree": last})
        return _each(found, len(tree.kept), spread)

    return forward


def _each(value: Any, tokens: int, change: Callable[[Tensor], Tensor]) -> Any:
    """The value with all tensors changed that are one row with so many columns, one for each token."""
    if isinstance(value, Tensor):
        return change(value) if value.dim() in (2, 3) and value.shape[:2] == (1, tokens) else value
    if isinstance(value, tuple):
        return tuple(_each(one, tokens, change) for one in value)
    if isinstance(value, Mapping):
        return {name: _each(one, tokens, change) for name, one in value.items()}
    return value


AttentionInterface.register(ATTENTION, tree_attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
