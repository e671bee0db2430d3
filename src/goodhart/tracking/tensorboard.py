"""TensorBoard's event files."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from goodhart.tracking.tracker import Sample, Subject


@dataclass(frozen=True, slots=True)
class TensorBoard:
    """Event files below a folder, one folder for each run."""

    folder: Path

    def open(self, subject: Subject) -> Events:
        """A further event file of the run, which TensorBoard shows with the earlier ones."""
        parts = (re.sub(r"[^\w .,=+()-]", "_", part).strip(". ") or "_" for part in subject.name.split("/"))
        folder = self.folder.joinpath(*parts)
        number = len(list(folder.glob("events*")))
        # a file is named by the second in which it is begun, and one of the same name would be written over
        writer = import_module("tensorboardX").SummaryWriter(str(folder), filename_suffix=f".{number:04d}")
        if number == 0:
            writer.add_text("settings", _as_written(json.dumps(subject.settings, indent=1, default=str)), 0)
        return Events(writer)


@dataclass(frozen=True, slots=True)
class Events:
    """See `goodhart.tracking.tracker.Tracked`."""

    writer: Any

    def log(self, records: Sequence[Mapping[str, float]]) -> None:
        """One scalar for each number."""
        for record in records:
            for name, value in record.items():
                if name != "step":
                    self.writer.add_scalar(name, value, int(record["step"]))
        self.writer.flush()

    def show(self, samples: Sequence[Sample], step: int) -> None:
        """A text for each sample."""
        for number, sample in enumerate(samples):
            both = f"{sample.prompt}\n\n=> {sample.response}"
            self.writer.add_text(f"samples/{number}", _as_written(both), step)
        self.writer.flush()

    def alarm(self, words: str, step: int) -> None:
        """The scalar `alarm`, and its words."""
        self.writer.add_scalar("alarm", 1.0, step)
        self.writer.add_text("alarm", _as_written(words), step)
        self.writer.flush()

    def close(self) -> None:
        """End the event file."""
        self.writer.close()


def _as_written(text: str) -> str:
    """TensorBoard reads texts as Markdown; as code they stay what they are."""
    return "\n".join(f"    {line}" for line in text.split("\n"))
