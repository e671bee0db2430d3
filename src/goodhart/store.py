"""The store of cells: directories named by what made them, complete or absent, checked when they are opened."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from goodhart.errors import GoodhartError

HEARTBEAT_SECONDS = 5.0
STALE_SECONDS = 60.0


def write_atomically(path: Path, text: str) -> None:
    """Write by temporary name and rename, so that a reader sees the old or the new text, never half of it."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True, slots=True)
class Store:
    """Cells under one root: `cells/<id>/` when done, `cells/<id>.partial/` while they are made."""

    root: Path

    def folder(self, cell: str) -> Path:
        """Where a finished cell lies."""
        return self.root / "cells" / cell

    def partial(self, cell: str) -> Path:
        """Where a cell is being made; what lies there survives a crash and may be resumed from."""
        return self.root / "cells" / f"{cell}.partial"

    def has(self, cell: str) -> bool:
        """Whether the cell is done."""
        return (self.folder(cell) / "DONE").exists()

    def record(self, cell: str) -> dict[str, Any]:
        """The `cell.json` of a finished cell. Raises GoodhartError if it is damaged."""
        folder = self.folder(cell)
        try:
            text = (folder / "cell.json").read_bytes()
            done = (folder / "DONE").read_text()
        except OSError as error:
            raise GoodhartError(f"cell {cell} cannot be read: {error}", f"delete {folder} and run again") from error
        if hashlib.sha256(text).hexdigest() != done.strip():
            raise damaged(folder / "cell.json", folder)
        return json.loads(text)

    def open(self, cell: str) -> Path:
        """The folder of a finished cell, after checking every file's size and digest.

        Raises GoodhartError that names the damaged or missing file.
        """
        folder = self.folder(cell)
        for name, (size, digest) in self.record(cell)["files"].items():
            path = folder / name
            if not path.is_file() or path.stat().st_size != size or sha256(path) != digest:
                raise damaged(path, folder)
        return folder

    def finish(self, cell: str, record: dict[str, Any]) -> None:
        """Turn the partial directory into the finished cell: digests, `cell.json`, `DONE`, rename."""
        partial = self.partial(cell)
        shutil.rmtree(partial / "state", ignore_errors=True)
        (partial / "progress.json").unlink(missing_ok=True)
        files = sorted(p for p in partial.rglob("*") if p.is_file() and p.name not in ("cell.json", "DONE"))
        listed = {p.relative_to(partial).as_posix(): [p.stat().st_size, sha256(p)] for p in files}
        text = json.dumps({**record, "files": listed}, indent=1, sort_keys=True)
        (partial / "cell.json").write_text(text, encoding="utf-8")
        (partial / "DONE").write_text(hashlib.sha256(text.encode()).hexdigest())
        for path in (*files, partial / "cell.json", partial / "DONE"):
            with path.open("rb") as file:
                os.fsync(file.fileno())
        partial.rename(self.folder(cell))

    @contextmanager
    def lock(self, cell: str) -> Generator[bool]:
        """Hold the cell's lock; yields False at once if a living process holds it."""
        path = self.root / "cells" / f"{cell}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        if not _acquire(path):
            yield False
            return
        stop = threading.Event()
        beat = threading.Thread(target=_heartbeat, args=(path, stop), daemon=True)
        beat.start()
        try:
            yield True
        finally:
            stop.set()
            beat.join()
            shutil.rmtree(path, ignore_errors=True)


def damaged(path: Path, folder: Path) -> GoodhartError:
    """The error for a file that is not what was written."""
    return GoodhartError(f"{path} is missing or is not what was written", f"delete {folder} and run again")


def _acquire(path: Path) -> bool:
    owner = {"host": socket.gethostname(), "pid": os.getpid(), "started": psutil.Process().create_time()}
    ready = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    ready.mkdir()
    (ready / "owner.json").write_text(json.dumps(owner))
    for _ in range(2):
        try:
            # a rename onto a non-empty directory fails, so owner and lock appear together or not at all
            ready.rename(path)
            return True
        except OSError:
            if not _is_stale(path):
                break
            # only one of several waiting processes can move the stale lock away
            grave = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
            try:
                path.rename(grave)
            except OSError:
                break
            shutil.rmtree(grave, ignore_errors=True)
    shutil.rmtree(ready, ignore_errors=True)
    return False


def _is_stale(path: Path) -> bool:
    try:
        owner = json.loads((path / "owner.json").read_text())
        age = time.time() - (path / "owner.json").stat().st_mtime
    except (OSError, ValueError):
        return False
    if owner["host"] != socket.gethostname():
        return age > STALE_SECONDS
    try:
        return abs(psutil.Process(owner["pid"]).create_time() - owner["started"]) > 1
    except psutil.NoSuchProcess:
        return True


def _heartbeat(path: Path, stop: threading.Event) -> None:
    while not stop.wait(HEARTBEAT_SECONDS):
        try:
            os.utime(path / "owner.json")
        except OSError:
            return
