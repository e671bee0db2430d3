"""A user's own labels of a study's pairs, one row for each, in the kinds of files that data come in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from goodhart.cells.digest import sha256
from goodhart.errors import GoodhartError
from goodhart.tasks.data_files import SUFFIXES, file_rows
from goodhart.tasks.preference_rows import Row, wrong_type

PAIR, LABEL, TEXTS = "pair", "label", "texts"
"""Columns: which pair, how probably its first response is preferred, and the digest of its texts."""


@dataclass(frozen=True, slots=True)
class Given:
    """What a file says of one pair."""

    label: float
    """How probably the first response is preferred: 1, 0, one half for a tie, or any probability."""
    texts: str
    """The digest of prompt and responses; empty where the file has none."""
    where: str
    """The row, for whoever must mend it."""


def read_labels(file: Path) -> dict[str, Given]:
    """The labels of a file by pair; a row without a label says nothing.

    Raises GoodhartError that names file and line for a file that cannot be read, a missing column, a label that is no
    number in [0, 1], and a pair that stands there twice with different labels or texts.
    """
    if not file.name.endswith(SUFFIXES):
        raise GoodhartError(f"{file} is no file of labels", f"give one that ends in one of {', '.join(SUFFIXES)}")
    labels: dict[str, Given] = {}
    columns: dict[str, None] = {}
    for row in file_rows(file, (PAIR, LABEL, TEXTS), (PAIR, TEXTS), columns):
        if row.values.get(LABEL) is not None:
            _add(labels, row)
    for name in (PAIR, LABEL):
        if name not in columns:
            raise GoodhartError(
                f"{file} has no column {name!r}; it has {', '.join(columns) or 'none'}",
                "give the columns pair and label; 'goodhart pairs' writes the pairs with their texts",
            )
    return labels


def file_digest(name: str) -> str:
    """The SHA-256 of a file of labels. Raises GoodhartError if there is none, or it cannot be read."""
    try:
        return sha256(Path(name))
    except OSError as error:
        raise GoodhartError(
            f"the file of labels {name!r} cannot be read: {error.strerror}", "check the path"
        ) from error


def _add(labels: dict[str, Given], row: Row) -> None:
    pair, texts = (row.values.get(name) for name in (PAIR, TEXTS))
    if not isinstance(pair, str):
        raise wrong_type(row, PAIR, pair, "the id of a pair")
    if not isinstance(texts, str | None):
        raise wrong_type(row, TEXTS, texts, "the digest of the pair's texts")
    given = Given(_label(row), texts or "", row.where)
    before = labels.setdefault(pair, given)
    if (before.label, before.texts) != (given.label, given.texts):
        raise GoodhartError(
            f"{row.where}: pair {pair!r} has label {given.label:g}, and on {before.where} {before.label:g}"
            if before.label != given.label
            else f"{row.where}: pair {pair!r} has other texts than on {before.where}",
            "keep one of the two rows; the mean of several people's labels is a label, too",
        )


def _label(row: Row) -> float:
    value = row.values[LABEL]
    try:
        number = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else None
    except (ValueError, OverflowError):
        number = None
    if number is None or not 0 <= number <= 1:
        raise GoodhartError(
            f"{row.where}: the label is {value!r}",
            "give 1 (the first response is preferred), 0 (the second), 0.5 (a tie), or the probability of the first",
        )
    return number
