"""What a training run keeps beside its parameters: its stream, a delayed policy, what a longer run goes on from."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from goodhart.alignment.batch import Batch
from goodhart.alignment.pair_table import write_pairs
from goodhart.cells.steps import STEPS_FILE
from goodhart.cells.workplace import Workplace
from goodhart.compute.ranks import leads
from goodhart.recipes.arm import Arm
from goodhart.recipes.model_card import write_model_card
from goodhart.training.alignment import Step

STREAM = "stream"
"""The split under which recorded pairs are stored."""
STREAM_FILE, TRAINING_FILE = "stream.parquet", "training.pt"


def begin_from_shorter(work: Workplace, arm: Arm) -> None:
    """Lay out the longest finished run that is the beginning of this one as if this one had been interrupted there.

    It is one that kept every checkpoint that is asked of its steps. Nothing happens where there is none, or where the
    run has begun already.
    """
    if (work.state / TRAINING_FILE).exists():
        return
    wanted = arm.checkpoint_steps()
    finished: list[tuple[int, Path]] = []
    for folder in work.family:
        kept = {int(path.name.removeprefix("step-")) for path in folder.glob("step-*")}
        last = max(kept)
        if not (folder / TRAINING_FILE).is_file():
            continue
        if last < arm.steps and last in wanted and kept.issuperset(step for step in wanted if step <= last):
            finished.append((last, folder))
    if not finished:
        return
    last, folder = max(finished)
    for step in (step for step in wanted if step <= last and leads()):
        shutil.copytree(folder / f"step-{step}", work.folder / f"step-{step}", dirs_exist_ok=True)
        card = f"Policy at step {step}"
        copied = work.folder / f"step-{step}"
        write_model_card(copied, card, work.settings, work.inputs, adapter=arm.adapter is not None)
    shutil.copyfile(folder / STEPS_FILE, work.folder / STEPS_FILE)
    if (folder / STREAM_FILE).is_file():
        (work.state / "stream").mkdir(exist_ok=True)
        shutil.copyfile(folder / STREAM_FILE, work.state / "stream" / f"{last:09d}.parquet")
    # the last file, because with it the run has begun
    if leads():
        shutil.copyfile(folder / TRAINING_FILE, work.state / TRAINING_FILE)
    else:
        (work.state / TRAINING_FILE).symlink_to(folder / TRAINING_FILE)


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
        ids = [f"{s.step}-{i}" for s in self.pending for i in range(len(s.batch))]
        temporary = self.folder / f"{step:09d}.tmp"
        write_pairs(
            temporary, Batch.joined([s.batch for s in self.pending]), ids, [STREAM] * len(ids), ["run"] * len(ids)
        )
        temporary.replace(self.folder / f"{step:09d}.parquet")
        self.pending.clear()

    def gather(self, path: Path) -> None:
        """All of it as one table."""
        parts = [pq.read_table(part) for part in sorted(self.folder.glob("*.parquet"))]
        pq.write_table(pa.concat_tables(parts).combine_chunks(), path)
