"""The comparisons of a data set, read one after the other: their text waits in a file, and not as Python objects.

A comparison takes 16 bytes of memory for as long as the data set is open, and its text as many of the folder for
temporary files (`TMPDIR`) as it is long; data of few megabytes make no file.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice, pairwise
from typing import Any, TypeVar, overload

import numpy as np
from jaxtyping import Int

from goodhart.errors import GoodhartError
from goodhart.tasks.preference import DIGEST, Message, Places, Preference, content_digest
from goodhart.tasks.preference_rows import Comparison

T = TypeVar("T")
BATCH = 1024
"""Comparisons that are read from the file at once."""
_IN_MEMORY = 2**24
"""Bytes of text that make no file."""


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """The items in lists of that many; the last one may be shorter."""
    rest = iter(items)
    while part := list(islice(rest, size)):
        yield part


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class Examples(Sequence[Preference]):
    """Comparisons with unique ids: of those with one content, the k-th has "-k" at the end of its id.

    Whoever goes through them has `BATCH` of them in memory.
    """

    file: tempfile.SpooledTemporaryFile[bytes]
    """An Arrow file of record batches without a name, which is gone with these examples."""
    digests: bytes
    repeats: Int[np.ndarray, " pair"]
    """How often the same content stands before."""
    ties: int
    chats: bool
    """Whether a prompt is chat messages."""

    def __len__(self) -> int:
        return len(self.repeats)

    @overload
    def __getitem__(self, index: int) -> Preference: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Preference]: ...
    def __getitem__(self, index: int | slice) -> Preference | Sequence[Preference]:
        places = np.arange(len(self))[index]
        return next(self.at(places.reshape(1))) if isinstance(index, int) else tuple(self.at(places))

    def __iter__(self) -> Iterator[Preference]:
        return self.at(np.arange(len(self)))

    def at(self, places: Places) -> Iterator[Preference]:
        """Those at some places, which are in increasing order."""
        import pyarrow as pa

        reader = pa.ipc.open_file(pa.PythonFile(self.file, "r"))
        edges = np.searchsorted(places, BATCH * np.arange(reader.num_record_batches + 1))
        for number, (start, end) in enumerate(pairwise(edges.tolist())):
            if start < end:
                chosen = places[start:end]
                batch = reader.get_batch(number).take(pa.array(chosen - BATCH * number))
                for place, row in zip(chosen.tolist(), batch.to_pylist(), strict=True):
                    yield Preference(self._id(place), _prompt(row), row["first"], row["second"], row["label"])

    @property
    def duplicates(self) -> int:
        """Comparisons whose prompt, responses and label all stand in an earlier one."""
        return int(np.count_nonzero(self.repeats))

    @property
    def digest(self) -> str:
        """BLAKE2b of all ids, in their order as text: the same comparisons give the same, whatever their order."""
        digest = hashlib.blake2b(digest_size=16)
        for number, name in enumerate(self._sorted_ids()):
            digest.update(f"\n{name}".encode() if number else name.encode())
        return digest.hexdigest()

    def _id(self, place: int) -> str:
        name, again = self.digests[DIGEST * place : DIGEST * (place + 1)].hex(), int(self.repeats[place])
        return f"{name}-{again + 1}" if again else name

    def _sorted_ids(self) -> Iterator[str]:
        alike: list[str] = []
        order = _order(self.digests)
        for place in (int(each) for each in order):
            if not self.repeats[place]:
                yield from sorted(alike)
                alike.clear()
            alike.append(self._id(place))
        yield from sorted(alike)


def stored(comparisons: Iterable[Comparison]) -> Examples:
    """Comparisons as examples, in their order. Raises GoodhartError if the disk has no room for their text."""
    try:
        with ExitStack() as held:
            file = held.enter_context(tempfile.SpooledTemporaryFile(_IN_MEMORY))
            seen = _write(comparisons, file)
            examples = Examples(file, bytes(seen.digests), _repeats(seen.digests), seen.ties, seen.chats)
            weakref.finalize(examples, held.pop_all().close)
    except OSError as fault:
        raise GoodhartError(
            f"the text of the data cannot be kept in {tempfile.gettempdir()}: {fault}",
            "make room there, or set TMPDIR to a folder that has some",
        ) from fault
    return examples


@dataclass(slots=True)
class _Seen:
    """What is known of comparisons without their text."""

    digests: bytearray = field(default_factory=bytearray)
    ties: int = 0
    chats: bool = False

    def add(self, each: Comparison) -> None:
        self.digests += content_digest(each.prompt, each.first, each.second, each.label)
        self.ties += each.label == 0.5
        self.chats |= not isinstance(each.prompt, str)


def _write(comparisons: Iterable[Comparison], file: Any) -> _Seen:
    import pyarrow as pa

    schema = pa.schema(
        [
            ("prompt", pa.large_string()),  # chat messages as JSON
            ("chat", pa.bool_()),
            ("first", pa.large_string()),
            ("second", pa.large_string()),
            ("label", pa.float64()),
        ]
    )
    seen = _Seen()
    with pa.ipc.new_file(pa.PythonFile(file, "w"), schema) as writer:
        for part in batched(comparisons, BATCH):
            for each in part:
                seen.add(each)
            columns = [
                [_text(each.prompt) for each in part],
                [not isinstance(each.prompt, str) for each in part],
                [each.first for each in part],
                [each.second for each in part],
                [each.label for each in part],
            ]
            arrays = [pa.array(column, kind.type) for column, kind in zip(columns, schema, strict=True)]
            writer.write_batch(pa.record_batch(arrays, schema=schema))
    return seen


def _text(prompt: str | tuple[Message, ...]) -> str:
    return prompt if isinstance(prompt, str) else json.dumps([[turn.role, turn.content] for turn in prompt])


def _prompt(row: dict[str, Any]) -> str | tuple[Message, ...]:
    return tuple(Message(*turn) for turn in json.loads(row["prompt"])) if row["chat"] else row["prompt"]


def _order(digests: bytes | bytearray) -> Int[np.ndarray, " pair"]:
    """The places of digests in increasing order, equal ones in the order of their places."""
    return np.argsort(np.frombuffer(digests, dtype=f"S{DIGEST}"), kind="stable")


def _repeats(digests: bytes | bytearray) -> Int[np.ndarray, " pair"]:
    """For each digest how often it stands before."""
    order = _order(digests)
    names = np.frombuffer(digests, dtype=f"S{DIGEST}")[order]
    begins = np.flatnonzero(np.concatenate([np.ones(min(1, len(names)), dtype=bool), names[1:] != names[:-1]]))
    place = np.arange(len(names))
    result = np.empty(len(names), dtype=np.int32)
    result[order] = place - np.repeat(begins, np.diff(np.append(begins, len(names))))
    return result
