"""The store of cells: directories named by what made them, complete or absent, checked when they are opened."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import socket
import time
import uuid
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil

from goodhart.cells.digest import sha256, signature
from goodhart.errors import GoodhartError

_FAILED = "failed.json"
_SILENCE_SECONDS = 900.0
"""After so long without a change nobody is taken to make a cell on another machine."""
State = Literal["done", "damaged", "begun", "missing"]
"""done: complete, as far as was looked; damaged: there, but not what was written; begun: half made, to be resumed."""


def write_atomically(path: Path, text: str) -> None:
    """Write by temporary name and rename, so that a reader sees the old or the new text, never half of it."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError:
        with suppress(OSError):
            temporary.unlink()
        raise


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

    def study(self, name: str) -> Path:
        """Where a study's tables, figures, report and log lie."""
        return self.root / "studies" / name

    def has(self, cell: str) -> bool:
        """Whether the cell is done."""
        return (self.folder(cell) / "DONE").exists()

    def finished(self) -> list[str]:
        """The ids of all cells that are done.

        Folders of other names may hold a `DONE` too, or half of one: of a cell that the disk had no room to finish, or
        that was being taken away.
        """
        names = (path.parent.name for path in (self.root / "cells").glob("*/DONE"))
        return sorted(name for name in names if "." not in name)  # no id has a dot

    def state(self, cell: str, *, thorough: bool = False) -> State:
        """Where a cell stands; `thorough` reads every file of a finished one, else only those that have changed."""
        if self.folder(cell).exists():
            return "damaged" if self.faults(cell, thorough=thorough) else "done"
        return "begun" if self.partial(cell).exists() else "missing"

    def faults(self, cell: str, *, thorough: bool = True) -> list[Path]:
        """The files of a finished cell that are missing or not what was written.

        Without `thorough`, files of the right size that have not changed since the cell's end are believed.
        """
        folder = self.folder(cell)
        record = _read_record(folder)
        if isinstance(record, Path):
            return [record]
        end = signature(folder / "DONE")[-1]
        files = record["files"].items()
        return [folder / name for name, known in files if not _intact(folder / name, known, None if thorough else end)]

    def record(self, cell: str) -> dict[str, Any]:
        """The `cell.json` of a finished cell. Raises GoodhartError if it is damaged."""
        record = _read_record(self.folder(cell))
        if isinstance(record, Path):
            raise damaged(record, self.folder(cell))
        return record

    def open(self, cell: str) -> Path:
        """The folder of a finished cell, after checking every file's size and digest.

        A process checks a file once for each change of it. Raises GoodhartError that names the damaged or missing file.
        """
        for path in self.faults(cell):
            raise damaged(path, self.folder(cell))
        return self.folder(cell)

    def discard(self, cell: str) -> None:
        """Take a damaged cell away, so that it is made anew."""
        grave = self.root / "cells" / f".{cell}.{uuid.uuid4().hex[:8]}"
        with suppress(FileNotFoundError):
            self.folder(cell).rename(grave)
        shutil.rmtree(grave, ignore_errors=True)

    def fail(self, cell: str, problem: str, remedy: str) -> None:
        """Keep why a cell could not be made, until it is begun again."""
        with suppress(OSError):
            self.partial(cell).mkdir(parents=True, exist_ok=True)
            write_atomically(self.partial(cell) / _FAILED, json.dumps({"problem": problem, "remedy": remedy}))

    def failure(self, cell: str) -> dict[str, str] | None:
        """Why a cell could not be made when it was last tried (problem, remedy); None if it did not fail."""
        try:
            reason = json.loads((self.partial(cell) / _FAILED).read_text(encoding="utf-8"))
            return {"problem": str(reason["problem"]), "remedy": str(reason["remedy"])}
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def join(self, family: str, cell: str) -> None:
        """Note that a finished cell is of a family, so that others of it can take over what it holds."""
        folder = self.root / "families" / family
        folder.mkdir(parents=True, exist_ok=True)
        (folder / cell).touch()

    def family(self, family: str) -> list[str]:
        """The finished cells of a family, by name; one that was not noted is only not taken from."""
        folder = self.root / "families" / family
        return sorted(path.name for path in folder.iterdir() if self.has(path.name)) if folder.is_dir() else []

    def begin(self, cell: str) -> Path:
        """The folder in which a cell is made, with what an earlier try has left to resume from."""
        folder = self.partial(cell)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _FAILED).unlink(missing_ok=True)
        return folder

    def finish(self, cell: str, record: dict[str, Any]) -> None:
        """Turn the partial directory into the finished cell: digests, `cell.json`, `DONE`, rename.

        Raises GoodhartError if a damaged cell stands where it would go.
        """
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
        try:
            partial.rename(self.folder(cell))
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            raise damaged(self.folder(cell) / "DONE", self.folder(cell)) from error

    @contextmanager
    def lock(self, cell: str) -> Generator[bool]:
        """Hold the cell's lock; yields False at once if another process holds it.

        The lock is the operating system's (`flock`), so it ends with the process that held it, however that ended: no
        clock and no judgement of staleness is involved. Raises GoodhartError on a file system without such locks.
        """
        from filelock import FileLock, Timeout

        path = self.root / "locks" / f"{cell}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        held = FileLock(path, timeout=0, fallback_to_soft=False)
        try:
            held.acquire()
        except Timeout:
            yield False
            return
        except (NotImplementedError, OSError) as error:
            if isinstance(error, OSError) and error.errno not in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK):
                raise
            raise GoodhartError(
                f"the file system of {self.root} has no file locks ({error})",
                "put --root on a local disk, NFS 4, or a file system that is mounted with flock",
            ) from error
        owner = path.with_suffix(".json")
        try:
            write_atomically(owner, json.dumps({"host": socket.gethostname(), "pid": os.getpid()}))
            yield True
        finally:
            owner.unlink(missing_ok=True)
            held.release()

    def held_since(self, cell: str) -> float | None:
        """When a cell was begun (seconds of the clock) that somebody makes now; None if nobody is known to.

        Of a process of this machine it is asked whether it lives; one of another machine is believed for as long as the
        cell's folder changes now and then.
        """
        path = self.root / "locks" / f"{cell}.json"
        try:
            owner, since = json.loads(path.read_text()), path.stat().st_mtime
            if owner["host"] == socket.gethostname():
                return since if psutil.pid_exists(int(owner["pid"])) else None
            files = [path, self.partial(cell), *self.partial(cell).glob("*")]
            return since if time.time() - max(file.stat().st_mtime for file in files) < _SILENCE_SECONDS else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def holder(self, cell: str) -> str:
        """Who makes a cell, for people; empty if that is not known."""
        try:
            owner = json.loads((self.root / "locks" / f"{cell}.json").read_text())
            return f"process {int(owner['pid'])} on {owner['host']}"
        except (OSError, ValueError, KeyError, TypeError):
            return ""


def damaged(path: Path, folder: Path) -> GoodhartError:
    """The error for a file that is not what was written."""
    return GoodhartError(
        f"{path} is missing or is not what was written", f"run again with --repair, which makes {folder.name} anew"
    )


def _read_record(folder: Path) -> dict[str, Any] | Path:
    """What `cell.json` holds, or the file that is at fault."""
    try:
        text = (folder / "cell.json").read_bytes()
    except OSError:
        return folder / "cell.json"
    try:
        done = (folder / "DONE").read_bytes()
    except OSError:
        return folder / "DONE"
    if hashlib.sha256(text).hexdigest().encode() == done:
        return json.loads(text)
    return folder / ("cell.json" if len(done) == 64 and done.isalnum() else "DONE")


def _intact(path: Path, known: list[Any], end: int | None) -> bool:
    """Whether a file has the size and digest that are `known`; one that is older than `end` is not read."""
    size, digest = known
    try:
        *_, length, changed = signature(path)
        return length == size and ((end is not None and changed <= end) or sha256(path) == digest)
    except OSError:
        return False
