"""Study files and overrides that somebody may have mistyped, or that want to run code."""

from __future__ import annotations

import copy
import json
import math
import random
from pathlib import Path
from typing import Any

import yaml

from campaign.hostile import TEXTS, changed, misspelt, spoilt, text, value

BOUNDS = (0, -1, 1, 0.5, 1e9, 10**12, "", [], {}, None, True, "1e-4", [0], [-1], [1, 1], "many", math.inf)


def write_study(path: Path, plain: dict[str, Any], draw: random.Random, canary: Path) -> Path:
    """A study file made of a good one."""
    data = copy.deepcopy(plain)
    for _ in range(draw.choice((0, 1, 1, 2, 3))):
        data = changed(draw, data) if draw.random() < 0.5 else bounded(draw, data)
    written = _yaml(data).encode(errors="surrogatepass")
    how = draw.random()
    if how < 0.15:
        written = spoilt(draw, written)
    elif how < 0.3:
        written = draw.choice(_traps(canary)).encode() + b"\n" + written
    elif how < 0.35:
        written = draw.choice(_traps(canary)).encode()
    path.write_bytes(written)
    return path


def bounded(draw: random.Random, data: Any) -> Any:
    """One leaf at the edge of its range, or beyond it."""
    if isinstance(data, dict) and data:
        key = draw.choice(list(data))
        return {**data, key: bounded(draw, data[key])}
    return draw.choice(BOUNDS)


def overrides(plain: dict[str, Any], draw: random.Random) -> list[str]:
    """What stands behind the study on the command line."""
    return [_override(plain, draw) for _ in range(draw.choice((1, 1, 2)))]


def _override(plain: dict[str, Any], draw: random.Random) -> str:
    place: Any = plain
    keys: list[str] = []
    while isinstance(place, dict) and place and (not keys or draw.random() < 0.8):
        key = draw.choice(list(place))
        keys.append(str(key))
        place = place[key]
    if draw.random() < 0.2:
        keys[-1] = misspelt(draw, keys[-1])
    if draw.random() < 0.4:  # plausible, so that what comes behind the first look at a file is reached
        return f"{'.'.join(keys)}={_nearly(draw, place)}"
    given = draw.choice((str(draw.choice(BOUNDS)), _flow(value(draw)), draw.choice(TEXTS)))
    sign = draw.choice(("=", "=", "=", "=", "", "==", " = ", ":"))
    words = f"{'.'.join(keys)}{sign}{given}" if draw.random() < 0.95 else text(draw)
    return words.replace("\x00", "").encode(errors="ignore").decode() or "="  # no argument holds these


def _nearly(draw: random.Random, leaf: Any) -> str:
    if isinstance(leaf, bool) or not isinstance(leaf, int | float):
        return _flow([_number(draw, 1)] if isinstance(leaf, list) else leaf)
    return str(_number(draw, leaf))


def _number(draw: random.Random, near: float) -> float:
    return draw.choice((near, near + 1, 2 * near, max(1, near - 1), near / 2, 1, 3, 1000))


def _flow(data: Any) -> str:
    try:
        return json.dumps(data)
    except (ValueError, RecursionError):
        return str(data)


def _yaml(data: Any) -> str:
    try:
        return yaml.safe_dump(data, allow_unicode=True)
    except (yaml.YAMLError, UnicodeError, RecursionError):
        return json.dumps(data)


def _traps(canary: Path) -> tuple[str, ...]:
    """YAML that builds objects, refers to itself, or grows."""
    laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10)
    )
    return (
        f"x: !!python/object/apply:os.system ['touch {canary}']",
        f"x: !!python/object/new:subprocess.Popen [['touch', '{canary}']]",
        "x: !!python/name:os.system",
        "x: !<tag:yaml.org,2002:python/module:os>",
        "arms: &a\n  one: *a",
        "seeds: &s [*s]",
        "task: &t {kind: preferences, data: x, more: *t}",
        laughs,
        laughs + "arms: *a9",
        laughs + "seeds: *a9",
        laughs + "name: *a9",
        "x: " + "[" * 3000,
        "x: " + "{a: " * 3000,
        "? [a, b]\n: c",
        "1: 2",
        "null: x",
        "true: false",
        "seeds: [0x10, 0o7, 1_000, 1:30]",
        "name: 2001-01-01",
        "name: !!binary aGVsbG8=",
        "seeds: !!set {0, 1}",
        "arms: !!omap [a: {}]",
        "---\nname: a\n---\nname: b",
        "%YAML 9.9\n---\nname: a",
        "\tname: a",
        "name: 'a\x1b[31m'",
        '"\\x1b[31m": 1',
        "<<: [{}, 1]",
        "name: &a *a",
        "seeds: [" + "0, " * 20_000 + "1]",
    )
