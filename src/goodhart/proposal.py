"""A study proposed for some preference data: sizes that the data fill, the memory holds and the given time allows."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from goodhart import forecasts, variances
from goodhart.compared import deciding
from goodhart.errors import GoodhartError
from goodhart.models.checkpoint import find, load_tokenizer
from goodhart.models.model_files import config, context, parameters
from goodhart.proposal_text import study_text
from goodhart.recipes.people import load_people
from goodhart.recipes.settings import Task
from goodhart.report.grid import duration
from goodhart.studies.check import check
from goodhart.studies.check_models import LARGE, check_tokenizers
from goodhart.studies.data_fit import Limits, Sizes, choose_limits, choose_sizes, measure
from goodhart.studies.memory_fit import Need, Room
from goodhart.studies.session import Workers
from goodhart.studies.spec import Study, read_study
from goodhart.studies.study_file import PRESETS_SHIPPED
from goodhart.tasks.data_source import Say, find_source, unheard
from goodhart.tasks.pair_rules import RULES, Rule
from goodhart.tasks.preference_data import Loaded
from goodhart.tasks.preference_tokens import ChatTokenizer

POLICY = "tiny"
"""Where no policy is named: a model that ships, to try the path with."""
_JUDGES = {"nano": "tiny", "tiny": "small", "small": "small"}
"""The judge of a policy that ships; another policy is judged by a model like itself, whose tokenizer fits."""
_SHORTER = (1.0, 0.5, 0.25, 0.125, 0.0625, 0.03125)
"""Shares of the usual steps, the first of which that the time allows is taken."""
_SEEDS = (8, 5, 3, 2)
_FEWEST_SEEDS, _USUAL_SEEDS = 2, 3
_PASSES = {"sft": 3, "judge": 5}
"""Times that the data are read at most: people's demonstrations and pairs are soon known by heart."""
_FEWEST_STEPS = 8
"""Of a run, so that its checkpoints can stand where KL doubles."""


@dataclass(frozen=True)
class Asked:
    """What a person says of the study."""

    data: str
    policy: str
    golden: str
    task: Task
    """Layout, columns and split of the data, where they are said."""
    seconds: float | None
    """That it may take."""
    root: Path
    by_rule: bool = False
    """Whether the task's rule of pairs is said, too; else the data decide."""


@dataclass(frozen=True)
class Steps:
    """How long a study trains, and in which portions."""

    sft: int
    golden: int
    proxy: int
    golden_policy: int
    online: int
    offline: int
    sft_batch: int
    batch: int


@dataclass(frozen=True)
class Portions:
    """Pairs computed at a time."""

    sft: int
    golden: int
    proxy: int
    arms: int
    fits: bool
    """Whether the memory holds one of them, as far as can be told."""


@dataclass(frozen=True)
class Facts:
    """What the text of a study says of its data, models and machine."""

    loaded: Loaded
    limits: Limits
    readable: int
    """Pairs that the model can read, of whatever length."""
    sizes: Sizes
    task: Task
    """As the study has it, without the sizes."""
    data: str
    policy: str
    golden: str
    shipped: bool
    """Whether the policy is a small model that ships with the package."""
    large: bool
    """Whether learning rates are those of large models."""
    portions: Portions
    room: Room


@dataclass(frozen=True)
class Proposal:
    """The text of a study file, and what is expected of it."""

    text: str
    seconds: float
    sees: float | None
    """The smallest difference in golden win rate that it finds with 80% power; None where the noise is not known."""
    shortened: float
    """Which share of the usual steps the time allows."""
    facts: Facts


