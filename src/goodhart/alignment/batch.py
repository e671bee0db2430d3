"""What flows between the slots of an algorithm: prompts, their responses, and the supervision of these."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from jaxtyping import Float

from goodhart.models.packing import Tokens
from goodhart.tasks.prompts import Prompt


def occurrences(prompts: Sequence[Prompt]) -> tuple[list[int], list[int]]:
    """For each prompt how often it stands before, and how often in all."""
    seen: Counter[int] = Counter()
    before: list[int] = []
    for prompt in prompts:
        before.append(seen[prompt.number])
        seen[prompt.number] += 1
    return before, [seen[prompt.number] for prompt in prompts]


SUPERVISION = ("label", "reward", "mark")
"""The fields of a batch that a labeller fills."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Prompts with as many responses each, at most one kind of supervision, and log-probabilities by who gave them."""

    prompts: Sequence[Prompt]
    responses: Sequence[Sequence[Tokens]]
    """Of each prompt; pairs have two."""
    label: Float[np.ndarray, " prompt"] | None = field(default=None, kw_only=True)
    """Of pairs: the probability that the first is preferred; None until a labeller has spoken."""
    reward: Float[np.ndarray, "prompt response"] | None = field(default=None, kw_only=True)
    """A number for each response; only differences within a prompt have a meaning."""
    mark: Float[np.ndarray, "prompt response"] | None = field(default=None, kw_only=True)
    """The probability that a response is a good one."""
    writer: Float[np.ndarray, "prompt response"] | None = field(default=None, kw_only=True)
    """log writer(response | prompt) in nats, of the policy that wrote it; NaN or None: the policy itself, now."""
    sampled: Float[np.ndarray, "prompt response"] | None = field(default=None, kw_only=True)
    """log p(response | prompt) in nats as the sampler drew it; NaN or None where no sampler said so."""
    logps: Mapping[str, Float[np.ndarray, "prompt response"]] = field(
        default_factory=dict[str, np.ndarray], kw_only=True
    )
    """log p(response | prompt) in nats, by the name of the model that gave them."""
    real: Float[np.ndarray, " prompt"] | None = field(default=None, kw_only=True)
    """1 where the label is the data set's own and 0 where another judge spoke; None where no part of it says."""
    prefixes: Sequence[Tokens] | None = field(default=None, kw_only=True)
    """The beginning that was forced on all responses to a prompt; `responses` are what was written behind it."""

    @classmethod
    def of_pairs(
        cls,
        prompts: Sequence[Prompt],
        first: Sequence[Tokens],
        second: Sequence[Tokens],
        label: Float[np.ndarray, " prompt"] | None = None,
        **known: Any,
    ) -> Batch:
        """Two responses for each prompt."""
        return cls(prompts, list(zip(first, second, strict=True)), label=label, **known)

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def first(self) -> list[Tokens]:
        """The first response to each prompt."""
        return [row[0] for row in self.responses]

    @property
    def second(self) -> list[Tokens]:
        """The second response to each prompt of a batch of pairs."""
        return [two for _, two in self.responses]

    @property
    def lengths(self) -> Float[np.ndarray, "prompt response"]:
        """Tokens of each response, without what was forced."""
        lengths = [[len(response) for response in row] for row in self.responses]
        return np.array(lengths, dtype=np.float64).reshape(len(self), -1 if lengths else 2)

    @property
    def contexts(self) -> list[tuple[int, ...]]:
        """Token ids of the prompts, with what was forced behind them: what a response is written and scored behind."""
        if self.prefixes is None:
            return [p.tokens for p in self.prompts]
        return [(*p.tokens, *prefix) for p, prefix in zip(self.prompts, self.prefixes, strict=True)]

    @property
    def prompt_tokens(self) -> list[tuple[int, ...]]:
        """Token ids of the prompts."""
        return [p.tokens for p in self.prompts]

    @property
    def whole(self) -> Batch:
        """The batch as who judges it reads it: with what was forced at the beginning of the responses."""
        if self.prefixes is None:
            return self
        rows = zip(self.prefixes, self.responses, strict=True)
        full = [[[*prefix, *response] for response in row] for prefix, row in rows]
        return replace(self, responses=full, prefixes=None, logps={}, writer=None, sampled=None)

    def under(self, name: str) -> Float[np.ndarray, "prompt response"] | None:
        """The log-probabilities that the model of that name gave; what has no name is nobody's."""
        return self.logps.get(name) if name else None

    @property
    def reference(self) -> Float[np.ndarray, "prompt response"] | None:
        """The log-probabilities of the one model that gave some; None where there are none.

        Raises ValueError where several models did.
        """
        if len(self.logps) > 1:
            raise ValueError(f"log-probabilities are known of several models: {', '.join(map(repr, self.logps))}")
        return next(iter(self.logps.values()), None)

    def scored_by(self, name: str, logps: Float[np.ndarray, "prompt response"]) -> Batch:
        """The same with log-probabilities in nats under a model's name."""
        return replace(self, logps={**self.logps, name: logps})

    def labelled(self, label: Float[np.ndarray, " prompt"]) -> Batch:
        """The same pairs with supervision. Raises ValueError for a probability outside [0, 1]."""
        if len(label) != len(self) or not bool(np.all((label >= 0) & (label <= 1))):
            raise ValueError("a label is one probability in [0, 1] for each pair")
        return replace(self, label=np.asarray(label, dtype=np.float64))

    def swapped(self) -> Batch:
        """The same pairs with first and second exchanged."""
        turned = {name: values[:, ::-1].copy() for name, values in self._by_response().items()}
        return replace(
            self,
            responses=[(two, one) for one, two in self.responses],
            label=None if self.label is None else 1 - self.label,
            logps={name: values[:, ::-1].copy() for name, values in self.logps.items()},
            **turned,
        )

    def columns(self, chosen: Sequence[Sequence[int]]) -> Batch:
        """Of each prompt the responses at some places, as many for all; labels, which are of pairs, are left out."""
        places = np.array(chosen)
        rows = zip(self.responses, chosen, strict=True)
        return replace(
            self,
            responses=[[row[i] for i in each] for row, each in rows],
            label=None,
            logps={name: np.take_along_axis(values, places, 1) for name, values in self.logps.items()},
            **{name: np.take_along_axis(values, places, 1) for name, values in self._by_response().items()},
        )

    def _by_response(self) -> dict[str, Float[np.ndarray, "prompt response"]]:
        """What is known of each response beside its log-probabilities under a name."""
        every = {"reward": self.reward, "mark": self.mark, "writer": self.writer, "sampled": self.sampled}
        return {name: values for name, values in every.items() if values is not None}

    @classmethod
    def joined(cls, parts: Sequence[Batch]) -> Batch:
        """Batches one after the other; what is not known of all is not known of the whole.

        Only writers, samplers and forced beginnings are known prompt by prompt. Raises ValueError if a part has no
        supervision, or another kind than the others, or another number of responses.
        """
        kinds = {tuple(kind for kind in SUPERVISION if getattr(part, kind) is not None) for part in parts}
        if len(kinds) != 1 or not next(iter(kinds)):
            raise ValueError("only pairs with labels can be joined, or responses with one other kind of supervision")
        if len({len(row) for part in parts for row in part.responses}) > 1:
            raise ValueError("batches are joined if they have as many responses a prompt")
        shared = set.intersection(*(set(part.logps) for part in parts))
        known = {name: any(getattr(part, name) is not None for part in parts) for name in ("writer", "sampled")}
        unknown = [np.full((len(p), len(p.responses[0]) if len(p) else 0), np.nan) for p in parts]
        writers = [none if p.writer is None else p.writer for p, none in zip(parts, unknown, strict=True)]
        sampled = [none if p.sampled is None else p.sampled for p, none in zip(parts, unknown, strict=True)]
        forced = any(part.prefixes is not None for part in parts)
        prefixes = [prefix for part in parts for prefix in (part.prefixes or [()] * len(part))]
        real = np.concatenate([np.zeros(len(part)) if part.real is None else part.real for part in parts])
        supervision = {kind: np.concatenate([getattr(part, kind) for part in parts]) for kind in next(iter(kinds))}
        return cls(
            [prompt for part in parts for prompt in part.prompts],
            [row for part in parts for row in part.responses],
            writer=np.concatenate(writers) if known["writer"] else None,
            sampled=np.concatenate(sampled) if known["sampled"] else None,
            logps={name: np.concatenate([part.logps[name] for part in parts]) for name in sorted(shared)},
            real=real if any(part.real is not None for part in parts) else None,
            prefixes=prefixes if forced else None,
            **supervision,
        )

    def take(self, chosen: Sequence[int]) -> Batch:
        """The prompts at the given places, in that order."""
        places = list(chosen)
        return self._cut(places, [self.prompts[i] for i in places], [self.responses[i] for i in places])

    def __getitem__(self, chosen: slice) -> Batch:
        return self._cut(chosen, self.prompts[chosen], self.responses[chosen])

    def _cut(
        self, chosen: slice | list[int], prompts: Sequence[Prompt], responses: Sequence[Sequence[Tokens]]
    ) -> Batch:
        prefixes = self.prefixes
        if prefixes is not None:
            prefixes = prefixes[chosen] if isinstance(chosen, slice) else [prefixes[i] for i in chosen]
        return Batch(
            prompts,
            responses,
            label=None if self.label is None else self.label[chosen],
            real=None if self.real is None else self.real[chosen],
            logps={name: values[chosen] for name, values in self.logps.items()},
            prefixes=prefixes,
            **{name: values[chosen] for name, values in self._by_response().items()},
        )
