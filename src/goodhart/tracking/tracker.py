"""What a tracker is asked for, and which there are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol, cast, get_args, runtime_checkable

from goodhart.errors import GoodhartError

Name = Literal["tensorboard", "wandb", "mlflow", "trackio"]
NAMES: tuple[Name, ...] = get_args(Name)
_MODULES: dict[Name, tuple[str, ...]] = {
    "tensorboard": ("tensorboardX",),
    "wandb": ("wandb",),
    "mlflow": ("mlflow", "sqlalchemy"),
    "trackio": ("trackio",),
}


@dataclass(frozen=True, slots=True)
class Subject:
    """A training run as trackers know it."""

    id: str
    """Of no other run."""
    name: str
    """For people."""
    group: str
    """The study."""
    settings: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Sample:
    """A response that a checkpoint wrote. Both texts are plain: nothing in them is markup or a control character."""

    prompt: str
    response: str


@runtime_checkable
class Tracked(Protocol):
    """A run in a tracker. One that was there before is gone on with."""

    def log(self, records: Sequence[Mapping[str, float]]) -> None:
        """Add records, each with its `step`."""
        ...

    def show(self, samples: Sequence[Sample], step: int) -> None:
        """Add what the checkpoint of a step wrote."""
        ...

    def alarm(self, words: str, step: int) -> None:
        """Mark the run as one that diverges."""
        ...

    def close(self) -> None:
        """Let what was added be on its place."""
        ...


@runtime_checkable
class Tracker(Protocol):
    """Keeps runs."""

    def open(self, subject: Subject) -> Tracked:
        """A run, new or as it was left."""
        ...


def check_trackers(names: Sequence[str]) -> tuple[Name, ...]:
    """The trackers of these names, each once.

    Raises GoodhartError for a name that is none's and for a library that is not installed.
    """
    for name in names:
        if name not in NAMES:
            raise GoodhartError(f"there is no tracker {name!r}", f"there are: {', '.join(NAMES)}")
        for module in _MODULES[name]:
            if find_spec(module) is None:
                raise GoodhartError(f"the tracker {name!r} needs {module}", f"pip install 'goodhart[{name}]'")
    return cast("tuple[Name, ...]", tuple(dict.fromkeys(names)))


def tracker_of(name: Name, folder: Path) -> Tracker:
    """The tracker of a name, which keeps its files below `folder`."""
    folder = folder.resolve() / name
    folder.mkdir(parents=True, exist_ok=True)
    if name == "tensorboard":
        from goodhart.tracking.tensorboard import TensorBoard

        return TensorBoard(folder)
    if name == "wandb":
        from goodhart.tracking.wandb import Wandb

        return Wandb(folder)
    if name == "mlflow":
        from goodhart.tracking.mlflow import Mlflow

        return Mlflow.of(folder)
    from goodhart.tracking.trackio import Trackio

    return Trackio(folder)
