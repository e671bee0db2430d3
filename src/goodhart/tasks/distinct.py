"""Which names have been before, of so many that a set of them would be large."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, UInt64


class Distinct:
    """Different 64-bit names: 8 bytes of memory each."""

    def __init__(self) -> None:
        self._sorted = np.zeros(0, dtype=np.uint64)

    def __len__(self) -> int:
        return len(self._sorted)

    def new(self, names: UInt64[np.ndarray, " name"]) -> Bool[np.ndarray, " name"]:
        """Which of some further names stand neither before nor earlier among these."""
        result = np.zeros(len(names), dtype=bool)
        result[np.unique(names, return_index=True)[1]] = True
        places = np.searchsorted(self._sorted, names)
        there = places < len(self._sorted)
        result[there] &= self._sorted[places[there]] != names[there]
        more = np.sort(names[result])
        self._sorted = np.insert(self._sorted, np.searchsorted(self._sorted, more), more)
        return result
