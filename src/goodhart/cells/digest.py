"""Digests of files, computed once for each process and change of a file."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

Signature = tuple[int, int, int, int]
"""Device, inode, size, and time of the last change in nanoseconds."""

_KNOWN: dict[tuple[str, Signature], str] = {}


def signature(path: Path) -> Signature:
    """What differs once a file has been written again. Raises OSError if it is not there."""
    status = path.stat()
    return (status.st_dev, status.st_ino, status.st_size, max(status.st_mtime_ns, status.st_ctime_ns))


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file, read piece by piece. Raises OSError if it cannot be read."""
    key = (os.fspath(path.absolute()), signature(path))
    if key not in _KNOWN:
        with path.open("rb") as file:
            _KNOWN[key] = hashlib.file_digest(file, "sha256").hexdigest()
    return _KNOWN[key]
