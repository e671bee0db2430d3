"""Cells made by tasks of a Ray cluster."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from goodhart.cells.cell import Cell
from goodhart.cells.launch import Launch, Resources
from goodhart.cells.work import ENVIRONMENT, Ended, Failure, Lost, Task
from goodhart.errors import GoodhartError

_UNLIMITED = 10**6
_WORDS = 300


@dataclass(slots=True)
class RayCluster:
    """An executor whose workers are tasks of Ray (`goodhart.cells.executor.Executor`)."""

    launch: Launch
    ray: Any
    task: Callable[[Cell, int], Task]
    pause: float = 10.0
    given: dict[Any, Cell] = field(default_factory=dict[Any, Cell])
    """Cells by the reference to what their task will return."""

    @property
    def tries(self) -> int:
        """How often a cell is begun at most."""
        return self.launch.tries

    def room(self) -> int:
        """As many cells as the launch allows at once."""
        return max(0, (self.launch.at_once or _UNLIMITED) - len(self.given))

    def begin(self, cells: Sequence[Cell]) -> None:
        """Give the cells to Ray, which begins each where there is room for it."""
        for cell in cells:
            resources = self.launch.of(cell.kind)
            remote = self.ray.remote(**options(resources))(_made)
            self.given[remote.remote(self.task(cell, resources.cpus))] = cell

    def ended(self, seconds: float) -> list[tuple[Cell, Ended]]:
        """The cells whose task has returned, or is lost."""
        if not self.given:
            time.sleep(seconds)
            return []
        ready, _ = self.ray.wait(list(self.given), num_returns=len(self.given), timeout=seconds, fetch_local=False)
        return [(cell := self.given.pop(each), self._result(cell, each)) for each in ready]

    def place(self, cell: Cell) -> str:  # noqa: ARG002
        """Ray tells of a task's machine only those who ask its dashboard."""
        return "in Ray"

    def cancel(self) -> None:
        """Take all tasks back, also those that run."""
        for each in self.given:
            with suppress(Exception):
                self.ray.cancel(each, force=True)

    def _result(self, cell: Cell, reference: Any) -> Ended:
        errors = self.ray.exceptions
        what = cell.label or cell.id
        try:
            return self.ray.get(reference)
        except errors.RayTaskError as error:
            words = " ".join(str(error).split())[-_WORDS:]
            return Failure(f"{what}: {words}", "see that goodhart is installed alike on every machine", str(error))
        except errors.RuntimeEnvSetupError as error:
            words = " ".join(str(error).split())[:_WORDS]
            return Failure(f"Ray cannot begin a task ({words})", "pip install 'goodhart[ray]' anew", everywhere=True)
        except errors.RayError as error:
            words = " ".join(str(error).split())[:_WORDS]
            return Lost(
                f"Ray lost its task ({type(error).__name__}: {words})",
                "where memory ran out, give more in executor.resources",
            )


def _made(task: Task) -> bool | Failure:
    return task()


def options(resources: Resources) -> dict[str, Any]:
    """What Ray is told of a task; it tries none again by itself."""
    memory = {"memory": int(resources.memory * 2**30)} if resources.memory else {}
    return {
        "num_cpus": resources.cpus,
        "num_gpus": resources.gpus,
        "max_retries": 0,
        "runtime_env": {"env_vars": ENVIRONMENT},
        **memory,
    }


@contextmanager
def ray_cluster(root: Path, launch: Launch, kernels: str, chosen_for: tuple[str, str]) -> Generator[RayCluster]:
    """An executor that gives tasks to a Ray cluster, or to one that is begun here (`launch.address`).

    Tasks that are left when the context ends by an exception are cancelled. Raises GoodhartError where there is no Ray,
    no such cluster, or none of its machines has what a cell needs.
    """
    ray = _ray()
    if ray.is_initialized():
        raise GoodhartError("this process has begun Ray already", "call ray.shutdown() first")
    try:
        ray.init(address=launch.address, log_to_driver=False, configure_logging=False, include_dashboard=False)
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        raise GoodhartError(
            f"there is no Ray cluster at {launch.address!r} ({' '.join(str(error).split())[:_WORDS]})",
            "begin one with 'ray start --head', or set executor.address to local",
        ) from error

    def task(cell: Cell, threads: int) -> Task:
        return Task(str(root.resolve()), cell, threads, kernels, chosen_for)

    executor = RayCluster(launch, ray, task)
    try:
        _check(ray, launch)
        yield executor
    except BaseException:
        executor.cancel()
        raise
    finally:
        ray.shutdown()


def _check(ray: Any, launch: Launch) -> None:
    """A task that asks for more than any machine has would wait for ever."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    for kind, each in launch.resources.items():
        if not any(node.get("CPU", 0) >= each.cpus and node.get("GPU", 0) >= each.gpus for node in nodes):
            raise GoodhartError(
                f"no machine of the Ray cluster has {each.cpus} cores and {each.gpus:g} GPUs, for cells: {kind}",
                "lower executor.resources, or add a machine",
            )


def _ray() -> Any:
    try:
        return import_module("ray")
    except ModuleNotFoundError as error:
        raise GoodhartError("the executor 'ray' needs Ray", "pip install 'goodhart[ray]'") from error
