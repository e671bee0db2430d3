"""What a training run keeps beside its parameters: the stream of its pairs, and a policy that samples with delay."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from goodhart.alignment.batch import Pairs
from goodhart.alignment.pair_table import write_pairs
from goodhart.alignment.policy import LanguagePolicy
from goodhart.alignment.sources import DelayedSource
from goodhart.training.alignment import Step

STREAM = "stream"
"""The split under which recorded pairs are stored."""


@dataclass(slots=True)
class Stream:
    """The pairs of a run in their order: (step, place), both responses, label, reference log-probabilities.

    They are kept in one file for each checkpoint, so that a run that goes on loses and repeats none.
    """

    folder: Path
    start: int
    """The checkpoint that the run goes on from; what a killed process wrote behind it is forgotten."""
    pending: list[Step] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder.mkdir(exist_ok=True)
        for part in self.folder.iterdir():
            if not part.stem.isdigit() or int(part.stem) > self.start:
                part.unlink()

    def add(self, step: Step) -> None:
        """One more batch."""
        self.pending.append(step)

    def save(self, step: int) -> None:
        """Write what was added since the last checkpoint."""
        ids = [f"{s.step}-{i}" for s in self.pending for i in range(len(s.pairs))]
        temporary = self.folder / f"{step:09d}.tmp"
        write_pairs(
            temporary, Pairs.joined([s.pairs for s in self.pending]), ids, [STREAM] * len(ids), ["run"] * len(ids)
        )
        temporary.replace(self.folder / f"{step:09d}.parquet")
        self.pending.clear()

    def gather(self, path: Path) -> None:
        """All of it as one table."""
        parts = [pq.read_table(part) for part in sorted(self.folder.glob("*.parquet"))]
        pq.write_table(pa.concat_tables(parts), path)


@dataclass(frozen=True, slots=True)
class SamplerState:
    """Keeps the delayed policy of a source across interruptions."""

    folder: Path
    source: DelayedSource

    def save(self, step: int) -> None:
        """Write the sampling policy's weights under the checkpoint's number."""
        assert isinstance(self.source.held, LanguagePolicy)
        path = self.folder / f"sampler-{step}.pt"
        model: Any = self.source.held.model
        torch.save(model.state_dict(), path.with_suffix(".tmp"))
        path.with_suffix(".tmp").replace(path)

    def load(self, step: int, policy: LanguagePolicy) -> None:
        """Give the source the sampling policy that it had at this checkpoint."""
        held = policy.frozen()
        held.model.load_state_dict(
            torch.load(self.folder / f"sampler-{step}.pt", map_location="cpu", weights_only=True)
        )
        self.source.held = held
