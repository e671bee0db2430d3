"""What each cell of a study will hold in memory, said before the first is made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from goodhart.cells.cell import Cell
from goodhart.compute.memory import MIB
from goodhart.errors import GoodhartError
from goodhart.models.checkpoint import find
from goodhart.recipes.arm import Arm
from goodhart.recipes.slots import START, work_of
from goodhart.studies.memory_fit import PARTS, Holds, Room, Shape, Text, largest, lowered
from goodhart.studies.spec import Study
from goodhart.training.settings import Preference, Supervised

_SAMPLED, _SCORED = 256, 32
"""Prompts that are sampled for at a time; rows that judges, references and measurements score at a time."""
_TOLERANCE = 1.25
"""Of the account: a study is refused only where it is over by more than that."""
_PROCESS = 700 * 2**20
"""Bytes of a worker that has imported all that it needs, and holds no model."""


@dataclass(frozen=True)
class Memory:
    """The memory that a study's cells take."""

    study: Study

    def holds(self, cell: Cell) -> Holds | None:
        """What a cell holds at its largest moment; None for one that runs no model."""
        match cell.kind:
            case "sft":
                return self._sft(cell)
            case "preference":
                return self._preference(cell)
            case "run":
                return self._run(cell)
            case "pairs" | "test pairs" | "marked pairs":
                return self._sampling(_policy(cell.inputs["sft"]), 1)
            case "opponents" | "best of n":
                samples = cell.settings["best_of"].samples if cell.kind == "best of n" else 2
                return largest([self._sampling(_policy(cell.inputs["sft"]), samples), *self._judges(cell)])
            case "labels" | "adopted labels" | "test labels" | "stream" | "quality":
                policy = [self._scoring(_policy(cell.inputs["sft"]), 2)] if "sft" in cell.inputs else []
                return largest([Holds(), *policy, *self._judges(cell)])
            case "written":
                policy = _policy(cell.inputs["sft"])
                writers = _times(policy.held(), 2)
                return largest([writers + self._sampling(policy, 1), *self._judges(cell)])
            case "evaluation":
                return self._evaluation(cell)
            case "merge":
                return _times(_policy(cell.inputs["sft"]).held(), len(cell.inputs) + 2)
            case _:
                return None

    @property
    def _lengths(self) -> tuple[int, int]:
        return self.study.task.max_prompt, self.study.task.max_response

    def _sampling(self, shape: Shape, samples: int) -> Holds:
        return shape.held() + shape.written(*self._lengths, samples, _SAMPLED)

    def _scoring(self, shape: Shape, responses: int, rows: int = _SCORED) -> Holds:
        prompt, response = self._lengths
        return shape.held() + shape.read([Text(prompt, responses, response)], rows)

    def _sft(self, cell: Cell) -> Holds:
        settings: Supervised = cell.settings["sft"]
        prompt, response = self._lengths
        rows = settings.optimisation.micro_batch or settings.batch
        shape = _policy(cell)
        cut = rows < settings.batch
        step = shape.trained([Text(prompt, 1, response)], rows, settings.optimisation, settings.adapter, cut=cut)
        return largest([step, *([_times(shape.held(), 2)] if settings.adapter else [])])

    def _preference(self, cell: Cell) -> Holds:
        settings: Preference = cell.settings["preference"]
        shape = _shape(cell.places["model"])
        rows = settings.optimisation.micro_batch or settings.batch
        judged, cut = self._judged(settings.kind), rows < settings.batch
        step = shape.trained(judged, rows, settings.optimisation, settings.adapter, cut=cut)
        kept = Holds(weights=step.optimiser // 2)  # the weights of the best look
        looked = shape.read(judged, _SCORED)
        return largest([step + kept, Holds(step.weights, 0, step.optimiser) + kept + looked])

    def _judged(self, kind: str) -> list[Text]:
        """What a preference model reads of a pair: both responses behind each other in both orders, or each alone."""
        prompt, response = self._lengths
        read = Text(prompt, 2, 2 * (response + 1) if kind == "pairwise" else response + 1)
        return [Text(2, 2, response), read]

    def _judge(self, cell: Cell) -> Holds:
        """A judge that is asked about pairs."""
        if cell.kind == "rule":
            return Holds()
        settings: Preference = cell.settings["preference"]
        shape = _shape(cell.places["model"])
        return shape.held() + shape.read(self._judged(settings.kind), _SCORED)

    def _judges(self, cell: Cell) -> list[Holds]:
        """Each of a cell's judges, of which one is held at a time."""
        return [self._judge(each) for each in cell.inputs.values() if each.kind in ("preference", "rule")]

    def _evaluation(self, cell: Cell) -> Holds:
        """Policy and SFT policy together, since the exact KL reads both laws; then each judge."""
        policy, sft = _policy_of(cell.inputs["policy"]), _policy(cell.inputs["sft"])
        prompt, response = self._lengths
        weights = Holds() if _shares_base(cell.inputs["policy"]) else policy.held()
        sampled = policy.written(prompt, response, 2, _SAMPLED // 2)
        laws = sft.read([Text(prompt, 2, response)], _SCORED)
        # both laws, their logarithms, and what is added up of them
        divergence = Holds(activations=laws.activations, logits=3 * laws.logits)
        return largest([sft.held() + weights + largest([sampled, divergence]), *self._judges(cell)])

    def _run(self, cell: Cell) -> Holds:
        arm: Arm = cell.settings["arm"]
        shape, (prompt, response) = _policy(cell.inputs["sft"]), self._lengths
        parts = [part["arm"].method for part in cell.settings.get("parts", [])] or [arm.method]
        work = [work_of(method) for method in parts]
        learnt = max(each.learnt for each in work) // arm.method.epochs
        rows = arm.optimisation.micro_batch or arm.batch
        text = Text(prompt, learnt, response)
        step = shape.trained([text], min(rows, arm.batch), arm.optimisation, arm.adapter, cut=rows < arm.batch)
        if cell.settings.get("precision") == "bfloat16":
            step = lowered(step, shape, arm.adapter)
        always = Holds(step.weights, 0, step.optimiser) + self._beside(cell, arm, shape)
        sampled = max(each.sampled for each in work)
        stages = [always + Holds(0, step.gradients, 0, step.activations, step.logits)]
        stages.append(always + shape.read([text], arm.batch))
        if sampled:
            stages.append(always + shape.written(prompt, response, sampled, min(_SAMPLED, arm.batch)))
        asked = [self._judge(each) for name, each in cell.inputs.items() if name.endswith("judge")]
        stages += [always + Holds(0, 0, 0, each.activations, each.logits) for each in asked]
        return largest(stages)

    def _beside(self, cell: Cell, arm: Arm, shape: Shape) -> Holds:
        """What a run holds beside its policy: a reference, judges, and copies that its method asks for."""
        method = arm.method
        judges = [self._judge(each) for name, each in cell.inputs.items() if name.endswith("judge")]
        copies = int(method.reference in ("moving", "external")) + int(method.average)
        copies += int(method.refresh != 1) + int(method.labeller == "itself")
        shared = arm.adapter is not None
        number = shape.adapter(arm.adapter) if arm.adapter else shape.parameters
        reference = 0 if shared and START not in cell.inputs else shape.held().weights
        result = Holds(weights=reference + 4 * number * copies + sum(each.weights for each in judges))
        if method.kind.learner in ("value", "critic"):
            result += Holds(0 if shared else 4 * number, 4 * number, 8 * number)
        return result


def _times(holds: Holds, number: int) -> Holds:
    return Holds(*(number * part for part in holds.parts))


@cache
def _shape(name: str) -> Shape:
    return Shape.of(Path(find(name).path))


def _policy(sft: Cell) -> Shape:
    return _shape(str(sft.places["model"]))


def _policy_of(cell: Cell) -> Shape:
    """Of an SFT policy, or of the run or merging that began at one."""
    return _policy(cell if cell.kind == "sft" else cell.inputs["sft"])


def _shares_base(cell: Cell) -> bool:
    """Whether a checkpoint is an adapter over the SFT policy, or that policy itself is measured twice over."""
    return cell.kind == "run" and cell.settings["arm"].adapter is not None and START not in cell.inputs


def said(study: Study, cells: Sequence[Cell]) -> list[tuple[str, Holds]]:
    """By kind of cell, what the largest of its kind holds; runs of arms by the arm."""
    memory, result = Memory(study), dict[str, Holds]()
    for cell in cells:
        holds = memory.holds(cell)
        if holds is not None:
            name = cell.label.rsplit(" seed ", 1)[0] if cell.kind == "run" else cell.kind
            name = cell.label if cell.kind == "preference" else name
            result[name] = largest([holds, result.get(name, Holds())])
    return list(result.items())


def check_memory(study: Study, cells: Sequence[Cell], workers: int, groups: Sequence[Sequence[str]]) -> None:
    """Raises GoodhartError if a cell will hold more than a worker has, with the setting that helps most.

    A worker has its GPUs, or as much of the machine's memory as every other worker.
    """
    if study.world:
        return
    memory, room = Memory(study), Room.whole(workers, len(groups[0]) if groups else 0)
    for cell in cells:
        holds = memory.holds(cell)
        need = (holds.total if holds else 0) + _PROCESS
        if holds is None or need <= _TOLERANCE * room.each:
            continue
        parts = ", ".join(
            f"{part / MIB:,.0f} MiB of {name}" for name, part in zip(PARTS, holds.parts, strict=True) if part
        )
        raise GoodhartError(
            f"{cell.label or cell.id} will hold about {need / 2**30:,.1f} GiB ({parts}), and each of {room.workers} "
            f"worker{'s' * (room.workers > 1)} has {room.each / 2**30:,.1f} GiB",
            _remedy(cell, holds, room),
        )


_SECTIONS = {"sft": "sft", "preference": "preference", "run": "arm"}


def _remedy(cell: Cell, holds: Holds, room: Room) -> str:
    """What helps against the largest part."""
    fewer = f"; or --workers {room.workers // 2}" if room.workers > 1 else ""
    section = cell.settings[_SECTIONS[cell.kind]] if cell.kind in _SECTIONS else None
    if section is None:
        return f"lower task.max_prompt and task.max_response, or take a smaller model{fewer}"
    if holds.activations + holds.logits > holds.total / 2:
        rows = section.optimisation.micro_batch or section.batch
        if rows > 1:
            return f"set its optimisation.micro_batch={max(1, rows // 4)}{fewer}"
        if not section.optimisation.gradient_checkpointing:
            return f"set its optimisation.gradient_checkpointing=true{fewer}"
        return f"lower task.max_prompt and task.max_response{fewer}"
    if section.adapter is None:
        return f"train an adapter: set its adapter={{rank: 16, alpha: 32}}{fewer}"
    return f"take a smaller model, or --gpus-per-worker 2{fewer}"
