"""What a study's folder holds: its tables and the record."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from goodhart.analysis.hypotheses import Axis, Hypothesis, League, Looks, Map, implied
from goodhart.analysis.looks import Plan
from goodhart.config import build
from goodhart.errors import GoodhartError
from goodhart.evaluation import schema

_AGAIN = "run the study again: it goes on from its finished cells"
TABLES = {
    "rows": schema.ROWS,
    "pairs": schema.PAIR_ROWS,
    "prompts": schema.PROMPTS,
    "budgets": schema.BUDGETS,
    "streams": schema.STREAM_ROWS,
}
"""A study's files of rows, with their columns."""
FEW = 6
"""So many arms can be told apart in one figure."""
_MAY_BE_EMPTY = ("streams",)
BEST_OF_N = "best of n by proxy"
"""The baseline without training that knows no more than trained arms do."""
LATER = tuple(f"{judge}_p_vs_{writer}" for judge in ("golden", "proxy") for writer in ("policy", "sft"))
"""Columns that tables of older studies have not."""
_SECTIONS = (
    *("study", "anchors", "variants", "versions", "machine", "git", "cost", "data"),
    *("sft", "golden", "labels", "proxy", "cells"),
)


@dataclass(frozen=True)
class Contents:
    """A study's tables (columns of `evaluation/schema.py`) and its record."""

    rows: pa.Table
    pairs: pa.Table
    prompts: pa.Table
    budgets: pa.Table
    streams: pa.Table
    record: dict[str, Any]

    @property
    def name(self) -> str:
        """The study's name."""
        return str(self.record["study"]["name"])

    @property
    def arms(self) -> tuple[str, ...]:
        """The arms in the order of the study file, then best-of-n; the first is compared with the others."""
        return tuple(self.anchors)

    @property
    def few(self) -> tuple[str, ...]:
        """The arms of a study, or of many those of its first hypothesis: as many as one figure can show."""
        arms = tuple(arm for arm in self.arms if self._judge(arm) == self._judge(self.arms[0]))
        if len(arms) <= FEW:
            return arms
        first = next(iter(self.hypotheses.values()), None)
        named = {arm for contrast in first.contrasts for arm in contrast.arms} if first else set(arms)
        trained = [arm for arm in arms if arm in named and arm not in self.untrained]
        return (*trained[: FEW - len(self.untrained)], *self.untrained)

    def _judge(self, arm: str) -> object:
        """The settings of who measures an arm."""
        study = self.record["study"]
        variant = study.get("variants", {}).get(study["arms"].get(arm, {}).get("variant", ""), {})
        return variant.get("golden") or study.get("golden")

    @property
    def untrained(self) -> tuple[str, ...]:
        """Best-of-n, which stands on every frontier."""
        return tuple(arm for arm in self.arms if arm not in self.record["study"]["arms"])

    def best_of_n(self, arm: str) -> str:
        """What an arm may be set against on its judge's frontier; empty where the study has none."""
        return BEST_OF_N if BEST_OF_N in self.untrained and self._judge(BEST_OF_N) == self._judge(arm) else ""

    @property
    def anchors(self) -> dict[str, str]:
        """The name of the SFT policy that each arm starts from."""
        return dict(self.record["anchors"])

    @property
    def unfinished(self) -> dict[str, Any]:
        """What the study lacks (`missing`, `total`, `failed`, `without`); empty for an older study."""
        return dict(self.record.get("unfinished", {}))

    @property
    def hypotheses(self) -> dict[str, Hypothesis]:
        """What the study tests; with looks and no word of it, the first arm against each other."""
        said = {name: build(Hypothesis, each) for name, each in self.record["study"]["hypotheses"].items()}
        if said or not self.plan:
            return said
        return implied([arm for arm in self.arms if arm not in self.untrained])

    @property
    def plan(self) -> Plan | None:
        """When the study is looked at; None for once."""
        looks = self.record["study"].get("looks")
        seeds = tuple(int(seed) for seed in self.record["study"]["seeds"])
        return Plan(build(Looks, looks, "looks"), seeds, self.arms) if looks else None

    @property
    def axes(self) -> dict[str, Axis]:
        """What it changes by degrees."""
        return {name: build(Axis, each) for name, each in self.record["study"]["axes"].items()}

    @property
    def maps(self) -> dict[str, Map]:
        """Its hypotheses as pictures."""
        return {name: build(Map, each) for name, each in self.record["study"].get("maps", {}).items()}

    @property
    def league(self) -> League | None:
        """Its ranking, with the methods named."""
        league = self.record["study"].get("league")
        return build(League, league, "league").of(list(self.record["study"]["arms"])) if league else None

    @property
    def tabular(self) -> bool:
        """Whether it is of a finite world: there are no texts, no judges that were trained, and optima are known."""
        return bool(self.record["study"].get("world"))

    @property
    def has_hidden(self) -> bool:
        """Whether the task has a measure that no model sees."""
        column = self.rows.column("hidden")
        return column.null_count < len(column)


def read_contents(folder: Path) -> Contents:
    """Read a study's folder.

    Raises:
        GoodhartError: a file, a column, or a section of the record is missing or unreadable; it is named.
    """
    missing = [name for name in (*(f"{t}.parquet" for t in TABLES), "record.json") if not (folder / name).is_file()]
    if missing:
        raise GoodhartError(f"study folder {folder} lacks {', '.join(missing)}", _AGAIN)
    tables = {name: _table(folder / f"{name}.parquet", columns) for name, columns in TABLES.items()}
    return Contents(**tables, record=_record(folder / "record.json"))


def _table(path: Path, columns: pa.Schema) -> pa.Table:
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as fault:
        raise GoodhartError(f"{path} is not valid Parquet", _AGAIN) from fault
    for name in (name for name in LATER if name in columns.names and name not in table.column_names):
        table = table.append_column(columns.field(name), pa.nulls(len(table), columns.field(name).type))
    missing = [name for name in columns.names if name not in table.column_names]
    if missing:
        raise GoodhartError(f"{path} lacks the columns {', '.join(missing)}", _AGAIN)
    if not len(table) and path.stem not in _MAY_BE_EMPTY:
        raise GoodhartError(f"{path} has no rows", _AGAIN)
    return table.select(columns.names)


def _record(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as fault:
        raise GoodhartError(f"{path} is not valid JSON", _AGAIN) from fault
    missing = [name for name in _SECTIONS if name not in record] if isinstance(record, dict) else list(_SECTIONS)
    if missing:
        raise GoodhartError(f"{path} lacks {', '.join(missing)}", _AGAIN)
    return record
