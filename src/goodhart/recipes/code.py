"""The user's own code that a run has."""

from __future__ import annotations

from goodhart import functions
from goodhart.alignment.extensions import code_digest, load
from goodhart.cells.workplace import Workplace
from goodhart.errors import GoodhartError


def load_code(work: Workplace) -> None:
    """The user's own functions that a cell names. Raises GoodhartError if the file of a loss is another one by now."""
    functions.learn_from(work.places)
    if "code" not in work.settings:
        return
    if code_digest(work.places["code"]) != work.settings["code"]:
        raise GoodhartError(f"{work.places['code']} has changed since the study was read", "run the study again")
    load(work.places["code"])
