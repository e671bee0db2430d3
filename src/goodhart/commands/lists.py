"""The command that lists what a study file can name."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

from rich.console import Console
from rich.text import Text

from goodhart import arguments
from goodhart.errors import GoodhartError
from goodhart.output import console, page_width, paragraphs, write_json
from goodhart.printable import printable

Meanings = Mapping[str, str]


def list_names(asked: arguments.List) -> None:
    """Everything that has a name, the methods, or one of them. Raises GoodhartError for a name that is not known."""
    if asked.name and asked.what != "methods":
        raise GoodhartError(f"{asked.name!r} is given to no table", "write goodhart list methods NAME")
    if asked.name:
        _method(asked)
    elif asked.what == "methods":
        _methods(asked)
    else:
        _names(asked)


def _method(asked: arguments.List) -> None:
    from goodhart.alignment.methods import explained, row

    row(asked.name)
    said = dict(explained(asked.name))
    if asked.json:
        write_json({"name": asked.name, **{label.replace(" ", "_"): text for label, text in said.items()}})
    else:
        _show(console(), "", said)


def _methods(asked: arguments.List) -> None:
    from goodhart.alignment.methods import METHODS

    if asked.json:
        rows = [
            {"name": name, "family": row.family, "title": row.title, "formula": row.formula}
            for name, row in METHODS.items()
        ]
        write_json({"methods": rows})
        return
    screen = console()
    for family in dict.fromkeys(row.family for row in METHODS.values()):
        of_family = {name: f"{row.title}: {row.formula}" for name, row in METHODS.items() if row.family == family}
        _show(screen, family, of_family)
    _close(screen, "'goodhart list methods NAME' explains one; arms name it by method: NAME")


def _names(asked: arguments.List) -> None:
    from goodhart.config import load_yaml
    from goodhart.models.checkpoint import BASE_MODELS
    from goodhart.models.presets import PRESETS
    from goodhart.recipes.settings import PREFERENCES
    from goodhart.studies.spec import PRESET_FOLDER, builtin_studies
    from goodhart.tasks.text_task import TEXT_TASKS

    values = _values()
    tasks = {name: TEXT_TASKS[name].meaning for name in TEXT_TASKS}
    tasks[PREFERENCES] = "your data in, see task.layout and 'goodhart data PATH'"
    models = {
        name: f"{shape.layers} layers of {shape.hidden}; "
        + ("ships with the package" if (BASE_MODELS / name).is_dir() else f"make it: goodhart pretrain {name}")
        for name, shape in PRESETS.items()
    }
    studies = {name: str(load_yaml(PRESET_FOLDER / f"{name}.yaml").get("question", "")) for name in builtin_studies()}
    if asked.json:
        write_json({"values": values, "tasks": tasks, "models": models, "studies": studies})
        return
    screen = console()
    _show(screen, "values of settings", {setting: ", ".join(names) for setting, names in values.items()})
    _show(screen, "tasks (task.kind)", tasks)
    _show(screen, "models (policy, golden, proxy)", models)
    _show(screen, "built-in studies", studies)
    _close(screen, "'goodhart list methods' says what the methods are")


def _values() -> dict[str, list[str]]:
    """What settings of few values can be."""
    from goodhart.alignment.method import KINDS
    from goodhart.alignment.methods import METHODS
    from goodhart.config import choices
    from goodhart.recipes.arm import Arm
    from goodhart.studies.spec import Preference
    from goodhart.tasks.preference_layouts import LAYOUTS
    from goodhart.tasks.world import World

    arms = {f"arm {name}": choices(Arm, name) for name in ("source", "labeller", "mode", "reduction")}
    return {
        "world.kind": choices(World, "kind"),
        **arms,
        "arm loss": list(KINDS),
        "arm method": list(METHODS),
        "preference kind": choices(Preference, "kind"),
        "task.layout": ["auto", *LAYOUTS],
    }


def _show(screen: Console, title: str, meanings: Meanings) -> None:
    if title:
        screen.print(Text(title, "bold"))
    _text(screen, "\n".join(paragraphs(meanings, page_width(screen), indent=2 if title else 0)))
    if title:
        screen.print()


def _close(screen: Console, sentence: str) -> None:
    _text(screen, textwrap.fill(sentence, page_width(screen)))


def _text(screen: Console, text: str) -> None:
    screen.print(Text(printable(text)))
