"""What the loop is given of a run, whatever its policy is: a language model or a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from goodhart.alignment.judge import PairJudge
from goodhart.alignment.labellers import JudgeLabels, Labeller
from goodhart.alignment.losses import LOSSES
from goodhart.alignment.method import Method
from goodhart.alignment.references import Reference
from goodhart.alignment.rewards import JudgeRewards, LabelRewards, Marks, Selected
from goodhart.alignment.self_labelled import SelfLabelledSource
from goodhart.alignment.sources import BufferedSource, DelayedSource, MixtureSource, Source
from goodhart.alignment.terms import Extra
from goodhart.training.alignment import Follower, Learner, Objective
from goodhart.training.average import AveragePolicy
from goodhart.training.statistics import STATISTICS


@dataclass(slots=True)
class Parts:
    """All that the loop is given of a run, and all that has a state beside the policy's parameters."""

    source: Source
    labeller: Labeller
    reference: Reference
    objective: Objective
    followers: list[Follower] = field(default_factory=list[Follower])
    average: AveragePolicy | None = None
    """Whose weights are kept in place of the policy's."""

    def averaging(self, copy: Any, policy: Any, rate: float) -> None:
        """Keep the moving average of the policy's weights; `copy` has weights of its own."""
        self.average = AveragePolicy(copy, policy, rate)
        self.followers.append(self.average)

    def state(self) -> dict[str, Any]:
        """What has to be saved with the parameters, by name; empty for most methods."""
        result: dict[str, Any] = {}
        for name, part in self._stateful().items():
            result[name] = part.state()
        return result

    def restore(self, state: dict[str, Any], policy: Any) -> None:
        """Go on from what `state` gave."""
        for name, part in self._stateful().items():
            if name in state:
                part.restore(state[name], policy) if name.startswith("source") else part.restore(state[name])

    def _stateful(self) -> dict[str, Any]:
        parts = [part for part, _ in self.source.parts] if isinstance(self.source, MixtureSource) else [self.source]
        held = [part for part in parts if isinstance(part, BufferedSource | DelayedSource | SelfLabelledSource)]
        result: dict[str, Any] = {"source" if i == 0 else f"source {i}": part for i, part in enumerate(held)}
        result |= {f"follower {i}": follower for i, follower in enumerate(self.followers)}
        return result | ({"learner": self.objective.learner} if self.objective.learner else {})


def judging(method: Method, proxy: PairJudge, seed: int, name: str = "") -> Labeller:
    """What labels samples, by the proxy."""
    if method.selection != "all":
        return Selected(proxy, method.selection)
    if method.kind.supervision == "reward":
        return JudgeRewards(proxy)
    return learnt_from(method, JudgeLabels(proxy, method.mode, seed, name))


def learnt_from(method: Method, labeller: Labeller) -> Labeller:
    """The labels as what the loss learns from."""
    wanted = {"mark": Marks, "reward": LabelRewards}.get(method.kind.supervision)
    return wanted(labeller) if wanted else labeller


def objective_of(
    method: Method, parameters: Mapping[str, float], extras: Sequence[Extra], learner: Learner | None
) -> Objective:
    """A method's loss with all that it reads."""
    return Objective(
        LOSSES[method.loss],
        {name: parameters[name] for name in method.kind.parameters},
        method.reduction,
        extras,
        [STATISTICS[name](parameters) for name in method.kind.statistics],
        method.kind.tokenwise,
        method.epochs,
        learner,
    )