def propose(asked: Asked, folder: Path, say: Say = unheard) -> Proposal:
    """A study of the data for a file in a folder. Raises GoodhartError for what cannot be read, filled or trained."""
    facts, workers = _facts(asked, folder, say)
    noise, minutes = variances.shipped(), forecasts.clock(asked.root, workers)

    def seen(study: Study) -> float | None:
        return forecasts.visible_in(study, deciding(study)[0], noise, forecasts.errors(study)[0])

    cheapest = math.inf
    for share in _SHORTER:
        whole = _study(study_text(facts, _steps(facts, share), (0, 1, 2), facts.sizes.evaluation, []), folder)
        if asked.seconds is None:
            return _proposal(facts, whole, share, 60 * minutes(whole), seen(whole))
        fewest = _USUAL_SEEDS if share > _SHORTER[2] else _FEWEST_SEEDS
        designs = list(_designs(whole, facts.sizes, fewest))
        cheapest = min(cheapest, 60 * minutes(designs[-1]))
        if cheapest > asked.seconds:
            continue
        best_first = sorted(designs, key=lambda study: (seen(study) or math.inf, len(study.seeds)))
        for study in best_first:
            taken = 60 * minutes(study)
            if taken <= asked.seconds:
                return _proposal(facts, study, share, taken, seen(study))
    raise GoodhartError(
        f"even the smallest study of these data and models takes about {duration(cheapest)} on this machine, and "
        f"--time is {duration(asked.seconds or 0)}",
        "give more time, a smaller policy or golden model, or data with shorter texts",
    )


def _facts(asked: Asked, folder: Path, say: Say) -> tuple[Facts, Workers]:
    """What the data and the machine allow."""
    policy = asked.policy or POLICY
    golden = asked.golden or _JUDGES.get(policy, policy)
    folders = {"policy": Path(find(policy).path), "golden.model": Path(find(golden).path)}
    check_tokenizers(folders)
    loaded = load_people(asked.task, asked.data, by_rule=asked.by_rule, say=say)
    tokenizer: ChatTokenizer = load_tokenizer(folders["policy"])
    template = "plain" if _lacks_template(loaded, tokenizer) else "auto"
    measured = measure(loaded, tokenizer, template, say)
    limits = choose_limits(measured, _fits(folders))
    sizes = choose_sizes(loaded, limits.kept)
    splits = find_source(asked.data).splits
    rule: Rule = loaded.rule or RULES[0]
    task = replace(asked.task, pairs=rule, template=template, data_split=loaded.split if len(splits) > 1 else "")
    workers = Workers.of(0, 1)
    room = Room.of(workers.number)
    facts = Facts(
        loaded=loaded,
        limits=limits,
        readable=len(measured),
        sizes=sizes,
        task=task,
        data=_named(asked.data, folder),
        policy=_named(policy, folder),
        golden=_named(golden, folder),
        shipped=policy in PRESETS_SHIPPED,
        large=max(map(parameters, folders.values())) > LARGE,
        portions=_portions(folders, limits, sizes, room),
        room=room,
    )
    return facts, workers


def _lacks_template(loaded: Loaded, tokenizer: ChatTokenizer) -> bool:
    """Whether prompts are chat turns, and the tokenizer has no template for them."""
    return not tokenizer.chat_template and loaded.examples.chats


def _fits(folders: Mapping[str, Path]) -> Callable[[int, int], bool]:
    """Whether a prompt and a response of some tokens have room in every model; judges read one response at a time."""
    settings = [config(folder) for folder in folders.values()]

    def fits(prompt: int, response: int) -> bool:
        for each in settings:
            limit, written = context(each), response + 1  # a preference model has a separator behind it
            longest = max(prompt, written) if each.get("is_encoder_decoder") else prompt + written
            if limit is not None and longest > limit:
                return False
        return True

    return fits


def _named(name: str, folder: Path) -> str:
    """A name for a file in a folder: of what lies below that folder from there, of other files from the root."""
    path = Path(name).expanduser()
    if name in PRESETS_SHIPPED or not path.exists():
        return name
    full, base = (Path(os.path.abspath(each)) for each in (path, folder))  # a link stays the name that it is  # noqa: PTH100
    if not full.is_relative_to(base):
        return str(full)
    inside = full.relative_to(base).as_posix()
    return f"./{inside}" if full.is_dir() else inside


