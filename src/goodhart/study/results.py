"""A study's tables and record, put together from its cells."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from goodhart.config import plain_data
from goodhart.evaluation import schema
from goodhart.store import Store, write_atomically
from goodhart.study.budgets import spent
from goodhart.study.cell import Cell, closure
from goodhart.study.engine import Engine
from goodhart.study.graph import anchors
from goodhart.study.plan import Graph, Measured
from goodhart.study.record import git_state, machine, versions
from goodhart.study.spec import Study


def study_folder(store: Store, study: Study) -> Path:
    """Where a study's tables, figures and report lie."""
    return store.root / "studies" / study.name


def write_results(store: Store, study: Study, graph: Graph, engine: Engine, cost: dict[str, Any]) -> Path:
    """`rows.parquet`, `pairs.parquet`, `prompts.parquet` and `record.json` in the study's folder; returns it."""
    folder = study_folder(store, study)
    folder.mkdir(parents=True, exist_ok=True)
    rows = [(item, item.rows) for item in graph.measured]
    pairs = [(item, item.pairs) for item in graph.measured if item.pairs]
    _write(folder / "rows.parquet", _named(store, rows, schema.ROWS))
    _write(folder / "pairs.parquet", _named(store, pairs, schema.PAIR_ROWS))
    _write(folder / "streams.parquet", _streams(store, graph))
    _write(folder / "budgets.parquet", spent(store, study, graph))
    _write(folder / "prompts.parquet", pq.read_table(store.open(graph.opponents.id) / "prompts.parquet"))
    record = _record(store, study, graph, engine, cost)
    write_atomically(folder / "record.json", json.dumps(record, indent=1))
    return folder


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
        for row in pq.read_table(store.open(item.cell.id) / "rows.parquet").to_pylist()
    ]
    return pa.Table.from_pylist(rows, schema=schema.STREAM_ROWS)


def _record(store: Store, study: Study, graph: Graph, engine: Engine, cost: dict[str, Any]) -> dict[str, Any]:
    cells = closure(graph.targets)
    records = {cell.id: store.record(cell.id) for cell in cells}
    arms = {item.run.id: item.arm for item in reversed(graph.measured) if item.run}
    return {
        "study": plain_data(study),
        "anchors": anchors(study, graph),
        "versions": versions(),
        "machine": machine(),
        "engine": engine.plain(),
        "git": git_state(),
        "cost": cost,
        "data": {
            cell.kind: records[cell.id]["result"]
            for cell in cells
            if cell.kind in ("corpus", "prompts", "preferences", "pairs")
        },
        "sft": records[graph.sft.id]["result"],
        "golden": {**records[graph.golden.id]["result"], **records[graph.quality["golden"].id]["result"]},
        "labels": records[graph.labels.id]["result"],
        "proxy": {**records[graph.proxy.id]["result"], **records[graph.quality["proxy"].id]["result"]},
        "variants": {
            role: records[cell.id]["result"] for role, cell in graph.quality.items() if role not in ("golden", "proxy")
        },
        "cells": [{**_line(cell, records[cell.id]), "arm": arms.get(cell.id, "")} for cell in cells],
    }


def _line(cell: Cell, record: dict[str, Any]) -> dict[str, Any]:
    """A cell in the record: `digest` covers all its files."""
    files = {name: digest for name, (_, digest) in record["files"].items()}
    kept = {key: record[key] for key in ("seconds", "stages", "threads", "matrix rate")}
    return {"id": cell.id, "kind": cell.kind, "label": cell.label, **kept, "files": files}
