"""The rows of one file of data: JSON, JSON lines, comma- or tab-separated text, Parquet."""

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


def file_rows(file: Path, wanted: Collection[str], spoken: Collection[str]) -> tuple[list[str], list[Row]]:
    """The columns of a file, and its rows with the wanted ones of them; `spoken` are those of text or chat messages.

    Raises GoodhartError for a file that cannot be read, with the place that is at fault.
    """
    if file.name.endswith(".parquet"):
        return _parquet_rows(file, wanted)
    if file.name.endswith(_TABLES):
        return _table_rows(file, wanted, spoken)
    columns: dict[str, None] = {}
    rows: list[Row] = []
    for row in _json_rows(file, wanted):
        columns |= dict.fromkeys(row.values)
        rows.append(Row(row.where, {name: row.values[name] for name in wanted if name in row.values}))
    return list(columns), rows


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


def _numbered(values: Iterable[object]) -> list[tuple[str, object]]:
    return [(f"row {n}", value) for n, value in enumerate(values, start=1)]


def _one_level_down(whole: Values, file: Path) -> list[object]:
    """The rows of an object that names them. Raises GoodhartError if it names several lists of rows."""
    lists = {name: each for name, each in whole.items() if isinstance(each, list) and each}
    found = {name: each for name, each in lists.items() if all(isinstance(row, dict) for row in each)}
    if len(found) > 1:
        raise GoodhartError(
            f"{file} is one object with several lists of rows: {', '.join(found)}", "save each as a file of its own"
        )
    return next(iter(found.values()), [whole])


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


def _table_rows(file: Path, wanted: Collection[str], spoken: Collection[str]) -> tuple[list[str], list[Row]]:
    """The rows below a header; what a cell holds is text, or JSON where a whole column does (`_as_json`)."""
    header, *records = _cells(file) or [(1, [])]
    names = header[1]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise GoodhartError(f"the header of {file} names column {twice!r} twice", "rename one of the two")
    for line, cells in records:
        if len(cells) != len(names):
            raise GoodhartError(
                f"the row that ends in line {line} of {file} has {len(cells)} cells, and the header {len(names)}",
                "mend it; a cell that holds a separator, a quote or a line end stands in double quotes",
            )
    columns = {
        name: _as_json([cells[place] for _, cells in records], spoken=name in spoken)
        for place, name in enumerate(names)
        if name in wanted
    }
    rows = [
        Row(f"line {line} of {file}", {name: cells[n] for name, cells in columns.items()})
        for n, (line, _) in enumerate(records)
    ]
    return names, rows


def _cells(file: Path) -> list[tuple[int, list[str]]]:
    """Every row of a table with the number of its last line. Raises GoodhartError where quotes do not match."""
    texts = _lines(file)
    first = next(texts, (1, ""))
    tabs = file.name.endswith((".tsv", ".tsv.gz"))
    separator = "\t" if tabs else max(_SEPARATORS, key=first[1].count)
    limit = csv.field_size_limit(_LONGEST_CELL)  # the library's own is 128 KiB, and a conversation may have more
    reader = csv.reader((line for _, line in chain([first], texts)), delimiter=separator, strict=True)
    try:
        return [(reader.line_num, cells) for cells in reader if cells]
    except csv.Error as fault:
        raise GoodhartError(
            f"{file} is not a valid table at line {reader.line_num}: {first_line(fault)}",
            "mend that line; a quote inside a quoted cell is written twice",
        ) from fault
    finally:
        csv.field_size_limit(limit)


def _as_json(cells: list[str], *, spoken: bool) -> list[object]:
    """A column's cells as the JSON that all of them hold, else as text; an empty cell has no value.

    What is `spoken` is JSON only as chat messages: an answer may well be 42, [1, 2] or a record.
    """
    filled = [cell for cell in cells if cell.strip()]
    try:
        found = {cell: json.loads(cell) for cell in filled}
    except (ValueError, RecursionError):
        found = {}
    if not found or (spoken and not all(are_messages(value) for value in found.values())):
        return [cell or None for cell in cells]
    return [found.get(cell) for cell in cells]


def _parquet_rows(file: Path, wanted: Collection[str]) -> tuple[list[str], list[Row]]:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(file) as table:
            names: list[str] = table.schema_arrow.names
            values = table.read(columns=[name for name in names if name in wanted]).to_pylist()
    except (OSError, ValueError, pyarrow.ArrowException) as fault:
        raise GoodhartError(f"{file} is not valid Parquet: {first_line(fault)}", "make the file again") from fault
    return names, [Row(f"row {n} of {file}", row) for n, row in enumerate(values, start=1)]


def first_line(fault: BaseException) -> str:
    """What a library's error says, without its further lines."""
    return str(fault).strip().partition("\n")[0] or type(fault).__name__
