"""Data files in every layout and every kind of file, with something wrong more often than not."""

from __future__ import annotations

import copy
import gzip
import io
import json
import pickle
import random
from pathlib import Path
from typing import Any

from campaign.hostile import changed, spoilt

PLAIN_NAMES = ("data", "train", "test", "train-00000-of-00002", "0000")
NAMES = ("a\x1b[31mb", "x\ny", "[bold]", "ü", "..data", "-x")
SUFFIXES = (".jsonl", ".json", ".jsonl.gz", ".json.gz", ".parquet")
PICKLE = b"cos\nsystem\n(S'touch CANARY'\ntR."


def write_data(folder: Path, draw: random.Random, canary: Path) -> Path:
    """A file, or now and then a folder of them; returns what is to be read."""
    folder.mkdir(parents=True, exist_ok=True)
    if draw.random() < 0.85:
        return _write_file(folder, draw, canary)
    inner = folder / draw.choice(("split", "train", ".hidden", "x.jsonl", "a\x1b[2Jb"))
    inner.mkdir()
    for _ in range(draw.randrange(4)):
        _write_file(inner, draw, canary)
    if draw.random() < 0.1:
        (inner / "loop.jsonl").symlink_to(inner / "loop.jsonl")
    if draw.random() < 0.1:
        (inner / "up").symlink_to(folder)
    return draw.choice((inner, folder))


def rows(draw: random.Random) -> list[dict[str, Any]]:
    """Some rows of one layout, most of them changed somewhere."""
    from preference_data_cases import CASES

    good = copy.deepcopy(draw.choice(list(CASES.values()))[0])
    found = [draw.choice(good) for _ in range(draw.choice((0, 1, 2, 5, 20)))]
    times = draw.choice((0, 0, 0, 1, 1, 3))
    for _ in range(times):
        if found:
            place = draw.randrange(len(found))
            found[place] = changed(draw, found[place])
    if found and draw.random() < 0.002 and isinstance(found[0], dict):
        found[0] = {key: "long " * 2_000_000 if isinstance(each, str) else each for key, each in found[0].items()}
    if found and draw.random() < 0.05:
        found = [{**row, "label": draw.choice(("tie", 0.5, 1, None))} for row in found if isinstance(row, dict)]
    return found


def _write_file(folder: Path, draw: random.Random, canary: Path) -> Path:
    path = folder / (draw.choice(NAMES if draw.random() < 0.1 else PLAIN_NAMES) + draw.choice(SUFFIXES))
    data = _content(draw, path.name, canary)
    if draw.random() < 0.12:
        data = spoilt(draw, data)
    path.write_bytes(data)
    return path


def _content(draw: random.Random, name: str, canary: Path) -> bytes:
    odd = draw.random()
    if odd < 0.06:
        data = _odd(draw, canary)
    elif name.endswith(".parquet"):
        return _parquet(draw)
    else:
        data = _json(draw, rows(draw), lines=".jsonl" in name or draw.random() < 0.2)
    return gzip.compress(data, 1) if name.endswith(".gz") else data


def _odd(draw: random.Random, canary: Path) -> bytes:
    """Files that are no rows at all."""
    made = (
        lambda: b"",
        lambda: b"\n\n\n",
        lambda: b"null",
        lambda: b"[" * 100_000,
        lambda: b'{"a":' * 50_000,
        lambda: b'{"prompt": ' + b"9" * 5000 + b', "chosen": "a", "rejected": "b"}',
        lambda: b'{"prompt": 1e99999, "chosen": NaN, "rejected": -Infinity}',
        lambda: b'{"prompt": "\\ud800", "chosen": "\\u0000", "rejected": "\\udfff"}',
        lambda: b'{"prompt": "a", "prompt": "b", "chosen": "c", "chosen": ["d"], "rejected": "e"}',
        lambda: b"[1, 2, 3]",
        lambda: b'"text"',
        lambda: PICKLE.replace(b"CANARY", str(canary).encode()),
        lambda: pickle.dumps({"rows": []}),
        lambda: b"PAR1" + bytes(100) + b"PAR1",
        lambda: b"\x00" * 2**20,
        lambda: b" " * 2**22,
        lambda: b"prompt,chosen,rejected\na,b,c\n",
        lambda: ("{}\n" * 1000).encode(),
        lambda: '{"prompt": "a", "chosen": "b", "rejected": "c"}'.encode("utf-16"),
    )
    return draw.choice(made)()


def _json(draw: random.Random, found: list[dict[str, Any]], lines: bool) -> bytes:
    ascii_only = draw.random() < 0.5
    end = draw.choice(("\n", "\r\n", "\n\n"))
    if lines:
        written = end.join(json.dumps(row, ensure_ascii=ascii_only) for row in found)
    else:
        written = json.dumps(found, ensure_ascii=ascii_only, indent=draw.choice((None, 1)))
    return written.encode(errors="surrogatepass")


def _parquet(draw: random.Random) -> bytes:
    import pyarrow as pa

    try:
        return _as_parquet(pa.Table.from_pylist([row for row in rows(draw) if isinstance(row, dict)]))
    except (pa.ArrowException, OverflowError, UnicodeEncodeError, TypeError, ValueError):
        odd = [pa.array([b"\xff"]), pa.array([1.5]), pa.array([[1]]), pa.nulls(1), pa.array(["a"]).dictionary_encode()]
        return _as_parquet(pa.table({name: draw.choice(odd) for name in ("prompt", "chosen", "rejected", "more")}))


def _as_parquet(table: Any) -> bytes:
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()
