"""What a study lacks, said before anything else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from goodhart.report.grid import listed


def lacking(unfinished: Mapping[str, Any]) -> list[str]:
    """A sentence for what is missing in all, and one for each cell that could not be made; none for a whole study."""
    if not unfinished.get("missing"):
        return []
    missing, total = int(unfinished["missing"]), int(unfinished["total"])
    without = list(unfinished["without"])
    arms = f" Nothing was measured of {listed(without)}, so no table, figure or verdict has it." if without else ""
    whole = f"Unfinished: {missing:,} of {total:,} cells are missing, and all numbers are of the others.{arms}"
    return [whole, *(f"Failed: {each['problem']}. Remedy: {each['remedy']}." for each in unfinished["failed"])]
