"""Reads what trackers have written to files."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def summaries(folder: Path) -> list[tuple[int, Any]]:
    """(step, value) of TensorBoard's event files of a folder, in the order in which they were written."""
    from tensorboardX.proto.event_pb2 import Event

    found: list[tuple[int, Any]] = []
    for file in sorted(folder.glob("events*")):
        data = file.read_bytes()
        while data:  # length, its checksum, the event, its checksum
            (size,) = struct.unpack("<Q", data[:8])
            event = Event.FromString(data[12 : 12 + size])
            found += [(event.step, value) for value in event.summary.value]
            data = data[16 + size :]
    return found


def scalars(folder: Path, name: str) -> list[tuple[int, float]]:
    """(step, value) of one number."""
    return [(step, value.simple_value) for step, value in summaries(folder) if value.tag == name]


def wandb_records(file: Path) -> Iterator[Any]:
    """The records of a run's file, which is a log of LevelDB's format behind 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, record = file.read_bytes(), 7, b""
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        size, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        record += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(record)
            record = b""
