"""Sources: where an arm's responses come from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import groupby
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import Parameter

from goodhart.alignment.batch import Batch, occurrences
from goodhart.alignment.labellers import Labeller
from goodhart.alignment.references import approach
from goodhart.models.packing import Tokens
from goodhart.randomness import permutation, stream
from goodhart.sampling.written import Written
from goodhart.tasks.prompts import Prompt


@runtime_checkable
class Generator(Protocol):
    """What a policy source samples from."""

    def sample(
        self, prompts: Sequence[Prompt], samples: int, *, seed: int, purpose: str, first_sample: Sequence[int]
    ) -> list[list[list[int]]]:
        """`samples` responses for each prompt from its `first_sample` on, drawn with keyed random numbers."""
        ...

    def log_probs(
        self, prompts: Sequence[Tokens], responses: Sequence[Sequence[Tokens]]
    ) -> Float[Tensor, "row response"]:
        """Log p(response | prompt) in nats."""
        ...


@runtime_checkable
class Reporting(Protocol):
    """What also says how probable each response was as it was drawn; a table does not, whose law it is."""

    def written(
        self, prompts: Sequence[Prompt], samples: int, *, seed: int, purpose: str, first_sample: Sequence[int]
    ) -> Written:
        """The responses of `Generator.sample` with the sampler's log-probabilities."""
        ...


@runtime_checkable
class Sampling(Generator, Protocol):
    """A policy that can be held as it is while it goes on being trained."""

    def parameters(self) -> Iterator[Parameter]:
        """Its weights, in an order that does not change."""
        ...

    def frozen(self) -> Sampling:
        """A copy that training does not move."""
        ...


@runtime_checkable
class Source(Protocol):
    """The responses of a step: a function of (seed, step, policy), so to resume is to call again."""

    def draw(self, step: int, policy: Sampling) -> Batch:
        """The batch of a step."""
        ...


