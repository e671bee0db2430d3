"""What binds a method to the rest of a study: the cells that it reads, what it costs, what it leaves for others.

The graph, the estimate and the validation ask here, the recipe of a run asks `goodhart.recipes.run_parts` for the
objects, and none of them knows a method by name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from goodhart.alignment.extensions import reads_rewards
from goodhart.alignment.method import Method
from goodhart.cells.cell import Cell
from goodhart.functions import is_function
from goodhart.recipes.arm import Arm

PROMPTS, LABELS, JUDGE, STREAM, WRITTEN, START = "prompts", "labels", "judge", "stream", "written", "start"
"""Names of a run's inputs."""


@runtime_checkable
class Cells(Protocol):
    """Where a run's inputs come from."""

    def judge(self, arm: Arm) -> Cell:
        """The proxy that labels what the arm samples."""
        ...

    def recorded(self, arm: Arm, setting: str, seed: int) -> Cell:
        """The run whose stream the arm replays."""
        ...

    def written(self, arm: Arm, seed: int) -> Cell:
        """The pairs that the arm's two writers wrote."""
        ...

    def external(self, arm: Arm) -> Cell:
        """The SFT policy of another variant."""
        ...


def inputs_of(arm: Arm, setting: str, seed: int, cells: Cells) -> dict[str, Cell]:
    """What a run reads beside prompts, SFT policy and golden labels."""
    reference = {"external": cells.external(arm)} if arm.method.reference == "external" else {}
    match arm.method.source:
        case "policy":
            return {JUDGE: cells.judge(arm), **reference} if asks_proxy(arm.method) else reference
        case "stream":
            return {STREAM: cells.recorded(arm, setting, seed), **reference}
        case "samples":
            return {WRITTEN: cells.written(arm, seed), **reference}
        case _:
            return reference


def asks_proxy(method: Method) -> bool:
    """Whether what a method samples is judged by its proxy (of the golden policy, by the golden model)."""
    if is_function(method.labeller):
        return reads_rewards(method.labeller)
    return method.labeller != "itself"


@dataclass(frozen=True, slots=True)
class Work:
    """What a step takes of each prompt of its batch, in responses of which each is behind the prompt."""

    sampled: int
    """Responses that models write."""
    judged: int
    """Responses that a judge reads."""
    kept: int
    """Responses that held models score."""
    learnt: int
    """Responses that the policy is trained on, counted once for each optimiser step."""


def work_of(method: Method) -> Work:
    """What a method's slots take."""
    terms = sum(term.responses for term in method.terms)
    fresh = sum(term.responses for term in method.terms if "policy" in term.law or "reference" in term.law)
    learnt = {"all": len(method.drawn) if method.source == "policy" else 2, "best and worst": 2, "best": 1}
    trained = learnt[method.selection] * method.epochs + terms
    if method.source != "policy":
        return Work(fresh, 0, terms, trained)
    drawn = sum(writer not in ("first", "second") for writer in method.drawn)
    judged = len(method.drawn) if asks_proxy(method) else 0
    held = (method.refresh != 1 or method.buffer) * drawn * (2 if method.labeller == "itself" else 1)
    return Work(drawn + fresh, judged, held + terms, trained)


def is_fresh(method: Method) -> bool:
    """Whether the policy's own samples are what is learnt from, so that they are recorded."""
    return method.source == "policy"


def records(method: Method) -> bool:
    """Whether its batches are pairs that another arm can replay."""
    pairs = method.selection == "best and worst" or len(method.drawn) == 2
    plain = method.labeller != "itself" and not method.buffer and not {"prefix", "replay"} & set(method.parameters)
    return is_fresh(method) and pairs and method.kind.supervision == "label" and plain
