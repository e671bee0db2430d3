"""Which function makes which kind of cell; nothing is imported before it is needed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from goodhart.study.workplace import Workplace


@dataclass(frozen=True, slots=True)
class Recipe:
    """Where the function is that makes a kind of cell, and the version of its result."""

    module: str
    function: str
    version: int
    """Part of the address: raised when the result changes for the same settings and inputs."""

    def load(self) -> Callable[[Workplace], dict[str, Any]]:
        """The function, which makes a cell's files and returns what is recorded about it."""
        return getattr(import_module(self.module), self.function)


RECIPES: dict[str, Recipe] = {
    "docstrings": Recipe("goodhart.study.data_recipes", "docstring_part", 1),
    "corpus": Recipe("goodhart.study.data_recipes", "corpus", 1),
    "prompts": Recipe("goodhart.study.data_recipes", "text_prompts", 1),
    "preferences": Recipe("goodhart.study.data_recipes", "preference_prompts", 1),
    "sft": Recipe("goodhart.study.model_recipes", "sft", 1),
    "pairs": Recipe("goodhart.study.pool_recipe", "initial_pairs", 1),
    "test pairs": Recipe("goodhart.study.pool_recipe", "test_pairs", 1),
    "people": Recipe("goodhart.study.data_recipes", "peoples_pairs", 1),
    "test people": Recipe("goodhart.study.data_recipes", "peoples_test_pairs", 1),
    "preference": Recipe("goodhart.study.model_recipes", "preference_model", 1),
    "rule": Recipe("goodhart.study.rule_recipe", "rule", 1),
    "quality": Recipe("goodhart.study.model_recipes", "judge_quality", 1),
    "labels": Recipe("goodhart.study.model_recipes", "golden_labels", 1),
    "test labels": Recipe("goodhart.study.model_recipes", "test_labels", 1),
    "run": Recipe("goodhart.study.run_recipes", "alignment_run", 1),
    "written": Recipe("goodhart.study.run_recipes", "written_pairs", 1),
    "opponents": Recipe("goodhart.study.opponents_recipe", "opponents", 2),
    "best of n": Recipe("goodhart.study.best_of_recipe", "best_of", 2),
    "stream": Recipe("goodhart.study.measure_recipes", "classified_stream", 1),
    "evaluation": Recipe("goodhart.study.measure_recipes", "evaluation", 2),
}
"""By kind of cell."""
