"""An arm of a study: one method, as a choice for each slot of an algorithm."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

from goodhart.config import Count, Positive, Whole, named_elsewhere
from goodhart.errors import GoodhartError
from goodhart.training.settings import Optimisation, Rate

BEST_OF_2 = "best-of-2"
"""The loss that has neither a margin nor a beta."""
SFT_WRITER = "sft"
"""The writer of responses that is no arm's checkpoint."""


@dataclass(frozen=True)
class Arm:
    """One method: an algorithm, a source, a labeller."""

    source: Literal["policy", "data", "stream", "samples", "mixture"] = "policy"
    """Who writes the responses: the policy itself (online), the golden data set (offline), the recorded stream of
    another arm's run at the same setting and seed, samples of two other policies, or a mixture of other arms'."""
    labeller: Literal["proxy", "golden", "data"] = "proxy"
    """Who labels them. `golden` is for the golden policy alone: a judge trains no arm."""
    variant: str = named_elsewhere("")
    """Which of the study's `variants` the arm belongs to: another policy, proxy or set of labels."""
    refresh: Whole = 1
    """For `policy`: the policy that samples is renewed every so many steps; 1 is online, 0 never renews it."""
    stream: str = named_elsewhere("")
    """For `stream`: the arm whose pairs are replayed."""
    window: Whole = 1
    """For `stream`: so many batches are shuffled together; 1 replays them in order, 0 shuffles the whole stream."""
    writers: tuple[str, ...] = named_elsewhere(())
    """For `samples`: who writes the first and who the second response to every prompt of the golden data set, each
    `sft` or ARM@STEP, that arm's checkpoint at its first beta and lr and the same seed. The golden model labels."""
    parts: dict[str, Positive] = field(default_factory=dict[str, Positive], metadata={"decides": False})
    """For `mixture`: arms and their shares of every batch; each part keeps its own source and labeller."""
    mode: Literal["hard", "soft", "bernoulli"] = "hard"
    """How a preference model's answer becomes a label."""
    loss: Literal["ipo", "dpo", "best-of-2"] = "ipo"
    """A function of beta times the margin of log-ratios, or the winner's negative log-likelihood (best-of-2)."""
    reduction: Literal["sum", "mean"] = "sum"
    """Of log-probabilities over a response's tokens; values of beta do not compare across the two."""
    steps: Count = 60
    """Optimiser steps."""
    batch: Count = 32
    """Pairs per step."""
    checkpoints: Count = 4
    """How many policies are kept and measured, the last one at the end."""
    spacing: Literal["even", "log"] = "even"
    """Where checkpoints stand: after equal numbers of steps, or after equal factors. With `log` and `first: 0` each has
    twice the steps of the one before it, so that a run of twice the steps with one checkpoint more goes on from it."""
    first: Whole = 0
    """For `log`: the step of the first checkpoint; 0 where doubling up to the last one leads to it."""
    beta: tuple[Positive, ...] = (0.1, 0.03)
    """Regularisation strengths to sweep; the target margin of IPO is 1/(2 beta) nats. Empty for best-of-2, which has
    none."""
    lr: tuple[Rate, ...] = (1e-4,)
    """Peak learning rates to sweep."""
    optimisation: Optimisation = Optimisation()
    """The optimiser; its learning rate is taken from `lr`."""

    def validate(self, name: str, judge_may_train: bool = False) -> None:
        """Raises GoodhartError for a combination that has no meaning or breaks the separation of roles."""
        if (self.source != "policy") != (self.labeller == "data"):
            raise GoodhartError(
                f"arm {name!r} has source {self.source!r} with labeller {self.labeller!r}",
                "only a policy source needs a proxy; all others carry their own labels (labeller: data)",
            )
        self._validate_source(name)
        if self.labeller == "golden" and not judge_may_train:
            raise GoodhartError(f"arm {name!r} is labelled by the golden model, which is its judge", "use the proxy")
        if not 1 <= self.checkpoints <= self.steps:
            raise GoodhartError(f"arm {name!r} asks for {self.checkpoints} checkpoints in {self.steps} steps", "lower")
        if self.first and (self.spacing != "log" or self.checkpoints < 2 or self.first >= self.steps):
            raise GoodhartError(
                f"arm {name!r} has its first checkpoint at step {self.first} of {self.steps}, spacing {self.spacing!r} "
                f"and {self.checkpoints} checkpoints",
                "give `first` with spacing: log, two checkpoints or more, and a step before the last",
            )
        if not self.lr or min((*self.beta, *self.lr)) <= 0 or (not self.beta) != (self.loss == BEST_OF_2):
            raise GoodhartError(
                f"arm {name!r} has beta {list(self.beta)} and lr {list(self.lr)} with loss {self.loss!r}",
                "give positive numbers, and an empty beta for best-of-2 alone, which has no reference",
            )

    def _validate_source(self, name: str) -> None:
        if (self.source == "stream") != bool(self.stream) or (self.window != 1 and self.source != "stream"):
            raise GoodhartError(
                f"arm {name!r} has source {self.source!r}, stream {self.stream!r} and window {self.window}",
                "a stream source names the arm that it replays; the others have neither stream nor window",
            )
        if self.window < 0 or self.refresh < 0 or (self.refresh != 1 and self.source != "policy"):
            raise GoodhartError(
                f"arm {name!r} has source {self.source!r}, window {self.window} and refresh {self.refresh}",
                "neither is negative, and only a policy source is refreshed",
            )
        if len(self.writers) != (2 if self.source == "samples" else 0):
            raise GoodhartError(
                f"arm {name!r} has source {self.source!r} with writers {list(self.writers)}",
                "a samples source has two, for example [sft, online@30]; the others have none",
            )
        if (self.source == "mixture") != bool(self.parts):
            raise GoodhartError(
                f"arm {name!r} has source {self.source!r} with parts {self.parts}",
                "a mixture names arms and their shares, for example {online: 0.5, offline: 0.5}",
            )
        if self.parts and (min(self.parts.values()) <= 0 or abs(sum(self.parts.values()) - 1) > 1e-9):
            raise GoodhartError(f"the shares of arm {name!r} are {self.parts}", "they are positive and add up to 1")

    def checkpoint_steps(self) -> list[int]:
        """The steps after which the policy is kept; steps that would round to one are one."""
        if self.spacing == "even":
            return sorted({round(self.steps * (i + 1) / self.checkpoints) for i in range(self.checkpoints)})
        factor = 2.0 if not self.first else (self.steps / self.first) ** (1 / (self.checkpoints - 1))
        return sorted({max(1, round(self.steps / factor**i)) for i in range(self.checkpoints)})

    @property
    def grows(self) -> bool:
        """Whether a run of more steps begins as this one: what it does at a step does not depend on how many follow."""
        return self.optimisation.decay == "constant" and self.source in ("policy", "data") and self.refresh == 1

    @property
    def default(self) -> Arm:
        """The arm at its first beta and learning rate: the configuration whose checkpoints write for others."""
        return next(settings_of(self))[1]


def settings_of(arm: Arm) -> Iterator[tuple[str, Arm]]:
    """The points of an arm's sweep: a name, and the arm at one beta (if it has any) and one learning rate."""
    for beta in arm.beta or (None,):
        for lr in arm.lr:
            name = f"lr={lr:g}" if beta is None else f"beta={beta:g} lr={lr:g}"
            yield name, replace(arm, beta=() if beta is None else (beta,), lr=(lr,))


def written_by(writer: str) -> tuple[str, int]:
    """(arm, step) of a writer ARM@STEP. Raises ValueError for another form."""
    arm, at, step = writer.rpartition("@")
    if not at or not arm:
        raise ValueError(writer)
    return arm, int(step)
