"""Settings of the training stages; nothing here imports torch, so that a study file is read at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from goodhart.config import Count, Positive, Range, Whole, named_elsewhere
from goodhart.errors import GoodhartError
from goodhart.models.adapter_settings import Adapter
from goodhart.tasks.reward import Rule

Rate = Annotated[float, Range(0, 1, open_low=True)]
"""A learning rate of AdamW, which moves every weight by about so much in a step."""
Moment = Annotated[float, Range(0, 1, open_high=True)]
"""How much of a running mean is kept in a step."""
RULE = "rule"
"""The kind of judge that is no model."""


@dataclass(frozen=True)
class Optimisation:
    """How parameters move (AdamW)."""

    lr: Rate = 1e-4
    """Peak learning rate."""
    warmup: Whole = 10
    """Steps of linear warm-up."""
    decay: Literal["constant", "linear"] = "constant"
    """After warm-up: constant, or linear to 0 at the last step."""
    clip: Positive = 1.0
    """Largest gradient norm."""
    weight_decay: Annotated[float, Range(0)] = 0.0
    """Decoupled weight decay."""
    beta1: Moment = 0.9
    """AdamW's first moment."""
    beta2: Moment = 0.999
    """AdamW's second moment."""
    micro_batch: Whole = 0
    """Rows per forward pass; 0 is the whole batch. Changes memory and how many cores can help, not the result: SFT
    policies and preference models that train while nothing else can run compute as many at once as workers are idle."""
    gradient_checkpointing: bool = False
    """Whether layers keep their inputs alone and are computed again in the backward pass. Changes memory and time."""


@dataclass(frozen=True)
class Supervised:
    """How the SFT policy is trained."""

    steps: Count = 120
    """Optimiser steps."""
    batch: Count = 64
    """Demonstrations per step."""
    early: Count = 40
    """The step of the early checkpoint, which writes part of the initial pairs."""
    optimisation: Optimisation = Optimisation(lr=1e-3, warmup=10, decay="linear")
    """The optimiser."""
    adapter: Adapter | None = None
    """What is trained in place of the weights; the policy that is kept has it merged into them."""


@dataclass(frozen=True)
class Preference:
    """A preference model: its kind and how it is fitted; or a rule, of which nothing is fitted."""

    model: str = named_elsewhere("tiny")
    """Language model it starts from: a preset with a base model, a Hub id, or a path."""
    kind: Literal["pairwise", "bradley-terry", "rule"] = "pairwise"
    """pairwise: both responses in context; bradley-terry: a score for each; rule: an exact reward, and no model
    (docs/rules.md)."""
    rule: Rule | None = None
    """For `rule`: the reward. No other setting but these two is read then."""
    steps: Count = 200
    """Optimiser steps at most."""
    batch: Count = 32
    """Pairs per step."""
    check_every: Count = 25
    """Steps between two looks at the validation loss."""
    patience: Count = 2
    """Stop after this many looks without a new lowest validation loss; the model of the lowest is kept."""
    head_factor: Positive = 50.0
    """The head moves at this many times the trunk's learning rate."""
    optimisation: Optimisation = Optimisation(lr=1e-4, warmup=10)
    """The optimiser."""
    adapter: Adapter | None = None
    """What is trained of the language model in place of its weights; the head is trained whole."""

    def validate(self, where: str) -> None:
        """Raises GoodhartError for a rule without its kind, and the other way round."""
        if (self.kind == RULE) != (self.rule is not None):
            raise GoodhartError(
                f"{where}.kind is {self.kind!r}, and there is {'a' if self.rule else 'no'} {where}.rule",
                f"set {where}.kind=rule, or leave {where}.rule out" if self.rule else f"say {where}.rule.reward",
            )
        if self.rule:
            self.rule.validate(f"{where}.rule")
