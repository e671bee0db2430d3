"""The rows of one file of data, one after the other: JSON, JSON lines, comma- or tab-separated text, Parquet."""

from __future__ import annotations

import codecs
import csv
import gzip
import json
import zlib
from collections.abc import Collection, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from goodhart.errors import GoodhartError
from goodhart.tasks.preference_rows import Row, Values, are_messages

TEXT_SUFFIXES = tuple(f".{kind}{packed}" for kind in ("jsonl", "json", "csv", "tsv") for packed in ("", ".gz"))
SUFFIXES = (*TEXT_SUFFIXES, ".parquet")
"""The endings of files that are read."""
_TABLES = (".csv", ".csv.gz", ".tsv", ".tsv.gz")
_SEPARATORS = (",", ";", "\t")
"""What stands between the cells of a `.csv`; spreadsheets write the second where a comma is the decimal mark."""
_LONGEST_CELL = 2**31 - 1
_BATCH = 1024
"""Rows of Parquet that are in memory at once."""
_BUFFER = 2**20
"""Bytes of a Parquet column that are read at a time; by the library's own settings the whole file would be."""


def file_rows(file: Path, wanted: Collection[str], spoken: Collection[str], columns: dict[str, None]) -> Iterator[Row]:
    """The rows of a file with the wanted columns; `spoken` are those of text or chat messages.

    Every column that the file has stands in `columns` when the last row has come. Only a JSON value that is the whole
    file is in memory at once. Raises GoodhartError for a file that cannot be read, with the place that is at fault.
    """
    if file.name.endswith(".parquet"):
        yield from _parquet_rows(file, wanted, columns)
    elif file.name.endswith(_TABLES):
        yield from _table_rows(file, wanted, spoken, columns)
    else:
        for row in _json_rows(file, wanted):
            columns.update(dict.fromkeys(row.values))
            yield Row(row.where, {name: value for name, value in row.values.items() if name in wanted})


def _json_rows(file: Path, wanted: Collection[str]) -> Iterator[Row]:
    """The objects of a JSON list, of one that stands in an object, or of JSON lines, whichever the file holds."""
    lines = ((n, line) for n, line in _lines(file) if line.strip())
    first = next(lines, None)
    if first is None:
        return
    records: Iterable[tuple[str, object]]
    second = None if first[1].lstrip().startswith("[") or not _is_whole(first[1]) else next(lines, None)
    if second is None:
        whole = _parsed("".join(line for _, line in _lines(file)), file, 1)
        records = [(f"line {first[0]}", whole)] if not isinstance(whole, list) else _numbered(whole)
        if isinstance(whole, dict) and not set(wanted) & set(whole):
            records = _numbered(_one_level_down(whole, file))
    else:
        records = ((f"line {n}", _parsed(line, file, n)) for n, line in chain([first, second], lines))
    for where, value in records:
        if not isinstance(value, dict):
            raise GoodhartError(
                f"{where} of {file} is {type(value).__name__}, not an object", 'write every row as {"column": value}'
            )
        yield Row(f"{where} of {file}", value)


def _is_whole(line: str) -> bool:
    """Whether a line is JSON by itself; else it is the beginning of a file that is one value, or malformed."""
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _numbered(values: Iterable[object]) -> Iterator[tuple[str, object]]:
    return ((f"row {n}", value) for n, value in enumerate(values, start=1))


def _one_level_down(whole: Values, file: Path) -> list[object]:
    """The rows of an object that names them. Raises GoodhartError if it names several lists of rows."""
    lists = {name: each for name, each in whole.items() if isinstance(each, list) and each}
    tables = {name: each for name, each in lists.items() if all(isinstance(row, dict) for row in each)}
    if len(tables) > 1:
        raise GoodhartError(
            f"{file} is one object with several lists of rows: {', '.join(tables)}", "save each as a file of its own"
        )
    return next(iter(tables.values()), [whole])


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    r"""The numbered lines of a file, one at a time; only "\n" ends one, text may hold other line ends unescaped."""
    place = 0
    try:
        with gzip.open(file) if file.name.endswith(".gz") else file.open("rb") as data:
            for n, line in enumerate(data, start=1):
                text = line.removeprefix(codecs.BOM_UTF8) if n == 1 else line
                place += len(line) - len(text)
                yield n, text.decode()
                place += len(text)
    except UnicodeDecodeError as fault:
        raise GoodhartError(f"{file} is not UTF-8 at byte {place + fault.start}", "save it as UTF-8") from fault
    except (OSError, EOFError, zlib.error) as fault:
        raise GoodhartError(f"{file} cannot be read: {fault}", "check the file, or make it again") from fault