def _portions(folders: Mapping[str, Path], limits: Limits, sizes: Sizes, room: Room) -> Portions:
    """What memory holds of each batch: an arm has a reference beside its policy, and the proxy."""
    policy, golden = folders["policy"], folders["golden.model"]
    lengths, batch = (limits.prompt, limits.response), _at_most(32, sizes.labels)
    arm = Need.of(policy, {policy: 2}, *lengths)
    judge, alone = Need.of(golden, {}, *lengths), Need.of(policy, {}, *lengths)
    return Portions(
        sft=alone.rows(room, _at_most(64, sizes.train_pairs)),
        golden=judge.rows(room, batch),
        proxy=alone.rows(room, batch),
        arms=arm.rows(room, batch),
        fits=arm.fits(room) and judge.fits(room),
    )


def _at_most(usual: int, there: int) -> int:
    """A batch's size: the usual one, or the largest power of two that the data fill."""
    return min(usual, 2 ** int(math.log2(max(1, there))))


def _steps(facts: Facts, share: float) -> Steps:
    """A share of what such models are usually trained, and no more passes through few data than are useful."""
    sizes = facts.sizes
    sft_batch, batch = _at_most(64, sizes.train_pairs), _at_most(32, sizes.labels)
    usual = (300, 1000, 500, 200, 400, 400) if facts.large else (120, 300, 200, 45, 64, 128)
    sft, golden, proxy, baseline, online, offline = (max(_FEWEST_STEPS, round(share * steps)) for steps in usual)

    def within(steps: int, passes: str, there: int, rows: int) -> int:
        return min(steps, max(_FEWEST_STEPS, math.ceil(_PASSES[passes] * there / rows)))

    return Steps(
        sft=within(sft, "sft", sizes.train_pairs, sft_batch),
        golden=within(golden, "judge", sizes.train_pairs, batch),
        proxy=within(proxy, "judge", sizes.labels, batch),
        golden_policy=baseline,
        online=online,
        offline=offline,
        sft_batch=sft_batch,
        batch=batch,
    )


def _designs(whole: Study, sizes: Sizes, fewest: int) -> Iterator[Study]:
    """The study with other numbers of seeds and evaluated prompts, the cheapest one last."""
    numbers = dict.fromkeys(max(2, whole.task.evaluation // part) for part in (1, 2, 4, 8))
    for seeds in (number for number in _SEEDS if number >= fewest):
        for prompts in numbers:
            changed = forecasts.resized(whole, seeds, prompts, whole.measurement.responses)
            task = replace(changed.task, train_evaluation=sizes.train_evaluation(prompts))
            yield replace(changed, task=task)


def _proposal(facts: Facts, study: Study, share: float, seconds: float, sees: float | None) -> Proposal:
    told = [f"Takes about {duration(seconds)} on this machine"]
    if sees is not None:
        told.append(f"Sees a difference of {sees:.3f} in golden win rate with 80% power, noise as in what ships")
    text = study_text(facts, _steps(facts, share), study.seeds, study.task.evaluation, told)
    return Proposal(text, seconds, sees, share, facts)


def _study(text: str, folder: Path, then: Callable[[Study], None] | None = None) -> Study:
    """The study that a text is of, as if it stood in a folder, and what is done while it stands there."""
    handle, name = tempfile.mkstemp(prefix=".init-", suffix=".yaml", dir=folder)
    path = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        study = read_study(str(path), ["name=proposed"])
        if then:
            then(study)
        return study
    finally:
        path.unlink()


def checked(proposal: Proposal, folder: Path, say: Say = unheard) -> Study:
    """The proposed study once it has passed all that a run looks at before its first cell. Raises GoodhartError."""
    return _study(proposal.text, folder, lambda study: check(study, say=say))
