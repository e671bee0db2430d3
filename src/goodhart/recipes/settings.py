"""Settings that a study file gives to data, labels and measurements; nothing here imports torch."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field
from typing import Annotated, Literal

from goodhart.config import MOST, Count, Positive, Range, Share, Whole, named_elsewhere
from goodhart.errors import GoodhartError
from goodhart.tasks.pair_rules import RULES, Rule

PREFERENCES = "preferences"
"""The task of a user's own data."""
HELD_OUT_PAIRS = 512
"""At most this many pairs of each held-out split are labelled too: to stop the proxy, and to measure."""
Several = Annotated[int, Range(2, MOST)]
"""So many that their mean has a standard error."""


@dataclass(frozen=True)
class Task:
    """Prompts, demonstrations, and where initial preferences come from."""

    kind: Literal["docstrings", "names", "preferences"] = "docstrings"
    """A built-in task (write the summary line, or the name in words), or a preference data set of people."""
    data: str = named_elsewhere("")
    """For `preferences`: a Hub id, a file (JSONL, JSON, CSV, TSV, also with .gz; Parquet) or a folder of them."""
    layout: str = "auto"
    """For `preferences`: the data's layout; `goodhart data PATH` shows what is recognised."""
    columns: dict[str, str] = field(default_factory=dict[str, str])
    """For `preferences`: what the data call a layout's columns, `{prompt: question, chosen: best}`."""
    pairs: Rule = RULES[0]
    """For `preferences` with several responses in a row: which pairs are made of them. `best and worst`; `best and
    other`, the other one drawn from those that are worse; `all`, where equal ones are ties; or `none`, for marks alone:
    the golden model learns from each mark, and labels the response beside a sample of the SFT policy."""
    data_split: str = ""
    """For `preferences`: which split of the data; needed where there are several."""
    held_out: Annotated[float, Range(0, 1, open_low=True, open_high=True)] = 0.2
    """For `preferences`: share of prompts that nothing is trained on."""
    max_prompt: Count = 64
    """Tokens: prompts of a built-in task are cut here, longer prompts of other data are filtered and counted."""
    max_response: Annotated[int, Range(2, MOST)] = 24
    """Tokens, the end token included; also the cap of sampling."""
    evaluation: Several = named_elsewhere(512)
    """Held-out prompts on which checkpoints are measured."""
    train_evaluation: Several = named_elsewhere(128)
    """Training prompts on which they are measured too, as in arXiv 2405.08448."""
    validation: Several = named_elsewhere(512)
    """Held-out prompts for the stopping rules; none of them is used to measure."""
    test: Several = named_elsewhere(256)
    """Held-out prompts on which preference models are measured, one pair for each; no other measurement uses them."""
    template: str = "auto"
    """For `preferences`: how a prompt becomes what a chat model reads. auto: by the chat template of its tokenizer;
    none: as it stands; plain: in turns of `Human:` and `Assistant:`; else a Jinja template or its file."""

    def validate(self) -> None:
        """Raises GoodhartError for what a task of the other kind has."""
        if self.kind == PREFERENCES:
            if not self.data:
                raise GoodhartError("task.data is empty", "name a Hub id, a file or a folder")
            return
        for name in ("data", "layout", "columns", "pairs", "data_split", "held_out", "template"):
            value, field = getattr(self, name), Task.__dataclass_fields__[name]
            if value != ({} if field.default is MISSING else field.default):
                raise GoodhartError(
                    f"task.{name} is {value!r}, which the built-in task {self.kind!r} does not read",
                    f"set task.kind={PREFERENCES}, or leave task.{name} out",
                )


@dataclass(frozen=True)
class Pool:
    """The initial pairs of a built-in task: who writes them, in which shares (they add up to 1)."""

    pairs: Several = 4000
    """Pairs for training; each has a prompt of its own."""
    samples: Share = 0.35
    """Two samples of the SFT policy, each at a temperature of `temperatures`."""
    early: Share = 0.05
    """A sample of the SFT policy against one of its early checkpoint."""
    human: Share = 0.25
    """The human line against a sample."""
    mismatched: Share = 0.25
    """A sample or the human line against a sample or the human line of another prompt."""
    degenerate: Share = 0.1
    """A sample against a repetition, a fixed line, or an empty response."""
    temperatures: tuple[Positive, ...] = (1.0, 0.7)
    """Temperatures that samples are drawn at."""


@dataclass(frozen=True)
class Labels:
    """The golden data set: the same labelled pairs train the proxy and feed the offline arms."""

    number: Count = 1024
    """How many pairs the golden model labels; the effect depends on it."""
    mode: Literal["hard", "soft", "bernoulli"] = "hard"
    """hard: sign over both orders; soft: the probability; bernoulli: a keyed coin with that probability."""
    flip: Annotated[float, Range(0, 0.5, open_high=True)] = 0.0
    """Noise: the probability that a label is exchanged. Pairs that measure keep their labels."""
    of: tuple[Literal["samples", "early", "human", "mismatched", "degenerate"], ...] = ("samples",)
    """Which kinds of a built-in task's initial pairs (those of `pool`) are labelled, in the pool's order. With `human`
    the human lines are in the data that offline arms and the proxy learn from."""
    file: str = named_elsewhere("")
    """Your own labels in place of the golden model's, which still measures: a file (JSONL, JSON, CSV, TSV, Parquet)
    with the columns `pair`, `texts` and `label` of pairs that `goodhart pairs` writes. The first `number` pairs that
    have a label are used."""

    def validate(self, where: str) -> None:
        """Raises GoodhartError for what golden labels alone can have."""
        if self.file and (self.mode, self.flip) != (Labels.mode, Labels.flip):
            raise GoodhartError(
                f"{where}.file has labels, and {where}.mode={self.mode} and {where}.flip={self.flip:g} are of labels "
                f"that the golden model gives",
                f"set {where}.mode={Labels.mode} and {where}.flip={Labels.flip:g}, or leave {where}.file empty ('')",
            )


@dataclass(frozen=True)
class BestOf:
    """Best-of-n of the SFT policy, the baseline without training; `samples: 0` leaves it out."""

    samples: Whole = 0
    """Samples for each prompt and seed, from which every n is estimated without bias."""
    n: tuple[Count, ...] = (2, 4, 8, 16)
    """How many samples the best is taken of."""
    judges: tuple[Literal["proxy", "golden"], ...] = ("proxy", "golden")
    """Who takes it; golden shows what a perfect proxy would give."""


@dataclass(frozen=True)
class Measurement:
    """How much of a checkpoint is measured on each prompt; more adds to what was measured before."""

    responses: Count = 2
    """Responses that a checkpoint writes for each prompt."""
    opponents: Count = 8
    """Responses of the golden policy, and as many of the SFT policy, that each is judged against. They cost a judge
    next to nothing that scores every response alone."""
    pairwise_opponents: Count = 1
    """The same for a pairwise judge, which reads a response anew with each of them."""

    def opponents_of(self, kind: str) -> int:
        """What a preference model of a kind is asked about."""
        return self.pairwise_opponents if kind == "pairwise" else self.opponents
