"""Where the models lie that a cell's settings name by digest."""

from __future__ import annotations

from goodhart.cells.workplace import Workplace
from goodhart.models.checkpoint import locate


def model_folder(work: Workplace, name: str) -> str:
    """The folder of a model that the settings name by digest. Raises GoodhartError if its files have changed."""
    return locate({"name": work.places[name], "digest": work.settings[name]})
