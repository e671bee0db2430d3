"""The preferences or marks of people that a study's task names; nothing here imports torch."""

from __future__ import annotations

from pathlib import Path

from goodhart.recipes.settings import Task
from goodhart.tasks.data_source import Say, unheard
from goodhart.tasks.preference_data import Loaded, load_preferences

PAIRS, MARKS = "pairs.parquet", "marks.parquet"
"""Files of cells of such data, which have one of them."""
PEOPLE = "people"
"""The kind of a pair of people, whose id is the digest of what it says."""
MARKED = "marked"
"""The kind of a pair of a marked response, which is the first, and a sample of the SFT policy."""


def load_people(
    task: Task, name: str, revision: str | None = None, *, by_rule: bool = True, say: Say = unheard
) -> Loaded:
    """The data of that name as the task says to read them; its rule of pairs only if the data are read `by_rule`.

    Raises GoodhartError as `load_preferences` does.
    """
    return load_preferences(
        name,
        split=task.data_split or None,
        layout=None if task.layout == "auto" else task.layout,
        revision=revision,
        columns=task.columns,
        rule=task.pairs if by_rule else None,
        say=say,
    )


def table_of(folder: Path) -> Path:
    """What people have said, in a cell of such data: their pairs or their marks."""
    return folder / MARKS if (folder / MARKS).exists() else folder / PAIRS
