"""A key-value cache for decoding that is allocated once and written in place."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from goodhart.errors import GoodhartError


class PreallocatedLayer(DynamicLayer):
    """Keys and values of one layer in buffers with room for `columns`; attention reads the part that is filled.

    `DynamicLayer` copies all earlier columns at every token.
    """

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.columns, self.filled = columns, 0
        self.buffers: list[Tensor] = []

    def update(
        self,
        key_states: Float[Tensor, "row head new size"],
        value_states: Float[Tensor, "row head new size"],
        *_: object,
        **__: object,
    ) -> tuple[Tensor, Tensor]:
        """Write the new columns and return all that are filled. Raises ValueError if there is no room for them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.buffers = [
                new.new_empty((new.shape[0], new.shape[1], self.columns, new.shape[3]))
                for new in (key_states, value_states)
            ]
        start = self.filled
        keys, values = self.extended(key_states.shape[2])
        keys[:, :, start:], values[:, :, start:] = key_states, value_states
        return keys, values

    def extended(self, new: int) -> tuple[Tensor, Tensor]:
        """Keys and values with room for new columns, which the caller writes.

        Raises ValueError if there is none.
        """
        if self.filled + new > self.columns:
            raise ValueError(f"a cache of {self.columns} columns was asked for {self.filled + new}")
        self.filled += new
        return self._view()

    def batch_select_indices(self, indices: Int[Tensor, " row"]) -> None:
        """Keep these rows only."""
        kept = [b.new_empty((len(indices), *b.shape[1:])) for b in self.buffers]
        for new, old in zip(kept, self.buffers, strict=True):
            new[:, :, : self.filled] = old[indices, :, : self.filled]
        self.buffers = kept
        self._view()

    def _view(self) -> tuple[Tensor, Tensor]:
        self.keys, self.values = (buffer[:, :, : self.filled] for buffer in self.buffers)
        return self.keys, self.values


def keep_rows(cache: Any, rows: Int[Tensor, " row"]) -> None:
    """Keep these rows only, in every layer on its device."""
    for layer in cache.layers:
        layer.batch_select_indices(rows.to(layer.keys.device))


def decoding_cache(config: Any, columns: int, tokens: int) -> DynamicCache:
    """A cache with room for some columns, for sequences of at most this many tokens.

    Raises GoodhartError for a model that remembers otherwise than by keys and values of all earlier tokens: all samples
    of a prompt share a row, and such a memory would mix them.
    """
    cache = DynamicCache(config=config)
    for layer in cache.layers:
        if type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer):
            raise GoodhartError(
                f"{config.model_type} models remember in a {type(layer).__name__}, which cannot be sampled from here",
                "take a model whose layers all have ordinary attention",
            )
        window = getattr(layer, "sliding_window", tokens)
        if window < tokens:
            raise GoodhartError(
                f"the model's attention window of {window} tokens is shorter than prompt and response ({tokens})",
                "lower max_prompt or max_response, or take a model with a longer window",
            )
    cache.layers[:] = [PreallocatedLayer(columns) for _ in cache.layers]
    return cache
