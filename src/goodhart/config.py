"""Settings: frozen dataclasses from YAML, with overrides, strict errors and content addresses."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import hashlib
import json
import math
import types
import typing
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import yaml

from goodhart.errors import GoodhartError
from goodhart.functions import Names

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Range:
    """What a number of a study file may be; it stands in the field's type, `Annotated[int, Range(1)]`."""

    low: int | float
    high: int | float = math.inf
    open_low: bool = False
    """Whether `low` itself is left out."""
    open_high: bool = False
    """Whether `high` itself is."""

    def __contains__(self, number: int | float) -> bool:
        above = number > self.low if self.open_low else number >= self.low
        return above and (number < self.high if self.open_high else number <= self.high)

    @property
    def words(self) -> str:
        """For people."""
        low = f"more than {self.low:g}" if self.open_low else f"{self.low:g} or more"
        if math.isinf(self.high):
            return low
        return f"{low} and {'less than' if self.open_high else 'at most'} {self.high:,}"


FLAT = {"flat": True}
"""The metadata of a dataclass's field that is a dataclass whose keys stand among those of its parent."""
NOT_READ = {"read": False}
"""The metadata of a dataclass's field that plain data cannot give."""
MOST = 10**9
"""What no whole number of a study file exceeds: more steps, pairs or tokens than that are a slip of the pen."""
Count = Annotated[int, Range(1, MOST)]
"""A whole number of things of which there must be one."""
Whole = Annotated[int, Range(0, MOST)]
"""A whole number of things of which there may be none."""
Positive = Annotated[float, Range(0, open_low=True)]
"""A number above 0 of any size."""
Share = Annotated[float, Range(0, 1)]
"""A part of a whole."""


