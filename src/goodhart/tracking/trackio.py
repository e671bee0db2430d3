"""Trackio: a local SQLite file, or what TRACKIO_SPACE_ID or TRACKIO_SERVER_URL name."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from goodhart.tracking.tracker import Sample, Subject

PROJECT = "goodhart"


@dataclass(frozen=True, slots=True)
class Trackio:
    """Runs below a folder, unless TRACKIO_DIR says otherwise."""

    folder: Path

    def open(self, subject: Subject) -> Run:
        """The run of the subject's name."""
        os.environ.setdefault("TRACKIO_DIR", str(self.folder))  # which it reads when it is first imported
        return Run(subject)


@dataclass(frozen=True, slots=True)
class Run:
    """See `goodhart.tracking.tracker.Tracked`. Trackio has one run at a time, so it is opened for each addition."""

    subject: Subject

    def log(self, records: Sequence[Mapping[str, float]]) -> None:
        """A row for each record."""
        with self._open() as run:
            for record in records:
                numbers = {name: value for name, value in record.items() if name != "step"}
                run.log(numbers, step=int(record["step"]))

    def show(self, samples: Sequence[Sample], step: int) -> None:
        """A table of texts."""
        trackio = import_module("trackio")
        rows = [[sample.prompt, sample.response] for sample in samples]
        with self._open() as run:
            run.log({"samples": trackio.Table(columns=["prompt", "response"], data=rows)}, step=step)

    def alarm(self, words: str, step: int) -> None:
        """An alert, and the number `alarm`."""
        trackio = import_module("trackio")
        with self._open() as run:
            run.alert("diverges", words, level=trackio.AlertLevel.ERROR, step=step)
            run.log({"alarm": 1.0}, step=step)

    def close(self) -> None:
        """Nothing is open."""

    @contextlib.contextmanager
    def _open(self) -> Generator[Any]:
        trackio = import_module("trackio")
        with contextlib.redirect_stdout(io.StringIO()):  # the screen is the study's
            run = trackio.init(
                PROJECT,
                name=self.subject.name,
                group=self.subject.group,
                config=dict(self.subject.settings),
                resume="allow",
                embed=False,
                auto_log_cpu=False,
                auto_log_gpu=False,
            )
            try:
                yield run
            finally:
                trackio.finish()
