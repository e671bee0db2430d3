"""A method as a value: the choice for each slot of an algorithm. Nothing here imports torch."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from typing import Annotated, Literal

from goodhart.config import Count, Range, Whole, named_elsewhere
from goodhart.errors import GoodhartError
from goodhart.functions import Names, is_function

Supervision = Literal["label", "reward", "mark", "none"]
"""label: a preference between two responses; reward: a number for each; mark: whether each is good; none."""
Writer = Literal["policy", "reference", "mixture", "first", "second"]
LABELLERS = ("proxy", "golden", "data", "itself")
Place = Annotated[int, Range(0, 63)]
Parameter = Annotated[float, Range(0)]
"""Of a method; what is subtracted has a minus in its coefficient."""


@dataclass(frozen=True)
class LossKind:
    """What a loss asks of the other slots."""

    supervision: Supervision
    parameters: tuple[str, ...] = ()
    """What it is a function of beside the scores; `beta` among them is an arm's own sweep."""
    responses: tuple[int, int] = (2, 2)
    """At least and at most how many responses a prompt it learns from."""
    statistics: tuple[str, ...] = ()
    """What it reads of the whole batch (`goodhart.training.statistics`)."""
    tokenwise: bool = False
    """Whether it weighs tokens."""
    learner: Literal["none", "value", "critic", "channel"] = "none"
    """What is learnt beside the policy: a value of prompts, one of states, or where the proxy's labels depart."""
    learner_parameters: tuple[str, ...] = ()
    code: str = ""
    """The file of one that is not the package's own."""


MANY = 64
"""Responses a prompt at most."""
_PAIR = LossKind("label", ("beta",))
KINDS: dict[str, LossKind] = {
    **dict.fromkeys(("ipo", "dpo", "squared", "hinge", "exponential", "truncated", "savage"), _PAIR),
    "best-of-2": LossKind("label"),
    "likelihood": LossKind("none", (), (1, MANY)),
    "slic": LossKind("label", ("delta",)),
    "simpo": LossKind("label", ("beta", "gamma")),
    "conservative": LossKind("label", ("beta", "noise")),
    "robust": LossKind("label", ("beta", "noise")),
    "kto": LossKind("mark", ("beta", "desirable", "undesirable"), (1, MANY), ("kl",)),
    "dro": LossKind("reward", ("beta",), (1, MANY), learner="value", learner_parameters=("value_lr",)),
    "nash-md": LossKind("label", ("beta",)),
    "rebel": LossKind("reward", ("eta", "kl")),
    "reinforce": LossKind("reward", ("kl",), (1, MANY), ("baseline",)),
    "rloo": LossKind("reward", ("kl", "clip"), (2, MANY)),
    "grpo": LossKind("reward", ("kl", "clip"), (2, MANY), tokenwise=True),
    "ppo": LossKind(
        "reward",
        ("clip",),
        (1, MANY),
        tokenwise=True,
        learner="critic",
        learner_parameters=("kl", "discount", "smoothing", "value_lr"),
    ),
    "bond": LossKind("reward", ("mix",), (3, MANY), ("quantile",)),
    "j-bond": LossKind("reward", ("mix", "pull"), (3, 3), ("bond",)),
    "weighed": LossKind("label", ("beta",), learner="channel", learner_parameters=("classifier_lr",)),
}
"""By loss; that the parameters are those of the function is tested."""


@dataclass(frozen=True)
class Term:
    """An extra term of a loss: a coefficient times the mean of a function over responses from a law."""

    coefficient: tuple[str, ...]
    """Parameters whose product it is, each with a minus before it or none: [-alpha, beta]."""
    function: Literal["log policy", "log ratio", "divergence"] = "log ratio"
    """Of the responses' scores (`goodhart.alignment.terms`)."""
    law: Literal["policy", "reference", "greedy reference", "drawn", "chosen"] = "reference"
    """Who writes them: the policy now, the SFT policy, the same at temperature 0, or nobody: `drawn` takes one that the
    source drew, `chosen` the preferred one of each pair."""
    responses: Count = 1
    """For the first three: how many to each prompt."""
    place: Place = 0
    """For `drawn`: which of a prompt's responses, counted from 0."""


