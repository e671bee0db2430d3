"""Which code decides a cell's result: the digest of a recipe's own source and of all that it names.

A recipe's version is raised by hand when its result changes for the same settings. `sources.json` holds, for every
recipe, the digest of the source that its version was declared for. Where the source is another one, because the
package was edited in place, the digest becomes part of the address, so that no result of the old code is taken for one
of the new. `python -m goodhart.cells.source` declares the source as it stands.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from goodhart.cells.registry import RECIPES, Recipe
from goodhart.cells.store import write_atomically

PACKAGE = Path(__file__).parent.parent
DECLARED = Path(__file__).parent / "sources.json"
WITHOUT_SAY = (
    *("goodhart.config", "goodhart.errors", "goodhart.cells.store", "goodhart.cells.digest"),
    *("goodhart.compute.meter", "goodhart.cells.workplace", "goodhart.cells.steps", "goodhart.recipes.model_card"),
)
"""Modules whose code words, counts or moves a result and does not decide it."""

_WHOLE = "all files"
"""Names the digest of the package's source as it was declared: where it is the same, no recipe's need be looked at."""

Name = tuple[str, str]
"""A module and a name at its top level; the empty name stands for the statements that bind none."""


@functools.cache
def edited(kind: str) -> str:
    """Empty where the source of a kind's recipe is the declared one, else its digest."""
    if kind not in RECIPES or _declared().get(_WHOLE) == _package_digest():
        return ""
    digest = source_digest(RECIPES[kind])
    return "" if digest == _declared().get(kind) else digest


def source_digest(recipe: Recipe) -> str:
    """12 hexadecimal digits over the definitions that a recipe reaches, without comments and docstrings."""
    whole = "\0".join(f"{module}:{name}\n{_read(module).text(name)}" for module, name in sorted(reached(recipe)))
    return hashlib.sha256(whole.encode()).hexdigest()[:12]


def reached(recipe: Recipe) -> set[Name]:
    """The definitions of the package that a recipe names, directly or through others."""
    result: set[Name] = set()
    waiting: list[Name] = [(recipe.module, recipe.function)]
    while waiting:
        at = waiting.pop()
        if at in result:
            continue
        result.add(at)
        waiting.append((at[0], ""))
        waiting += _named(*at)
    return result


@functools.cache
def _declared() -> dict[str, str]:
    return json.loads(DECLARED.read_text(encoding="utf-8")) if DECLARED.is_file() else {}


@functools.cache
def _package_digest() -> str:
    digest = hashlib.sha256()
    for file in sorted(PACKAGE.rglob("*.py")):
        digest.update(f"{file.relative_to(PACKAGE).as_posix()}\0".encode() + file.read_bytes())
    return digest.hexdigest()[:12]


@functools.cache
def _file(module: str) -> Path | None:
    """The source of a module of this package whose code has a say."""
    head, *rest = module.split(".")
    if head != PACKAGE.name or module in WITHOUT_SAY:
        return None
    path = PACKAGE.joinpath(*rest)
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


@dataclass(frozen=True)
class _Source:
    """A parsed module."""

    lines: list[str]
    """Each at its place; empty where there was nothing but a comment or a docstring."""
    bound: dict[str, list[ast.stmt]]
    """The statements that bind each top-level name."""
    imports: dict[str, Name]
    """What each imported name stands for, wherever in the module it is imported."""

    def text(self, name: str) -> str:
        """The source of a name's definition."""
        spans = ((_first_line(node), node.end_lineno) for node in self.bound.get(name, ()))
        return "\n".join(line for first, last in spans for line in self.lines[first - 1 : last] if line)


@functools.cache
def _read(module: str) -> _Source:
    file = _file(module)
    assert file is not None, f"{module} has no source"
    text = file.read_text(encoding="utf-8")
    tree = ast.parse(text)
    bound: dict[str, list[ast.stmt]] = {"": []}
    for statement in tree.body:
        for name in _binds(statement):
            bound.setdefault(name, []).append(statement)
    return _Source(_bare(text, tree), bound, dict(_imports(tree)))


@functools.cache
def _named(module: str, name: str) -> frozenset[Name]:
    """What the definition of a name names in turn."""
    source = _read(module)
    used = {pair for node in source.bound.get(name, ()) for pair in _uses(node)}
    result = {target for root, attribute in used for target in _resolved(module, root, attribute)}
    if name in source.imports and name not in source.bound:  # handed on by another module
        result |= set(_resolved(module, name, ""))
    return frozenset(result - {(module, name)})


def _resolved(module: str, root: str, attribute: str) -> Iterator[Name]:
    """The definitions behind `root` or `root.attribute` as they are written in a module."""
    source = _read(module)
    if root in source.bound:
        yield module, root
    elif root in source.imports:
        where, name = source.imports[root]
        inner = f"{where}.{name}"
        if _file(inner) is not None:
            names = [attribute] if attribute in _read(inner).bound else list(_read(inner).bound)
            yield from ((inner, each) for each in names)
        elif _file(where) is not None:
            yield where, name


def _imports(tree: ast.Module) -> Iterator[tuple[str, Name]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                yield alias.asname or alias.name, (node.module, alias.name)


def _binds(statement: ast.stmt) -> Iterable[str]:
    """The top-level names that a statement binds; for any other statement but an import the empty name."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [statement.name]
    if isinstance(statement, ast.Import | ast.ImportFrom) or _is_text(statement):
        return []
    names = [n.id for n in ast.walk(statement) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
    return names or [""]


def _uses(node: ast.AST) -> Iterator[tuple[str, str]]:
    """The names in a definition, each with the attribute that is asked of it, if one is."""
    for each in ast.walk(node):
        if isinstance(each, ast.Attribute) and isinstance(each.value, ast.Name):
            yield each.value.id, each.attr
        elif isinstance(each, ast.Name):
            yield each.id, ""


def _bare(text: str, tree: ast.Module) -> list[str]:
    lines = text.split("\n")
    inside: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.stmt) and _is_text(node):
            lines[node.lineno - 1 : node.end_lineno] = [""] * (1 + (node.end_lineno or 0) - node.lineno)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            inside.update(range(node.lineno + 1, (node.end_lineno or 0) + 1))
    numbered = enumerate(lines, start=1)
    return ["" if line.lstrip().startswith("#") and n not in inside else line.rstrip() for n, line in numbered]


def _is_text(statement: ast.stmt) -> bool:
    """Whether it is a docstring, of whatever it stands behind."""
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def _first_line(node: ast.stmt) -> int:
    decorators = getattr(node, "decorator_list", [])
    return min([node.lineno, *(each.lineno for each in decorators)])


def main() -> None:
    """Declare every recipe's source as it stands."""
    declared = {kind: source_digest(recipe) for kind, recipe in sorted(RECIPES.items())}
    before = _declared()
    write_atomically(DECLARED, json.dumps({**declared, _WHOLE: _package_digest()}, indent=1) + "\n")
    for kind, digest in declared.items():
        if before.get(kind) != digest:
            sys.stdout.write(f"{kind}: {before.get(kind, 'new')} -> {digest}, version {RECIPES[kind].version}\n")


if __name__ == "__main__":
    main()
