"""SciPy's special functions, imported only where there is memory for them.

SciPy brings OpenBLAS, which at its import asks for a buffer of 32 MiB again and again until it gets it: without this a
process that is given no more memory would go on for ever. Any other part of SciPy is imported after this one.
"""

from __future__ import annotations

from goodhart.compute.memory import MIB, check_import

ROOM = 64 * MIB
"""Bytes: the buffer, and about what the libraries take beside it."""

check_import("scipy.special", ROOM)

from scipy import special  # noqa: E402

__all__ = ["special"]
