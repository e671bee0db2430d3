"""The parts of the site that are made from the source: a study file's keys, the commands, the methods, as Markdown."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import inspect
import io
import itertools
import os
import re
import textwrap
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml

from goodhart import cli
from goodhart.alignment.method import Method
from goodhart.alignment.methods import METHODS
from goodhart.arguments import COMMANDS, described
from goodhart.config import MOST, Range, differing
from goodhart.studies.spec import Study

NAME = "NAME"
"""In a path of keys: a name that the study file chooses."""
COLUMNS = 96
"""Of what commands print."""
_WORDS = {int: "whole number", float: "number", str: "text", bool: "`true`, `false`"}


@dataclass(frozen=True)
class Key:
    """A key of a study file."""

    name: str
    kind: Any
    """Its type, with ranges."""
    default: Any
    """As plain data; MISSING where a study file must give it."""
    meaning: str

    @property
    def below(self) -> type | None:
        """The dataclass whose keys stand below it."""
        return next(
            (each for each in _parts(self.kind) if isinstance(each, type) and dataclasses.is_dataclass(each)), None
        )


@dataclass(frozen=True)
class Section:
    """The keys of one dataclass."""

    kind: type
    paths: tuple[str, ...]
    """Where a study file has them; empty for its outermost keys."""
    keys: tuple[Key, ...]

    @property
    def anchor(self) -> str:
        """By which tables refer to it."""
        return self.kind.__name__.lower()

    @property
    def title(self) -> str:
        """Its shortest paths; of many that end alike, how they end."""
        shortest = [path for path in self.paths if _depth(path) == min(map(_depth, self.paths))]
        ends = {path.rpartition(".")[2] for path in shortest}
        named = [f"….{ends.pop()}"] if len(shortest) > 2 and len(ends) == 1 else shortest
        return ", ".join(f"`{path}`" for path in named) if self.paths != ("",) else "The study"


def keys_page() -> str:
    """All keys of a study file: a table for each dataclass."""
    return "\n\n".join(map(_table_of_keys, sections()))


def sections() -> list[Section]:
    """The dataclasses that a study file is read into, each once, in the order of the keys that lead to them."""
    paths: dict[type, list[str]] = {}
    for kind, path in _walk(Study, ""):
        paths.setdefault(kind, []).append(path)
    return [Section(kind, tuple(places), tuple(keys_of(kind))) for kind, places in paths.items()]


def _walk(kind: type, path: str) -> Iterator[tuple[type, str]]:
    yield kind, path
    for key in keys_of(kind):
        if key.below:
            named = f"{path}.{key.name}".lstrip(".")
            yield from _walk(key.below, named + f".{NAME}" * (get_origin(key.kind) is dict))


def keys_of(kind: type) -> Iterator[Key]:
    """The keys of a dataclass, with those of what is flat in it."""
    hints, meanings = typing.get_type_hints(kind, include_extras=True), attribute_docstrings(kind)
    for field in dataclasses.fields(kind):
        default, meaning = _default(field), meanings.get(field.name, "")
        if hints[field.name] is Method:
            yield Key(field.name, str, next(name for name, row in METHODS.items() if row.method == default), meaning)
        if field.metadata.get("flat"):
            yield from keys_of(hints[field.name])
        elif field.metadata.get("read", True):
            plain = default if default is dataclasses.MISSING else differing(default)
            yield Key(field.name, hints[field.name], plain, meaning)


def attribute_docstrings(kind: type) -> dict[str, str]:
    """What stands under each attribute of a class, on one line."""
    body = typing.cast("ast.ClassDef", ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]).body
    return {
        first.target.id: " ".join(second.value.value.split())
        for first, second in itertools.pairwise(body)
        if isinstance(first, ast.AnnAssign) and isinstance(first.target, ast.Name)
        if isinstance(second, ast.Expr) and isinstance(second.value, ast.Constant)
        if isinstance(second.value.value, str)
    }


def type_words(kind: Any) -> str:
    """A type for people."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return ", ".join([type_words(arguments[0]), *(_range_words(each) for each in arguments[1:])])
    if origin in (typing.Union, types.UnionType):
        return f"{type_words(arguments[0])}, or nothing"
    if origin is Literal:
        return ", ".join(f"`{each}`" for each in arguments)
    if origin is tuple:
        return f"list of: {type_words(arguments[0])}"
    if origin is dict:
        return f"by name: {type_words(arguments[1])}"
    return _WORDS.get(kind, "keys")


