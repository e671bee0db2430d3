"""A Parquet file that is written while its rows come, and read a few rows at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from jaxtyping import Int

GROUP = 8192
"""Rows that are written, and read, at once."""
_FORMAT = ds.ParquetFileFormat(
    # by its own settings the library reads the whole file ahead
    default_fragment_scan_options=ds.ParquetFragmentScanOptions(pre_buffer=False, use_buffered_stream=True)
)


class RowGroups:
    """Writes groups of `GROUP` rows, so that the file does not depend on the parts in which the rows come."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._schema = schema
        self._writer = pq.ParquetWriter(path, schema)
        self._waiting: list[pa.Table] = []
        self._number = 0

    def __enter__(self) -> RowGroups:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        if fault is None:
            self._write(self._number)
        self._writer.close()

    def add(self, table: pa.Table) -> None:
        """Further rows."""
        self._waiting.append(table)
        self._number += len(table)
        self._write(self._number - self._number % GROUP)

    def add_columns(self, number: int, columns: Mapping[str, Sequence[object]]) -> None:
        """So many further rows; a column that is not named has no values."""
        arrays = [pa.array(columns.get(field.name, [None] * number), field.type) for field in self._schema]
        self.add(pa.Table.from_arrays(arrays, schema=self._schema))

    def _write(self, number: int) -> None:
        if number:
            whole = pa.concat_tables(self._waiting)
            self._writer.write_table(whole.slice(0, number).combine_chunks(), row_group_size=GROUP)
            self._waiting = [whole.slice(number)]
            self._number -= number


def tables(
    path: Path, schema: pa.Schema, chosen: ds.Expression, columns: Sequence[str] | None = None
) -> Iterator[pa.Table]:
    """The rows of a file that an expression chooses, `GROUP` at most at once, in the file's order.

    A column of the schema that the file does not have has no values.
    """
    dataset = ds.dataset(path, schema=schema, format=_FORMAT)
    names = list(columns) if columns else None
    for batch in dataset.to_batches(
        filter=chosen, columns=names, batch_size=GROUP, batch_readahead=1, fragment_readahead=1
    ):
        if len(batch):
            yield pa.Table.from_batches([batch])


def number_of(path: Path, chosen: ds.Expression) -> int:
    """How many rows of a file an expression chooses."""
    return ds.dataset(path, format="parquet").count_rows(filter=chosen)


def rows_at(
    path: Path, schema: pa.Schema, chosen: ds.Expression, places: Int[np.ndarray, " chosen"], columns: Sequence[str]
) -> pa.Table:
    """Some columns of the rows at some places, in increasing order, among those that an expression chooses."""
    parts, done = [pa.schema([schema.field(name) for name in columns]).empty_table()], 0
    for part in tables(path, schema, chosen, columns):
        start, end = np.searchsorted(places, (done, done + len(part)))
        parts.append(part.take(pa.array(places[start:end] - done)))
        done += len(part)
    return pa.concat_tables(parts)
