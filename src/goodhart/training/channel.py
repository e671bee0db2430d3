"""Where a proxy's labels depart from the data's: two classifiers that tell pairs of the one from pairs of the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, layer_norm

from goodhart.alignment.batch import Batch
from goodhart.alignment.policy import LanguagePolicy
from goodhart.models.logprobs import response_laws
from goodhart.models.packing import Tokens
from goodhart.randomness import key
from goodhart.training.alignment import Facts, Known
from goodhart.training.optimiser import Descent
from goodhart.training.settings import Optimisation

_HIDDEN = 64
_BOUND = 4.0
"""Of a classifier's logit: the difference of two that are bounded by 2, as in H2O's code."""


@runtime_checkable
class Describing(Protocol):
    """What has a vector for every response."""

    @property
    def size(self) -> int:
        """Of the vectors."""
        ...

    def describe(
        self, contexts: Sequence[Tokens], responses: Sequence[Sequence[Tokens]]
    ) -> Float[Tensor, "row response feature"]:
        """Without gradient."""
        ...


@dataclass(frozen=True, slots=True)
class States:
    """The mean of a frozen language model's last states over a response's tokens, of mean 0 and variance 1."""

    policy: LanguagePolicy

    @property
    def size(self) -> int:
        """The model's hidden size."""
        return int(self.policy.model.config.hidden_size)

    @torch.no_grad()
    def describe(
        self, contexts: Sequence[Tokens], responses: Sequence[Sequence[Tokens]]
    ) -> Float[Tensor, "row response feature"]:
        """Of every response, behind its prompt."""
        policy = self.policy
        laws = response_laws(policy.model, contexts, responses, pad=policy.pad, layout=policy.layout, states=True)
        assert laws.states is not None
        parts = zip(laws.states.split(list(laws.widths), dim=1), laws.real.split(list(laws.widths), dim=1), strict=True)
        means = [(s * real[..., None]).sum(1) / real.sum(1, keepdim=True).clamp(min=1) for s, real in parts]
        return layer_norm(torch.stack(means, dim=1).float(), [self.size])


class _Classifier(nn.Module):
    """A bounded logit of two vectors; 0 at first."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(2 * size, _HIDDEN), nn.Linear(_HIDDEN, 1)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    def forward(self, first: Float[Tensor, "row feature"], second: Float[Tensor, "row feature"]) -> Tensor:
        """One logit for each row."""
        hidden = self.inner(torch.cat([first, second], dim=1)).relu()
        return _BOUND * self.outer(hidden)[:, 0].tanh()


class LabelChannel:
    """How far a label of the proxy can be believed: w = min(1, p_data(label | x, y1, y2) / p_proxy(label | x, y1, y2)).

    H2O (arXiv 2206.13464) weighs a simulator's transitions by the ratio of two laws of the next state; here the label
    stands in the place of that state. With d and d' the probabilities that a pair is of the data, told from
    (x, y1, y2) and from (x, y1, y2, label), the ratio is d' / (1 - d') times (1 - d) / d. The logit of d' is that of d
    plus one of its own, so the ratio is the exponential of the latter. Both read |a - b| or (2 p - 1) (a - b), and
    a + b, of the responses' vectors a and b: exchanging the responses with the label changes nothing.
    """

    def __init__(self, describing: Describing, settings: Optimisation, steps: int, seed: int) -> None:
        self.describing = describing
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(key(seed, "classifiers") % 2**63)
            self.pair, self.label = _Classifier(describing.size), _Classifier(describing.size)
        self.descent = Descent([*self.pair.parameters(), *self.label.parameters()], settings, steps)

    @classmethod
    def of(cls, policy: LanguagePolicy, settings: Optimisation, steps: int, seed: int) -> LabelChannel:
        """With the states of a policy that does not move."""
        return cls(States(policy), settings, steps, seed)

    def state(self) -> dict[str, Any]:
        """The classifiers and their optimiser's state."""
        return self.descent.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.descent.restore(state)

    @torch.no_grad()
    def statistics(self, facts: Facts) -> Mapping[str, np.ndarray]:
        """`belief`: w of each pair, 1 of the data's own. Raises ValueError where no pair says whether it is one."""
        _, label = self._logits(facts.batch)
        ratio = label.clamp(max=0.0).exp().double().cpu().numpy()
        return {"belief": np.where(_real(facts.batch) > 0, 1.0, ratio)}

    def learn(self, facts: Facts, logp: Known, step: int) -> None:  # noqa: ARG002 - labels, not log-probabilities
        """One step of both on the batch, in which the data's pairs and the others weigh as much as one another."""
        real = _real(facts.batch)
        pair, label = self._logits(facts.batch)
        share = float(real.mean())
        weight = np.where(real > 0, 0.5 / max(share, 1e-9), 0.5 / max(1 - share, 1e-9))
        target, weights = (torch.as_tensor(each, dtype=pair.dtype, device=pair.device) for each in (real, weight))
        loss = binary_cross_entropy_with_logits(pair, target, weights)
        loss = loss + binary_cross_entropy_with_logits(pair.detach() + label, target, weights)
        loss.backward()
        self.descent.step(step, float(loss.detach()))

    def _logits(self, batch: Batch) -> tuple[Float[Tensor, " pair"], Float[Tensor, " pair"]]:
        """Of a pair being the data's without its label, and what the label adds."""
        if batch.label is None:
            raise ValueError("labels are compared, and the batch has none")
        result = self.describing.describe(batch.contexts, batch.responses)
        self.pair.to(result.device)
        self.label.to(result.device)
        one, two = result[:, 0], result[:, 1]
        side = torch.as_tensor(2 * batch.label - 1, dtype=result.dtype, device=result.device)[:, None]
        return self.pair((one - two).abs(), one + two), self.label(side * (one - two), one + two)


def _real(batch: Batch) -> Float[np.ndarray, " pair"]:
    if batch.real is None:
        raise ValueError("pairs of the data are told from others, and no pair says whether it is one")
    return batch.real
