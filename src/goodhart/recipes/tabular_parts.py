"""What a run in a finite world is made of: the slots of its method, over tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
from jaxtyping import Float

from goodhart.alignment.batch import Batch
from goodhart.alignment.enumeration import EveryResponse, PopulationSource, TupleSource, in_expectation
from goodhart.alignment.labellers import DataLabels, Labeller
from goodhart.alignment.method import Method, Term
from goodhart.alignment.references import MovingReference, NoReference, Reference
from goodhart.alignment.sources import BufferedSource, DataSource, DelayedSource, Generator, PolicySource, Source
from goodhart.alignment.table_judge import TableJudge
from goodhart.alignment.table_policy import TableMixture, TablePolicy
from goodhart.alignment.terms import FUNCTIONS, Chosen, Drawn, Extra, Fresh, coefficient
from goodhart.recipes.arm import Arm
from goodhart.recipes.parts import Parts, judging, learnt_from, objective_of
from goodhart.tasks.tables import Tables
from goodhart.training import enumeration
from goodhart.training.alignment import Follower, Learner
from goodhart.training.table_value import TableValue

GREEDY = 1e-3
"""The temperature of a writer that always takes the likeliest response."""


@dataclass(frozen=True, slots=True)
class Given:
    """What a run learns from."""

    proxy: Tables
    """With the preferences and the rewards of who labels."""
    data: Batch
    """The pairs of offline arms, with their labels."""
    exact: bool
    """Whether a step is an expectation: every tuple of responses, or all of the data."""
    seed: int

    @property
    def responses(self) -> int:
        """To each prompt."""
        return len(self.proxy.responses)


def every_pair(world: Tables) -> Batch:
    """The population of offline data: every ordered pair of responses to every prompt, with its true preference."""
    places = list(product(range(len(world.responses)), range(len(world.responses))))
    prompts = world.asked
    label = np.array([world.wins[x, i, j] for x in range(len(prompts)) for i, j in places])
    return pairs_of(world, [x for x in range(len(prompts)) for _ in places], places * len(prompts), label)


def pairs_of(world: Tables, rows: list[int], places: list[tuple[int, int]], label: Float[np.ndarray, " pair"]) -> Batch:
    """Pairs by their places in the tables; their writer is uniform over the responses."""
    prompts, size = world.asked, len(world.responses)
    return Batch(
        [prompts[x] for x in rows],
        [[[i], [j]] for i, j in places],
        label=label,
        writer=np.full((len(rows), 2), -np.log(size)),
    )


def parts_of(arm: Arm, given: Given, policy: TablePolicy) -> Parts:
    """The parts of an arm's run at one setting; `policy` stands at the reference."""
    method = arm.method
    sft = TablePolicy.of(given.proxy.reference, "reference")
    reference, followers = _reference(method, sft, policy)
    source, labeller = _slots(arm, given, policy, reference, sft)
    parameters = {**method.parameters, **({"beta": arm.beta[0]} if arm.beta else {})}
    extras = [_extra(term, parameters, given, sft) for term in method.terms]
    objective = objective_of(method, parameters, extras, _learner(method, parameters, given, arm))
    if given.exact and method.source == "policy":
        objective = enumeration.in_expectation(objective)
    parts = Parts(source, labeller, reference, objective, followers)
    if method.average:
        parts.averaging(policy.frozen(), policy, method.parameters["average_rate"])
    return parts


def _reference(method: Method, sft: TablePolicy, policy: TablePolicy) -> tuple[Reference, list[Follower]]:
    if method.reference == "none":
        return NoReference(), []
    if method.reference == "moving":
        rate, every = (method.parameters[name] for name in ("reference_rate", "reference_every"))
        moving = MovingReference(policy.frozen(), policy, rate, int(every))
        return moving, [moving]
    return sft, []


def _slots(
    arm: Arm, given: Given, policy: TablePolicy, reference: Reference, sft: TablePolicy
) -> tuple[Source, Labeller]:
    method = arm.method
    if method.source == "data":
        source = PopulationSource(given.data) if given.exact else DataSource(given.data, arm.batch, given.seed)
        return source, learnt_from(method, DataLabels())
    # what is no model writes nothing: the reference policy does in its place
    moving = reference if isinstance(reference, Generator) and method.reference != "none" else sft
    others: dict[str, Any] = {"reference": moving} if "reference" in method.drawn else {}
    if "mixture" in method.drawn:
        others["mixture"] = TableMixture(policy, lambda: getattr(moving, "now", moving), method.parameters["share"])
    if given.exact:
        source = TupleSource(given.proxy.asked, given.responses, method.drawn, others)
    else:
        source = PolicySource(given.data.prompts, arm.batch, given.seed, method.drawn, others, given.data)
    labeller = judging(method, TableJudge(given.proxy.wins, given.proxy.reward), given.seed)
    if method.refresh != 1:
        source = DelayedSource(source, method.refresh)
    return (BufferedSource(source, labeller, given.seed), DataLabels()) if method.buffer else (source, labeller)


def _extra(term: Term, parameters: Mapping[str, float], given: Given, sft: TablePolicy) -> Extra:
    factor, function = coefficient(term.coefficient, parameters), FUNCTIONS[term.function]
    writer = {"reference": sft, "greedy reference": sft.at_temperature(GREEDY)}.get(term.law)
    if term.law == "chosen":
        return Extra(factor, Chosen(), function)
    if term.law == "drawn":
        weighed = in_expectation(function, given.responses) if given.exact else function
        return Extra(factor, Drawn(term.place), weighed)
    if not given.exact:
        return Extra(factor, Fresh(given.seed, term.responses, writer), function)
    law = EveryResponse(given.proxy.asked, given.responses, writer)
    return Extra(factor, law, in_expectation(function, given.responses))


def _learner(method: Method, parameters: Mapping[str, float], given: Given, arm: Arm) -> Learner | None:
    if method.kind.learner == "none":
        return None
    from goodhart.training.critic import Critic  # brings the language models with it

    settings = replace(arm.optimisation, lr=parameters["value_lr"])
    model: Any = TableValue(len(given.proxy.prompts))
    return Critic.of(method.kind.learner, model, settings, arm.steps, parameters)  # pyright: ignore[reportReturnType]