@dataclass(frozen=True)
class Method:
    """An algorithm as seven choices, and its parameters."""

    source: Literal["policy", "data", "stream", "samples", "mixture"] = "policy"
    """Who writes the responses: the policy itself (online), the golden data set (offline), the recorded stream of
    another arm's run at the same setting and seed, samples of two other policies, or a mixture of other arms'."""
    labeller: Annotated[str, Names(LABELLERS)] = "proxy"
    """Who labels them: the proxy what the policy writes; data: all other sources carry their labels. `golden` is for
    the golden policy alone: a judge trains no arm. `itself`: by how much the policy that began the round of `refresh`
    steps prefers them to the one before it, at a price of length (DICE). Or a function of the user's own
    (`goodhart.alignment.own_labels`)."""
    refresh: Whole = 1
    """For `policy`: the policy that samples is renewed after this many steps; 1 is online, more is semi-online (arXiv
    2506.21495), 0 never renews it, so that the SFT policy samples throughout."""
    drawn: tuple[Writer, ...] = ("policy", "policy")
    """For `policy`: who writes each of a prompt's responses. `mixture` is the geometric mixture of policy and
    reference, whose share is the parameter `share`; `first` and `second` are the data set's own."""
    selection: Literal["all", "best and worst", "best"] = "all"
    """For `policy`: what of the responses the loss learns from, by the proxy's order."""
    buffer: bool = False
    """For `policy`: what a step draws is labelled and kept, and it learns from as many pairs of all that is kept."""
    mode: Literal["hard", "soft", "bernoulli"] = "hard"
    """How a preference model's answer becomes a label."""
    loss: str = "ipo"
    """The main loss (`goodhart list methods`), or a function of the user's own."""
    reduction: Literal["sum", "mean"] = "sum"
    """Of log-probabilities over a response's tokens; values of beta do not compare across the two."""
    terms: tuple[Term, ...] = ()
    """Extra terms of the loss."""
    reference: Literal["sft", "moving", "none", "prior", "external"] = "sft"
    """What log-ratios are taken against. moving: a copy of the policy that follows it by the parameters
    `reference_rate` and `reference_every`; none: nothing; prior: the SFT policy without the prompt; external: the SFT
    policy of another variant."""
    external: str = named_elsewhere("")
    """For an external reference: the variant."""
    average: bool = False
    """What is kept and measured is the moving average of the policy's weights by the parameter `average_rate`."""
    epochs: Count = 1
    """Optimiser steps on what is drawn in a step."""
    merge: Literal["none", "slerp", "linear"] = "none"
    """What becomes of the runs of a round: nothing (there is one), their arc or their mean in weight space. The next
    round starts at the share `keep`, a parameter, of the way from this one's start to it."""
    runs: Count = 1
    """Runs of a round; each has random numbers of its own."""
    rounds: Count = 1
    """Rounds of `steps` steps each, for what is merged."""
    parameters: dict[str, Parameter] = field(default_factory=dict[str, float])
    """Those of all slots but beta and lr, which an arm sweeps by keys of their own."""
    name: str = named_elsewhere("")
    """The row of the table of methods that it was made from."""

    @property
    def kind(self) -> LossKind:
        """What its loss asks for. Raises GoodhartError for one that there is not."""
        if self.loss not in KINDS and is_function(self.loss):
            from goodhart.alignment.extensions import own_loss

            own_loss(self.loss)
        if self.loss not in KINDS:
            near = difflib.get_close_matches(self.loss, KINDS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(KINDS)}"
            raise GoodhartError(f"loss is {self.loss!r}", hint)
        return KINDS[self.loss]

    @property
    def has_beta(self) -> bool:
        """Whether it reads beta."""
        return "beta" in self.read

    @property
    def read(self) -> frozenset[str]:
        """The names of all parameters that its slots read."""
        result = {*self.kind.parameters, *self.kind.learner_parameters}
        result |= {name.removeprefix("-") for term in self.terms for name in term.coefficient}
        result |= {"share"} if "mixture" in self.drawn else set()
        result |= {"prefix", "replay"} & set(self.parameters)
        result |= {"reference_rate", "reference_every"} if self.reference == "moving" else set()
        result |= {"keep"} if self.merge != "none" else set()
        return frozenset(result | ({"average_rate"} if self.average else set()))

    def validate(self, where: str) -> None:
        """Raises GoodhartError for slots that do not fit one another."""
        self._validate_parameters(where)
        self._validate_responses(where)
        self._validate_labeller(where)
        self._validate_replay(where)
        self._validate_buffer(where)
        self._validate_terms(where)
        if (self.reference == "external") != bool(self.external):
            raise GoodhartError(
                f"{where} has reference {self.reference!r} and external {self.external!r}",
                "an external reference names the variant whose SFT policy it is; the others name none",
            )
        if self.labeller == "itself" and (self.refresh < 2 or self.selection != "best and worst"):
            raise GoodhartError(
                f"{where} labels itself with refresh {self.refresh} and selection {self.selection!r}",
                "set refresh to the steps of a round, two or more, and selection: best and worst",
            )
        if self.merge == "none" and (self.runs, self.rounds) != (1, 1):
            raise GoodhartError(
                f"{where} has {self.runs} runs in {self.rounds} rounds and merges none of them",
                "say merge: slerp or linear, or leave both out",
            )

    def _validate_replay(self, where: str) -> None:
        if "replay" in self.parameters and (self.source != "policy" or self.kind.supervision != "label"):
            raise GoodhartError(
                f"{where} replays pairs of the data with source {self.source!r} and loss {self.loss!r}",
                "take source: policy, and a loss that learns from labels",
            )
        if self.kind.learner == "channel" and not 0 < self.parameters.get("replay", 0.0) < 1:
            raise GoodhartError(
                f"{where} has loss {self.loss!r}, which compares the proxy's labels with those of the data, and no "
                "pairs of one of the two",
                "give the share of the data's pairs in a batch, above 0 and below 1, for example parameters: "
                "{replay: 0.5}",
            )

    def _validate_buffer(self, where: str) -> None:
        if self.buffer and "prefix" in self.parameters:
            raise GoodhartError(
                f"{where} keeps pairs in a buffer and forces prefixes", "take one of the two: no buffer, or no prefix"
            )
        if self.buffer and (self.source != "policy" or self.kind.supervision != "label" or self.labeller == "itself"):
            raise GoodhartError(
                f"{where} keeps pairs in a buffer with source {self.source!r}, labeller {self.labeller!r} and loss "
                f"{self.loss!r}",
                "take source: policy, a judge as labeller, and a loss that learns from labels",
            )

    def _validate_terms(self, where: str) -> None:
        for term in self.terms:
            if term.law == "drawn" and (self.source != "policy" or term.place >= len(self.drawn)):
                raise GoodhartError(
                    f"{where} has a term on response {term.place} of those that are drawn, of which there are "
                    f"{len(self.drawn) if self.source == 'policy' else 'none'}",
                    "name one of them, counted from 0",
                )
            if term.law == "chosen" and self.kind.supervision != "label":
                raise GoodhartError(
                    f"{where} has a term on preferred responses, and loss {self.loss!r} learns from no labels",
                    "take another law",
                )

    def _validate_labeller(self, where: str) -> None:
        if not is_function(self.labeller):
            return
        if self.mode != Method().mode or self.selection != "all":
            raise GoodhartError(
                f"{where} is labelled by {self.labeller} with mode {self.mode!r} and selection {self.selection!r}",
                "leave both out: what a function of your own returns is what is learnt, of all that is drawn",
            )
        if self.kind.supervision == "none":
            raise GoodhartError(
                f"{where} is labelled by {self.labeller}, and loss {self.loss!r} learns from no labels",
                "take another loss, or labeller: proxy",
            )

    def _validate_parameters(self, where: str) -> None:
        given = {*self.parameters, "beta"}
        unknown, missing = set(self.parameters) - self.read, self.read - given
        if unknown or "beta" in self.parameters or "lr" in self.parameters:
            names = ", ".join(sorted(unknown | ({"beta", "lr"} & set(self.parameters))))
            raise GoodhartError(
                f"{where} has the parameters {names}, which its slots do not read",
                f"they read: {', '.join(sorted(self.read - {'beta'})) or 'none'}; beta and lr are keys of the arm",
            )
        if missing:
            raise GoodhartError(
                f"{where} lacks the parameters {', '.join(sorted(missing))}",
                f"give them, for example parameters: {{{next(iter(sorted(missing)))}: 0.1}}, or sweep them",
            )

    def _validate_responses(self, where: str) -> None:
        number = {"best and worst": 2, "best": 1}.get(self.selection, len(self.drawn) if self.source == "policy" else 2)
        low, high = self.kind.responses
        if not low <= number <= high or not 1 <= len(self.drawn) <= MANY:
            raise GoodhartError(
                f"{where}: loss {self.loss!r} learns from {number} responses a prompt",
                f"give it {low}" + (f" to {high}" if high > low else "") + " by drawn and selection",
            )
        if self.source != "policy" and (self.selection != "all" or self.drawn != Method().drawn):
            raise GoodhartError(
                f"{where} has source {self.source!r} with drawn {list(self.drawn)} and selection {self.selection!r}",
                "only a policy source draws several responses and selects among them",
            )
        if self.source != "policy" and ("prefix" in self.parameters):
            raise GoodhartError(f"{where} forces prefixes with source {self.source!r}", "take source: policy")
        if self.selection != "all" and len(self.drawn) < 2:
            raise GoodhartError(f"{where} selects {self.selection!r} of a single response", "draw several")
