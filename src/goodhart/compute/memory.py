"""Whether there is memory for what comes next, asked before what does not say so when there is none.

Without it a library may ask again for ever, wait for a thread that has ended at its beginning, abort the process, or
fail in words that say nothing of memory.
"""

from __future__ import annotations

import mmap
import sys

MIB = 2**20


def check_room(size: int) -> None:
    """Raises OSError (ENOMEM) if this process is not given so many bytes more."""
    if sys.platform != "win32":
        mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()


def check_import(module: str, size: int) -> None:
    """Raises OSError (ENOMEM) if there are not so many bytes for a library, unless it has been imported."""
    if module not in sys.modules:
        check_room(size)
