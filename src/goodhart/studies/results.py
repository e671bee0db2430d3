"""A study's tables and record, put together from its cells."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from goodhart.cells.cell import Cell, closure
from goodhart.cells.record import git_state, machine, versions
from goodhart.cells.store import Store, write_atomically
from goodhart.config import plain_data
from goodhart.errors import GoodhartError
from goodhart.evaluation import schema
from goodhart.studies.budgets import runs_of, spent
from goodhart.studies.engine import Engine
from goodhart.studies.graph import anchors
from goodhart.studies.plan import GOLDEN_POLICY, SFT, Graph, Measured
from goodhart.studies.spec import Study
from goodhart.studies.tabular import UNREAD


@dataclass(frozen=True, slots=True)
class Unfinished:
    """What a study lacks: nothing, once all its cells are done."""

    missing: int
    """Cells that are not there."""
    total: int
    failed: tuple[dict[str, str], ...] = ()
    """Those that were tried and could not be made: what, problem, remedy."""
    without: tuple[str, ...] = ()
    """Arms of which nothing was measured; they are in no table."""

    @classmethod
    def of(cls, store: Store, graph: Graph) -> Unfinished:
        """What is missing of a study, and why, as far as it was tried."""
        cells = closure(graph.targets)
        tried = ((cell, store.failure(cell.id)) for cell in cells if not store.has(cell.id))
        failed = tuple({"what": cell.label or cell.id, **why} for cell, why in tried if why)
        arms = dict.fromkeys(item.arm for item in graph.measured)
        there = {item.arm for item in graph.measured if store.has(item.cell.id)}
        missing = sum(not store.has(cell.id) for cell in cells)
        return cls(missing, len(cells), failed, tuple(arm for arm in arms if arm not in there))


def write_results(
    store: Store, study: Study, graph: Graph, engine: Engine | None, cost: dict[str, Any], unfinished: Unfinished
) -> Path:
    """`rows.parquet`, `pairs.parquet`, `prompts.parquet` and `record.json` in the study's folder; returns it.

    They hold what there is. Raises GoodhartError if that is too little for a report.
    """
    folder = store.study(study.name)
    folder.mkdir(parents=True, exist_ok=True)
    _check_enough(store, graph, unfinished)
    measured = [item for item in graph.measured if store.has(item.cell.id)]
    rows = [(item, item.rows) for item in measured]
    pairs = [(item, item.pairs) for item in measured if item.pairs]
    _write(folder / "rows.parquet", _named(store, rows, schema.ROWS))
    _write(folder / "pairs.parquet", _named(store, pairs, schema.PAIR_ROWS))
    _write(folder / "streams.parquet", _streams(store, graph))
    _write(folder / "budgets.parquet", spent(store, study, measured))
    _write(folder / "prompts.parquet", pq.read_table(store.open(graph.opponents.id) / "prompts.parquet"))
    record = _record(store, study, graph, engine, cost, unfinished)
    write_atomically(folder / "record.json", json.dumps(record, indent=1))
    return folder


def _check_enough(store: Store, graph: Graph, unfinished: Unfinished) -> None:
    """A report needs the models, the judges' quality, both baselines, and one arm."""
    baselines = (SFT, GOLDEN_POLICY)
    core = [graph.sft, graph.labels, graph.trunks[""].tests, graph.opponents]
    core += [graph.quality["golden"], graph.quality["proxy"]]
    core += [item.cell for item in graph.measured if item.arm in baselines]
    lacking = [cell.label or cell.id for cell in core if not store.has(cell.id)]
    if lacking or not any(store.has(item.cell.id) for item in graph.measured if item.arm not in baselines):
        reasons = "; ".join(f"{each['problem']} ({each['remedy']})" for each in unfinished.failed)
        raise GoodhartError(
            f"too little of the study is there for a report: {unfinished.missing} of {unfinished.total} cells are "
            f"missing{f', {lacking[0]} for one' if lacking else ''}{f': {reasons}' if reasons else ''}",
            "run the study again: it goes on from its finished cells",
        )


def _write(path: Path, table: pa.Table) -> None:
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")  # another run of the study may write it too
    pq.write_table(table, temporary, compression="zstd")
    temporary.replace(path)


