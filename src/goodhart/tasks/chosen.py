"""A long sequence of which few items are read, and made when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar, overload

import numpy as np
import pyarrow as pa
from jaxtyping import Int

T = TypeVar("T")
S = TypeVar("S")
Load = Callable[[Int[np.ndarray, " chosen"]], Callable[[int], T]]
"""Reads the items at some places, in increasing order; what it gives makes the first, second ... of them."""


class Chosen(Sequence[T]):
    """A sequence of `number` items, of which those at some places are at hand; another is read when it is asked for."""

    def __init__(self, number: int, places: Int[np.ndarray, " chosen"], load: Load[T]) -> None:
        self._number = number
        self._places = places
        self._load = load
        self._make = load(places)

    def __len__(self) -> int:
        return self._number

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(self._number))]
        place = range(self._number)[index]
        at = int(np.searchsorted(self._places, place))
        known = at < len(self._places) and self._places[at] == place
        return self._make(at) if known else self._load(np.array([place]))(0)


class Each(Sequence[S]):
    """What a function gives for each item of a sequence, when it is asked for."""

    def __init__(self, items: Sequence[T], make: Callable[[T], S]) -> None:
        self._number = len(items)
        self._make: Callable[[int], S] = lambda place: make(items[place])

    def __len__(self) -> int:
        return self._number

    @overload
    def __getitem__(self, index: int) -> S: ...
    @overload
    def __getitem__(self, index: slice) -> list[S]: ...
    def __getitem__(self, index: int | slice) -> S | list[S]:
        if isinstance(index, slice):
            return [self._make(place) for place in range(*index.indices(self._number))]
        return self._make(index)


def token_lists(column: pa.ChunkedArray) -> Callable[[int], tuple[int, ...]]:
    """The token ids at each place of a column, which takes 4 bytes a token until they are asked for."""
    lists = column.cast(pa.large_list(pa.int32())).combine_chunks()
    offsets, ids = lists.offsets.to_numpy(), lists.values.to_numpy(zero_copy_only=False)
    return lambda place: tuple(ids[offsets[place] : offsets[place + 1]].tolist())