def commands_page() -> str:
    """What each command says of itself."""
    return "\n\n".join(
        f"## goodhart {name}\n\n{described(kind)[0]}\n\n```text\n{help_of(name)}\n```"
        for name, kind in commands().items()
    )


def commands() -> dict[str, type]:
    """The commands by name."""
    return dict(COMMANDS)


def help_of(command: str) -> str:
    """What `goodhart COMMAND --help` prints in a terminal of COLUMNS columns."""
    before, said = os.environ.get("COLUMNS"), io.BytesIO()
    text = io.TextIOWrapper(said, encoding="utf-8")  # of no encoding, lines would be drawn in ASCII
    os.environ["COLUMNS"] = str(COLUMNS)
    try:
        with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
            cli.main([command, "--help"])
    finally:
        os.environ.pop("COLUMNS")
        os.environ.update({"COLUMNS": before} if before else {})
    text.flush()
    return "\n".join(line.rstrip() for line in said.getvalue().decode("utf-8").strip().splitlines())


def methods_page() -> str:
    """The table of methods, by family."""
    families = dict.fromkeys(row.family for row in METHODS.values())
    return "\n\n".join(f"### {family.capitalize()}\n\n{_table_of_methods(family)}" for family in families)


def _table_of_methods(family: str) -> str:
    rows = [
        (f"`{name}`", _cell(row.title), f"`{_cell(row.formula)}`", _cell(row.papers))
        for name, row in METHODS.items()
        if row.family == family
    ]
    return _table(("method", "what it is", "minimises", "source"), rows)


def _table_of_keys(section: Section) -> str:
    also = f"In a study file at {', '.join(f'`{path}`' for path in section.paths)}." if any(section.paths) else ""
    about = _linked(" ".join((inspect.getdoc(section.kind) or "").split()))
    rows = [(f"`{key.name}`", _typed(key), _shown(key), _linked(_cell(key.meaning))) for key in section.keys]
    table = _table(("key", "value", "default", "meaning"), rows)
    return "\n\n".join(part for part in (f"## {section.title} {{#{section.anchor}}}", about, also, table) if part)


def _typed(key: Key) -> str:
    words = type_words(key.kind)
    return words.replace("keys", f"[keys](#{key.below.__name__.lower()})") if key.below else words


def _shown(key: Key) -> str:
    if key.default is dataclasses.MISSING:
        return "the file's name" if key.name == "name" else "to be given"  # which `read_study` puts in its place
    if key.default in (None, "", {}):
        return "–"
    text = yaml.safe_dump(key.default, default_flow_style=True, width=10**6, sort_keys=False, allow_unicode=True)
    return f"`{_cell(text.strip().removesuffix('...'))}`"


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _linked(text: str) -> str:
    """Names of pages as links to them."""
    return re.sub(r"docs/([\w-]+)\.md", r"[\1](../\1.md)", text)


def _range_words(allowed: object) -> str:
    if not isinstance(allowed, Range):
        return ""
    return (dataclasses.replace(allowed, high=float("inf")) if allowed.high == MOST else allowed).words


def _parts(kind: Any) -> Iterator[Any]:
    yield kind
    for each in get_args(kind):
        yield from _parts(each)


def _depth(path: str) -> int:
    return path.replace(f".{NAME}", "").count(".")


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
