"""From a study to its cells."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from typing import Any

from goodhart.config import plain_data
from goodhart.errors import GoodhartError
from goodhart.models.checkpoint import Checkpoint, find
from goodhart.study.cell import Cell
from goodhart.study.spec import Arm, Study
from goodhart.tasks import docstrings
from goodhart.tasks.data_digest import data_digest

SFT, GOLDEN_POLICY = "sft", "golden policy"
"""Names of the two baselines among the arms of a table."""


@dataclass(frozen=True, slots=True)
class Measured:
    """An evaluation cell and the name of what it measures."""

    cell: Cell
    arm: str
    setting: str
    beta: float | None
    lr: float | None
    seed: int
    step: int


@dataclass(frozen=True, slots=True)
class Graph:
    """All cells of a study."""

    prompts: Cell
    sft: Cell
    pairs: Cell
    golden: Cell
    labels: Cell
    proxy: Cell
    golden_policy: Cell
    opponents: Cell
    quality: dict[str, Cell]
    """How well each preference model judges, by role."""
    runs: dict[str, list[Cell]]
    """Training runs by arm."""
    measured: list[Measured]

    @property
    def targets(self) -> list[Cell]:
        """What must be there in the end."""
        return [*(m.cell for m in self.measured), self.opponents, *self.quality.values()]


def settings_of(arm: Arm) -> Iterator[tuple[str, Arm]]:
    """The points of an arm's sweep: a name, and the arm at one beta and one learning rate."""
    for beta in arm.beta:
        for lr in arm.lr:
            yield f"beta={beta:g} lr={lr:g}", replace(arm, beta=(beta,), lr=(lr,))


def build_graph(study: Study) -> Graph:
    """The cells of a study, each found by the digest of what it is made of.

    Raises GoodhartError for models or data that cannot be found.
    """
    policy = find(study.policy)
    prompts, people = _data_cells(study, policy)
    small = {"max_response": study.task.max_response}
    sft = Cell("sft", {"sft": study.sft, "model": _named(study.policy, policy), **small}, {"prompts": prompts}, "SFT")
    pool = {"task": study.task, "pool": study.pool}
    pairs = people or Cell("pairs", pool, {"prompts": prompts, "sft": sft}, "initial pairs")
    golden = _preference_cell("golden", study, policy, {"prompts": prompts, "pairs": pairs})
    labels = Cell(
        "labels",
        {"labels": study.labels},
        {"prompts": prompts, "pairs": pairs, "golden": golden, "sft": sft},
        "golden labels",
    )
    proxy = _preference_cell("proxy", study, policy, {"prompts": prompts, "pairs": labels})
    trunk = {"prompts": prompts, "sft": sft, "labels": labels}
    baseline_arm = study.golden_policy
    golden_policy = _run_cell(baseline_arm, 0, study, {**trunk, "judge": golden}, GOLDEN_POLICY)
    last = baseline_arm.checkpoint_steps()[-1]
    opponents = Cell(
        "opponents",
        {"step": last, "train_evaluation": study.task.train_evaluation, **small},
        {**trunk, "golden_policy": golden_policy, "golden": golden, "proxy": proxy},
        "opponents",
    )
    quality = {
        role: Cell(
            "quality", {}, {"prompts": prompts, "pairs": labelled, "model": model}, f"quality of the {role} model"
        )
        for role, model, labelled in (("golden", golden, pairs), ("proxy", proxy, labels))
    }
    graph = Graph(prompts, sft, pairs, golden, labels, proxy, golden_policy, opponents, quality, {}, [])
    _measure(graph, study, SFT, sft, None, 0, [0])
    _measure(graph, study, GOLDEN_POLICY, golden_policy, baseline_arm, 0, baseline_arm.checkpoint_steps())
    for name, arm in study.arms.items():
        graph.runs[name] = []
        for seed in study.seeds:
            for setting, single in settings_of(arm):
                label = f"{name} {setting} seed {seed}"
                run = _run_cell(single, seed, study, _inputs(study, single, seed, trunk, proxy, setting), label)
                graph.runs[name].append(run)
                _measure(graph, study, name, run, single, seed, single.checkpoint_steps())
    return graph


