"""Functions of the user's own, known by their text: a judge, a labeller, a loss, a sampler.

A function is named by NAME@DIGEST, the digest of the text that defines it. So an edit is another function, the same
text is the same one wherever it stands, and whoever makes a cell is given the text. It is the user's own code, and runs
because the user named it, and for no other reason.
"""

from __future__ import annotations

import ast
import builtins
import hashlib
import inspect
import linecache
import re
import symtable
import sys
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from goodhart.errors import GoodhartError

_REFERENCE = re.compile(r"[^\W\d]\w*@[0-9a-f]{12}")
_IN_FILE = re.compile(r"(.+\.py):([^\W\d]\w*)")
_FUTURE = "from __future__ import annotations\n\n"
"""Stands before a text that is a function's alone, whose annotations may name what it does not import."""
_KNOWN: dict[str, Function] = {}
_LOADED: dict[str, Any] = {}


@dataclass(frozen=True, slots=True)
class Function:
    """A name and the text that defines it."""

    name: str
    text: str

    @property
    def reference(self) -> str:
        """NAME@DIGEST, the first 12 hexadecimal digits of the SHA-256 of the text."""
        return f"{self.name}@{hashlib.sha256(self.text.encode()).hexdigest()[:12]}"


@dataclass(frozen=True, slots=True)
class Names:
    """What a word of a study file may be: one of some names, or a function; it stands in the field's type."""

    names: tuple[str, ...]

    def __contains__(self, word: object) -> bool:
        return word in self.names or is_function(word)

    @property
    def words(self) -> str:
        """For people."""
        return f"choose one of {', '.join(self.names)}, or a function of your own, FILE.py:NAME (docs/new-method.md)"


def is_function(word: object) -> bool:
    """Whether a setting is the name of a function."""
    return isinstance(word, str) and _REFERENCE.fullmatch(word) is not None


def spoken(reference: str) -> str:
    """A function's name without the digest, for people."""
    return reference.partition("@")[0]


def in_file(word: object) -> tuple[str, str] | None:
    """(file, name) of a setting FILE.py:NAME; None for another one."""
    match = _IN_FILE.fullmatch(word) if isinstance(word, str) else None
    return match and (match[1], match[2])


def learn(function: Function) -> str:
    """Know a function from now on; returns its reference."""
    _KNOWN[function.reference] = function
    return function.reference


