"""What a training run is made of beside its policy: reference, objective, what follows the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from goodhart.alignment.batch import Batch
from goodhart.alignment.labellers import DataLabels, Labeller
from goodhart.alignment.method import Method, Term
from goodhart.alignment.own_labels import Decode, OwnLabels
from goodhart.alignment.pair_table import read_pairs
from goodhart.alignment.policy import LanguagePolicy
from goodhart.alignment.references import MovingReference, NoReference, PriorReference, Reference
from goodhart.alignment.self_labelled import SelfLabelledSource
from goodhart.alignment.sources import (
    BufferedSource,
    DataSource,
    DelayedSource,
    Generator,
    MixtureSource,
    PolicySource,
    Source,
    StreamSource,
)
from goodhart.alignment.terms import FUNCTIONS, Chosen, Drawn, Extra, Fresh, Law, coefficient
from goodhart.cells.workplace import Workplace
from goodhart.config import build
from goodhart.functions import is_function
from goodhart.models.packing import Tokens
from goodhart.models.precision import Precision
from goodhart.recipes.arm import Arm
from goodhart.recipes.models import judge, load_reference, read_policy, reference_name, with_reference
from goodhart.recipes.parts import Parts, judging, learnt_from, objective_of
from goodhart.recipes.slots import JUDGE, LABELS, PROMPTS, STREAM, WRITTEN, asks_proxy
from goodhart.sampling.keyed import KeyedSampler
from goodhart.sampling.mixture import Mixture
from goodhart.sampling.probe import Probe
from goodhart.sampling.samplers import KEYED, Setup, Synced, sampler_of
from goodhart.training.alignment import Follower
from goodhart.training.channel import LabelChannel
from goodhart.training.critic import Critic, ValueModel

GREEDY = 1e-3
"""The temperature of a writer that always takes the likeliest token."""


@dataclass(frozen=True, slots=True)
class Opened:
    """What a run's source and labeller are made of."""

    seed: int
    inputs: Mapping[str, Path]
    reference: LanguagePolicy
    """The SFT policy in the run's precision, with its sampler."""
    moving: Any
    """The reference that the loss has, for what is drawn from it."""
    policy: LanguagePolicy
    longest: int
    """Tokens of a response at most."""
    decode: Decode

    def characters(self, responses: Sequence[Tokens]) -> list[int]:
        """Of responses, as text."""
        return [len(text) for text in self.decode(responses)]


def open_slots(arm: Arm, opened: Opened, batch: int, name: str = "") -> tuple[Source, Labeller]:
    """Source and labeller of an arm; all sources walk the same prompts in the same order."""
    method, table = arm.method, opened.inputs[PROMPTS] / "prompts.parquet"
    if method.source == "stream":
        recorded, _, _ = read_pairs(opened.inputs[STREAM] / "stream.parquet", "stream", table)
        return StreamSource(recorded, batch, opened.seed, arm.window), learnt_from(method, DataLabels())
    folder = opened.inputs[WRITTEN if method.source == "samples" else LABELS]
    data, _, _ = read_pairs(folder / "pairs.parquet", "train", table)
    if method.source in ("data", "samples"):
        source = DataSource(_scored(data, opened.reference), batch, opened.seed)
        return source, learnt_from(method, DataLabels())
    kept = round(method.parameters.get("replay", 0.0) * batch)
    source, labeller = _sampling(method, opened, data, batch - kept), DataLabels()
    if is_function(method.labeller):
        proxy = judge(opened.inputs[JUDGE]) if asks_proxy(method) else None
        labeller = OwnLabels(method.labeller, method.kind.supervision, opened.decode, proxy)
    elif asks_proxy(method):
        labeller = judging(method, judge(opened.inputs[JUDGE]), opened.seed, name)
    if method.buffer:
        source, labeller = BufferedSource(source, labeller, opened.seed), DataLabels()
    if not kept:
        return source, labeller
    data = replace(_scored(data, opened.reference), real=np.ones(len(data)))
    replayed = DataSource(data, kept, opened.seed)
    return MixtureSource([(source, labeller), (replayed, DataLabels())]), DataLabels()


def _scored(data: Batch, reference: LanguagePolicy) -> Batch:
    """Fixed data with the SFT policy's log-probabilities, which stand in for those of a writer that is not known.

    Those are of people, or of samples at other temperatures.
    """
    if data.under(reference.name) is None:
        # what is kept with fixed data is in float32: the rounding of a policy in bfloat16 is not in it
        data = with_reference(reference, data)
    known = data.logps[reference.name]
    return replace(data, writer=known if data.writer is None else np.where(np.isnan(data.writer), known, data.writer))


def _sampling(method: Method, opened: Opened, data: Batch, batch: int) -> Source:

    others: dict[str, Any] = {}
    # what is no model writes nothing: the SFT policy does in its place
    moving = opened.moving if isinstance(opened.moving, Generator) else opened.reference
    if "reference" in method.drawn:
        others["reference"] = moving
    if "mixture" in method.drawn:
        others["mixture"] = Mixture(opened.policy, lambda: getattr(moving, "now", moving), method.parameters["share"])
    source = PolicySource(
        data.prompts,
        batch,
        opened.seed,
        method.drawn,
        others,
        data,
        method.parameters.get("prefix", 0.0),
        opened.longest,
    )
    if method.labeller == "itself":
        return SelfLabelledSource(source, method.refresh, opened.reference, opened.characters)
    return source if method.refresh == 1 else DelayedSource(source, method.refresh)


