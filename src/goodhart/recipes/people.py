"""The preferences of people that a study's task names."""

from __future__ import annotations

from goodhart.recipes.settings import Task
from goodhart.tasks.data_source import Say, unheard
from goodhart.tasks.preference_data import Loaded, load_preferences


def load_people(task: Task, name: str, revision: str | None = None, say: Say = unheard) -> Loaded:
    """The data of that name as the task says to read them. Raises GoodhartError as `load_preferences` does."""
    return load_preferences(
        name,
        split=task.data_split or None,
        layout=None if task.layout == "auto" else task.layout,
        revision=revision,
        columns=task.columns,
        rule=task.pairs,
        say=say,
    )
