"""A moving average of a policy's weights, kept in place of the policy's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from goodhart.alignment.references import approach


class AveragePolicy:
    """average <- (1 - rate) average + rate policy after every step."""

    def __init__(self, copy: Any, policy: Any, rate: float) -> None:
        """`copy` has weights of its own, those of the policy at the start."""
        self.copy, self.policy, self.rate = copy, policy, rate

    def after(self, step: int) -> None:  # noqa: ARG002 - it follows at every step
        """Follow the policy."""
        approach(self.copy.parameters(), self.policy.parameters(), self.rate)

    def state(self) -> list[Tensor]:
        """The average."""
        return [p.detach() for p in self.copy.parameters()]

    def restore(self, state: Sequence[Tensor]) -> None:
        """Go on from what `state` gave."""
        approach(self.copy.parameters(), state, 1.0)