def places(step: int, batch: int, size: int, seed: int) -> list[int]:
    """Which of `size` items stand in the batch of a step: epoch after epoch, each in its own keyed order.

    Every source walks its items so; hence online and offline runs of one seed see the same prompts at
    the same step.
    """
    positions = range(step * batch, (step + 1) * batch)
    orders = {epoch: permutation(size, seed, "order of pairs", epoch) for epoch in {p // size for p in positions}}
    return [int(orders[p // size][p % size]) for p in positions]


def used_places(steps: range, batch: int, size: int, seed: int) -> Int[np.ndarray, " used"]:
    """The items that stand in the batches of some steps, in increasing order."""
    first, last = steps.start * batch, max(steps.start, steps.stop) * batch
    if last - first >= 2 * size:
        return np.arange(size)
    epochs = [
        permutation(size, seed, "order of pairs", epoch)[max(first - epoch * size, 0) : last - epoch * size]
        for epoch in range(first // size, -(-last // size))
    ]
    return np.unique(np.concatenate([np.zeros(0, dtype=np.int64), *epochs]))


@dataclass(frozen=True, slots=True)
class DataSource:
    """Both responses from a fixed data set: offline."""

    data: Batch
    batch: int
    seed: int

    def draw(self, step: int, policy: Generator) -> Batch:  # noqa: ARG002 - a data set asks no policy
        """The step's pairs of the data set, with their labels."""
        return self.data.take(places(step, self.batch, len(self.data), self.seed))


POLICY, REFERENCE, MIXTURE, FIRST, SECOND = "policy", "reference", "mixture", "first", "second"
"""Who can write a response of a `PolicySource`: models, or the data set's two responses to the prompt."""


@dataclass(frozen=True)
class PolicySource:
    """Responses to a data set's prompts, in its order: samples of the policy that is being trained, and others'."""

    prompts: Sequence[Prompt]
    batch: int
    seed: int
    writers: tuple[str, ...] = (POLICY, POLICY)
    """Who writes each of a prompt's responses; `policy`, a name of `others`, or `first` and `second` of `data`."""
    others: Mapping[str, Generator] = field(default_factory=dict[str, Generator])
    """Models that are not trained, by name."""
    data: Batch | None = None
    """The pairs that the prompts are of, for what is taken from them."""
    prefix: float = 0.0
    """The share of prompts whose responses begin as the preferred one of `data` (DR-PO, arXiv 2404.08495): of its L
    tokens h ~ U{1, ..., L - 1} are forced on all responses."""
    longest: int = 0
    """Tokens of a response at most, with what was forced."""

    def draw(self, step: int, policy: Generator) -> Batch:
        """Fresh responses for each prompt of the step.

        With n responses a prompt, in epoch e the k-th of a prompt's m places has its samples from n (e m + k) on. So
        neither a prompt that stands in the data twice, nor one that ends an epoch and begins the next within a step,
        has a sample twice.
        """
        chosen = places(step, self.batch, len(self.prompts), self.seed)
        positions = range(step * self.batch, (step + 1) * self.batch)
        before, number = self._occurrences
        parts: list[Batch] = []
        for epoch, group in groupby(positions, lambda position: position // len(self.prompts)):
            done = sum(map(len, parts))
            part = chosen[done : done + len(list(group))]
            numbers = [epoch * number[i] + before[i] for i in part]
            parts.append(self._written(part, numbers, policy))
        return parts[0] if len(parts) == 1 else _stacked(parts)

    def _written(self, part: Sequence[int], numbers: Sequence[int], policy: Generator) -> Batch:
        prompts = [self.prompts[i] for i in part]
        forced = self._forced(part, numbers) if self.prefix else None
        asked = prompts if forced is None else [_behind(p, f) for p, f in zip(prompts, forced, strict=True)]
        columns, said = list[Sequence[Tokens]](), np.full((len(prompts), len(self.writers)), np.nan)
        for writer, group in groupby(self.writers):
            several, at = len(list(group)), len(columns)
            if writer in (FIRST, SECOND):
                assert self.data is not None
                columns += [[self.data.responses[i][writer == SECOND] for i in part]] * several
                continue
            first = [len(self.writers) * each + at for each in numbers]
            drawn = self._drawn(policy if writer == POLICY else self.others[writer], asked, several, first)
            columns += [[row[column] for row in drawn.responses] for column in range(several)]
            said[:, at : at + several] = drawn.logps
        if forced is not None:
            rest = [self.longest - len(prefix) for prefix in forced]
            whole = [[len(text) <= most for text, most in zip(column, rest, strict=True)] for column in columns]
            said = np.where(np.array(whole).T, said, np.nan)  # what is cut is another response
            columns = [[text[:most] for text, most in zip(column, rest, strict=True)] for column in columns]
        sampled = said if np.isfinite(said).any() else None
        batch = Batch(prompts, list(zip(*columns, strict=True)), prefixes=forced, sampled=sampled)
        return batch if set(self.writers) == {POLICY} else replace(batch, writer=self._known(batch, part))

    def _drawn(self, writer: Generator, asked: Sequence[Prompt], several: int, first: Sequence[int]) -> Written:
        if isinstance(writer, Reporting):
            return writer.written(asked, several, seed=self.seed, purpose="online pair", first_sample=first)
        rows = writer.sample(asked, several, seed=self.seed, purpose="online pair", first_sample=first)
        return Written(rows, np.full((len(asked), several), np.nan))

    def _forced(self, part: Sequence[int], numbers: Sequence[int]) -> list[Tokens]:
        assert self.data is not None
        assert self.data.label is not None
        forced: list[Tokens] = []
        for place, number in zip(part, numbers, strict=True):
            draw = stream(self.seed, "forced prefix", self.prompts[place].id, number)
            text = self.data.responses[place][int(self.data.label[place] < 0.5)]
            wanted, cut = draw.random() < self.prefix, draw.random()
            forced.append(list(text[: 1 + int(cut * (len(text) - 1))]) if wanted and len(text) > 1 else [])
        return forced

    def _known(self, batch: Batch, part: Sequence[int]) -> Float[np.ndarray, "prompt response"]:
        """Log-probabilities under the writers that are not the policy; NaN for the policy, and for people."""
        known = np.full((len(batch), len(self.writers)), np.nan)
        for column, writer in enumerate(self.writers):
            if writer in (FIRST, SECOND):
                assert self.data is not None
                if self.data.writer is not None:
                    known[:, column] = self.data.writer[list(part), int(writer == SECOND)]
            elif writer != POLICY:
                with torch.no_grad():
                    rows = [[row[column]] for row in batch.responses]
                    known[:, column] = self.others[writer].log_probs(batch.contexts, rows)[:, 0].double().cpu().numpy()
        return known

    @cached_property
    def _occurrences(self) -> tuple[list[int], list[int]]:
        return occurrences(self.prompts)


def _behind(prompt: Prompt, prefix: Tokens) -> Prompt:
    """The prompt with what is forced behind it; its random numbers stay its own."""
    return replace(prompt, tokens=(*prompt.tokens, *prefix))


def _stacked(parts: Sequence[Batch]) -> Batch:
    """Batches without supervision one after the other."""
    zeros = [replace(part, reward=np.zeros(part.lengths.shape)) for part in parts]
    return replace(Batch.joined(zeros), reward=None)


@dataclass(slots=True)
class DelayedSource:
    """What a source draws from the policy as it was at the last refresh: between online and offline (2506.21495).

    The sampling policy is renewed every `refresh` steps: 1 is online, 0 never, so that all samples are the start's.
    """

    inner: Source
    refresh: int
    held: Sampling | None = None
    """The sampling policy; the one part of a source that is not a function of (seed, step, policy)."""

    def draw(self, step: int, policy: Sampling) -> Batch:
        """The responses that `inner` would draw from the policy that is held, with its log-probabilities."""
        if self.held is None or (self.refresh and step % self.refresh == 0):
            self.held = policy.frozen()
            return self.inner.draw(step, self.held)
        batch = self.inner.draw(step, self.held)
        with torch.no_grad():
            own = self.held.log_probs(batch.contexts, batch.responses).double().cpu().numpy()
        return replace(
            batch, writer=own if batch.writer is None else np.where(np.isnan(batch.writer), own, batch.writer)
        )

    def state(self) -> list[Tensor]:
        """The weights of the policy that is held."""
        return [] if self.held is None else [p.detach() for p in self.held.parameters()]

    def restore(self, state: Sequence[Tensor], policy: Sampling) -> None:
        """Hold again what `state` gave; `policy` says what kind of model it is of."""
        if state:
            self.held = policy.frozen()
            approach(self.held.parameters(), state, 1.0)


@dataclass(slots=True)
class BufferedSource:
    """All pairs that the run has drawn so far: every step adds its own, labelled, and has as many of all of them.

    The buffer of online VPO (arXiv 2405.19320), whose loss is over all pairs of all rounds.
    """

    inner: Source
    labeller: Labeller
    seed: int
    kept: Batch | None = None
    """The one part that is not a function of (seed, step, policy), beside the source's own."""

    def draw(self, step: int, policy: Sampling) -> Batch:
        """As many pairs of the buffer as the step drew, each at most once, with log-probabilities of who wrote them."""
        fresh = self.labeller.label(self.inner.draw(step, policy), step)
        if fresh.writer is None or np.isnan(fresh.writer).any():
            with torch.no_grad():
                own = policy.log_probs(fresh.contexts, fresh.responses).double().cpu().numpy()
            known = own if fresh.writer is None else np.where(np.isnan(fresh.writer), own, fresh.writer)
            fresh = replace(fresh, writer=known)
        self.kept = Batch.joined([fresh] if self.kept is None else [self.kept, fresh])
        chosen = permutation(len(self.kept), self.seed, "buffer", step)[: len(fresh)]
        return self.kept.take([int(place) for place in chosen])

    def state(self) -> dict[str, Any]:
        """What it keeps, and the source's own state."""
        inner = self.inner.state() if isinstance(self.inner, DelayedSource) else []
        if self.kept is None:
            return {"inner": inner}
        pairs = {
            "prompts": [(prompt.id, list(prompt.tokens)) for prompt in self.kept.prompts],
            "responses": [[list(text) for text in row] for row in self.kept.responses],
            "label": torch.as_tensor(self.kept.label),
            "writer": torch.as_tensor(self.kept.writer),
            **({} if self.kept.sampled is None else {"sampled": torch.as_tensor(self.kept.sampled)}),
        }
        return {"kept": pairs, "inner": inner}

    def restore(self, state: Mapping[str, Any], policy: Sampling) -> None:
        """Go on from what `state` gave."""
        if "kept" in state:
            pairs = state["kept"]
            prompts = [Prompt(name, tuple(tokens)) for name, tokens in pairs["prompts"]]
            known = {name: pairs[name].numpy() for name in ("label", "writer", "sampled") if name in pairs}
            self.kept = Batch(prompts, pairs["responses"], **known)
        if isinstance(self.inner, DelayedSource):
            self.inner.restore(state["inner"], policy)


@dataclass(frozen=True, slots=True)
class StreamSource:
    """The recorded pairs of an online run: what it saw, whoever wrote it then.

    `window` is how many batches are shuffled together: 1 replays the run in order, 0 shuffles all of it, epoch after
    epoch (arXiv 2405.08448, section 5.1 and figure 13).
    """

    data: Batch
    """In the order of the run, with its labels and reference log-probabilities."""
    batch: int
    seed: int
    window: int

    def draw(self, step: int, policy: Generator) -> Batch:  # noqa: ARG002 - a recording asks no policy
        """The step's pairs. Raises ValueError behind the recording's end."""
        if self.window == 0:
            return self.data.take(places(step, self.batch, len(self.data), self.seed))
        number, place = divmod(step, self.window)
        start = number * self.window * self.batch
        size = min(self.window * self.batch, len(self.data) - start)
        if (place + 1) * self.batch > size:
            raise ValueError(f"step {step} is behind the end of a stream of {len(self.data)} pairs")
        order = permutation(size, self.seed, "stream window", number) if self.window > 1 else range(size)
        return self.data.take([start + int(order[i]) for i in range(place * self.batch, (place + 1) * self.batch)])


@dataclass(frozen=True, slots=True)
class MixtureSource:
    """Several sources with their labellers, each with its share of every batch."""

    parts: Sequence[tuple[Source, Labeller]]
    """Each draws its share."""

    def draw(self, step: int, policy: Sampling) -> Batch:
        """The parts' pairs one after the other, with their labels."""
        return Batch.joined([labeller.label(source.draw(step, policy), step) for source, labeller in self.parts])