def _parsed(text: str, file: Path, line: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as fault:
        place = f"line {line + fault.lineno - 1}, column {fault.colno}"
        raise GoodhartError(f"{file} is not valid JSON at {place}: {fault.msg}", "mend that line") from fault
    except RecursionError as fault:
        raise GoodhartError(f"line {line} of {file} is nested too deeply", "mend that line") from fault
    except ValueError as fault:  # a number of more digits than Python reads
        raise GoodhartError(f"line {line} of {file} cannot be read: {first_line(fault)}", "mend that line") from fault


def _table_rows(
    file: Path, wanted: Collection[str], spoken: Collection[str], columns: dict[str, None]
) -> Iterator[Row]:
    """The rows below a header; what a cell holds is text, or JSON where a whole column does (`_json_places`)."""
    as_json = _json_places(file, wanted, spoken)
    records = _records(file)
    _, names = next(records)
    columns.update(dict.fromkeys(names))
    places = [(place, name) for place, name in enumerate(names) if name in wanted]
    for line, cells in records:
        values = {
            name: (json.loads(cells[place]) if cells[place].strip() else None)
            if place in as_json
            else cells[place] or None
            for place, name in places
        }
        yield Row(f"line {line} of {file}", values)


def _records(file: Path) -> Iterator[tuple[int, list[str]]]:
    """The header of a table and its rows, each with the number of its last line; all have as many cells."""
    cells = _cells(file)
    line, names = next(cells, (1, []))
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise GoodhartError(f"the header of {file} names column {twice!r} twice", "rename one of the two")
    yield line, names
    for line, row in cells:
        if len(row) != len(names):
            raise GoodhartError(
                f"the row that ends in line {line} of {file} has {len(row)} cells, and the header {len(names)}",
                "mend it; a cell that holds a separator, a quote or a line end stands in double quotes",
            )
        yield line, row


def _cells(file: Path) -> Iterator[tuple[int, list[str]]]:
    """Every row of a table with the number of its last line. Raises GoodhartError where quotes do not match."""
    texts = _lines(file)
    first = next(texts, (1, ""))
    tabs = file.name.endswith((".tsv", ".tsv.gz"))
    separator = "\t" if tabs else max(_SEPARATORS, key=first[1].count)
    limit = csv.field_size_limit(_LONGEST_CELL)  # the library's own is 128 KiB, and a conversation may have more
    reader = csv.reader((line for _, line in chain([first], texts)), delimiter=separator, strict=True)
    try:
        yield from ((reader.line_num, cells) for cells in reader if cells)
    except csv.Error as fault:
        raise GoodhartError(
            f"{file} is not a valid table at line {reader.line_num}: {first_line(fault)}",
            "mend that line; a quote inside a quoted cell is written twice",
        ) from fault
    finally:
        csv.field_size_limit(limit)


def _json_places(file: Path, wanted: Collection[str], spoken: Collection[str]) -> set[int]:
    """Which columns hold JSON in every filled cell; an empty cell has no value.

    What is `spoken` is JSON only as chat messages: an answer may well be 42, [1, 2] or a record.
    """
    records = _records(file)
    _, names = next(records)
    result, filled = {place for place, name in enumerate(names) if name in wanted}, set[int]()
    for _, cells in records:
        for place in [place for place in result if cells[place].strip()]:
            filled.add(place)
            if not _is_json(cells[place], spoken=names[place] in spoken):
                result.discard(place)
    return result & filled


def _is_json(cell: str, *, spoken: bool) -> bool:
    try:
        value = json.loads(cell)
    except (ValueError, RecursionError):
        return False
    return not spoken or are_messages(value)


def _parquet_rows(file: Path, wanted: Collection[str], columns: dict[str, None]) -> Iterator[Row]:
    import pyarrow
    from pyarrow import parquet

    number = 0
    try:
        with parquet.ParquetFile(file, buffer_size=_BUFFER, pre_buffer=False) as table:
            names: list[str] = table.schema_arrow.names
            columns.update(dict.fromkeys(names))
            for batch in table.iter_batches(_BATCH, columns=[name for name in names if name in wanted]):
                for values in batch.to_pylist():
                    number += 1
                    yield Row(f"row {number} of {file}", values)
    except (OSError, ValueError, pyarrow.ArrowException) as fault:
        raise GoodhartError(f"{file} is not valid Parquet: {first_line(fault)}", "make the file again") from fault


def first_line(fault: BaseException) -> str:
    """What a library's error says, without its further lines."""
    return str(fault).strip().partition("\n")[0] or type(fault).__name__
