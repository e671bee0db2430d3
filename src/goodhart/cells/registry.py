"""Which function makes which kind of cell; nothing is imported before it is needed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from goodhart.cells.workplace import Workplace


@dataclass(frozen=True, slots=True)
class Recipe:
    """Where the function is that makes a kind of cell, and the version of its result."""

    module: str
    function: str
    version: int
    """Part of the address: raised when the result changes for the same settings and inputs."""
    shared: bool = False
    """Whether it computes with language models, which several processes can share."""

    def load(self) -> Callable[[Workplace], dict[str, Any]]:
        """The function, which makes a cell's files and returns what is recorded about it."""
        return getattr(import_module(self.module), self.function)


RECIPES: dict[str, Recipe] = {
    "docstrings": Recipe("goodhart.recipes.data", "docstring_part", 1),
    "corpus": Recipe("goodhart.recipes.data", "corpus", 1),
    "prompts": Recipe("goodhart.recipes.data", "text_prompts", 1),
    "preferences": Recipe("goodhart.recipes.data", "preference_prompts", 1),
    "sft": Recipe("goodhart.recipes.models", "sft", 1, shared=True),
    "pairs": Recipe("goodhart.recipes.pool", "initial_pairs", 1, shared=True),
    "test pairs": Recipe("goodhart.recipes.pool", "test_pairs", 1, shared=True),
    "people": Recipe("goodhart.recipes.people_parts", "peoples_pairs", 1),
    "test people": Recipe("goodhart.recipes.people_parts", "peoples_test_pairs", 1),
    "marked pairs": Recipe("goodhart.recipes.marked_pairs", "marked_pairs", 1, shared=True),
    "preference": Recipe("goodhart.recipes.models", "preference_model", 1, shared=True),
    "rule": Recipe("goodhart.recipes.rule", "rule", 1),
    "quality": Recipe("goodhart.recipes.models", "judge_quality", 1, shared=True),
    "labels": Recipe("goodhart.recipes.labels", "golden_labels", 1, shared=True),
    "adopted labels": Recipe("goodhart.recipes.adopted_labels", "adopted_labels", 1, shared=True),
    "test labels": Recipe("goodhart.recipes.labels", "test_labels", 1, shared=True),
    "run": Recipe("goodhart.recipes.run", "alignment_run", 1, shared=True),
    "adopted": Recipe("goodhart.recipes.adopt", "adopted", 1),
    "merge": Recipe("goodhart.recipes.merge", "merged", 1),
    "written": Recipe("goodhart.recipes.run", "written_pairs", 1, shared=True),
    "opponents": Recipe("goodhart.recipes.opponents", "opponents", 2, shared=True),
    "best of n": Recipe("goodhart.recipes.best_of", "best_of", 2, shared=True),
    "stream": Recipe("goodhart.recipes.measure", "classified_stream", 1, shared=True),
    "evaluation": Recipe("goodhart.recipes.measure", "evaluation", 2, shared=True),
    "world": Recipe("goodhart.recipes.world", "world", 1),
    "world labels": Recipe("goodhart.recipes.world", "world_labels", 1),
    "tabular run": Recipe("goodhart.recipes.tabular_run", "tabular_run", 1),
    "tabular evaluation": Recipe("goodhart.recipes.tabular_evaluation", "tabular_evaluation", 1),
}
"""By kind of cell."""
