"""What flows between the slots of an algorithm: pairs of responses with their supervision."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

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


@dataclass(frozen=True, slots=True)
class Pairs:
    """A batch: for each prompt two responses and the probability that the first is preferred."""

    prompts: Sequence[Prompt]
    first: Sequence[Tokens]
    second: Sequence[Tokens]
    label: Float[np.ndarray, " pair"] | None = None
    """Probability that the first is preferred; None until a labeller has spoken."""
    reference: Float[np.ndarray, "pair 2"] | None = None
    """log reference(response | prompt) in nats, where it is known already."""
    reference_name: str = field(default="", kw_only=True)
    """The name of the model that gave `reference`; empty: not known."""
    writer: Float[np.ndarray, "pair 2"] | None = None
    """log writer(response | prompt) in nats, of the policy that wrote it; NaN or None: the policy itself, now."""

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def responses(self) -> list[tuple[Tokens, Tokens]]:
        """(first, second) of each pair."""
        return list(zip(self.first, self.second, strict=True))

    @property
    def lengths(self) -> Float[np.ndarray, "pair 2"]:
        """Tokens of each response."""
        return np.array([[len(a), len(b)] for a, b in self.responses], dtype=np.float64).reshape(-1, 2)

    @property
    def prompt_tokens(self) -> list[tuple[int, ...]]:
        """Token ids of the prompts."""
        return [p.tokens for p in self.prompts]

    def under(self, name: str) -> Float[np.ndarray, "pair 2"] | None:
        """`reference`, if the model of that name gave it; what has no name is nobody's."""
        return self.reference if name and name == self.reference_name else None

    def labelled(self, label: Float[np.ndarray, " pair"]) -> Pairs:
        """The same pairs with supervision. Raises ValueError for a probability outside [0, 1]."""
        if len(label) != len(self) or not bool(np.all((label >= 0) & (label <= 1))):
            raise ValueError("a label is one probability in [0, 1] for each pair")
        return replace(self, label=np.asarray(label, dtype=np.float64))

    def swapped(self) -> Pairs:
        """The same pairs with first and second exchanged."""
        return replace(
            self,
            first=self.second,
            second=self.first,
            label=None if self.label is None else 1 - self.label,
            reference=None if self.reference is None else self.reference[:, ::-1].copy(),
            writer=None if self.writer is None else self.writer[:, ::-1].copy(),
        )

    @classmethod
    def joined(cls, parts: Sequence[Pairs]) -> Pairs:
        """Labelled pairs one after the other; what is not known of all is not known of the whole.

        Only writers are known pair by pair: NaN where they are not.

        Raises ValueError if a part has no label.
        """
        labels = [p.label for p in parts if p.label is not None]
        references = [p.reference for p in parts if p.reference is not None]
        names = {p.reference_name for p in parts}
        shared = len(references) == len(parts) and len(names) == 1
        if len(labels) < len(parts):
            raise ValueError("only pairs with labels can be joined")
        known = any(p.writer is not None for p in parts)
        own = [np.full((len(p), 2), np.nan) if p.writer is None else p.writer for p in parts]
        return cls(
            [prompt for part in parts for prompt in part.prompts],
            [response for part in parts for response in part.first],
            [response for part in parts for response in part.second],
            np.concatenate(labels),
            np.concatenate(references) if shared else None,
            np.concatenate(own) if known else None,
            reference_name=names.pop() if shared else "",
        )

    def take(self, chosen: Sequence[int]) -> Pairs:
        """The pairs at the given places, in that order."""
        places = list(chosen)
        return Pairs(
            [self.prompts[i] for i in places],
            [self.first[i] for i in places],
            [self.second[i] for i in places],
            None if self.label is None else self.label[places],
            None if self.reference is None else self.reference[places],
            None if self.writer is None else self.writer[places],
            reference_name=self.reference_name,
        )

    def __getitem__(self, chosen: slice) -> Pairs:
        return Pairs(
            self.prompts[chosen],
            self.first[chosen],
            self.second[chosen],
            None if self.label is None else self.label[chosen],
            None if self.reference is None else self.reference[chosen],
            None if self.writer is None else self.writer[chosen],
            reference_name=self.reference_name,
        )
