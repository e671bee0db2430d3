"""The cells of a study's data."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version

from goodhart.cells.cell import Cell
from goodhart.errors import GoodhartError
from goodhart.models.checkpoint import Checkpoint
from goodhart.studies.spec import Study
from goodhart.tasks import docstrings
from goodhart.tasks.data_digest import data_digest


def data_cells(study: Study, policy: Checkpoint) -> tuple[Cell, Cell | None, Cell | None]:
    """The prompts cell, and the cells of people's pairs, to train and to test, where the task is of such data."""
    tokenizer = {"tokenizer": policy.digest}
    places = {"tokenizer": study.policy}
    sizes = {"validation": study.task.validation}
    if study.task.kind == "preferences":
        digest = dict(data_digest(study.task.data))
        places["data"] = digest.pop("name")
        spec = {"task": study.task, **tokenizer, "data": digest}
        cell = Cell("preferences", spec, label="preference data", places=places)
        inputs = {"prompts": cell}
        tests = Cell("test people", {**sizes, "test": study.task.test}, inputs, "test pairs of people")
        return cell, Cell("people", sizes, inputs, "pairs of people"), tests
    corpus = Cell("corpus", {}, corpus_parts(), "corpus")
    return Cell("prompts", {"task": study.task, **tokenizer}, {"corpus": corpus}, "prompts", places), None, None


def corpus_parts() -> dict[str, Cell]:
    """The docstrings of some packages each; their versions are what the corpus is a function of."""
    python = ".".join(map(str, sys.version_info[:3]))
    cells: dict[str, Cell] = {}
    for number, (side, packages) in enumerate(docstrings.parts()):
        versions = {name: _version(name.split(":")[-1], python) for name in packages}
        label = f"docstrings, {side} part {number + 1}"
        cells[f"{side} {number + 1}"] = Cell("docstrings", {"packages": versions}, label=label)
    return cells


def _version(module: str, python: str) -> str:
    if module in sys.stdlib_module_names:
        return python
    try:
        return version(_DISTRIBUTIONS.get(module, module))
    except PackageNotFoundError as error:
        raise GoodhartError(
            f"package {module!r} of the docstring corpus is not installed", "reinstall goodhart"
        ) from error


_DISTRIBUTIONS = {"PIL": "pillow", "dateutil": "python-dateutil"}
"""Of modules with another name; to ask the installation for it takes a third of a second."""
