"""The alignment loop: one for every source, labeller and loss. It neither logs, saves nor evaluates."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import Parameter

from goodhart.alignment.batch import Pairs
from goodhart.alignment.labellers import Labeller
from goodhart.alignment.losses import Nats, Reduction, loss_of, reduced
from goodhart.alignment.sources import Generator, Source
from goodhart.models.meter import Spent, Stopwatch
from goodhart.models.packing import Tokens, cuts
from goodhart.tasks.prompts import Prompt
from goodhart.training.optimiser import Descent


@runtime_checkable
class Scorer(Protocol):
    """What has log-probabilities."""

    def log_probs(
        self, prompts: Sequence[Tokens], responses: Sequence[Sequence[Tokens]]
    ) -> Float[Tensor, "row response"]:
        """Log p(response | prompt) in nats."""
        ...


@runtime_checkable
class Reference(Scorer, Protocol):
    """What log-ratios are taken against."""

    @property
    def name(self) -> str:
        """What it is called where its log-probabilities are kept; empty: nowhere."""
        ...


@runtime_checkable
class Policy(Scorer, Protocol):
    """What is trained."""

    def parameters(self) -> Iterator[Parameter]:
        """What the optimiser moves."""
        ...

    def sample(
        self, prompts: Sequence[Prompt], samples: int, *, seed: int, purpose: str, first_sample: int | Sequence[int] = 0
    ) -> list[list[list[int]]]:
        """Responses with keyed random numbers."""
        ...

    def frozen(self) -> Generator:
        """A copy that training does not move."""
        ...


@dataclass(frozen=True, slots=True)
class Step:
    """What one optimiser step did; the means are over its pairs."""

    step: int
    """Steps taken, this one included."""
    loss: float
    margin: float
    """log-ratio of the preferred minus that of the other response, nats; ties left out. Like all nats here it is per
    response, whatever the loss takes."""
    accuracy: float
    """Share of pairs whose log-ratios agree with the label, ties one half."""
    gradient_norm: float
    tokens: float
    """Response length."""
    drift: float
    """log policy(y|x) less log of the probability under the policy that wrote y, mean over responses, nats: 0 where
    the policy itself wrote them now."""
    drift_spread: float
    """Standard deviation of the same over responses, nats."""
    stages: dict[str, Spent]
    """What each stage took: generate, label, reference, train."""
    pairs: Pairs
    """What was learnt from, with labels and reference log-probabilities."""

    def plain(self) -> dict[str, Any]:
        """For a log: everything but the pairs."""
        named = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("pairs", "stages")}
        return {**named, "stages": {stage: spent.plain() for stage, spent in self.stages.items()}}


def train(
    policy: Policy,
    reference: Reference,
    source: Source,
    labeller: Labeller,
    descent: Descent,
    *,
    loss: str,
    beta: float | None,
    steps: int,
    start: int = 0,
    reduction: Reduction = "sum",
) -> Iterator[Step]:
    """Steps `start`..`steps`-1: draw pairs, label them, descend on the mean of `losses.loss_of`.

    Everything random is a function of the step, so starting from a saved `Descent` goes on bit for bit.
    """
    for step in range(start, steps):
        watch = Stopwatch()
        pairs = source.draw(step, policy)
        watch.lap("generate")
        pairs = labeller.label(pairs, step)
        watch.lap("label")
        with torch.no_grad():
            kept = pairs.under(reference.name)
            known = _scores(reference, pairs) if kept is None else kept
        watch.lap("reference")
        objective = partial(loss_of, loss, beta=beta)
        value, logp = _backward(policy, pairs, known, descent, objective, reduction)
        norm = descent.step(step, value)
        watch.lap("train")
        writer = logp if pairs.writer is None else np.where(np.isnan(pairs.writer), logp, pairs.writer)
        learnt = replace(pairs, reference=known, reference_name=reference.name, writer=writer)
        yield _record(step + 1, value, logp, norm, learnt, watch)


def _scores(reference: Scorer, pairs: Pairs) -> Float[np.ndarray, "pair 2"]:
    return reference.log_probs(pairs.prompt_tokens, pairs.responses).double().cpu().numpy()


def _backward(
    policy: Policy,
    pairs: Pairs,
    known: Float[np.ndarray, "pair 2"],
    descent: Descent,
    objective: Callable[[Nats, Nats, Nats], Nats],
    reduction: Reduction,
) -> tuple[float, Float[np.ndarray, "pair 2"]]:
    """Gradients of the batch mean, gathered cut by cut; returns the loss and log policy(response | prompt)."""
    total, found = 0.0, list[np.ndarray]()
    for cut in cuts(len(pairs), descent.settings.micro_batch):
        part = pairs[cut]
        logp = policy.log_probs(part.prompt_tokens, part.responses)
        reference, label, lengths = (
            torch.as_tensor(each, dtype=logp.dtype, device=logp.device)
            for each in (known[cut], part.label, part.lengths)
        )
        rho = reduced(logp - reference, lengths, reduction)
        value = objective(rho[:, 0], rho[:, 1], label).sum() / len(pairs)
        value.backward()
        total += float(value.detach())
        found.append(logp.detach().double().cpu().numpy())
    return total, np.concatenate(found)


def _record(
    step: int, loss: float, logp: Float[np.ndarray, "pair 2"], norm: float, pairs: Pairs, watch: Stopwatch
) -> Step:
    assert pairs.reference is not None
    assert pairs.writer is not None
    label = pairs.label if pairs.label is not None else np.full(len(pairs), 0.5)
    rho, drift = logp - pairs.reference, logp - pairs.writer
    delta = rho[:, 0] - rho[:, 1]
    side = np.sign(label - 0.5)
    decided = side != 0
    agreement = np.where(decided, (np.sign(delta) * side + 1) / 2, 0.5)
    return Step(
        step=step,
        loss=loss,
        margin=float((delta * side)[decided].mean()) if decided.any() else 0.0,
        accuracy=float(agreement.mean()),
        gradient_norm=norm,
        tokens=float(pairs.lengths.mean()),
        drift=float(drift.mean()),
        drift_spread=float(drift.std()),
        stages=watch.stages,
        pairs=pairs,
    )
