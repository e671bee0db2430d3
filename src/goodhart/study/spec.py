"""What a study file says."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from goodhart.config import build, load_yaml, override
from goodhart.errors import GoodhartError
from goodhart.training.settings import Optimisation, Preference, Supervised

PRESET_FOLDER = Path(__file__).parent / "presets"


@dataclass(frozen=True)
class Task:
    """Prompts, demonstrations, and where initial preferences come from."""

    kind: Literal["docstrings", "names", "preferences"] = "docstrings"
    """A built-in task (write the summary line, or the name in words), or a preference data set of people."""
    data: str = ""
    """For `preferences`: a Hub id, a file (JSONL, JSON.gz, Parquet) or a folder of such files."""
    layout: str = "auto"
    """For `preferences`: the data's layout; `goodhart data PATH` shows what is recognised."""
    data_split: str = ""
    """For `preferences`: which split of the data; needed where there are several."""
    held_out: float = 0.2
    """For `preferences`: share of prompts that nothing is trained on."""
    max_prompt: int = 64
    """Tokens: prompts of a built-in task are cut here, longer prompts of other data are filtered and counted."""
    max_response: int = 24
    """Tokens, the end token included; also the cap of sampling."""
    evaluation: int = 512
    """Held-out prompts on which checkpoints are measured."""
    train_evaluation: int = 128
    """Training prompts on which they are measured too, as in arXiv 2405.08448."""
    validation: int = 512
    """Held-out prompts for the stopping rules; none of them is used to measure."""


@dataclass(frozen=True)
class Pool:
    """The initial pairs of a built-in task: who writes them, in which shares (they add up to 1)."""

    pairs: int = 4000
    """Pairs for training; each has a prompt of its own."""
    test_pairs: int = 512
    """At most so many pairs on test prompts, which only measure the golden model."""
    samples: float = 0.35
    """Two samples of the SFT policy, each at a temperature of `temperatures`."""
    early: float = 0.05
    """A sample of the SFT policy against one of its early checkpoint."""
    human: float = 0.25
    """The human line against a sample."""
    mismatched: float = 0.25
    """A sample or the human line against a sample or the human line of another prompt."""
    degenerate: float = 0.1
    """A sample against a repetition, a fixed line, or an empty response."""
    temperatures: tuple[float, ...] = (1.0, 0.7)
    """Temperatures that samples are drawn at."""


@dataclass(frozen=True)
class Labels:
    """The golden data set: the same labelled pairs train the proxy and feed the offline arms."""

    number: int = 1024
    """How many pairs the golden model labels; the effect depends on it."""
    mode: Literal["hard", "soft", "bernoulli"] = "hard"
    """hard: sign over both orders; soft: the probability; bernoulli: a keyed coin with that probability."""


@dataclass(frozen=True)
class Arm:
    """One method: an algorithm, a source, a labeller."""

    source: Literal["policy", "data", "stream"] = "policy"
    """Who writes the responses: the policy itself (online), the golden data set (offline), or the recorded stream of
    another arm's run at the same setting and seed."""
    labeller: Literal["proxy", "golden", "data"] = "proxy"
    """Who labels them. `golden` is for the golden policy alone: a judge trains no arm."""
    refresh: int = 1
    """For `policy`: the policy that samples is renewed every so many steps; 1 is online, 0 never renews it."""
    stream: str = ""
    """For `stream`: the arm whose pairs are replayed."""
    window: int = 1
    """For `stream`: so many batches are shuffled together; 1 replays them in order, 0 shuffles the whole stream."""
    mode: Literal["hard", "soft", "bernoulli"] = "hard"
    """How a preference model's answer becomes a label."""
    loss: Literal["ipo", "dpo"] = "ipo"
    """The function of beta times the margin of log-ratios."""
    reduction: Literal["sum", "mean"] = "sum"
    """Of log-probabilities over a response's tokens; values of beta do not compare across the two."""
    steps: int = 60
    """Optimiser steps."""
    batch: int = 32
    """Pairs per step."""
    checkpoints: int = 4
    """Evenly spaced checkpoints, the last one at the end."""
    beta: tuple[float, ...] = (0.1, 0.03)
    """Regularisation strengths to sweep; the target margin of IPO is 1/(2 beta) nats."""
    lr: tuple[float, ...] = (1e-4,)
    """Peak learning rates to sweep."""
    optimisation: Optimisation = Optimisation()
    """The optimiser; its learning rate is taken from `lr`."""

    def validate(self, name: str, judge_may_train: bool = False) -> None:
        """Raises GoodhartError for a combination that has no meaning or breaks the separation of roles."""
        if (self.source in ("data", "stream")) != (self.labeller == "data"):
            raise GoodhartError(
                f"arm {name!r} has source {self.source!r} with labeller {self.labeller!r}",
                "data and streams carry their own labels (labeller: data); a policy source needs a proxy",
            )
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
        if self.labeller == "golden" and not judge_may_train:
            raise GoodhartError(f"arm {name!r} is labelled by the golden model, which is its judge", "use the proxy")
        if not 1 <= self.checkpoints <= self.steps:
            raise GoodhartError(f"arm {name!r} asks for {self.checkpoints} checkpoints in {self.steps} steps", "lower")
        if not self.beta or not self.lr or min((*self.beta, *self.lr)) <= 0:
            raise GoodhartError(f"arm {name!r} has an empty or non-positive beta or lr", "give positive numbers")

    def checkpoint_steps(self) -> list[int]:
        """The steps after which the policy is kept."""
        return sorted({round(self.steps * (i + 1) / self.checkpoints) for i in range(self.checkpoints)})