def load_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping with the safe loader. Raises GoodhartError if it cannot be read or is no mapping."""
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise GoodhartError(f"cannot read {path}: {error.strerror}", "give the path of a study file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise GoodhartError(f"{path} is not valid YAML: {reason}", "mend the file") from error
    except (RecursionError, ValueError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())
        raise GoodhartError(f"{path} cannot be read: {reason}", "mend the file") from error
    if not isinstance(data, dict):
        raise GoodhartError(f"{path} holds {type(data).__name__}, not a mapping", "write 'key: value' lines")
    _check_text(data, str(path))
    return typing.cast("dict[str, Any]", data)


def _check_text(data: object, where: str) -> None:
    """Raises GoodhartError for characters that no file can hold, which no table could name an arm by.

    What YAML's aliases repeat, or put into itself, is looked at once.
    """
    waiting, seen = [data], set[int]()
    while waiting:
        each = waiting.pop()
        if isinstance(each, str):
            try:
                each.encode()
            except UnicodeEncodeError as error:
                problem = f"{where} holds text that is not valid Unicode (a lone surrogate)"
                raise GoodhartError(problem, "write other letters") from error
        elif isinstance(each, dict | list) and id(each) not in seen:
            seen.add(id(each))
            waiting += [*each, *each.values()] if isinstance(each, dict) else each


def override(data: dict[str, Any], assignment: str, kind: Any = None) -> dict[str, Any]:
    """A copy of nested settings with `a.b.c=value`, the value read as YAML.

    With the dataclass that the settings are of, a mapping of names that the file leaves out has its default's names,
    and a name that is not there can be given as a whole alone. Raises GoodhartError if there is no '=', a parent is not
    a mapping, or a path goes below an unknown name.
    """
    path, equals, text = assignment.partition("=")
    if not equals or not path:
        raise GoodhartError(f"cannot understand {assignment!r}", "write key=value, for example seeds=[0,1,2]")
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise GoodhartError(f"the value of {assignment!r} is not valid YAML", "quote it") from error
    _check_text(value, repr(assignment))
    return _set(data, path, value, assignment, kind)


def _set(data: dict[str, Any], path: str, value: object, assignment: str, kind: Any) -> dict[str, Any]:
    names = get_origin(kind) is dict
    head, rest = _below(path, data) if names else path.partition(".")[::2]
    if not rest:
        return {**data, head: value}
    if names and head not in data:
        raise _unknown_name(assignment, head, data)
    inner, default = _inside(kind, head)
    child = data.get(head) or default
    if not isinstance(child, dict):
        raise GoodhartError(f"{assignment!r} goes below {head!r}, which has no settings of its own", "check the path")
    return {**data, head: _set(child, rest, value, assignment, inner)}


def _below(path: str, names: dict[str, Any]) -> tuple[str, str]:
    """(name, what is set of it), where a name may itself have dots."""
    known = [name for name in names if path == name or path.startswith(f"{name}.")]
    head = max(known, key=len, default=path.partition(".")[0])
    return head, path[len(head) + 1 :]


def _unknown_name(assignment: str, name: str, names: dict[str, Any]) -> GoodhartError:
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"the names here are: {', '.join(map(str, names)) or 'none'};"
    key = assignment.partition("=")[0]
    new = f"{key[: key.index(name) + len(name)]}={{...}}"
    return GoodhartError(f"{assignment!r} goes below {name!r}, which is not there", f"{hint} a new one is {new}")


def _inside(kind: Any, head: str) -> tuple[Any, object]:
    """The type below a key, and the names that a mapping of names has where the settings leave it out."""
    if get_origin(kind) is dict:
        return get_args(kind)[1], {}
    if not dataclasses.is_dataclass(kind):
        return None, {}
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        if field.metadata.get("flat") and head in {f.name for f in dataclasses.fields(hints[field.name])}:
            return _inside(hints[field.name], head)
    hint = hints.get(head)
    options = [a for a in get_args(hint) if a is not type(None)]
    if get_origin(hint) in (typing.Union, types.UnionType):
        hint = options[0]
    factory = next((f.default_factory for f in dataclasses.fields(kind) if f.name == head), dataclasses.MISSING)
    return hint, differing(factory()) if factory is not dataclasses.MISSING else {}


def differing(value: Any) -> Any:
    """What a study file would say of a value: of a dataclass, the fields that are not at their defaults."""
    if isinstance(value, dict):
        return {name: differing(each) for name, each in value.items()}
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return plain_data(value)
    result: dict[str, Any] = {}
    for field in dataclasses.fields(value):
        setting = getattr(value, field.name)
        if field.metadata.get("flat"):
            result |= differing(setting)
        elif setting != _default(field):
            result[field.name] = differing(setting)
    return result


def build(kind: type[T], data: object, where: str = "") -> T:
    """A (nested) dataclass from plain data.

    Raises GoodhartError that names the key for unknown keys, missing keys, and values of a wrong type.
    """
    return typing.cast("T", _convert(kind, data, where))


def _convert(kind: Any, data: Any, where: str) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _allowed(_convert(arguments[0], data, where), arguments[1:], where)
    if dataclasses.is_dataclass(kind):
        return _dataclass(kind, data, where)
    if origin in (typing.Union, types.UnionType):
        options = [a for a in arguments if a is not type(None)]
        return None if data is None and len(options) < len(arguments) else _convert(options[0], data, where)
    if origin is Literal:
        if data not in arguments:
            raise GoodhartError(f"{where} is {data!r}", f"choose one of {', '.join(map(str, arguments))}")
        return data
    if origin is tuple:
        if not isinstance(data, list | tuple):
            raise GoodhartError(f"{where} is {data!r}", "write a list, for example [0.1, 0.03]")
        return tuple(_convert(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(data))
    if origin is dict:
        if not isinstance(data, dict):
            raise GoodhartError(f"{where} is {data!r}", "write a mapping of names to settings")
        return {str(key): _convert(arguments[1], value, f"{where}.{key}") for key, value in data.items()}
    return _scalar(kind, data, where)


def _allowed(value: Any, marks: tuple[Any, ...], where: str) -> Any:
    for allowed in marks:
        if isinstance(allowed, Range) and value not in allowed:
            raise GoodhartError(f"{where} is {value}", f"give a number that is {allowed.words}")
        if isinstance(allowed, Names) and value not in allowed:
            raise GoodhartError(f"{where} is {value!r}", allowed.words)
    return value


def _scalar(kind: Any, data: Any, where: str) -> Any:
    if kind is float and isinstance(data, int | str) and not isinstance(data, bool):
        with contextlib.suppress(ValueError, OverflowError):
            data = float(data)  # YAML 1.1 reads 1e-4 as text
    if not isinstance(data, kind) or isinstance(data, bool) != (kind is bool):
        raise GoodhartError(f"{where} is {data!r}", f"give a value of type {kind.__name__}")
    if isinstance(data, float) and not math.isfinite(data):
        raise GoodhartError(f"{where} is {data!r}", "give a finite number")
    return data


def _dataclass(kind: Any, data: Any, where: str) -> Any:
    if not isinstance(data, dict):
        raise GoodhartError(f"{where or 'the study'} is {data!r}", "write a mapping of settings")
    keys = _keys(kind)
    for key in data:
        if key not in keys:
            near = difflib.get_close_matches(str(key), keys, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"the keys here are {', '.join(keys)}"
            raise GoodhartError(f"unknown key {_join(where, str(key))!r}", hint)
    return _built(kind, data, where)


def _keys(kind: Any) -> list[str]:
    """The keys of a dataclass in plain data, with those of what is flat in it."""
    hints, result = typing.get_type_hints(kind), list[str]()
    for field in dataclasses.fields(kind):
        if field.metadata.get("read", True):
            result += _keys(hints[field.name]) if field.metadata.get("flat") else [field.name]
    return result


def _built(kind: Any, data: dict[str, Any], where: str) -> Any:
    hints = typing.get_type_hints(kind, include_extras=True)
    values: dict[str, Any] = {}
    for field in (f for f in dataclasses.fields(kind) if f.metadata.get("read", True)):
        name = field.name
        default = None if field.default is dataclasses.MISSING else field.default
        if field.metadata.get("flat"):
            part = {key: data[key] for key in _keys(hints[name]) if key in data}
            values[name] = _dataclass(hints[name], _merge(default, part), where)
        elif name in data:
            values[name] = _convert(hints[name], _merge(default, data[name]), _join(where, name))
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise GoodhartError(f"key {_join(where, name)!r} is missing", "add it to the study file")
    return kind(**values)


def _merge(default: object, data: object) -> object:
    """A mapping given for a field whose default is a dataclass changes the keys it names and keeps the others."""
    if dataclasses.is_dataclass(default) and not isinstance(default, type) and isinstance(data, dict):
        merged = _values(default)
        plain = {key: plain_data(value) for key, value in merged.items()}
        return {**plain, **{k: _merge(merged.get(k), v) for k, v in data.items()}}
    return data


def _values(value: Any) -> dict[str, Any]:
    """The fields of a dataclass by their keys in plain data."""
    result: dict[str, Any] = {}
    for field in dataclasses.fields(value):
        each = getattr(value, field.name)
        if field.metadata.get("read", True):
            result |= _values(each) if field.metadata.get("flat") else {field.name: each}
    return result


def _join(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def plain_data(value: object) -> Any:
    """Dataclasses, tuples and paths as mappings, lists and strings."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {name: plain_data(each) for name, each in _values(value).items()}
    if isinstance(value, dict):
        return {str(k): plain_data(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain_data(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def named_elsewhere(default: Any = dataclasses.MISSING, **options: Any) -> Any:
    """A dataclass field that only names something, or sizes a measurement: it decides no result by itself.

    What it stands for (a model's weights, a file's content) is an input of the cell or has a setting of its own.
    """
    return dataclasses.field(default=default, metadata={"decides": False}, **options)


def essential(value: object) -> Any:
    """Settings as plain data, without what stands at its default and without what decides nothing.

    So a new field at its default changes no address; `build` gives the same dataclass, but for what decides nothing.
    """
    return _essential(value, None, deciding=True)


def stated(value: object) -> Any:
    """Settings as plain data, without what stands at its default; `build` gives the same dataclass."""
    return _essential(value, None, deciding=False)


def _essential(value: object, base: object, *, deciding: bool) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kept: dict[str, Any] = {}
        for field in dataclasses.fields(value):
            setting = getattr(value, field.name)
            default = getattr(base, field.name) if type(base) is type(value) else _default(field)
            if field.metadata.get("flat"):
                kept |= _essential(setting, default, deciding=deciding)
            elif (field.metadata.get("decides", True) or not deciding) and setting != default:
                kept[field.name] = _essential(setting, default, deciding=deciding)
        return kept
    if isinstance(value, dict):
        return {str(k): _essential(v, None, deciding=deciding) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_essential(v, None, deciding=deciding) for v in value]
    return plain_data(value)


def _default(field: dataclasses.Field[Any]) -> object:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def flat(data: object, where: str = "") -> dict[str, Any]:
    """Nested plain data as one mapping from dotted keys to single values."""
    if isinstance(data, dict):
        return {k: v for key, value in data.items() for k, v in flat(value, _join(where, str(key))).items()}
    if isinstance(data, list):
        return {k: v for place, value in enumerate(data) for k, v in flat(value, f"{where}[{place}]").items()}
    return {where: data}


def canonical(value: object) -> str:
    """One spelling of settings: JSON with sorted keys and no spaces."""
    return json.dumps(plain_data(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def address(value: object) -> str:
    """The first 12 hexadecimal digits of the SHA-256 of the canonical spelling."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:12]


def choices(kind: type, name: str) -> list[str]:
    """The names that a field of a dataclass, or of what is flat in it, can take."""
    hints = typing.get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        if field.metadata.get("flat") and name not in hints:
            return choices(hints[field.name], name)
    names = next((mark.names for mark in get_args(hints[name]) if isinstance(mark, Names)), None)
    return [str(value) for value in names or get_args(hints[name])]