def parts_of(
    work: Workplace,
    arm: Arm,
    master: LanguagePolicy,
    policy: LanguagePolicy,
    precision: Precision,
    tokenizer: Any,
    held: LanguagePolicy | None = None,
) -> Parts:
    """The parts of an arm's run at one setting; `policy` computes in `precision` what `master` keeps in float32.

    `held` is the SFT policy, where the weights below an adapter are its own.
    """
    method, seed = arm.method, int(work.settings["seed"])
    sft = replace(held, name=reference_name(work)).at(precision) if held else load_reference(work, precision)
    sft = replace(sft, sampler=master.sampler)
    reference, followers = _reference(method, work, sft, master, precision)
    longest, decode = int(work.settings["max_response"]), partial(_decoded, tokenizer)
    opened = Opened(seed, work.inputs, sft, reference, policy, longest, decode)
    source, labeller = _slots(work, arm, opened)
    parameters = {**method.parameters, **({"beta": arm.beta[0]} if arm.beta else {})}
    extras = [_extra(term, parameters, seed, sft) for term in method.terms]
    objective = objective_of(method, parameters, extras, _learner(method, parameters, master, sft, arm, seed))
    parts = Parts(source, labeller, reference, objective, followers)
    if method.average:
        parts.averaging(master.frozen(), master, method.parameters["average_rate"])
    return parts


def _decoded(tokenizer: Any, responses: Sequence[Tokens]) -> list[str]:
    return tokenizer.batch_decode([list(r) for r in responses], skip_special_tokens=True)


def _reference(
    method: Method, work: Workplace, sft: LanguagePolicy, master: LanguagePolicy, precision: Precision
) -> tuple[Reference, list[Follower]]:
    if method.reference == "none":
        return NoReference(), []
    if method.reference == "prior":
        return PriorReference(sft), []
    if method.reference == "external":
        folder = work.inputs["external"]
        other, _ = read_policy(folder / "final", int(work.settings["max_response"]))
        return replace(other, name=folder.name).at(precision), []
    if method.reference == "moving":
        copy = master.frozen()
        parameters = method.parameters
        moving = MovingReference(
            copy,
            master,
            parameters["reference_rate"],
            int(parameters["reference_every"]),
            lambda: copy.at(precision),
        )
        return moving, [moving]
    return sft, []


def _slots(work: Workplace, arm: Arm, opened: Opened) -> tuple[Source, Labeller]:
    if arm.method.source != "mixture":
        return open_slots(arm, opened, arm.batch)
    parts: list[tuple[Source, Labeller]] = []
    for number, each in enumerate(work.settings["parts"]):
        name = f"part {number}"
        inputs = {key.removeprefix(f"{name}/"): path for key, path in work.inputs.items() if key.startswith(f"{name}/")}
        part = build(Arm, each["arm"], name)
        parts.append(open_slots(part, replace(opened, inputs={**work.inputs, **inputs}), int(each["pairs"]), name))
    return MixtureSource(parts), DataLabels()


def _extra(term: Term, parameters: dict[str, float], seed: int, sft: LanguagePolicy) -> Extra:
    law: Law
    if term.law == "drawn":
        law = Drawn(term.place)
    elif term.law == "chosen":
        law = Chosen()
    elif term.law == "policy":
        law = Fresh(seed, term.responses)
    else:
        law = Fresh(seed, term.responses, sft if term.law == "reference" else _greedy(sft))
    return Extra(coefficient(term.coefficient, parameters), law, FUNCTIONS[term.function])


def _greedy(policy: LanguagePolicy) -> LanguagePolicy:
    assert isinstance(policy.sampler, KeyedSampler)
    return replace(policy, sampler=replace(policy.sampler, temperature=GREEDY))


def _learner(
    method: Method, parameters: dict[str, float], master: LanguagePolicy, sft: LanguagePolicy, arm: Arm, seed: int
) -> Any:
    if method.kind.learner == "none":
        return None
    if method.kind.learner == "channel":
        return LabelChannel.of(sft, replace(arm.optimisation, lr=parameters["classifier_lr"]), arm.steps, seed)
    settings = replace(arm.optimisation, lr=parameters["value_lr"])
    return Critic.of(method.kind.learner, ValueModel.of(master), settings, arm.steps, parameters)


def with_sampler(policy: LanguagePolicy, name: str, folder: Path, tokenizer: Any, longest: int) -> LanguagePolicy:
    """The policy with another sampler than the built-in one, if an arm names one; `folder` is what the run begins with.

    What measures checkpoints, and what models write that are not trained, is the built-in sampler's for every arm.
    """
    if name == KEYED:
        return policy
    setup = Setup(folder, tokenizer.eos_token_id, tokenizer.pad_token_id, longest)
    sampler = Synced(name, sampler_of(name, setup), setup, Probe(name, policy.pad, policy.layout))
    return replace(policy, sampler=sampler)


def checkpoints_of(parts: Parts, master: LanguagePolicy) -> Any:
    """The model whose weights are kept."""
    return master.model if parts.average is None else parts.average.copy.model
