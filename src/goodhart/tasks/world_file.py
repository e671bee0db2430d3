"""A user's preferences as a CSV file: one line for each prompt and response, one column for each opponent."""

from __future__ import annotations

import csv
import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from goodhart.errors import GoodhartError
from goodhart.tasks.tables import Tables
from goodhart.tasks.world import MANY, World

PROMPT, RESPONSE, REFERENCE, REWARD = "prompt", "response", "reference", "reward"
_OWN = (PROMPT, RESPONSE, REFERENCE, REWARD)
_LARGEST = 16 * 2**20
"""Bytes of a file at most."""
_ROUNDING = 1e-6
"""How far p(a > b) + p(b > a), or the sum of a law, may be from 1."""


@dataclass
class _Line:
    """The numbers of one response."""

    number: int
    wins: list[float]
    reference: float = 0.0
    reward: float = 0.0


@dataclass
class _File:
    """A file as it is read."""

    path: str
    columns: list[str]
    responses: list[str]
    lines: dict[str, dict[str, _Line]] = field(default_factory=dict[str, dict[str, _Line]])

    def fault(self, line: int, column: str, problem: str, remedy: str) -> GoodhartError:
        """An error that says where."""
        at = f"{self.path}, line {line}" + (f", column {column!r}" if column else "")
        return GoodhartError(f"{at}: {problem}", remedy)


def digest(path: str) -> str:
    """Names a file's content: the first 12 hexadecimal digits of its SHA-256. Raises GoodhartError if it is unread."""
    return hashlib.sha256(_bytes(path)).hexdigest()[:12]


def read_tables(world: World) -> Tables:
    """The world of a CSV file, with a uniform reference and rewards of 0 where it has no such column.

    Raises GoodhartError that names file, line and column of what is wrong.
    """
    file = _read(world.file)
    for column, setting, value in ((REFERENCE, world.reference, "column"), (REWARD, world.reward, "given")):
        if setting == value and column not in file.columns:
            raise GoodhartError(
                f"world.{column} is {value!r}, and {file.path} has no column {column!r}",
                f"add the column, or set world.{column} to another value",
            )
    prompts = [
        [_complete(file, prompt, lines)[name] for name in file.responses] for prompt, lines in file.lines.items()
    ]
    wins = np.array([[line.wins for line in lines] for lines in prompts])
    for lines, matrix in zip(prompts, wins, strict=True):
        _check_pairs(file, lines, matrix)
    reference = np.full(wins.shape[:2], 1 / len(file.responses))
    if REFERENCE in file.columns:
        reference = np.array([_law(file, lines) for lines in prompts])
    upper = np.triu(np.ones(wins.shape[1:]), 1)
    exact = wins * upper + (1 - wins.transpose(0, 2, 1)) * upper.T + np.eye(wins.shape[1]) / 2
    reward = np.array([[line.reward for line in lines] for lines in prompts])
    return Tables(tuple(file.lines), tuple(file.responses), reference, exact, reward)


def _bytes(path: str) -> bytes:
    try:
        file = Path(path).expanduser()
        if file.stat().st_size > _LARGEST:
            raise GoodhartError(f"{path} has more than {_LARGEST // 2**20} MiB", "give a smaller world")
        return file.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise GoodhartError(f"cannot read {path}: {reason}", "give the path of a CSV file as world.file") from error


def _rows(path: str) -> Iterator[tuple[int, list[str]]]:
    """(line, fields) of every line that is not empty."""
    try:
        text = _bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise GoodhartError(
            f"{path} is no text in UTF-8: {error.reason} at byte {error.start}", "save it so"
        ) from error
    reader = csv.reader(text.splitlines(), strict=True)
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                yield reader.line_num, [cell.strip() for cell in row]
    except csv.Error as error:
        raise GoodhartError(f"{path}, line {reader.line_num}: {error}", "mend the quotes of that line") from error


