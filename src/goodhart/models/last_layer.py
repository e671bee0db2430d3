"""The last layer of a model that reads a tree, computed at the tokens whose last states anything reads.

Of a prompt the last layer needs keys and values only, but for the token that predicts what follows. So it is called
twice: for the prompts' keys and values, where an exception leaves it as soon as they are known (`KeysKnown`), and for
the tokens that are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from goodhart.models.tree import Tree
from goodhart.models.tree_attention import KEYS_ONLY, Ends, KeysKnown

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

    Nothing of its code is known but that it attends through `tree_attention`.
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
            layer(*_each(args, tokens, front), **{**_each(settings, tokens, front), "tree": KEYS_ONLY})
        except KeysKnown as known:
            last = Ends(tree, known.keys, known.values)
        else:
            raise ValueError("the model's last layer does not attend")
        states = layer(*_each(args, tokens, kept), **{**_each(settings, tokens, kept), "tree": last})
        return _each(states, len(tree.kept), spread)

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
