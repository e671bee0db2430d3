"""A key-value cache for decoding that is allocated once and written in place."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer


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
        end = self.filled + key_states.shape[2]
        if end > self.columns:
            raise ValueError(f"a cache of {self.columns} columns was asked for {end}")
        for buffer, new in zip(self.buffers, (key_states, value_states), strict=True):
            buffer[:, :, self.filled : end] = new
        self.filled = end
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


def decoding_cache(config: Any, columns: int) -> DynamicCache:
    """A model's own kind of cache, in which ordinary attention layers have their columns allocated at once.

    Layers with a sliding window or a recurrent state keep the class that the model's configuration asks for.
    """
    cache = DynamicCache(config=config)
    cache.layers = [PreallocatedLayer(columns) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache
