"""The alignment loop: one for every method. It neither logs, saves nor evaluates."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import Parameter

from goodhart.alignment.batch import Batch
from goodhart.alignment.labellers import Labeller
from goodhart.alignment.losses import Loss, Nats
from goodhart.alignment.references import Reference, Scorer
from goodhart.alignment.scores import Reduction, Scores, Tokenwise
from goodhart.alignment.sources import Sampling, Source
from goodhart.alignment.terms import Extra, Moment
from goodhart.compute.meter import Spent, Stopwatch
from goodhart.compute.shares import backward, in_shares
from goodhart.models.packing import Tokens, cuts
from goodhart.tasks.prompts import Prompt
from goodhart.training.optimiser import Descent

Known = Float[np.ndarray, "prompt response"]
"""Log-probabilities in nats that no gradient goes through."""


@runtime_checkable
class Policy(Sampling, Protocol):
    """What is trained."""

    def parameters(self) -> Iterator[Parameter]:
        """What the optimiser moves."""
        ...

    def sample(
        self, prompts: Sequence[Prompt], samples: int, *, seed: int, purpose: str, first_sample: int | Sequence[int] = 0
    ) -> list[list[list[int]]]:
        """Responses with keyed random numbers."""
        ...


@runtime_checkable
class TokenScorer(Protocol):
    """What has log-probabilities token by token."""

    def token_log_probs(
        self, prompts: Sequence[Tokens], responses: Sequence[Sequence[Tokens]]
    ) -> Float[Tensor, "row response token"]:
        """Log p(token | prompt, earlier tokens) in nats; 0 behind a response's end."""
        ...


@runtime_checkable
class Follower(Protocol):
    """What does something after every step: a reference that moves, an average of weights."""

    def after(self, step: int) -> None:
        """`step` steps are taken."""
        ...


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a whole batch before the first gradient."""

    batch: Batch
    known: Known
    """log reference(response | prompt)."""
    policy: Scorer
    reference: Scorer
    before: Tensor | None = None
    """Of tokens, by the policy that wrote them, where the loss weighs tokens."""
    reference_tokens: Tensor | None = None
    """The same by the reference."""


@runtime_checkable
class Learner(Protocol):
    """What is learnt beside the policy: a value, a classifier. It says things about a batch, and learns from it."""

    def statistics(self, facts: Facts) -> Mapping[str, np.ndarray]:
        """What the loss reads of it, for each prompt (and response, and token)."""
        ...

    def learn(self, facts: Facts, logp: Known, step: int) -> None:
        """Its own step, after the policy's; `logp` is of the policy before it."""
        ...


Statistic = Callable[[Facts], Mapping[str, np.ndarray]]
"""What a loss needs of a whole batch, by name; the first axis is that of prompts. No gradient goes through it."""


@dataclass(frozen=True, slots=True)
class Objective:
    """What a step descends on: the mean over prompts of a loss, and extra terms."""

    loss: Loss
    parameters: Mapping[str, float]
    """The loss's own."""
    reduction: Reduction = "sum"
    extras: Sequence[Extra] = ()
    statistics: Sequence[Statistic] = ()
    tokenwise: bool = False
    """Whether the loss weighs tokens."""
    epochs: int = 1
    """Optimiser steps on what is drawn in a step."""
    learner: Learner | None = None

    def value(self, scores: Scores) -> Nats:
        """The loss of each prompt."""
        return self.loss(scores, **self.parameters)


@dataclass(frozen=True, slots=True)
class Step:
    """What one step did; the means are over its responses."""

    step: int
    """Steps taken, this one included."""
    loss: float
    margin: float | None
    """log-ratio of the preferred minus that of the other response, nats; ties left out. Like all nats here it is per
    response, whatever the loss takes. None for what is no pair."""
    accuracy: float | None
    """Share of pairs whose log-ratios agree with the label, ties one half. None for what is no pair."""
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
    batch: Batch
    """What was learnt from, with its supervision and reference log-probabilities."""
    reward: float | None = field(default=None, kw_only=True)
    """Mean reward of the responses; None where there is none."""
    mismatch: float | None = field(default=None, kw_only=True)
    """Log of the probability that the sampler drew y with less log of what the trainer gives the same weights, mean
    over responses, nats: 0 but for rounding where both are of one law. None where no sampler said it."""
    mismatch_spread: float | None = field(default=None, kw_only=True)
    """Standard deviation of the same over responses, nats."""

    def plain(self) -> dict[str, Any]:
        """For a log: everything but the batch, and what is None."""
        named = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("batch", "stages")}
        known = {name: value for name, value in named.items() if value is not None}
        return {**known, "stages": {stage: spent.plain() for stage, spent in self.stages.items()}}


def train(
    policy: Policy,
    reference: Reference,
    source: Source,
    labeller: Labeller,
    descent: Descent,
    objective: Objective,
    *,
    steps: int,
    start: int = 0,
    followers: Sequence[Follower] = (),
) -> Iterator[Step]:
    """Steps `start`..`steps`-1: draw responses, label them, descend on the objective, let the followers follow.

    Everything random is a function of the step, so starting from a saved state goes on bit for bit.
    """
    for step in range(start, steps):
        watch = Stopwatch()
        drawn = source.draw(step, policy)
        watch.lap("generate")
        batch = labeller.label(drawn, step)
        watch.lap("label")
        now = Moment(step, drawn, batch, policy)
        extras = [(extra, extra.draw(now)) for extra in objective.extras if extra.coefficient]
        if extras:
            watch.lap("generate")
        with torch.no_grad():
            known = _known(reference, batch)
            beside = [(extra, each, _known(reference, each)) for extra, each in extras]
            ready = _Ready.of(objective, batch, known, policy, reference)
        watch.lap("reference")
        value, logp, norm = 0.0, known, 0.0
        for epoch in range(objective.epochs):
            value, result = _backward(policy, ready, descent.settings.micro_batch)
            value += sum(_backward_extra(policy, *each, objective, descent.settings.micro_batch) for each in beside)
            norm = descent.step(step, value)
            logp = result if epoch == 0 else logp
        if objective.learner:
            objective.learner.learn(ready.facts, logp, step)
        for follower in followers:
            follower.after(step + 1)
        watch.lap("train")
        writer = logp if batch.writer is None else np.where(np.isnan(batch.writer), logp, batch.writer)
        learnt = replace(batch, logps={reference.name: known}, writer=writer)
        yield _record(step + 1, value, logp, norm, learnt, known, writer, watch)


def _known(reference: Reference, batch: Batch) -> Known:
    """Log reference(response | prompt): as it was kept under its name, else scored now."""
    kept = batch.under(reference.name)
    return score(reference, batch) if kept is None else kept


@torch.no_grad()
def score(model: Scorer, batch: Batch) -> Known:
    """Log p(response | prompt) of a batch in nats."""

    def of(cut: slice) -> np.ndarray:
        part = batch[cut]
        return model.log_probs(part.contexts, part.responses).double().cpu().numpy()

    return np.concatenate(in_shares(of, cuts(len(batch), 0)))


@dataclass(frozen=True, slots=True)
class _Ready:
    """A batch with all that is known of it before the first gradient."""

    objective: Objective
    facts: Facts
    statistics: Mapping[str, np.ndarray]
    written: Known | None
    """log writer(response | prompt), where it is known."""

    @property
    def batch(self) -> Batch:
        """What is learnt from."""
        return self.facts.batch

    @classmethod
    def of(cls, objective: Objective, batch: Batch, known: Known, policy: Policy, reference: Reference) -> _Ready:
        """Statistics are of the whole batch, so micro-batches change none of them."""
        written, before, tokens = batch.writer, None, None
        if objective.epochs > 1:  # the policy moves between the epochs, and these are by who wrote
            now = score(policy, batch)
            written = now if written is None else np.where(np.isnan(written), now, written)
        if objective.tokenwise:
            assert isinstance(policy, TokenScorer)
            assert isinstance(reference, TokenScorer)
            before = policy.token_log_probs(batch.contexts, batch.responses)
            tokens = reference.token_log_probs(batch.contexts, batch.responses)
        facts, result = Facts(batch, known, policy, reference, before, tokens), dict[str, np.ndarray]()
        for statistic in objective.statistics:
            result |= statistic(facts)
        if objective.learner:
            result |= objective.learner.statistics(facts)
        return cls(objective, facts, result, written)

    def scores(self, policy: Policy, cut: slice) -> Scores:
        """What the loss sees of some prompts."""
        part = self.batch[cut]
        if self.objective.tokenwise:
            assert isinstance(policy, TokenScorer)
            tokens = policy.token_log_probs(part.contexts, part.responses)
            logp = tokens.sum(2)
        else:
            tokens, logp = None, policy.log_probs(part.contexts, part.responses)

        def like(values: np.ndarray | None) -> Any:
            return None if values is None else torch.as_tensor(values, dtype=logp.dtype, device=logp.device)

        return Scores(
            logp,
            like(self.facts.known[cut]),
            like(part.lengths),
            self.objective.reduction,
            label=like(part.label),
            reward=like(part.reward),
            mark=like(part.mark),
            written=like(None if self.written is None else self.written[cut]),
            statistics={name: like(self._narrow(values[cut], tokens)) for name, values in self.statistics.items()},
            tokens=None if tokens is None else self._tokenwise(tokens, part, cut),
        )

    @staticmethod
    def _narrow(values: np.ndarray, tokens: Tensor | None) -> np.ndarray:
        """A statistic of tokens as wide as the longest response of the cut, which others of the batch may exceed."""
        return values if tokens is None or values.ndim < 3 else values[:, :, : tokens.shape[2]]

    def _tokenwise(self, policy: Tensor, part: Batch, cut: slice) -> Tokenwise:
        before, reference = self.facts.before, self.facts.reference_tokens
        assert before is not None
        assert reference is not None
        width = policy.shape[2]
        places = torch.arange(width, device=policy.device)
        real = places < torch.as_tensor(part.lengths, device=policy.device)[..., None]
        return Tokenwise(policy, before[cut, :, :width], reference[cut, :, :width], real)


def _backward(policy: Policy, ready: _Ready, micro_batch: int) -> tuple[float, Known]:
    """Gradients of the batch mean, gathered cut by cut; returns the loss and log policy(response | prompt)."""

    def of(cut: slice) -> tuple[Tensor, np.ndarray]:
        scores = ready.scores(policy, cut)
        value = ready.objective.value(scores).sum() / len(ready.batch)
        return value, scores.logp.detach().double().cpu().numpy()

    total, parts = backward(of, cuts(len(ready.batch), micro_batch))
    return total, np.concatenate(parts)


def _backward_extra(
    policy: Policy, extra: Extra, batch: Batch, known: Known, objective: Objective, micro_batch: int
) -> float:
    """The same for an extra term, times its coefficient."""
    facts = Facts(batch, known, policy, policy)
    ready = _Ready(replace(objective, tokenwise=False), facts, {}, batch.writer)

    def of(cut: slice) -> tuple[Tensor, None]:
        return extra.coefficient * extra.function(ready.scores(policy, cut)).sum() / len(batch), None

    return backward(of, cuts(len(batch), micro_batch))[0]


def _record(
    step: int, loss: float, logp: Known, norm: float, batch: Batch, known: Known, writer: Known, watch: Stopwatch
) -> Step:
    drift = logp - writer
    mismatch, mismatch_spread = _mismatch(batch, writer)
    margin, accuracy = (None, None) if batch.label is None else _of_pairs(logp - known, batch.label)
    return Step(
        step=step,
        loss=loss,
        margin=margin,
        accuracy=accuracy,
        gradient_norm=norm,
        tokens=float(batch.lengths.mean()),
        drift=float(drift.mean()),
        drift_spread=float(drift.std()),
        stages=watch.stages,
        batch=batch,
        reward=None if batch.reward is None else float(batch.reward.mean()),
        mismatch=mismatch,
        mismatch_spread=mismatch_spread,
    )


def _mismatch(batch: Batch, writer: Known) -> tuple[float | None, float | None]:
    """Mean and standard deviation of sampler less trainer; the trainer has scored the responses for the loss."""
    if batch.sampled is None or not np.isfinite(batch.sampled).any():
        return None, None
    apart = (batch.sampled - writer)[np.isfinite(batch.sampled)]
    return float(apart.mean()), float(apart.std())


def _of_pairs(rho: Known, label: Float[np.ndarray, " pair"]) -> tuple[float, float]:
    """(margin, accuracy)."""
    delta, side = rho[:, 0] - rho[:, 1], np.sign(label - 0.5)
    decided = side != 0
    agreement = np.where(decided, (np.sign(delta) * side + 1) / 2, 0.5)
    return float((delta * side)[decided].mean()) if decided.any() else 0.0, float(agreement.mean())
