"""An arm of a study: one method, as a choice for each slot of an algorithm."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any, Literal

from goodhart.alignment.method import Method, Parameter
from goodhart.alignment.methods import row
from goodhart.config import FLAT, Count, Positive, Whole, build, essential, named_elsewhere, plain_data
from goodhart.errors import GoodhartError
from goodhart.models.adapter_settings import Adapter
from goodhart.training.settings import Optimisation, Rate

AS_IT_IS = "as it is"
"""The setting of an arm that is a finished checkpoint."""
KEYED = "keyed"
"""The built-in sampler (`goodhart.sampling.keyed`)."""
SFT_WRITER = "sft"
"""The writer of responses that is no arm's checkpoint."""


@dataclass(frozen=True)
class Arm:
    """One method: an algorithm, a source, a labeller."""

    method: Method = field(default=Method(), metadata=FLAT)
    """The choice for each slot of an algorithm. In a study file its keys stand among those of the arm, and
    `method: NAME` takes a row of the table of methods for those that the arm leaves out."""
    variant: str = named_elsewhere("")
    """Which of the study's `variants` the arm belongs to: another policy, proxy or set of labels."""
    stream: str = named_elsewhere("")
    """For `stream`: the arm whose pairs are replayed."""
    window: Whole = 1
    """For `stream`: this many batches are shuffled together; 1 replays them in order, bit for bit the recorded run, 0
    shuffles the whole stream."""
    writers: tuple[str, ...] = named_elsewhere(())
    """For `samples`: who writes the first and who the second response to every prompt of the golden data set, each
    `sft` or ARM@STEP, that arm's checkpoint at its first beta and lr and the same seed. The golden model labels."""
    start: str = named_elsewhere("")
    """Where the run begins: ARM@STEP, that arm's checkpoint at its first setting and the same seed; empty for the SFT
    policy, from which KL is measured whatever the start."""
    checkpoint: tuple[str, ...] = named_elsewhere(())
    """A finished policy that is measured as it is, in place of all else: a folder or a Hub id, or several, to be the
    checkpoints of one arm. It needs the study's tokenizer; KL is measured from the study's SFT policy."""
    parts: dict[str, Positive] = field(default_factory=dict[str, Positive], metadata={"decides": False})
    """For `mixture`: arms and their shares of every batch; each part keeps its own source and labeller."""
    sampler: str = KEYED
    """Who samples from the policy: `keyed`, the sampler of an installed package, or a function of the user's own."""
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
    """Regularisation strengths to sweep; the target margin of IPO is 1/(2 beta) nats. Empty for methods
    that have none."""
    lr: tuple[Rate, ...] = (1e-4,)
    """Peak learning rates to sweep; every combination of what is swept is run with every seed."""
    sweep: dict[str, tuple[Parameter, ...]] = field(default_factory=dict[str, tuple[float, ...]])
    """Other parameters of the method to sweep, by name: each point of the sweep is a setting."""
    optimisation: Optimisation = Optimisation()
    """The optimiser; its learning rate is taken from `lr`."""
    adapter: Adapter | None = None
    """What is trained in place of the weights, over those of the policy that the run begins with."""

    def validate(self, name: str, judge_may_train: bool = False) -> None:
        """Raises GoodhartError for a combination that has no meaning or breaks the separation of roles."""
        if self.checkpoint:
            return
        source, labeller = self.method.source, self.method.labeller
        if (source != "policy") != (labeller == "data"):
            raise GoodhartError(
                f"arm {name!r} has source {source!r} with labeller {labeller!r}",
                "only a policy source needs a proxy; all others carry their own labels (labeller: data)",
            )
        self._validate_source(name)
        self._validate_sampler(name)
        if labeller == "golden" and not judge_may_train:
            raise GoodhartError(f"arm {name!r} is labelled by the golden model, which is its judge", "use the proxy")
        if not 1 <= self.checkpoints <= self.steps:
            raise GoodhartError(f"arm {name!r} asks for {self.checkpoints} checkpoints in {self.steps} steps", "lower")
        if self.first and (self.spacing != "log" or self.checkpoints < 2 or self.first >= self.steps):
            raise GoodhartError(
                f"arm {name!r} has its first checkpoint at step {self.first} of {self.steps}, spacing {self.spacing!r} "
                f"and {self.checkpoints} checkpoints",
                "give `first` with spacing: log, two checkpoints or more, and a step before the last",
            )
        if not self.lr or min((*self.beta, *self.lr)) <= 0 or bool(self.beta) != self.method.has_beta:
            has = "a beta" if self.method.has_beta else "no beta"
            raise GoodhartError(
                f"arm {name!r} has beta {list(self.beta)} and lr {list(self.lr)} with loss {self.method.loss!r}",
                f"give positive numbers, and an empty beta for methods without one (this one has {has})",
            )
        self._validate_sweep(name)
        if self.adapter:
            self._validate_adapter(name)

    def _validate_adapter(self, name: str) -> None:
        """An average of two adapters is no average of two policies: (A + A')/2 times (B + B')/2 has other products."""
        rates = self.sweep.get("reference_rate", (self.method.parameters.get("reference_rate", 1.0),))
        if self.method.reference == "moving" and set(rates) != {1.0}:
            raise GoodhartError(
                f"arm {name!r} trains an adapter, and its reference follows the policy at reference_rate "
                f"{', '.join(f'{rate:g}' for rate in rates)}: averages of weights are not those of low-rank factors",
                "set reference_rate to 1, which copies the policy, or leave out the arm's `adapter`",
            )
        if self.method.average:
            raise GoodhartError(
                f"arm {name!r} trains an adapter and keeps the average of its weights, which is not that of their "
                "low-rank factors",
                "set average: false, or leave out the arm's `adapter`",
            )

    def _validate_sampler(self, name: str) -> None:
        if self.sampler == KEYED:
            return
        from goodhart.sampling.samplers import check_known  # brings PyTorch with it

        check_known(self.sampler, f"arms.{name}.sampler")
        if self.method.source != "policy" or "mixture" in self.method.drawn:
            raise GoodhartError(
                f"arm {name!r} has sampler {self.sampler!r}, source {self.method.source!r} and draws "
                f"{list(self.method.drawn)}",
                "leave sampler out: it writes what an online arm draws from its policy, and no geometric mixture",
            )

    def _validate_sweep(self, name: str) -> None:
        for parameter, values in self.sweep.items():
            if parameter in ("beta", "lr") or not values:
                raise GoodhartError(
                    f"arm {name!r} sweeps {parameter} over {list(values)}",
                    f"write {parameter}: [...] as a key of the arm" if values else "give at least one value",
                )
        swept = {parameter: values[0] for parameter, values in self.sweep.items()}
        replace(self.method, parameters={**self.method.parameters, **swept}).validate(f"arm {name!r}")

    def _validate_source(self, name: str) -> None:
        source, refresh = self.method.source, self.method.refresh
        if (source == "stream") != bool(self.stream) or (self.window != 1 and source != "stream"):
            raise GoodhartError(
                f"arm {name!r} has source {source!r}, stream {self.stream!r} and window {self.window}",
                "a stream source names the arm that it replays; the others have neither stream nor window",
            )
        if self.window < 0 or refresh < 0 or (refresh != 1 and source != "policy"):
            raise GoodhartError(
                f"arm {name!r} has source {source!r}, window {self.window} and refresh {refresh}",
                "neither is negative, and only a policy source is refreshed",
            )
        if len(self.writers) != (2 if source == "samples" else 0):
            raise GoodhartError(
                f"arm {name!r} has source {source!r} with writers {list(self.writers)}",
                "a samples source has two, for example [sft, online@30]; the others have none",
            )
        if (source == "mixture") != bool(self.parts):
            raise GoodhartError(
                f"arm {name!r} has source {source!r} with parts {self.parts}",
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
    def kept(self) -> list[int]:
        """The numbers of what is kept and measured: steps of a run, or points on the way to merged runs."""
        if self.checkpoint:
            return list(range(1, len(self.checkpoint) + 1))
        return self.checkpoint_steps() if self.method.merge == "none" else list(range(1, self.checkpoints + 1))

    @property
    def grows(self) -> bool:
        """Whether a run of more steps begins as this one: what it does at a step does not depend on how many follow."""
        return self.optimisation.decay == "constant" and self.method.source in ("policy", "data") and self._plain

    @property
    def _plain(self) -> bool:
        """Whether its parameters and its optimiser are all that it remembers from step to step."""
        method = self.method
        held = (
            method.merge != "none"
            or method.refresh != 1
            or method.reference == "moving"
            or method.average
            or method.buffer
        )
        return not held and method.kind.learner == "none"

    @property
    def default(self) -> Arm:
        """The arm at its first beta and learning rate: the configuration whose checkpoints write for others."""
        return next(settings_of(self))[1]


def arm_of(method: str = "", **keys: Any) -> Arm:
    """An arm as a study file would say it: a row of the table of methods, and what differs from it.

    Raises GoodhartError for an unknown method or key, or a wrong value.
    """
    plain: dict[str, Any] = {key: plain_data(value) for key, value in keys.items()}
    return build(Arm, with_row({**plain, **({"method": method} if method else {})}, "the arm"), "the arm")


def with_row(arm: Any, where: str) -> Any:
    """The keys of an arm that names a method, with the method's for those that it leaves out.

    Raises GoodhartError for an unknown method.
    """
    if isinstance(arm, dict) and "checkpoint" in arm:
        return _with_checkpoint(arm, where)
    if not isinstance(arm, dict) or "method" not in arm:
        return arm
    given: dict[str, Any] = {key: value for key, value in arm.items() if key != "method"}
    try:
        listed = row(str(arm["method"]))
    except GoodhartError as error:
        raise GoodhartError(f"{where}: {error.problem}", error.remedy) from error
    base: dict[str, Any] = {"name": str(arm["method"]), "beta": [] if listed.beta is None else [listed.beta]}
    base |= essential(listed.method)
    if isinstance(given.get("parameters"), dict):
        given["parameters"] = {**listed.method.parameters, **given["parameters"]}
    return {**base, **given}


def _with_checkpoint(arm: dict[str, Any], where: str) -> dict[str, Any]:
    """The keys of an arm that is measured as it is."""
    named = arm["checkpoint"]
    several = [named] if isinstance(named, str) else named
    if several in (["policy"], ["average"]):  # what this key once said
        raise GoodhartError(f"{where} has checkpoint {several[0]!r}", "write average: true, or leave it out")
    beside = sorted(set(arm) - {"checkpoint", "variant", "beta", "lr"})
    if beside:
        raise GoodhartError(
            f"{where} has a checkpoint and {', '.join(beside)}", "a checkpoint is measured as it is: leave out the rest"
        )
    return {"checkpoint": several, "variant": arm.get("variant", ""), "beta": [], "lr": []}


def settings_of(arm: Arm) -> Iterator[tuple[str, Arm]]:
    """The points of an arm's sweep: a name, and the arm at one value of each of its parameters.

    A parameter of one value that is neither beta nor lr is no part of the name. A checkpoint that is measured as it is
    has one point.
    """
    if arm.checkpoint:
        yield AS_IT_IS, arm
        return
    swept = list(arm.sweep.items())
    for beta in arm.beta or (None,):
        for lr in arm.lr:
            for values in product(*(values for _, values in swept)):
                name = f"lr={lr:g}" if beta is None else f"beta={beta:g} lr={lr:g}"
                chosen = {parameter: value for (parameter, _), value in zip(swept, values, strict=True)}
                name += "".join(f" {key}={chosen[key]:g}" for key, several in swept if len(several) > 1)
                method = replace(arm.method, parameters={**arm.method.parameters, **chosen}) if swept else arm.method
                yield name, replace(arm, method=method, beta=() if beta is None else (beta,), lr=(lr,), sweep={})


def written_by(writer: str) -> tuple[str, int]:
    """(arm, step) of a writer ARM@STEP. Raises ValueError for another form."""
    arm, at, step = writer.rpartition("@")
    if not at or not arm:
        raise ValueError(writer)
    return arm, int(step)
