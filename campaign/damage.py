"""One flipped bit, a cut end or a missing file: made, and taken back."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass
from pathlib import Path

from goodhart.cells.digest import sha256


@dataclass(frozen=True, slots=True)
class Damage:
    """What is done to one file of a finished cell."""

    path: Path
    kind: str
    """`flip`, `flip with its old time`, `cut` or `delete`."""
    place: int
    """The bit, or the length that is left."""
    whole: bytes

    @property
    def cell(self) -> str:
        """The cell that it belongs to."""
        parts = self.path.parts
        return parts[len(parts) - 1 - parts[::-1].index("cells") + 1]

    @property
    def words(self) -> str:
        """The case, to be made again by hand."""
        return f"{self.kind} at {self.place} in {self.cell}/{self.path.as_posix().partition(self.cell + '/')[2]}"

    def apply(self) -> None:
        """Do it in place, as a failing disk would."""
        before = self.path.stat()
        if self.kind == "delete":
            self.path.unlink()
            return
        with self.path.open("r+b") as file:
            if self.kind == "cut":
                file.truncate(self.place)
            else:
                file.seek(self.place // 8)
                file.write(bytes([self.whole[self.place // 8] ^ (1 << self.place % 8)]))
        if self.kind == "flip with its old time":
            os.utime(self.path, ns=(before.st_atime_ns, before.st_mtime_ns))

    def take_back(self) -> None:
        """Write the file as it was."""
        self.path.write_bytes(self.whole)


def drawn(files: list[Path], draw: random.Random) -> Damage:
    """Damage to one of the files."""
    path = draw.choice(files)
    whole = path.read_bytes()
    kind = draw.choice(("flip", "flip with its old time", "cut", "delete")) if whole else "delete"
    place = draw.randrange(len(whole)) if kind == "cut" else draw.randrange(max(1, 8 * len(whole)))
    return Damage(path, kind, place, whole)


def digests(root: Path) -> dict[str, str]:
    """Every file below a folder with its content."""
    return {str(path.relative_to(root)): sha256(path) for path in sorted(root.rglob("*")) if path.is_file()}
