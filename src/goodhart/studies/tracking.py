"""Watches the training runs of a study: alarms on the screen, steps and measurements to the trackers."""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from goodhart.cells.cell import Cell, closure
from goodhart.cells.executor import Progress
from goodhart.cells.screen import Screen
from goodhart.cells.steps import steps_file
from goodhart.cells.store import Store
from goodhart.studies.plan import Graph, Measured
from goodhart.tracking.follow import Follow, Sinks, sinks_of
from goodhart.tracking.sink import Run
from goodhart.tracking.tracker import Name, Sample

FOLDER = "tracking"
"""The folder of a root that has what trackers keep."""
_SECONDS = 5.0
"""Between two looks at the running cells at least."""
_SAMPLES = 4
"""Of a checkpoint, that are shown."""
_DIGITS = 6


@contextmanager
def observed(study: str, graph: Graph, store: Store, screen: Screen, track: Sequence[Name]) -> Generator[Observer]:
    """What watches a study beside its screen. At its beginning and end the trackers are given what they lack.

    One command at a time forwards a study's runs; any other says so and leaves it.
    """
    with ExitStack() as stack:
        mine = bool(track) and stack.enter_context(store.lock(f"{FOLDER}-{study}"))
        if track and not mine:
            screen.tell("another command forwards the runs of this study to trackers; this one does not")
        sinks = stack.enter_context(sinks_of(track if mine else (), store.root / FOLDER, study, screen.tell))
        observer = Observer(store, screen, sinks, _runs(study, graph), _measurements(graph))
        cells = closure(graph.targets) if mine else []
        observer.catch_up(cells)
        yield observer
        observer.catch_up(cells)


@dataclass(slots=True)
class Observer:
    """A screen that also follows the training runs (`goodhart.cells.executor.Watch`)."""

    store: Store
    screen: Screen
    sinks: Sinks
    runs: dict[str, Run]
    """Every cell as trackers would name it."""
    measurements: dict[str, Measured]
    """By the cell that measures; of one that measures several checkpoints, the last."""
    follows: dict[str, Follow] = field(default_factory=dict[str, Follow])
    ended: set[str] = field(default_factory=set[str])
    due: float = 0.0

    def __call__(self, progress: Progress, finished: Cell | None) -> None:
        """Look at what has ended at once, and at what runs every few seconds."""
        self.screen(progress, finished)
        if finished is not None and finished.id in progress.failed:
            self._failed(finished, progress.failed[finished.id][1].problem)
        elif finished is not None:
            self._done(finished)
        began = time.monotonic()
        if began >= self.due:
            for cell, _ in progress.running.values():
                self._follow(cell).look(steps_file(self.store, cell.id))
            self.due = time.monotonic() + max(_SECONDS, time.monotonic() - began)

    def catch_up(self, cells: Sequence[Cell]) -> None:
        """Give the trackers what they lack of finished cells, whoever made them."""
        for cell in cells:
            if cell.id not in self.ended and self.store.has(cell.id):
                self._done(cell)

    def _follow(self, cell: Cell) -> Follow:
        return self.follows.setdefault(cell.id, Follow(self.runs[cell.id], self.sinks, self.screen.warn))

    def _done(self, cell: Cell) -> None:
        self.ended.add(cell.id)
        self._follow(cell).look(steps_file(self.store, cell.id))
        if cell.id in self.measurements:
            self._measured(self.measurements[cell.id])

    def _failed(self, cell: Cell, problem: str) -> None:
        follow = self._follow(cell)
        path = steps_file(self.store, cell.id)
        follow.look(path)
        if path.exists() and not follow.diverges:
            self.sinks.give(lambda sink: sink.alarm(follow.run, f"failed: {problem}", follow.last + 1))

    def _measured(self, item: Measured) -> None:
        policy = item.run or item.cell.inputs.get("policy")
        means: dict[str, float] = self.store.record(item.cell.id)["result"].get("means", {})
        if policy is None or not means:
            return
        follow = self._follow(policy)
        if not follow.tail.given:  # of an SFT policy, whose only step that is measured is its last
            follow.look(steps_file(self.store, policy.id))
        step = item.step or follow.last
        follow.measured(item.cell.id, step, means, lambda: samples(self.store, item))
        wrong = [f"{name} is {value} in the evaluation of step {step}" for name, value in means.items()
                 if not math.isfinite(value)]  # fmt: skip
        if wrong and not follow.diverges:
            follow.alarm(wrong[0], step)


def samples(store: Store, item: Measured) -> list[Sample]:
    """The first few responses of a checkpoint to held-out prompts."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    table = pq.read_table(store.open(item.cell.id) / item.rows, columns=["split", "prompt", "sample", "text"])
    chosen = table.filter((pc.field("split") == "held_out") & (pc.field("sample") == 0)).slice(0, _SAMPLES)
    names, written = (chosen.column(name).to_pylist() for name in ("prompt", "text"))
    prompts = item.cell.inputs.get("prompts")
    texts: dict[str | None, str] = {}
    if prompts is not None:
        from goodhart.tasks.prompt_table import find_prompts

        rows = find_prompts(store.open(prompts.id) / "prompts.parquet", names)
        texts |= {name: row.text for name, row in rows.items()}
    return [Sample(texts.get(name, str(name)), str(text)) for name, text in zip(names, written, strict=True)]


def _runs(study: str, graph: Graph) -> dict[str, Run]:
    """Names end with the first digits of the address: a study that is changed has other runs of the same name."""
    names = {cell.id: cell.label or cell.kind for cell in closure(graph.targets)}
    for (arm, setting, seed), cell in reversed(graph.runs.items()):
        names[cell.id] = "/".join(part for part in (arm, setting, f"seed {seed}") if part)
    settings = {cell.id: cell.spec["settings"] for cell in (*closure(graph.targets), *graph.runs.values())}
    return {
        cell: Run(cell, f"{study}/{name} ({cell.rpartition('-')[2][:_DIGITS]})", settings[cell])
        for cell, name in names.items()
    }


def _measurements(graph: Graph) -> dict[str, Measured]:
    return {item.cell.id: item for item in graph.measured}
