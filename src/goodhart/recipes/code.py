"""The user's own code that a run has."""

from __future__ import annotations

from goodhart.alignment.extensions import code_digest, load
from goodhart.cells.workplace import Workplace
from goodhart.errors import GoodhartError


def load_code(work: Workplace) -> None:
    """The user's own loss, if the arm has one. Raises GoodhartError if its file is another one by now."""
    if "code" not in work.settings:
        return
    if code_digest(work.places["code"]) != work.settings["code"]:
        raise GoodhartError(f"{work.places['code']} has changed since the study was read", "run the study again")
    load(work.places["code"])
