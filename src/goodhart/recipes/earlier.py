"""What cells of the same family have measured already, piece by piece."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from goodhart.recipes.panel import Piece, pieces

Key = tuple[str, range, range]


@dataclass(frozen=True, slots=True)
class Earlier:
    """Tables whose rows stand in the order of `pieces`, one draw of one prompt each."""

    tables: list[tuple[dict[Key, Piece], pa.Table]]

    @classmethod
    def read(cls, paths: Iterable[Path], draw: str) -> Earlier:
        """Tables with columns `split`, `prompt` and the one that numbers the draws of a prompt."""
        tables: list[tuple[dict[Key, Piece], pa.Table]] = []
        for path in paths:
            table = pq.read_table(path)
            sizes: dict[str, int] = {}
            for split, prompts in _by_split(table).items():
                sizes[split] = len(prompts)
            draws = max(table.column(draw).to_pylist()) + 1
            tables.append(({(p.split, p.prompts, p.draws): p for p in pieces(sizes, draws)}, table))
        return cls(tables)

    def find(self, piece: Piece, prompts: Sequence[str]) -> pa.Table | None:
        """The rows of a piece, if one of the tables has just this piece of just these prompts."""
        expected = [prompt for prompt in prompts for _ in piece.draws]
        for by_key, table in self.tables:
            known = by_key.get((piece.split, piece.prompts, piece.draws))
            if known is not None:
                rows = table.slice(known.start, len(known.rows))
                if rows.column("prompt").to_pylist() == expected:
                    return rows
        return None


def _by_split(table: pa.Table) -> dict[str, set[str]]:
    result: dict[str, set[str]] = {}
    for split, prompt in zip(table.column("split").to_pylist(), table.column("prompt").to_pylist(), strict=True):
        result.setdefault(split, set()).add(prompt)
    return result


def inputs_of(folder: Path) -> dict[str, Path]:
    """The folders of what a finished cell was made from, by the name it knows them by."""
    spec = _record(folder)["spec"]
    return {name: folder.parent / cell for name, cell in spec["inputs"].items()}


def same_files(first: Path, second: Path, below: str) -> bool:
    """Whether two finished cells hold the same files in a folder of theirs, but for what is written for people."""
    files = [_listed(folder, below) for folder in (first, second)]
    return bool(files[0]) and files[0] == files[1]


def _listed(folder: Path, below: str) -> dict[str, Any]:
    if not (folder / "cell.json").is_file():
        return {}
    files = _record(folder)["files"].items()
    return {name: known for name, known in files if name.startswith(f"{below}/") and not name.endswith("/README.md")}


def _record(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "cell.json").read_text(encoding="utf-8"))
