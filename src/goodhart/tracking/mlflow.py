"""MLflow: a SQLite file, or the server that MLFLOW_TRACKING_URI names."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from goodhart.tracking.tracker import Sample, Subject

_TAG = "goodhart.id"
_AT_ONCE, _PARAMETERS, _LETTERS = 1000, 100, 500
"""What MLflow takes at once: numbers, parameters, letters of a parameter."""


@dataclass(frozen=True, slots=True)
class Mlflow:
    """Experiments of a store, one for each study."""

    client: Any
    artifacts: str | None
    """Where an experiment keeps its files; None leaves that to a server."""

    @classmethod
    def of(cls, folder: Path) -> Mlflow:
        """The store of a folder, or a server."""
        client = import_module("mlflow").MlflowClient
        for name in ("mlflow", "alembic"):  # the screen is the study's
            logging.getLogger(name).setLevel(logging.WARNING)
        server = os.environ.get("MLFLOW_TRACKING_URI")
        if server:
            return cls(client(server), None)
        store = f"sqlite:///{folder / 'mlflow.db'}"
        return cls(client(store, registry_uri=store), (folder / "artifacts").as_uri())

    def open(self, subject: Subject) -> Run:
        """The run with the subject's tag."""
        group = self.client.get_experiment_by_name(subject.group)
        experiment = group.experiment_id if group else self.client.create_experiment(subject.group, self.artifacts)
        known = self.client.search_runs([experiment], f"tags.`{_TAG}` = '{subject.id}'", max_results=1)
        if known:
            return Run(self.client, known[0].info.run_id)
        made = self.client.create_run(experiment, run_name=subject.name, tags={_TAG: subject.id})
        run = Run(self.client, made.info.run_id)
        run.set(subject.settings)
        return run


@dataclass(frozen=True, slots=True)
class Run:
    """See `goodhart.tracking.tracker.Tracked`."""

    client: Any
    id: str

    def set(self, settings: Mapping[str, Any]) -> None:
        """Parameters, so far as MLflow takes them."""
        entities = import_module("mlflow.entities")
        named = [entities.Param(name, str(value)[:_LETTERS]) for name, value in _flat(settings).items()]
        self.client.log_batch(self.id, params=named[:_PARAMETERS])

    def log(self, records: Sequence[Mapping[str, float]]) -> None:
        """One metric for each number."""
        entities = import_module("mlflow.entities")
        now = int(1000 * time.time())
        metrics = [
            entities.Metric(name, value, now, int(record["step"]))
            for record in records
            for name, value in record.items()
            if name != "step"
        ]
        for first in range(0, len(metrics), _AT_ONCE):
            self.client.log_batch(self.id, metrics=metrics[first : first + _AT_ONCE])

    def show(self, samples: Sequence[Sample], step: int) -> None:
        """A text file."""
        text = "\n\n".join(f"{sample.prompt}\n\n=> {sample.response}" for sample in samples)
        self.client.log_text(self.id, text, f"samples/step-{step}.txt")

    def alarm(self, words: str, step: int) -> None:
        """A tag with the words, and the metric `alarm`."""
        self.client.set_tag(self.id, "alarm", words)
        self.log([{"step": float(step), "alarm": 1.0}])

    def close(self) -> None:
        """Mark the run as ended."""
        self.client.set_terminated(self.id)


def _flat(settings: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, value in settings.items():
        result |= _flat(value, f"{before}{name}.") if isinstance(value, Mapping) else {f"{before}{name}": value}
    return result