def _read(path: str) -> _File:
    rows = _rows(path)
    at, header = next(rows, (1, []))
    file = _File(path, header, [name for name in header if name not in _OWN])
    _check_header(file, at)
    for number, row in rows:
        _add(file, number, row)
    if not file.lines:
        raise file.fault(at, "", "there is no line below the header", "give one line for each prompt and response")
    return file


def _check_header(file: _File, at: int) -> None:
    twice = [name for i, name in enumerate(file.columns) if name in file.columns[:i]]
    if RESPONSE not in file.columns or not all(file.columns) or twice:
        what = f"names {twice[0]!r} twice" if twice else f"is {', '.join(file.columns) or 'empty'}"
        raise file.fault(
            at, "", f"the header {what}", "name the columns prompt, response, reference, reward and every response once"
        )
    if not 2 <= len(file.responses) <= MANY:
        raise file.fault(
            at, "", f"the header names {len(file.responses)} responses", f"give 2 to {MANY}, each as a column"
        )


def _add(file: _File, number: int, row: Sequence[str]) -> None:
    if len(row) != len(file.columns):
        raise file.fault(
            number, "", f"{len(row)} fields where the header has {len(file.columns)}", "give every column one field"
        )
    cells = dict(zip(file.columns, row, strict=True))
    prompt, response = cells.get(PROMPT, "the prompt"), cells[RESPONSE]
    lines = file.lines.setdefault(prompt, {})
    if response not in file.responses or response in lines:
        what = f"{response!r} stands twice for {prompt!r}" if response in lines else f"{response!r} is no column"
        raise file.fault(number, RESPONSE, what, f"give each of {', '.join(file.responses)} one line for every prompt")
    wins = [_win(file, number, response, name, cells[name]) for name in file.responses]
    line = _Line(number, wins)
    for name in (REFERENCE, REWARD):
        if name in cells:
            setattr(line, name, _number(file, number, name, cells[name]))
    if line.reference <= 0 and REFERENCE in cells:
        raise file.fault(number, REFERENCE, f"{line.reference:g} is no probability above 0", "give every response some")
    lines[response] = line


def _win(file: _File, number: int, response: str, opponent: str, text: str) -> float:
    """p(response > opponent); against itself it is one half, and may be left out."""
    if response == opponent and not text:
        return 0.5
    value = _number(file, number, opponent, text)
    if not 0 <= value <= 1:
        raise file.fault(number, opponent, f"{text} is no probability", "give a number from 0 to 1")
    if response == opponent and value != 0.5:
        raise file.fault(number, opponent, f"{response!r} against itself is {text}", "write 0.5 or nothing")
    return value


def _number(file: _File, number: int, column: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise file.fault(number, column, f"{text[:40]!r} is no number", "give a number, for example 0.7")
    return value


def _complete(file: _File, prompt: str, lines: dict[str, _Line]) -> dict[str, _Line]:
    missing = [name for name in file.responses if name not in lines]
    if missing:
        last = max(line.number for line in lines.values())
        raise file.fault(last, RESPONSE, f"{prompt!r} has no line for {missing[0]!r}", "give every response a line")
    return lines


def _check_pairs(file: _File, lines: Sequence[_Line], matrix: np.ndarray) -> None:
    """p(a > b) + p(b > a) = 1."""
    off = np.argwhere(np.abs(matrix + matrix.T - 1) > _ROUNDING)
    if len(off):
        i, j = (int(place) for place in off[0])
        first, second = file.responses[i], file.responses[j]
        total = f"p({first} > {second}) = {matrix[i, j]:g} and p({second} > {first}) = {matrix[j, i]:g}"
        raise file.fault(
            lines[j].number,
            first,
            f"{total} (line {lines[i].number}) add up to {matrix[i, j] + matrix[j, i]:g}",
            "make them add up to 1",
        )


def _law(file: _File, lines: Sequence[_Line]) -> list[float]:
    total = sum(line.reference for line in lines)
    if abs(total - 1) > _ROUNDING:
        at = lines[-1].number
        raise file.fault(at, REFERENCE, f"the prompt's references add up to {total:g}", "make them add up to 1")
    return [line.reference / total for line in lines]
