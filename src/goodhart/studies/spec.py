"""What a study file says."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from goodhart.alignment.extensions import load
from goodhart.alignment.method import Method
from goodhart.analysis.hypotheses import Axis, Hypothesis, League, Looks, Map
from goodhart.cells.launch import Launch
from goodhart.config import (
    MOST,
    NOT_READ,
    Range,
    address,
    build,
    load_yaml,
    override,
)
from goodhart.errors import GoodhartError
from goodhart.recipes.arm import Arm
from goodhart.recipes.settings import BestOf, Labels, Measurement, Pool, Task
from goodhart.studies.arms import with_what_they_read
from goodhart.studies.named_functions import with_functions, with_parameters
from goodhart.studies.study_file import (
    inheriting,
    located,
    names_alone,
    refuse_unread,
    unnamed,
    with_kind,
    with_methods,
    with_seeds,
    with_template,
)
from goodhart.studies.tabular import refuse_unread_beside_world
from goodhart.studies.validation import validate
from goodhart.tasks.world import World
from goodhart.training.settings import Preference, Supervised

PRESET_FOLDER = Path(__file__).parent / "presets"
FEWEST_RESAMPLES = 20
"""Below it the bounds of a 95% interval are the outermost resamples themselves."""
Seed = Annotated[int, Range(0, 2**63 - 1)]
"""Tables keep seeds in 64 bits."""


@dataclass(frozen=True)
class Variant:
    """What some arms have instead of the study's own; prompts and initial pairs stay the same.

    Arms of different judges have different measures, and are not compared with one another. In a study file a variant's
    section names only what differs from the study's own section.
    """

    policy: str = ""
    """Another language model of the same tokenizer: the axis of policy scale."""
    sft: Supervised | None = None
    """Another supervised fine-tuning."""
    labels: Labels | None = None
    """Another number, mode or noise of golden labels."""
    proxy: Preference | None = None
    """Another proxy: its kind, or the axis of proxy scale."""
    golden: Preference | None = None
    """Another judge: it labels and measures these arms, with a golden policy of its own as their baseline."""


@dataclass(frozen=True)
class Study:
    """Arms and seeds over one task; it ends in a report."""

    name: str
    """Names the folder `runs/studies/NAME`."""
    question: str = "At the same KL budget, what does sampling from the policy buy?"
    """Stands at the top of the report."""
    task: Task = Task()
    """Prompts and data."""
    world: World | None = None
    """A finite world in place of prompts and language models: policies are tables. Of the sections around it `labels`
    is read where the world's data are labels, and `arms`, `hypotheses`, `axes`, `maps`, `league`, `seeds`, `looks`,
    `resamples` as ever (docs/tabular.md)."""
    policy: str = "tiny"
    """Language model of every arm, causal or encoder-decoder: a preset with a base model, a Hub id, or a path."""
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
    golden_policy: Arm = Arm(Method(labeller="golden"), beta=(0.1,))
    """The baseline of every win rate: online against the golden model."""
    arms: dict[str, Arm] = field(default_factory=lambda: {"online": Arm(), "offline": Arm(Method("data", "data"))})
    """The methods that are compared; the first is compared with each of the others."""
    methods: tuple[str, ...] = ()
    """Python files of the user's own with further methods and losses (docs/new-method.md)."""
    variants: dict[str, Variant] = field(default_factory=dict[str, Variant])
    """Other policies, proxies or labels, by the name that arms use."""
    best_of: BestOf = BestOf()
    """The baseline without training."""
    measurement: Measurement = Measurement()
    """How certain the measurement of a checkpoint is."""
    hypotheses: dict[str, Hypothesis] = field(default_factory=dict[str, Hypothesis])
    """What the study tests, with its decision rules."""
    axes: dict[str, Axis] = field(default_factory=dict[str, Axis])
    """Things that are changed by degrees, to be drawn."""
    maps: dict[str, Map] = field(default_factory=dict[str, Map])
    """Hypotheses as pictures, by what differs between them; the built-in study `map` has two."""
    league: League | None = None
    """Arms ranked at equal KL; without, none are (docs/league.md)."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """What arms train in: bfloat16 has a float32 master. `auto` takes what is faster for the study's policy. All
    else, measurements above all, is float32."""
    seeds: tuple[Seed, ...] = (0, 1)
    """Seeds of the arms; two or more give intervals over seeds. With `looks` the default is as many as the last has."""
    looks: Looks | None = None
    """When the study is looked at: with how many of its seeds; without, once, with all of them (docs/power.md)."""
    resamples: Annotated[int, Range(FEWEST_RESAMPLES, MOST)] = 1000
    """Of the bootstrap."""
    executor: Launch = Launch()
    """Where the cells are made. It decides no result, and no address knows of it."""
    unnamed: tuple[str, ...] = field(default=(), metadata=NOT_READ)
    """Not in study files: the keys of `study_file.OF_SIZE` that the file leaves at their defaults."""

    def validate(self) -> Study:
        """The study itself. Raises GoodhartError for what cannot be run."""
        for file in self.methods:
            load(file)
        validate(self)
        return self

    @property
    def all_arms(self) -> list[str]:
        """The arms, then the baselines that stand on every frontier."""
        return [*self.arms, *(best_of_arm(judge) for judge in self.best_of.judges if self.best_of.samples)]

    def only(self, names: Sequence[str]) -> Study:
        """What some hypotheses need, by the first word of their names. Raises GoodhartError for one that is not there.

        The study has a name of its own and shares its cells with the whole one.
        """
        kept = {name: h for name, h in self.hypotheses.items() if name in names or name.split()[0] in names}
        known = {word for name in self.hypotheses for word in (name, name.split()[0])}
        for name in names:
            if name not in known:
                heads = ", ".join(dict.fromkeys(each.split()[0] for each in self.hypotheses)) or "none"
                raise GoodhartError(f"study {self.name!r} has no hypothesis {name!r}", f"it has: {heads}")
        drawn = [arm for h in kept.values() for arm in h.paper.series.values()]
        used = with_what_they_read(
            self.arms, [*drawn, *(a for h in kept.values() for c in h.contrasts for a in c.arms)]
        )
        arms = {name: arm for name, arm in self.arms.items() if name in used}
        judges = tuple(judge for judge in self.best_of.judges if best_of_arm(judge) in used)
        return replace(
            self,
            name="-".join([self.name, *(name.replace(" ", "-") for name in names)]),
            arms=arms,
            hypotheses=kept,
            axes={name: axis for name, axis in self.axes.items() if used.issuperset(axis.arms)},
            maps={},
            league=None,
            variants={n: v for n, v in self.variants.items() if any(arm.variant == n for arm in arms.values())},
            best_of=self.best_of if judges else replace(self.best_of, samples=0),
        ).validate()

    @property
    def judges(self) -> dict[str, Preference]:
        """The settings of all judges by the keys that name them."""
        main = {"golden": self.golden, "proxy": self.proxy}
        named = {f"variants.{name}.{role}": getattr(v, role) for name, v in self.variants.items() for role in main}
        return main | {key: judge for key, judge in named.items() if judge}

    def judge_of(self, arm: str) -> Preference:
        """Who labels and measures an arm."""
        variant = self.variants.get(self.arms[arm].variant) if arm in self.arms else None
        return (variant and variant.golden) or self.golden


def best_of_arm(judge: str) -> str:
    """The name of best-of-n by a judge among the arms of a table."""
    return f"best of n by {judge}"


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
    shipped = path.parent == PRESET_FOLDER
    data: dict[str, Any] = {"name": path.stem, **load_yaml(path)}
    data = data if shipped else located(data, path.parent)
    # what ships is set for the models that ship
    return study_of(data, overrides, names_alone(data) if shipped else data)


def study_of(data: dict[str, Any], overrides: Sequence[str] = (), named: dict[str, Any] | None = None) -> Study:
    """What a file says, with `key=value` overrides; `named` is as much of it as somebody chose for these models.

    Raises GoodhartError for an unknown key or a wrong value.
    """
    as_written, named = data, data if named is None else named
    for assignment in overrides:
        data, named = override(data, assignment, Study), override(named, assignment, Study)
    deciding = [assignment for assignment in overrides if not assignment.startswith("executor")]
    if data != as_written and deciding and not any(assignment.startswith("name=") for assignment in deciding):
        data = {**data, "name": _named_after(str(data["name"]), deciding)}
    refuse_unread(data)
    for file in data.get("methods") or ():
        load(str(file))
    refuse_unread_beside_world(data)
    data = with_methods(with_seeds(inheriting(with_template(with_kind(with_functions(data))))))
    data = with_parameters(data)
    study = build(Study, data)
    return replace(study, unnamed=unnamed(inheriting(named), list(study.arms))).validate()


def _named_after(name: str, overrides: Sequence[str]) -> str:
    """The name of a study with other settings than its file has, so that its results stand beside those of the file."""
    words = "-".join(re.sub(r"[^A-Za-z0-9]+", "-", assignment).strip("-") for assignment in overrides)
    short = words if len(words) <= _LONGEST else f"{words[:_LONGEST].rstrip('-')}-{address(list(overrides))[:6]}"
    return f"{name}-{short}"


_LONGEST = 60
"""Letters of a name that overrides give."""


def origin_of(name: str) -> str:
    """Where a study of that name is written down: in the package, or in a file."""
    return f"built-in {name}" if name in builtin_studies() else str(Path(name).resolve())


def builtin_studies() -> list[str]:
    """Names of the studies that ship with the package."""
    return sorted(path.stem for path in PRESET_FOLDER.glob("*.yaml"))
