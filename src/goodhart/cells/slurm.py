"""Cells made by jobs of a Slurm cluster, through submitit."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib import import_module
from itertools import groupby
from pathlib import Path
from typing import Any

from goodhart.cells.cell import Cell
from goodhart.cells.launch import Launch, Resources
from goodhart.cells.work import ENVIRONMENT, Ended, Failure, Lost, Task
from goodhart.errors import GoodhartError

_ASK_SECONDS = 15.0
"""How often Slurm is asked about jobs that have left no result."""
_WARNED_SECONDS = 120
"""How long before its end a job is told that it will end."""
_REQUEUES = 1000
"""How often a job is queued again that has reached its time: a cell takes as long as it takes."""
_UNLIMITED = 10**6
_LOG_LETTERS = 300


@dataclass(frozen=True, slots=True)
class Job:
    """A cell as Slurm runs it: told that its time is up, or that another needs its place, it is queued again."""

    task: Task

    def __call__(self) -> bool | Failure:
        """Make the cell."""
        return self.task()

    def checkpoint(self) -> Any:
        """What submitit queues again: the same, for a cell goes on where it was."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


@dataclass(slots=True)
class Slurm:
    """An executor whose workers are jobs of Slurm (`goodhart.cells.executor.Executor`)."""

    launch: Launch
    task: Callable[[Cell, int], Task]
    submitter: Callable[[Resources, str], Any]
    """A submitit executor for cells with the given resources, by the kind of cell."""
    pause: float = 30.0
    jobs: dict[str, tuple[Cell, Any]] = field(default_factory=dict[str, tuple[Cell, Any]])
    _asked: float = 0.0

    @property
    def tries(self) -> int:
        """How often a cell is begun at most."""
        return self.launch.tries

    def room(self) -> int:
        """As many cells as the launch allows at once."""
        return max(0, (self.launch.at_once or _UNLIMITED) - len(self.jobs))

    def begin(self, cells: Sequence[Cell]) -> None:
        """Submit the cells, an array job for each kind. Raises GoodhartError with what Slurm says."""
        for kind, group in groupby(sorted(cells, key=lambda cell: cell.kind), key=lambda cell: cell.kind):
            resources, each = self.launch.of(kind), list(group)
            try:
                executor = self.submitter(resources, kind)
                with executor.batch():
                    jobs = [executor.submit(Job(self.task(cell, resources.cpus))) for cell in each]
            except Exception as error:
                words = " ".join(str(error).split())[:_LOG_LETTERS]
                raise GoodhartError(
                    f"Slurm takes no jobs ({words})",
                    "see that sbatch works here, and that executor.slurm and executor.resources are what it allows",
                ) from error
            self.jobs.update((cell.id, (cell, job)) for cell, job in zip(each, jobs, strict=True))

    def ended(self, seconds: float) -> list[tuple[Cell, Ended]]:
        """The cells whose job has left a result, or has ended without one."""
        time.sleep(seconds)
        now = time.monotonic()
        force = now - self._asked >= _ASK_SECONDS
        self._asked = now if force else self._asked
        ready = [(cell, job) for cell, job in self.jobs.values() if job.done(force_check=force)]
        for cell, _ in ready:
            del self.jobs[cell.id]
        return [(cell, _result(cell, job)) for cell, job in ready]

    def place(self, cell: Cell) -> str:
        """The job and its state."""
        _, job = self.jobs[cell.id]
        info = job.get_info(mode="cache")
        node = info.get("NodeList", "")
        state = str(info.get("State", "submitted")).lower()
        return f"job {job.job_id} {f'on {node}' if state == 'running' and node else state}"

    def cancel(self) -> None:
        """Take all jobs back."""
        for _, job in self.jobs.values():
            with suppress(Exception):
                job.cancel(check=False)


@contextmanager
def slurm(root: Path, launch: Launch, kernels: str, chosen_for: tuple[str, str], folder: Path) -> Generator[Slurm]:
    """An executor that submits to Slurm; what jobs print, and what they are given, lies in `folder`.

    Jobs that are left when the context ends by an exception are cancelled. Raises GoodhartError where there is no
    Slurm or no submitit.
    """
    submitit = _submitit()

    def submitter(resources: Resources, kind: str) -> Any:
        executor = submitit.SlurmExecutor(folder=folder, max_num_timeout=_REQUEUES)
        executor.update_parameters(**parameters(launch, resources, kind))
        return executor

    def task(cell: Cell, threads: int) -> Task:
        return Task(str(root.resolve()), cell, threads, kernels, chosen_for)

    executor = Slurm(launch, task, submitter)
    try:
        submitter(Resources(), "cells")  # names that submitit does not know are told before anything is submitted
    except RuntimeError as error:
        raise GoodhartError("there is no Slurm here: no program 'srun'", "run this where sbatch works") from error
    except ValueError as error:
        words = " ".join(str(error).split())[:_LOG_LETTERS]
        raise GoodhartError(f"executor.slurm: {words}", "give options of sbatch by submitit's names") from error
    try:
        yield executor
    except BaseException:
        executor.cancel()
        raise


def parameters(launch: Launch, resources: Resources, kind: str) -> dict[str, Any]:
    """What submitit is told of the jobs of a kind of cell."""
    result: dict[str, Any] = {
        "job_name": f"goodhart-{kind.replace(' ', '-')}",
        "time": resources.minutes,
        "cpus_per_task": resources.cpus,
        "signal_delay_s": min(_WARNED_SECONDS, resources.minutes * 15),
        "setup": [f"export {name}={shlex.quote(value)}" for name, value in ENVIRONMENT.items()],
    }
    if resources.gpus:
        result["gpus_per_node"] = int(resources.gpus)
    if resources.memory:
        result["mem"] = f"{int(resources.memory * 1024)}M"
    if launch.at_once:
        result["array_parallelism"] = launch.at_once
    return result | launch.slurm


def _result(cell: Cell, job: Any) -> Ended:
    errors = import_module("submitit.core.utils")
    try:
        return job.result()
    except errors.FailedJobError as error:
        words = " ".join(str(error).split())
        what = cell.label or cell.id
        return Failure(f"{what}: its job failed ({words[-_LOG_LETTERS:]})", f"see {job.paths.stderr}", str(error))
    except errors.UncompletedJobError:
        state = str(job.get_info(mode="cache").get("State", "unknown")).lower()
        return Lost(
            f"Slurm ended its job {job.job_id} without a result (state: {state})",
            f"see {job.paths.stderr}; where memory or time ran out, give more in executor.resources",
        )


def _submitit() -> Any:
    try:
        return import_module("submitit")
    except ModuleNotFoundError as error:
        raise GoodhartError("the executor 'slurm' needs submitit", "pip install 'goodhart[slurm]'") from error
