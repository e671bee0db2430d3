"""What a study file says before it is settings: paths that start at the file, what sections have from one another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from goodhart.analysis.hypotheses import Looks
from goodhart.errors import GoodhartError
from goodhart.models.model_files import BASE_MODELS
from goodhart.recipes.arm import with_row
from goodhart.recipes.settings import PREFERENCES
from goodhart.studies.named_functions import changed, placed
from goodhart.tasks.data_files import SUFFIXES

TEMPLATES = ("auto", "none", "plain")
"""What `task.template` is unless it is a template or names the file of one."""
OF_SIZE = {
    "sft": ("optimisation.lr",),
    "golden": ("optimisation.lr", "head_factor"),
    "proxy": ("optimisation.lr", "head_factor"),
    "golden_policy": ("lr", "steps"),
    "arms": ("lr",),
}
"""By section, the keys whose right value depends on how large the section's model is."""


JUDGES = ("golden", "proxy")
"""The sections of preference models."""
PRESETS_SHIPPED = frozenset(path.parent.name for path in BASE_MODELS.glob("*/config.json"))
"""The models that ship with the package."""


def located(data: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The settings with paths of data, models and template that start at `folder`, the study file's.

    A Hub id and a preset stay what they are; what is no path is taken for one if it exists beside the file.
    """

    def model(name: str) -> str:
        return name if name in PRESETS_SHIPPED else _beside(name, folder)

    def labels(name: str) -> str:
        return str(_below(folder, name)) if name else name

    def template(name: str) -> str:
        return name if name in TEMPLATES or "{" in name else str(_below(folder, name))

    result = changed(data, ["task", "data"], lambda name: _beside(name, folder))
    result = changed(result, ["task", "template"], template)
    result = changed(result, ["labels", "file"], labels)
    result = changed(result, ["world", "file"], lambda name: str(_below(folder, name)))
    for keys in (["policy"], ["golden", "model"], ["proxy", "model"]):
        result = changed(result, keys, model)
    if isinstance(result.get("methods"), list):
        result = {**result, "methods": [str(_below(folder, str(name))) for name in result["methods"]]}
    arms: Any = result.get("arms")
    if isinstance(arms, dict):
        result = {**result, "arms": {name: _adopting(arm, model) for name, arm in arms.items()}}
    variants = result.get("variants")
    for name in variants if isinstance(variants, dict) else ():
        result = changed(result, ["variants", name, "policy"], model)
        result = changed(result, ["variants", name, "labels", "file"], labels)
        result = changed(result, ["variants", name, "proxy", "model"], model)
        result = changed(result, ["variants", name, "golden", "model"], model)
    return placed(result, lambda file: str(_below(folder, file)))


def _adopting(arm: Any, model: Callable[[str], str]) -> Any:
    """An arm with the folders of its checkpoints."""
    if not isinstance(arm, dict) or "checkpoint" not in arm:
        return arm
    several = arm["checkpoint"] if isinstance(arm["checkpoint"], list) else [arm["checkpoint"]]
    return {**arm, "checkpoint": [model(each) if isinstance(each, str) else each for each in several]}


def _beside(name: str, folder: Path) -> str:
    path = _below(folder, name)
    file = name.startswith((".", "~")) or name.endswith(SUFFIXES)
    return str(path) if name and (file or path.exists()) else name


def _below(folder: Path, name: str) -> Path:
    """The path that starts at a folder. Raises GoodhartError for what no file system can hold."""
    try:
        path = (folder / Path(name).expanduser()).resolve()
        path.exists()
        return path
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:80]
        raise GoodhartError(f"{name[:60]!r} can be no path and no name ({reason})", "give another") from error


def with_kind(data: dict[str, Any]) -> dict[str, Any]:
    """Who names data and no kind of task means the data."""
    task = data.get("task")
    if isinstance(task, dict) and task.get("data") and "kind" not in task:
        return {**data, "task": {**task, "kind": PREFERENCES}}
    return data


def with_seeds(data: dict[str, Any]) -> dict[str, Any]:
    """Who says when to look and names no seeds means the first ones."""
    looks = data.get("looks")
    if not isinstance(looks, dict) or "seeds" in data:
        return data
    numbers = looks.get("seeds", Looks().seeds)
    if not isinstance(numbers, list | tuple) or not all(isinstance(number, int) for number in numbers):
        return data
    return {**data, "seeds": list(range(max(numbers, default=0)))}


def with_template(data: dict[str, Any]) -> dict[str, Any]:
    """The chat template itself in place of its file's name. Raises GoodhartError if the file cannot be read."""

    def read(name: str) -> str:
        if name in TEMPLATES or "{" in name:
            return name
        try:
            return Path(name).expanduser().read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise GoodhartError(
                f"task.template is {name!r}, which is no file that can be read as text",
                f"give one of {', '.join(TEMPLATES)}, the path of a Jinja file, or the template itself",
            ) from error

    return changed(data, ["task", "template"], read)


def inheriting(data: dict[str, Any]) -> dict[str, Any]:
    """The variants' sections filled up from the study's own."""
    variants = data.get("variants")
    if not isinstance(variants, dict):
        return data
    full: dict[str, Any] = {}
    for name, variant in variants.items():
        full[name] = variant
        if isinstance(variant, dict):
            full[name] = {key: _filled(value, _inherited(key, value, data.get(key))) for key, value in variant.items()}
    return {**data, "variants": full}


def with_methods(data: dict[str, Any]) -> dict[str, Any]:
    """The arms that name a method with its row for what they leave out. Raises GoodhartError for an unknown name."""
    changed = dict(data)
    if isinstance(data.get("arms"), dict):
        changed["arms"] = {name: with_row(arm, f"arms.{name}") for name, arm in data["arms"].items()}
    if "golden_policy" in data:
        changed["golden_policy"] = with_row(data["golden_policy"], "golden_policy")
    return changed


def _inherited(key: str, value: Any, section: Any) -> Any:
    """The study's own section; nothing for a judge where one of the two is a rule and the other a model."""
    if key not in JUDGES or not isinstance(value, dict) or not isinstance(section, dict):
        return section
    other = "kind" in value and (value["kind"] == "rule") != (section.get("kind") == "rule")
    return {} if other else section


def _filled(value: Any, base: Any) -> Any:
    """A section with what it does not name taken from another, at every depth."""
    if not isinstance(value, dict) or not isinstance(base, dict):
        return value
    return {**base, **{key: _filled(each, base.get(key)) for key, each in value.items()}}


def refuse_unread(data: dict[str, Any]) -> None:
    """Raises GoodhartError for a key that an arm has by its type and does not read."""
    for where, arm in {**dict(_named(data, "arms")), "golden_policy": data.get("golden_policy")}.items():
        optimisation = arm.get("optimisation") if isinstance(arm, dict) else None
        if isinstance(optimisation, dict) and "lr" in optimisation:
            raise GoodhartError(
                f"{where}.optimisation.lr is not read: the learning rates of an arm are a sweep",
                f"set {where}.lr=[{optimisation['lr']}] in its place",
            )
    _refuse_beside_rules(data)


def _refuse_beside_rules(data: dict[str, Any]) -> None:
    """Raises GoodhartError for what is said of a model's training where the judge is a rule."""
    judges = {name: (data.get(name), "") for name in JUDGES}
    for where, variant in _named(data, "variants"):
        for role in JUDGES if isinstance(variant, dict) else ():
            judges[f"{where}.{role}"] = variant.get(role), _kind(data.get(role), "")
    for where, (judge, inherited) in judges.items():
        for key in judge if isinstance(judge, dict) and _kind(judge, inherited) == "rule" else ():
            if key not in ("kind", "rule"):
                raise GoodhartError(
                    f"{where}.{key} is not read: a judge of kind rule trains no model",
                    f"leave {where}.{key} out (from a command line, give {where} as a whole: "
                    f"{where}={{kind: rule, rule: {{reward: length}}}})",
                )


def _kind(judge: Any, inherited: str) -> str:
    """What kind a judge's section says; a variant's proxy that says none has the study's own."""
    return str(judge.get("kind", inherited)) if isinstance(judge, dict) else inherited


def unnamed(data: dict[str, Any], arms: list[str]) -> tuple[str, ...]:
    """The keys of `OF_SIZE` that settings, with what variants inherit, leave at their defaults."""
    given = dict(_named(data, "arms"))
    sections = {name: data.get(name) for name in ("sft", "golden", "proxy", "golden_policy")}
    keys = {where: OF_SIZE[where] for where in sections}
    for arm in arms:
        settings = given.get(f"arms.{arm}")
        if isinstance(settings, dict) and "checkpoint" in settings:
            continue
        sections[f"arms.{arm}"], keys[f"arms.{arm}"] = given.get(f"arms.{arm}"), OF_SIZE["arms"]
    for where, variant in _named(data, "variants"):
        for part in ("sft", *JUDGES):
            if isinstance(variant, dict) and isinstance(variant.get(part), dict):
                sections[f"{where}.{part}"], keys[f"{where}.{part}"] = variant[part], OF_SIZE[part]
    return tuple(f"{where}.{key}" for where in sections for key in keys[where] if not _has(sections[where], key))


def names_alone(data: dict[str, Any]) -> dict[str, Any]:
    """The mappings of names with nothing said of any of them."""
    sections = {mapping: data.get(mapping) for mapping in ("arms", "variants", "hypotheses", "axes", "maps")}
    return {mapping: {name: {} for name in names} for mapping, names in sections.items() if isinstance(names, dict)}


def _named(data: dict[str, Any], mapping: str) -> Iterator[tuple[str, Any]]:
    """(key, settings) of all in a mapping of names."""
    section = data.get(mapping)
    for name, settings in section.items() if isinstance(section, dict) else ():
        yield f"{mapping}.{name}", settings


def _has(section: Any, key: str) -> bool:
    for part in key.split("."):
        if not isinstance(section, dict) or part not in section:
            return False
        section = section[part]
    return True
