"""A long sequence of which few items are read, and made when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar, overload

import numpy as np
import pyarrow as pa
from jaxtyping import Int

T = TypeVar("T")


class Chosen(Sequence[T]):
    """A sequence of `number` items, of which those at some places, in increasing order, can be had."""

    def __init__(self, number: int, places: Int[np.ndarray, " chosen"], make: Callable[[int], T]) -> None:
        self._number = number
        self._places = places
        self._make = make

    def __len__(self) -> int:
        return self._number

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(self._number))]
        at = int(np.searchsorted(self._places, index))
        if at == len(self._places) or self._places[at] != index:
            raise IndexError(f"item {index} of {self._number} was not read")
        return self._make(at)


def token_lists(column: pa.ChunkedArray) -> Callable[[int], tuple[int, ...]]:
    """The token ids at each place of a column, which takes 4 bytes a token until they are asked for."""
    lists = column.cast(pa.large_list(pa.int32())).combine_chunks()
    offsets, ids = lists.offsets.to_numpy(), lists.values.to_numpy(zero_copy_only=False)
    return lambda place: tuple(ids[offsets[place] : offsets[place + 1]].tolist())
