"""Studies of a finite world: what their files may not say, and their cells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from goodhart import functions
from goodhart.alignment.exact import refuse_in_tables, why_sampled
from goodhart.alignment.extensions import code_of
from goodhart.alignment.method import Method
from goodhart.cells.cell import Cell
from goodhart.config import plain_data
from goodhart.errors import GoodhartError
from goodhart.recipes.arm import KEYED, Arm, settings_of
from goodhart.studies.plan import GOLDEN_POLICY, SFT, Graph, Measured, Trunk
from goodhart.tasks.world import CSV, World

if TYPE_CHECKING:
    from goodhart.studies.spec import Study

UNREAD = (
    *("task", "policy", "sft", "pool", "golden", "proxy", "golden_policy"),
    *("variants", "best_of", "measurement", "precision"),
)
"""Sections of a study of language models that a tabular study does not read."""


def refuse_unread_beside_world(data: Mapping[str, Any]) -> None:
    """Raises GoodhartError for a section that a study file with a world has in vain."""
    world = data.get("world")
    if world is None:
        return
    for key in UNREAD:
        if key in data:
            raise GoodhartError(
                f"{key} is not read: the study has a world, so its policies are tables",
                f"leave {key} out, or leave world out",
            )
    if "labels" in data and isinstance(world, dict) and world.get("data", World().data) != "labels":
        raise GoodhartError(
            "labels is not read: world.data is population, which has every pair with its true preference",
            "set world.data=labels, or leave labels out",
        )


def refuse_arms(study: Study) -> None:
    """Raises GoodhartError for a method that a finite world has not, by its name, and for contrasts of streams."""
    if study.labels.file:
        raise GoodhartError(
            "labels.file is not read: the study has a world, whose labels are drawn from its table",
            "leave labels.file out, or leave world out",
        )
    for name, arm in study.arms.items():
        refuse_in_tables(name, arm.method)
        if arm.checkpoint:
            problem = f"arm {name!r} is a checkpoint, and the policies of a tabular world are tables"
            raise GoodhartError(problem, "leave it out")
        if arm.adapter:
            raise GoodhartError(
                f"arm {name!r} trains an adapter, and the policies of a finite world are tables",
                f"leave arms.{name}.adapter out",
            )
        if arm.sampler != KEYED:
            raise GoodhartError(
                f"arm {name!r} has sampler {arm.sampler!r}, and the policies of a tabular world are tables",
                "leave sampler out",
            )
        if arm.start:
            raise GoodhartError(
                f"arm {name!r} has start {arm.start!r}, and the policies of a tabular world begin at the reference",
                "leave start out",
            )
    for name, hypothesis in study.hypotheses.items():
        for i, contrast in enumerate(hypothesis.contrasts):
            if contrast.stream or contrast.measure == "hidden":
                what = "a stream" if contrast.stream else "the hidden measure"
                raise GoodhartError(
                    f"hypotheses.{name}.contrasts[{i}] asks for {what}, which a tabular study has not",
                    "take another statistic or measure",
                )


def is_exact(world: World, method: Method, responses: int) -> bool:
    """Whether a method's step is an expectation in this world, so that seeds change nothing."""
    return world.gradient == "exact" and not why_sampled(method, responses)


def responses_of(world: World) -> int:
    """How many responses a prompt has; of a file they are counted. Raises GoodhartError if it cannot be read."""
    if world.kind != CSV:
        return world.responses
    from goodhart.tasks.world_file import read_tables

    return len(read_tables(world).responses)


def tabular_graph(study: Study, world: World, reach: Mapping[str, int]) -> Graph:
    """The cells of a study of a finite world: its tables, labels where it has any, runs, and what is measured.

    Where all is enumerated, the runs of all seeds are one.
    """
    return _Builder(study, world, reach).graph()


class _Builder:
    def __init__(self, study: Study, world: World, reach: Mapping[str, int]) -> None:
        self.study, self.reach, self.settings = study, reach, world
        self.responses = responses_of(world)
        self.world = _world(world)
        self.shared = {"world": self.world}
        if world.data == "labels":
            spec = {"labels": study.labels, "prior": world.prior, "seed": world.seed}
            label = f"{study.labels.number} labels"
            self.shared["labels"] = Cell("world labels", spec, {"world": self.world}, label)

    def graph(self) -> Graph:
        known = self.shared.get("labels", self.world)
        trunk = Trunk(self.world, known, self.world, self.world, self.world, known, self.world, SFT)
        runs: dict[tuple[str, str, int], Cell] = {}
        measured = self._baselines()
        for name, arm in self.study.arms.items():
            for seed in self.study.seeds[: self.reach.get(name, len(self.study.seeds))]:
                for setting, single in settings_of(arm):
                    runs[name, setting, seed] = self._run(name, setting, single, seed)
                    measured += self._measured(name, setting, single, seed, runs[name, setting, seed])
        quality = {"golden": self.world, "proxy": known}
        return Graph(self.world, self.world, self.world, {"": trunk}, quality, runs, measured, [])

    def _run(self, name: str, setting: str, arm: Arm, seed: int) -> Cell:
        exact = is_exact(self.settings, arm.method, self.responses)
        kind = arm.method.kind
        spec = {"arm": replace(arm, batch=Arm().batch) if exact else arm, "seed": 0 if exact else seed, "exact": exact}
        spec |= code_of(kind)
        label = f"{name} {setting}" + ("" if exact else f" seed {seed}")
        places = functions.texts_in(plain_data(spec)) | ({"code": kind.code} if kind.code else {})
        return Cell("tabular run", spec, self.shared, label, places)

    def _measured(self, name: str, setting: str, arm: Arm, seed: int, run: Cell) -> list[Measured]:
        steps = arm.checkpoint_steps()
        cell = Cell("tabular evaluation", {"steps": steps}, {**self.shared, "run": run}, f"measure {run.label}")
        beta = arm.beta[0] if arm.beta else None
        return [
            Measured(cell, name, setting, beta, arm.lr[0], seed, step, *_files(str(step)), run=run) for step in steps
        ]

    def _baselines(self) -> list[Measured]:
        cell = Cell("tabular evaluation", {"steps": []}, self.shared, "measure the reference and the equilibrium")
        beta = self.settings.golden_beta
        return [
            Measured(cell, SFT, "", None, None, 0, 0, *_files("sft")),
            Measured(cell, GOLDEN_POLICY, f"beta={beta:g}", beta, None, 0, 0, *_files("golden")),
        ]


def _files(name: str) -> tuple[str, str]:
    return f"rows-{name}.parquet", f"pairs-{name}.parquet"


def _world(world: World) -> Cell:
    """The tables depend on what draws them alone; a file is named by its content."""
    spare = World()
    drawn = replace(world, data=spare.data, prior=spare.prior, gradient=spare.gradient)
    if world.kind != CSV:
        return Cell("world", {"world": drawn}, {}, f"{world.kind} world")
    from goodhart.tasks.world_file import digest

    spec = {"world": drawn, "digest": digest(world.file)}
    return Cell("world", spec, {}, f"world of {world.file}", {"world": world.file})
