"""The cells of a study's data."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, packages_distributions, version

from goodhart.errors import GoodhartError
from goodhart.models.checkpoint import Checkpoint
from goodhart.study.cell import Cell
from goodhart.study.spec import Study
from goodhart.tasks import docstrings
from goodhart.tasks.data_digest import data_digest


def named(name: str, checkpoint: Checkpoint) -> dict[str, str]:
    """A model in a cell's settings: its name for people, its digest for the address."""
    return {"name": name, "digest": checkpoint.digest}


def data_cells(study: Study, policy: Checkpoint) -> tuple[Cell, Cell | None]:
    """The prompts cell, and the cell of people's pairs where the task is a preference data set."""
    shared = {"task": study.task, "tokenizer": named(study.policy, policy)}
    if study.task.kind == "preferences":
        data = data_digest(study.task.data)
        cell = Cell("preferences", {**shared, "data": data}, label="preference data")
        return cell, cell
    corpus = Cell("corpus", {}, corpus_parts(), "corpus")
    return Cell("prompts", shared, {"corpus": corpus}, "prompts"), None


def corpus_parts() -> dict[str, Cell]:
    """The docstrings of some packages each; their versions are what the corpus is a function of."""
    distributions = packages_distributions()
    python = ".".join(map(str, sys.version_info[:3]))
    cells: dict[str, Cell] = {}
    for number, (side, packages) in enumerate(docstrings.parts()):
        versions = {name: _version(name.split(":")[-1], distributions, python) for name in packages}
        label = f"docstrings, {side} part {number + 1}"
        cells[f"{side} {number + 1}"] = Cell("docstrings", {"packages": versions}, label=label)
    return cells


def _version(module: str, distributions: Mapping[str, list[str]], python: str) -> str:
    if module in sys.stdlib_module_names:
        return python
    try:
        return version(distributions.get(module, [module])[0])
    except PackageNotFoundError as error:
        raise GoodhartError(
            f"package {module!r} of the docstring corpus is not installed", "reinstall goodhart"
        ) from error