def read(path: str, name: str) -> str:
    """The reference of a function of a file, whose whole text defines it.

    Raises GoodhartError if the file cannot be read or run, or has no such name.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        problem = f"the file {path} of {name} cannot be read ({getattr(error, 'strerror', None) or error})"
        raise GoodhartError(problem, "give the path of a Python file, FILE.py:NAME") from error
    reference = learn(Function(name, text))
    load(reference)
    return reference


def given(function: object, where: str) -> str:
    """The reference of a function that is given in Python, as the setting `where`.

    One of a module's file is defined by that file. Any other, of a notebook or of the script that is run, by its own
    text, which therefore has to be self-contained. Raises GoodhartError for one that has no text, or needs more.
    """
    name = getattr(function, "__name__", type(function).__name__)
    if not isinstance(function, FunctionType | type):
        raise GoodhartError(f"{where} is {name!r}, a {type(function).__name__}", "give a function that def defines")
    if name == "<lambda>":
        raise GoodhartError(f"{where} is a lambda, which has no name and no text of its own", "write it with def")
    module = sys.modules.get(function.__module__)
    file = getattr(module, "__file__", None)
    if function.__module__ != "__main__" and file and getattr(module, name, None) is function:
        return read(str(Path(file).resolve()), name)
    if isinstance(function, type):
        raise GoodhartError(f"{where} is the class {name!r}, which no module's file defines", "put it into a file")
    return learn(Function(name, _own_text(function, where)))


def _own_text(function: FunctionType, where: str) -> str:
    name = function.__name__
    try:
        text = _FUTURE + textwrap.dedent(inspect.getsource(function))
        free = _free_names(text)
    except (OSError, TypeError, SyntaxError) as error:
        problem = f"{where}: the text of {name!r} cannot be read ({type(error).__name__})"
        raise GoodhartError(problem, "put it into a file and import it from there, or give FILE.py:NAME") from error
    if free:
        raise GoodhartError(
            f"{where}: {name!r} needs {', '.join(free)}, which its own text does not define",
            "import or define that inside the function, or put both into a file and import it from there: the function "
            "runs in other processes, which have its text alone",
        )
    return text


def _free_names(text: str) -> list[str]:
    """The names that a text reads and neither defines, imports nor has from Python itself."""
    top = symtable.symtable(text, "<function>", "exec")
    defined = {each.get_name() for each in top.get_symbols() if each.is_assigned() or each.is_imported()}
    waiting, result = [top], dict[str, None]()
    while waiting:
        table = waiting.pop(0)
        waiting += table.get_children()
        for symbol in table.get_symbols():
            if symbol.is_global() and symbol.is_referenced():
                result[symbol.get_name()] = None
    return [name for name in result if name not in defined and not hasattr(builtins, name)]


def known(reference: str) -> Function:
    """The function of that name and digest. Raises GoodhartError if nobody has told its text here."""
    if reference not in _KNOWN:
        raise GoodhartError(
            f"the text of the function {reference} is not known here",
            "run the study from the file, script or notebook that has the function",
        )
    return _KNOWN[reference]


def load(reference: str) -> Any:
    """The function itself. Raises GoodhartError if its text cannot be run, or does not define it."""
    if reference in _LOADED:
        return _LOADED[reference]
    function = known(reference)
    digest = reference.partition("@")[2]
    module, place = ModuleType(f"goodhart_function_{digest}"), f"<{reference}>"
    linecache.cache[place] = (len(function.text), None, function.text.splitlines(keepends=True), place)
    sys.modules[module.__name__] = module
    try:
        exec(compile(function.text, place, "exec", dont_inherit=True), module.__dict__)  # noqa: S102 - the user named it
        _LOADED[reference] = getattr(module, function.name)
    except AttributeError as error:
        if function.name in _top_level(function.text):
            raise _cannot_run(reference, error) from error
        problem = f"the text of {reference} defines no {function.name!r}"
        raise GoodhartError(problem, f"it has: {', '.join(_top_level(function.text)) or 'nothing'}") from error
    except Exception as error:  # whatever the user's own code meets
        raise _cannot_run(reference, error) from error
    return _LOADED[reference]


def _cannot_run(reference: str, error: Exception) -> GoodhartError:
    words = " ".join(str(error).split())[:200]
    return GoodhartError(f"the text of {reference} cannot be run ({type(error).__name__}: {words})", "mend it")


def _top_level(text: str) -> list[str]:
    kinds = (ast.FunctionDef, ast.ClassDef)
    return [node.name for node in ast.parse(text).body if isinstance(node, kinds)]


def call(reference: str, *arguments: Any, on: str) -> Any:
    """What a function returns; `on` says what it was asked about. Raises GoodhartError for what it raises."""
    function = load(reference)
    try:
        return function(*arguments)
    except Exception as error:  # whatever the user's own code meets
        words = " ".join(str(error).split())[:200]
        raise GoodhartError(
            f"{reference} failed on {on} ({type(error).__name__}: {words})", "mend the function"
        ) from error


def check_takes(reference: str, names: tuple[str, ...], where: str) -> None:
    """Raises GoodhartError for a function that cannot be called with so many arguments."""
    function = load(reference)
    try:
        inspect.signature(function).bind(*names)
    except (TypeError, ValueError) as error:
        raise GoodhartError(
            f"{where}: {spoken(reference)} cannot be called as {spoken(reference)}({', '.join(names)}) ({error})",
            "give it those arguments, in that order",
        ) from error


def texts_in(data: object) -> dict[str, str]:
    """The texts of all functions that plain data name. Raises GoodhartError for one that is not known."""
    return {word: known(word).text for word in _words(data) if is_function(word)}


def _words(data: object) -> Iterator[str]:
    if isinstance(data, str):
        yield data
    elif isinstance(data, Mapping):
        for value in data.values():
            yield from _words(value)
    elif isinstance(data, list | tuple):
        for value in data:
            yield from _words(value)


def learn_from(places: Mapping[str, str]) -> None:
    """Know the functions whose texts stand under their references. Raises GoodhartError for another text."""
    for reference, text in places.items():
        if is_function(reference) and learn(Function(spoken(reference), text)) != reference:
            raise GoodhartError(f"the text of {reference} is another one by now", "run the study again")


def keep(folder: Path, data: object) -> None:
    """Write the texts of all functions that plain data name, one file for each."""
    for reference, text in texts_in(data).items():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{reference}.py").write_text(text, encoding="utf-8")


def recall(folder: Path) -> None:
    """Know the functions that `keep` wrote; a file that was changed is another function, which nobody names."""
    for file in folder.glob("*@*.py"):
        learn(Function(spoken(file.stem), file.read_text(encoding="utf-8")))


def replaced(data: Any, where: str = "") -> Any:
    """Plain data with references in place of functions. Raises GoodhartError as `given` does."""
    if isinstance(data, Mapping):
        return {key: replaced(value, f"{where}.{key}" if where else str(key)) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [replaced(value, where) for value in data]
    return given(data, where) if callable(data) else data