def _named(store: Store, tables: Sequence[tuple[Measured, str]], columns: pa.Schema) -> pa.Table:
    """The cells' tables with the study's names for their checkpoints, one below the other."""
    parts: list[pa.Table] = []
    for item, name in tables:
        part = pq.read_table(store.open(item.cell.id) / name)
        names = {key: getattr(item, key) for key in schema.CHECKPOINT}
        arrays = {
            field.name: (
                pa.array([names[field.name]] * len(part), field.type)
                if field.name in names
                else part.column(field.name).cast(field.type)
            )
            for field in columns
        }
        parts.append(pa.table(arrays, schema=columns))
    return pa.concat_tables(parts)


def _streams(store: Store, graph: Graph) -> pa.Table:
    """The classified streams one below the other."""
    rows = [
        {"arm": item.arm, "setting": item.setting, "seed": item.seed, **row}
        for item in graph.streams
        if store.has(item.cell.id)
        for row in pq.read_table(store.open(item.cell.id) / "rows.parquet").to_pylist()
    ]
    return pa.Table.from_pylist(rows, schema=schema.STREAM_ROWS)


def _record(
    store: Store, study: Study, graph: Graph, engine: Engine | None, cost: dict[str, Any], unfinished: Unfinished
) -> dict[str, Any]:
    cells = [cell for cell in closure(graph.targets) if store.has(cell.id)]
    records = {cell.id: store.record(cell.id) for cell in cells}

    arms = {run.id: item.arm for item in reversed(graph.measured) if item.run for run in runs_of(item.run)}

    def result(*some: Cell) -> dict[str, Any]:
        return {key: value for cell in some for key, value in records[cell.id]["result"].items()}

    return {
        "study": _read(study),
        **({"optima": optima(records, graph)} if study.world else {}),
        "unfinished": plain_data(unfinished),
        "anchors": {arm: sft for arm, sft in anchors(study, graph).items() if arm not in unfinished.without},
        "versions": versions(),
        "machine": machine(),
        "engine": engine.plain() if engine else {},
        "git": git_state(),
        "cost": cost,
        "data": {
            cell.kind: records[cell.id]["result"]
            for cell in cells
            if cell.kind in ("corpus", "prompts", "preferences", "pairs", "test pairs")
        },
        "sft": result(graph.sft),
        "golden": result(graph.golden, graph.quality["golden"]),
        "labels": result(graph.labels),
        **_adopted(graph, records),
        "test labels": result(graph.trunks[""].tests),
        "proxy": result(graph.proxy, graph.quality["proxy"]),
        "variants": {
            role: result(cell.inputs["model"], cell)
            for role, cell in graph.quality.items()
            if role not in ("golden", "proxy") and cell.id in records
        },
        "cells": [{**_line(cell, records[cell.id]), "arm": arms.get(cell.id, "")} for cell in cells],
    }


def _adopted(graph: Graph, records: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What is known of labels from elsewhere, by the variant that learns from them; the study's own has no name."""
    cells = {name: trunk.labels for name, trunk in graph.trunks.items() if trunk.labels.kind == "adopted labels"}
    found = {name: records[cell.id]["result"]["adopted"] for name, cell in cells.items() if cell.id in records}
    return {"adopted labels": found} if found else {}


def _read(study: Study) -> dict[str, Any]:
    """The settings of a study, of a tabular one those that it reads."""
    unread = UNREAD if study.world else ()
    return {name: value for name, value in plain_data(study).items() if name not in unread}


def optima(records: Mapping[str, Mapping[str, Any]], graph: Graph) -> list[dict[str, Any]]:
    """By arm, setting and seed of a tabular study, where its method ends and where the run did."""
    names = ("gradient", "optimum", "predicted", "found", "distance", "furthest")
    lines: list[dict[str, Any]] = []
    for (arm, setting, seed), cell in graph.runs.items():
        if cell.id in records:
            result = records[cell.id]["result"]
            numbers = {name: result[name] for name in names if name in result}
            lines.append({"arm": arm, "setting": setting, "seed": seed, **numbers})
    return lines


def _line(cell: Cell, record: dict[str, Any]) -> dict[str, Any]:
    """A cell in the record: `digest` covers all its files."""
    files = {name: digest for name, (_, digest) in record["files"].items()}
    kept = {key: record[key] for key in ("seconds", "stages", "threads", "matrix rate")}
    return {"id": cell.id, "kind": cell.kind, "label": cell.label, **kept, "files": files}