@dataclass(frozen=True)
class Study:
    """Arms and seeds over one task; it ends in a report."""

    name: str
    """Names the study's folder."""
    question: str = "At the same KL budget, what does sampling from the policy buy?"
    """What the report answers."""
    task: Task = Task()
    """Prompts and data."""
    policy: str = "tiny"
    """Language model of every arm: a preset with a base model, a Hub id, or a path."""
    sft: Supervised = Supervised()
    """Supervised fine-tuning, the start and the reference of every arm."""
    pool: Pool = Pool()
    """Initial pairs of a built-in task."""
    golden: Preference = Preference(model="small", steps=300, batch=32, check_every=50)
    """The judge."""
    labels: Labels = Labels()
    """How many pairs the judge labels, and how."""
    proxy: Preference = Preference()
    """What online arms learn from."""
    golden_policy: Arm = Arm(labeller="golden", beta=(0.1,))
    """The baseline of every win rate: online against the golden model."""
    arms: dict[str, Arm] = field(default_factory=lambda: {"online": Arm(), "offline": Arm("data", "data")})
    """The methods that are compared; the first is compared with each of the others."""
    seeds: tuple[int, ...] = (0, 1)
    """Seeds of the arms."""
    resamples: int = 1000
    """Of the bootstrap."""

    def validate(self) -> Study:
        """The study itself. Raises GoodhartError for what cannot be run."""
        if not self.name.replace("-", "").replace("_", "").isalnum():
            raise GoodhartError(f"study name {self.name!r} is not a plain word", "use letters, digits, '-' and '_'")
        if not self.arms or not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise GoodhartError("the study has no arms or no distinct seeds", "give at least one of each")
        for name, arm in self.arms.items():
            arm.validate(name)
            if arm.source == "stream":
                self._validate_stream(name, arm)
        self.golden_policy.validate("golden policy", judge_may_train=True)
        if len(self.golden_policy.beta) * len(self.golden_policy.lr) != 1:
            raise GoodhartError(
                "the golden policy sweeps beta or lr", "give it one beta and one lr: it is one baseline"
            )
        pool = self.pool
        shares = (pool.samples, pool.early, pool.human, pool.mismatched, pool.degenerate)
        if abs(sum(shares) - 1) > 1e-9 or min(shares) < 0:
            raise GoodhartError(f"the pool's shares are {shares}", "they must be non-negative and add up to 1")
        if self.task.kind == "preferences" and not self.task.data:
            raise GoodhartError("task.data is empty", "name a Hub id, a file or a folder")
        return self

    def _validate_stream(self, name: str, arm: Arm) -> None:
        recorded = self.arms.get(arm.stream)
        if recorded is None or recorded.source != "policy":
            known = ", ".join(other for other, each in self.arms.items() if each.source == "policy") or "none"
            raise GoodhartError(
                f"arm {name!r} replays {arm.stream!r}, which is no arm that samples from its policy",
                f"name one of: {known}",
            )
        if arm.window and (arm.batch != recorded.batch or arm.steps > recorded.steps):
            raise GoodhartError(
                f"arm {name!r} asks for {arm.steps} batches of {arm.batch}, but {arm.stream!r} leaves {recorded.steps} "
                f"of {recorded.batch}",
                "give it the same batch and no more steps, or window: 0",
            )
        if arm.reduction != recorded.reduction:
            raise GoodhartError(
                f"arm {name!r} reduces by {arm.reduction}, {arm.stream!r} by {recorded.reduction}",
                "a stream keeps its reference log-probabilities; give both the same reduction",
            )
        if not set(arm.beta) <= set(recorded.beta) or not set(arm.lr) <= set(recorded.lr):
            raise GoodhartError(
                f"arm {name!r} has a beta or lr that {arm.stream!r} has not",
                "a stream is replayed at the setting that it was recorded at",
            )


def read_study(name: str, overrides: list[str]) -> Study:
    """A built-in study by name or a file by path, with `key=value` overrides.

    Raises GoodhartError for an unknown name, an unreadable file, an unknown key or a wrong value.
    """
    path = PRESET_FOLDER / f"{name}.yaml"
    if not path.is_file():
        path = Path(name)
        if path.suffix not in (".yaml", ".yml") or not path.is_file():
            known = ", ".join(builtin_studies())
            raise GoodhartError(f"there is no study {name!r}", f"give the path of a YAML file, or one of: {known}")
    data: dict[str, Any] = {"name": path.stem, **load_yaml(path)}
    for assignment in overrides:
        data = override(data, assignment)
    return build(Study, data).validate()


def builtin_studies() -> list[str]:
    """Names of the studies that ship with the package."""
    return sorted(path.stem for path in PRESET_FOLDER.glob("*.yaml"))
