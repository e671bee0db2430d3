"""Methods from outside the package: a Python file that a study names, or that an installed package announces.

Such a file is the user's own code. It is run because the user named it, and for no other reason.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import sys
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from goodhart import functions
from goodhart.alignment.method import KINDS, LossKind
from goodhart.alignment.methods import METHODS, Row
from goodhart.errors import GoodhartError
from goodhart.functions import is_function

GROUP = "goodhart.methods"
"""The entry points of installed packages: each names a module like the files that studies name."""
_LOADED: dict[str, str] = {}
"""Digests by path."""


def code_digest(path: str) -> str:
    """The first 12 hexadecimal digits of the SHA-256 of a file. Raises GoodhartError if it cannot be read."""
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:12]
    except OSError as error:
        problem = f"the file of methods {path} cannot be read ({error.strerror})"
        raise GoodhartError(problem, "give the path of a Python file by methods: [FILE]") from error


def load(path: str) -> None:
    """Add a file's methods and losses to the tables.

    The file has `METHODS`, rows by name, and may have `LOSSES`, pairs of a function and what it learns from (label,
    reward, mark or none) by name; the function's keyword-only arguments are the method's parameters.

    Raises GoodhartError for a file that cannot be run, or that has neither, or names what is there already.
    """
    digest = code_digest(path)
    if _LOADED.get(path) == digest:
        return
    module = _run(path, digest)
    rows, losses = getattr(module, "METHODS", None), getattr(module, "LOSSES", {})
    if not isinstance(rows, dict) or not isinstance(losses, dict) or not all(isinstance(r, Row) for r in rows.values()):
        raise GoodhartError(
            f"{path} has no METHODS, a mapping of names to rows", "see docs/new-method.md for what such a file has"
        )
    again = path in _LOADED
    for table, names in ((METHODS, rows), (KINDS, losses)):
        taken = [name for name in names if name in table and not again]
        if taken:
            raise GoodhartError(f"{path} names {taken[0]!r}, which is there already", "rename it")
    for name, (function, learns_from) in losses.items():
        _add_loss(str(name), function, str(learns_from), path)
    METHODS.update(rows)
    _LOADED[path] = digest


def _add_loss(name: str, function: Any, learns_from: str, path: str) -> None:
    from goodhart.alignment.losses import LOSSES

    if learns_from not in ("label", "reward", "mark", "none"):
        raise GoodhartError(
            f"{path}: loss {name!r} learns from {learns_from!r}", "say label, reward, mark or none beside its function"
        )
    taken = inspect.signature(function).parameters.values()
    parameters = tuple(p.name for p in taken if p.kind is p.KEYWORD_ONLY)
    number = (2, 2) if learns_from == "label" else (1, 64)
    KINDS[name] = LossKind(learns_from, parameters, number, code=path)
    LOSSES[name] = function


def _run(path: str, digest: str) -> ModuleType:
    name = f"goodhart_methods_{digest}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise GoodhartError(f"{path} is no Python file", "give one that ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the user's own code meets
        del sys.modules[name]
        words = " ".join(str(error).split())[:200]
        raise GoodhartError(f"{path} cannot be run ({type(error).__name__}: {words})", "mend the file") from error
    return module


def announced() -> None:
    """Add the methods that installed packages announce. Raises GoodhartError as `load` does."""
    for point in entry_points(group=GROUP):
        spec = importlib.util.find_spec(point.module)
        if spec is None or spec.origin is None:
            raise GoodhartError(f"entry point {point.name!r} names the module {point.module!r}", "install it again")
        load(spec.origin)


def forget() -> None:
    """Take what was added out of the tables again."""
    from goodhart.alignment.losses import LOSSES

    for name in [name for name, kind in KINDS.items() if kind.code or is_function(name)]:
        del KINDS[name]
        LOSSES.pop(name, None)
    for name in [name for name, row in METHODS.items() if row.method.loss not in KINDS]:
        del METHODS[name]
    _LOADED.clear()


def own_loss(reference: str) -> None:
    """Add a function of the user's own to the losses; what it learns from is what it reads when it is tried.

    Its keyword-only arguments are the method's parameters. Raises GoodhartError for one that cannot be tried, reads
    several kinds of supervision, or does not return one value for each prompt.
    """
    from goodhart.alignment.losses import LOSSES
    from goodhart.alignment.own_loss import checked, reads

    result = reads(reference)
    parameters = tuple(own_defaults(reference))
    number = (2, 2) if result.supervision == "label" else (1, 64)
    KINDS[reference] = LossKind(result.supervision, parameters, number, tokenwise=result.tokenwise)
    LOSSES[reference] = checked(reference)


def own_defaults(reference: str) -> dict[str, float | None]:
    """The parameters of a function of the user's own, and their defaults, None where they have none."""
    taken = inspect.signature(functions.load(reference)).parameters.values()
    result = {p.name: None if p.default is p.empty else p.default for p in taken if p.kind is p.KEYWORD_ONLY}
    for name, value in result.items():
        if value is not None and not isinstance(value, int | float):
            raise GoodhartError(
                f"the parameter {name} of {reference} is {value!r} by default", "give numbers: they can be swept"
            )
    return result


def reads_rewards(reference: str) -> bool:
    """Whether a labeller asks what the proxy says of each response: it has a third argument.

    Raises GoodhartError for a function that takes neither two nor three.
    """
    try:
        inspect.signature(functions.load(reference)).bind("prompt", "responses")
    except TypeError:
        functions.check_takes(reference, ("prompt", "responses", "rewards"), "labeller")
        return True
    return False


def code_of(kind: LossKind) -> dict[str, str]:
    """What a run's address has of the code of a loss from outside."""
    return {"code": code_digest(kind.code)} if kind.code else {}
