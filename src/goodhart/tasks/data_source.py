"""Where a user's rows come from: a file, a folder of files, or the Hugging Face Hub.

Files are read by the standard library's json and by pyarrow, and only the Hub through `datasets`: its JSON
reader turns text that looks like dates into timestamps and does not say on which line a file is malformed,
and its Parquet reader fails on a file without rows.
"""

from __future__ import annotations

import codecs
import gzip
import json
import re
import zlib
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from goodhart.errors import GoodhartError
from goodhart.tasks.preference_layouts import COLUMNS, Row

SUFFIXES = (".jsonl", ".json", ".jsonl.gz", ".json.gz", ".parquet")
"""The endings of files that are read."""
_BOOKKEEPING = {"dataset_dict.json", "dataset_info.json", "dataset_infos.json", "state.json"}
_SHARD = re.compile(r"-\d{5}-of-\d{5}(-[0-9a-f]+)?$")


@dataclass(frozen=True, slots=True)
class Source:
    """A data set's splits: the files of each, or none where the Hub (with `subset`, at `revision`) has them."""

    name: str
    subset: str | None
    splits: Mapping[str, tuple[Path, ...]]
    on_hub: bool
    revision: str | None = None

    def chosen_split(self, split: str | None) -> str:
        """The named split; without a name the only one, or `train`. Raises GoodhartError if there is none."""
        names = ", ".join(self.splits)
        if split is None:
            if len(self.splits) != 1 and "train" not in self.splits:
                raise GoodhartError(f"{self.name} has several splits: {names}", "name one of them")
            return next(iter(self.splits)) if len(self.splits) == 1 else "train"
        if split not in self.splits:
            raise GoodhartError(f"{self.name} has no split {split!r}; its splits are: {names}", "name one of them")
        return split


@dataclass(frozen=True, slots=True)
class Rows:
    """One split's rows: every column's name, and the values of the columns that some layout reads."""

    columns: tuple[str, ...]
    rows: tuple[Row, ...]


