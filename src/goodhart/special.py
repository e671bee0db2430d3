"""SciPy's special functions, imported only where there is memory for them.

SciPy brings OpenBLAS, which at its import asks for a buffer of 32 MiB again and again until it gets it: without this a
process that is given no more memory would go on for ever.
"""

from __future__ import annotations

import mmap
import sys

ROOM = 64 * 2**20
"""Bytes: the buffer, and about what the libraries take beside it."""


def check_room(size: int) -> None:
    """Raises OSError (ENOMEM) if this process is not given so many bytes more."""
    if sys.platform != "win32":
        mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()


check_room(ROOM)

from scipy import special  # noqa: E402

__all__ = ["special"]
