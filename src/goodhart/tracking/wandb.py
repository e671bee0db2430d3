"""Weights & Biases, offline unless WANDB_MODE says otherwise."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from goodhart.tracking.tracker import Sample, Subject

PROJECT = "goodhart"


@dataclass(frozen=True, slots=True)
class Wandb:
    """Runs below a folder, which `wandb sync` uploads; or runs of a server, where WANDB_MODE is online."""

    folder: Path

    def open(self, subject: Subject) -> History:
        """The run, in a further folder where it is offline."""
        wandb = import_module("wandb")
        run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=subject.id,
            name=subject.name,
            group=subject.group,
            config=dict(subject.settings),
            dir=str(self.folder),
            mode=os.environ.get("WANDB_MODE", "offline"),
            resume="allow",
            reinit="create_new",
            settings=wandb.Settings(
                console="off", silent=True, x_disable_stats=True, disable_git=True, save_code=False, disable_code=True
            ),
        )
        run.define_metric("*", step_metric="step")  # evaluations come later than the steps that follow their own
        return History(run)


@dataclass(frozen=True, slots=True)
class History:
    """See `goodhart.tracking.tracker.Tracked`."""

    run: Any

    def log(self, records: Sequence[Mapping[str, float]]) -> None:
        """A row of the history for each record."""
        for record in records:
            self.run.log(dict(record))

    def show(self, samples: Sequence[Sample], step: int) -> None:
        """A table of texts, which are shown as they are."""
        wandb = import_module("wandb")
        rows = [[step, sample.prompt, sample.response] for sample in samples]
        self.run.log({"step": step, "samples": wandb.Table(columns=["step", "prompt", "response"], data=rows)})

    def alarm(self, words: str, step: int) -> None:
        """A tag, the words in the summary, and a row of the history."""
        self.run.tags = (*(self.run.tags or ()), "alarm")
        self.run.summary["alarm_words"] = words
        self.run.log({"step": step, "alarm": 1.0})

    def close(self) -> None:
        """Wait for what was logged."""
        self.run.finish()