def find_source(name: str | Path, subset: str | None = None, revision: str | None = None) -> Source:
    """The files under a path, or the Hub data set of that id, at a commit or the newest, if there is no such path.

    A split is named after its files, without the ending and a shard number: `train.jsonl` and
    `train-00000-of-00002.parquet` belong to `train`, and so does `train/0000.parquet`, as the Hub's own conversions
    to Parquet are called. Raises GoodhartError if nothing is there.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        found = sorted(f for f in path.rglob("*") if _is_data(f.relative_to(path)) and f.is_file())
        if not found:
            raise GoodhartError(
                f"folder {path} holds no data file", f"put files with these endings there: {', '.join(SUFFIXES)}"
            )
    elif path.is_file():
        if not path.name.endswith(SUFFIXES):
            raise GoodhartError(f"file {path} is of no known kind", f"convert it to one of {', '.join(SUFFIXES)}")
        found = [path]
    elif re.fullmatch(r"[\w.-]+(/[\w.-]+)?", str(name)) and not str(name).endswith(SUFFIXES):
        splits = dict.fromkeys(_hub_splits(str(name), subset, revision), ())
        return Source(str(name), subset, splits, on_hub=True, revision=revision)
    else:
        raise GoodhartError(f"there is no file or folder {path}", "check the path, or give a Hub id as owner/name")
    if subset is not None:
        raise GoodhartError(f"subset {subset!r} was named for local data {path}", "name a subset of Hub data only")
    files: dict[str, tuple[Path, ...]] = {}
    for file in found:
        files[_split_name(file)] = (*files.get(_split_name(file), ()), file)
    return Source(str(path), None, files, on_hub=False)


def _is_data(path: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.parts)
    return path.name.endswith(SUFFIXES) and path.name not in _BOOKKEEPING and not hidden


def _split_name(file: Path) -> str:
    name = _SHARD.sub("", re.sub(r"\.(jsonl|json|parquet)(\.gz)?$", "", file.name))
    converted = re.fullmatch(r"\d{4}\.parquet", file.name)
    return file.resolve().parent.name if converted else name


def read_rows(source: Source, split: str, cache: Path | None = None) -> Rows:
    """Every row of a split. Raises GoodhartError if a file is malformed, or the Hub cannot be reached.

    Local files are read without a cache. Hub data goes into the `datasets` cache `cache`, or into the user's
    own, so that it is downloaded once.
    """
    columns: dict[str, None] = {}
    rows: list[Row] = []
    if source.on_hub:
        table = _hub_table(source, split, cache)
        known = table.select_columns([name for name in table.column_names if name in COLUMNS])
        hub_rows = (Row(f"row {n} of {split} of {source.name}", row) for n, row in enumerate(known, start=1))
        return Rows(tuple(table.column_names), tuple(hub_rows))
    for file in source.splits[split]:
        if file.name.endswith(".parquet"):
            names, found = _parquet_rows(file)
            columns |= dict.fromkeys(names)
            rows += found
            continue
        for row in _json_rows(file):
            columns |= dict.fromkeys(row.values)
            rows.append(Row(row.where, {name: row.values[name] for name in COLUMNS if name in row.values}))
    return Rows(tuple(columns), tuple(rows))


def _json_rows(file: Path) -> Iterator[Row]:
    """The objects of a JSON list, or of JSON lines, whichever the file turns out to hold."""
    lines = ((n, line) for n, line in _lines(file) if line.strip())
    first = next(lines, None)
    if first is None:
        return
    if first[1].lstrip().startswith("["):
        text = "".join(line for _, line in _lines(file))
        records: Iterable[tuple[str, object]] = (
            (f"row {n}", value) for n, value in enumerate(_parsed(text, file, 1), start=1)
        )
    else:
        records = ((f"line {n}", _parsed(line, file, n)) for n, line in chain([first], lines))
    for where, value in records:
        if not isinstance(value, dict):
            raise GoodhartError(
                f"{where} of {file} is {type(value).__name__}, not an object", 'write every row as {"column": value}'
            )
        yield Row(f"{where} of {file}", value)


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
        raise GoodhartError(f"line {line} of {file} cannot be read: {_first_line(fault)}", "mend that line") from fault


def _parquet_rows(file: Path) -> tuple[list[str], list[Row]]:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(file) as table:
            names: list[str] = table.schema_arrow.names
            values = table.read(columns=[name for name in names if name in COLUMNS]).to_pylist()
    except (OSError, ValueError, pyarrow.ArrowException) as fault:
        raise GoodhartError(f"{file} is not valid Parquet: {_first_line(fault)}", "make the file again") from fault
    return names, [Row(f"row {n} of {file}", row) for n, row in enumerate(values, start=1)]


def _hub_splits(name: str, subset: str | None, revision: str | None) -> list[str]:
    import datasets
    from datasets.exceptions import DatasetsError

    try:
        return [str(split) for split in datasets.get_dataset_split_names(name, subset, revision=revision)]
    except (OSError, ValueError, RuntimeError, DatasetsError) as fault:
        raise _unreachable(name, fault) from fault


def _hub_table(source: Source, split: str, cache: Path | None) -> Any:
    import datasets
    from datasets.exceptions import DatasetsError

    folder = None if cache is None else str(cache)
    try:
        with _quiet():
            return datasets.load_dataset(
                source.name, source.subset, split=split, cache_dir=folder, revision=source.revision
            )
    except (OSError, ValueError, RuntimeError, DatasetsError) as fault:
        raise _unreachable(source.name, fault) from fault


def _unreachable(name: str, fault: Exception) -> GoodhartError:
    return GoodhartError(
        f"{name} is no local path, and from the Hugging Face Hub it cannot be read: {_first_line(fault)}",
        "check the name and the network, log in if it is gated, or download it and give the local path",
    )


def _first_line(fault: BaseException) -> str:
    return str(fault).strip().partition("\n")[0] or type(fault).__name__


@contextmanager
def _quiet() -> Generator[None]:
    """Switches the progress bars of `datasets` off, and back to how they were."""
    import datasets

    were_on = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if were_on:
            datasets.enable_progress_bars()