def _inputs(study: Study, arm: Arm, seed: int, trunk: dict[str, Cell], proxy: Cell, setting: str) -> dict[str, Cell]:
    """What a run reads: a policy source its judge, a stream the run that it replays."""
    online = {**trunk, "judge": proxy}
    if arm.source == "data":
        return trunk
    if arm.source == "policy":
        return online
    recorded = replace(study.arms[arm.stream], beta=arm.beta, lr=arm.lr)
    return {**trunk, "stream": _run_cell(recorded, seed, study, online, f"{arm.stream} {setting} seed {seed}")}


def _named(name: str, checkpoint: Checkpoint) -> dict[str, str]:
    return {"name": name, "digest": checkpoint.digest}


def _data_cells(study: Study, policy: Checkpoint) -> tuple[Cell, Cell | None]:
    """The prompts cell, and the cell of people's pairs where the task is a preference data set."""
    shared = {"task": study.task, "tokenizer": _named(study.policy, policy)}
    if study.task.kind == "preferences":
        data = data_digest(study.task.data)
        cell = Cell("preferences", {**shared, "data": data}, label="preference data")
        return cell, cell
    corpus = Cell("corpus", {}, corpus_parts(), "corpus")
    return Cell("prompts", shared, {"corpus": corpus}, "prompts"), None


def corpus_parts() -> dict[str, Cell]:
    """The docstrings of some packages each; their versions are what the corpus is a function of."""
    distributions = packages_distributions()
    python = ".".join(map(str, sys.version_info[:3]))
    cells: dict[str, Cell] = {}
    for number, (side, packages) in enumerate(docstrings.parts()):
        versions = {name: _version(name.split(":")[-1], distributions, python) for name in packages}
        label = f"docstrings, {side} part {number + 1}"
        cells[f"{side} {number + 1}"] = Cell("docstrings", {"packages": versions}, label=label)
    return cells


def _version(module: str, distributions: Mapping[str, list[str]], python: str) -> str:
    if module in sys.stdlib_module_names:
        return python
    try:
        return version(distributions.get(module, [module])[0])
    except PackageNotFoundError as error:
        raise GoodhartError(
            f"package {module!r} of the docstring corpus is not installed", "reinstall goodhart"
        ) from error


def _preference_cell(role: str, study: Study, policy: Checkpoint, inputs: dict[str, Cell]) -> Cell:
    settings = study.golden if role == "golden" else study.proxy
    model = find(settings.model)
    spec: dict[str, Any] = {
        "preference": settings,
        "model": _named(settings.model, model),
        "tokenizer": _named(study.policy, policy),
        "seed": 0,
    }
    return Cell("preference", spec, inputs, f"{role} model")


def _run_cell(arm: Arm, seed: int, study: Study, inputs: dict[str, Cell], label: str) -> Cell:
    spec = {"arm": plain_data(arm), "seed": seed, "max_response": study.task.max_response}
    return Cell("run", spec, inputs, label)


def _measure(graph: Graph, study: Study, name: str, run: Cell, arm: Arm | None, seed: int, steps: list[int]) -> None:
    for step in steps:
        spec = {
            "step": step,
            "seed": 0,
            "pairs": 128,
            "max_response": study.task.max_response,
            "train_evaluation": study.task.train_evaluation,
        }
        inputs = {
            "policy": run,
            "sft": graph.sft,
            "prompts": graph.prompts,
            "labels": graph.labels,
            "golden": graph.golden,
            "proxy": graph.proxy,
            "opponents": graph.opponents,
        }
        setting = "" if arm is None else next(iter(settings_of(arm)))[0]
        cell = Cell("evaluation", spec, inputs, f"measure {run.label} step {step}")
        beta, lr = (None, None) if arm is None else (arm.beta[0], arm.lr[0])
        graph.measured.append(Measured(cell, name, setting, beta, lr, seed, step))
