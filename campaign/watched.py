"""Runs a function in a process in which everything that it does to the outside is noted."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_RUNS = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "subprocess.Popen", "os.fork", "ctypes.dlopen")
_CALLS = ("socket.connect", "socket.getaddrinfo", "socket.bind", "urllib.Request")
_MOVES = ("os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod")


@dataclass(slots=True)
class Watch:
    """Notes programs that are begun, connections, writes outside one folder, and code from another one."""

    may_write: Path
    foreign: Path
    """What lies here is input: nothing of it is run."""
    noted: list[str] = field(default_factory=list[str])

    def start(self) -> None:
        """From now on and for the rest of the process."""
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if isinstance(flags, int) and flags & _WRITES and not self._allowed(path):
                self.noted.append(f"writes {path}")
        elif event in _MOVES:
            below = _folder_of(arguments[-1]) if event != "os.truncate" else ""
            paths = [str(Path(below, os.fsdecode(each))) for each in arguments if _is_path(each)]
            self.noted += [f"{event} {path}" for path in paths if not self._allowed(path)]
        elif event in _CALLS or event in _RUNS:
            self.noted.append(f"{event} {arguments[:2]}"[:200])
        elif event == "exec" and str(getattr(arguments[0], "co_filename", "")).startswith(str(self.foreign)):
            self.noted.append(f"runs {arguments[0].co_filename}")
        elif event == "pickle.find_class" and arguments[0] in ("os", "posix", "subprocess", "builtins"):
            self.noted.append(f"unpickles {'.'.join(map(str, arguments))}")

    def _allowed(self, path: object) -> bool:
        if not _is_path(path):
            return True  # a handle that is open already
        full = os.path.realpath(os.fsdecode(path))  # type: ignore[arg-type]
        return full.startswith((str(self.may_write) + os.sep, "/dev/")) or full == str(self.may_write)


def _folder_of(handle: object) -> str:
    """The folder that a relative path is below, where one is given by its handle."""
    return str(Path(f"/proc/self/fd/{handle}").readlink()) if isinstance(handle, int) and handle >= 0 else ""


def _is_path(path: object) -> bool:
    return isinstance(path, str | bytes | os.PathLike)
