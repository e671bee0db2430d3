"""Where a study's cells are made, as its file or the command line says."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from goodhart.cells.registry import RECIPES
from goodhart.config import Count, Range, Whole
from goodhart.errors import GoodhartError

if TYPE_CHECKING:
    from goodhart.cells.executor import Executor
    from goodhart.cells.worker import Groups

Kind = Literal["local", "slurm", "ray"]
OTHERS = "others"
"""Names the resources of all kinds of cells that have none of their own."""


@dataclass(frozen=True)
class Resources:
    """What a cell has on a cluster."""

    cpus: Count = 1
    """Cores: as many threads compute its batches and micro-batches, with the same bits."""
    gpus: Annotated[float, Range(0, 1024)] = 0.0
    """GPUs, all of one machine; with Ray also a part of one, which several cells then share."""
    memory: Annotated[float, Range(0, 2**20)] = 0.0
    """GiB; 0 leaves it to the cluster."""
    minutes: Count = 240
    """After which Slurm stops it and queues it again, to go on where it was."""


@dataclass(frozen=True)
class Launch:
    """Where the cells are made: processes of this machine, a Slurm cluster, or a Ray cluster."""

    kind: Kind = "local"
    """`slurm` submits array jobs, `ray` runs tasks; both need the root on a folder that all machines see."""
    processes: Count = 1
    """Processes that make a cell together, for models that do not fit into one GPU: each has a GPU of its own, a part
    of every weight, and computes its share of every batch. For `local` alone."""
    at_once: Whole = 0
    """How many cells are given to the cluster at once at most; 0: all whose inputs are done."""
    tries: Count = 3
    """How often a cell is begun at most whose process or machine is lost."""
    resources: dict[str, Resources] = field(default_factory=dict[str, Resources])
    """By kind of cell (`run`, `evaluation` …), and `others` for all other kinds."""
    slurm: dict[str, str] = field(default_factory=dict[str, str])
    """Options of sbatch by submitit's names: partition, account, qos, constraint, gres …"""
    address: str = "auto"
    """The Ray cluster: `auto` is the one that this machine belongs to, `local` one that is begun here and ends with the
    study."""

    def validate(self) -> None:
        """Raises GoodhartError for a kind of cell that does not exist, or for more processes than it begins."""
        if self.processes > 1 and self.kind != "local":
            raise GoodhartError(
                f"executor.processes is {self.processes}, and the executor {self.kind!r} begins one process for a cell",
                "leave executor.processes out: a cell of several GPUs then has its models' layers on all of them",
            )
        for kind in self.resources:
            if kind != OTHERS and kind not in RECIPES:
                known = ", ".join([*sorted(RECIPES), OTHERS])
                raise GoodhartError(f"executor.resources: there is no kind of cell {kind!r}", f"there are: {known}")
        if self.kind == "slurm":
            for kind, each in self.resources.items():
                if each.gpus != int(each.gpus):
                    raise GoodhartError(
                        f"executor.resources.{kind}.gpus is {each.gpus:g}", "Slurm gives whole GPUs: give 1, or use ray"
                    )

    def of(self, kind: str) -> Resources:
        """What a cell of a kind has."""
        resources: Mapping[str, Resources] = self.resources
        return resources.get(kind) or resources.get(OTHERS) or Resources()


def executor_of(
    launch: Launch, root: Path, workers: int, kernels: str, folder: Path, groups: Groups = ()
) -> AbstractContextManager[Executor]:
    """What makes the cells of `root`; logs lie in the study's `folder`.

    `kernels` are those that were chosen for this machine; `workers` and `groups` are those of a local one. Raises
    GoodhartError, when the context is entered, for an executor that is not installed or not reachable.
    """
    log = folder / "log.txt"
    if launch.kind == "local":
        from goodhart.cells.local import local

        return local(root, workers, kernels, groups, log, launch.processes)
    from goodhart.cells.record import here

    if launch.kind == "slurm":
        from goodhart.cells.slurm import slurm

        return slurm(root, launch, kernels, here(), folder / "slurm")
    from goodhart.cells.ray_cluster import ray_cluster

    return ray_cluster(root, launch, kernels, here())
