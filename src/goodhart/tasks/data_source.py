"""Where a user's rows come from: a file, a folder of files, or the Hugging Face Hub.

Files are read by the standard library's json and by pyarrow, and only the Hub through `datasets`: its JSON
reader turns text that looks like dates into timestamps and does not say on which line a file is malformed,
and its Parquet reader fails on a file without rows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from goodhart.errors import GoodhartError
from goodhart.tasks.data_files import SUFFIXES, file_rows, first_line
from goodhart.tasks.preference_layouts import COLUMNS, TELLING, check_columns
from goodhart.tasks.preference_rows import SPOKEN, Row

T = TypeVar("T")
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


Say = Callable[[str, int, int | None], None]
"""Told what is done, how much of it, and how much there is; None where that is not known."""
_SAID = 2048
"""Rows or comparisons between two messages about progress."""


def unheard(what: str, done: int, total: int | None) -> None:
    """For who wants no messages about progress."""


def told(items: Iterable[T], what: str, total: int | None, say: Say) -> Iterator[T]:
    """The same items, and a message for every so many of them and for the last."""
    done = 0
    for done, item in enumerate(items, start=1):
        yield item
        if done % _SAID == 0:
            say(what, done, total)
    if done % _SAID:
        say(what, done, total)


@dataclass(frozen=True, slots=True)
class Rows:
    """One split's rows: every column's name, and what reads the values of the columns that some layout has."""

    columns: tuple[str, ...]
    """As the files have them."""
    number: int
    first: Mapping[str, object]
    """The first value of each column by which layouts are told apart."""
    again: Callable[[], Iterator[Row]]
    """Reads the rows once more, one after the other."""
    names: Mapping[str, str] = field(default_factory=dict[str, str])
    """Columns of layouts by what the files call them, where that is another name."""

    def __iter__(self) -> Iterator[Row]:
        return self.again()

    @property
    def read_as(self) -> tuple[str, ...]:
        """The columns by the names that the rows have them under."""
        ours = tuple(self.names)
        return (*ours, *(column for column in self.columns if column not in self.names.values() and column not in ours))


def find_source(name: str | Path, subset: str | None = None, revision: str | None = None) -> Source:
    """The files under a path, or the Hub data set of that id, at a commit or the newest, if there is no such path.

    A split is named after its files, without the ending and a shard number: `train.jsonl` and
    `train-00000-of-00002.parquet` belong to `train`, and so does `train/0000.parquet`, as the Hub's own conversions
    to Parquet are called. Raises GoodhartError if nothing is there.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        paths = sorted(f for f in path.rglob("*") if _is_data(f.relative_to(path)) and f.is_file())
        if not paths:
            raise GoodhartError(
                f"folder {path} holds no data file", f"put files with these endings there: {', '.join(SUFFIXES)}"
            )
    elif path.is_file():
        if not path.name.endswith(SUFFIXES):
            raise GoodhartError(f"file {path} is of no known kind", f"convert it to one of {', '.join(SUFFIXES)}")
        paths = [path]
    elif re.fullmatch(r"[\w.-]+(/[\w.-]+)?", str(name)) and not str(name).endswith(SUFFIXES):
        splits = dict.fromkeys(_hub_splits(str(name), subset, revision), ())
        return Source(str(name), subset, splits, on_hub=True, revision=revision)
    else:
        raise GoodhartError(f"there is no file or folder {path}", "check the path, or give a Hub id as owner/name")
    if subset is not None:
        raise GoodhartError(f"subset {subset!r} was named for local data {path}", "name a subset of Hub data only")
    files: dict[str, tuple[Path, ...]] = {}
    for file in paths:
        files[_split_name(file)] = (*files.get(_split_name(file), ()), file)
    return Source(str(path), None, files, on_hub=False)


def _is_data(path: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.parts)
    return path.name.endswith(SUFFIXES) and path.name not in _BOOKKEEPING and not hidden


def _split_name(file: Path) -> str:
    name = _SHARD.sub("", re.sub(r"\.(jsonl|json|csv|tsv|parquet)(\.gz)?$", "", file.name))
    converted = re.fullmatch(r"\d{4}\.parquet", file.name)
    return file.resolve().parent.name if converted else name


def read_rows(
    source: Source,
    split: str,
    cache: Path | None = None,
    names: Mapping[str, str] | None = None,
    say: Say = unheard,
) -> Rows:
    """A split's rows, read once to see that they can be, and not kept.

    Local files are read without a cache. Hub data goes into the `datasets` cache `cache`, or into the user's
    own, so that it is downloaded once. `names` says of columns of layouts what the data call them. Raises GoodhartError
    if a file is malformed, or the Hub cannot be reached.
    """
    names = names or {}
    wanted = (COLUMNS - set(names)) | set(names.values())
    spoken = {names.get(column, column) for column in SPOKEN}
    columns: dict[str, None] = {}
    table = _hub_table(source, split, cache) if source.on_hub else None

    def again() -> Iterator[Row]:
        if table is None:
            files = source.splits[split]
            rows = chain.from_iterable(file_rows(file, wanted, spoken, columns) for file in files)
        else:
            columns.update(dict.fromkeys(table.column_names))
            known = table.select_columns([name for name in table.column_names if name in wanted])
            rows = (Row(f"row {n} of {split} of {source.name}", row) for n, row in enumerate(known, start=1))
        return (_renamed(row, names) for row in rows) if names else rows

    number, first = 0, dict[str, object]()
    for row in told(again(), "rows found", None, say):
        number += 1
        for column in TELLING:
            value = row.values.get(column)
            if value is not None:
                first.setdefault(column, value)
    if columns:
        check_columns(names, list(columns))
    return Rows(tuple(columns), number, first, again, names)


def _renamed(row: Row, names: Mapping[str, str]) -> Row:
    """The row with its columns under the names of layouts."""
    given = {ours: row.values[theirs] for ours, theirs in names.items() if theirs in row.values}
    other = {name: value for name, value in row.values.items() if name not in names.values()}
    return Row(row.where, {**other, **given}, names)


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
        f"{name} is no local path, and from the Hugging Face Hub it cannot be read: {first_line(fault)}",
        "check the name and the network, log in if it is gated, or download it and give the local path",
    )


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
