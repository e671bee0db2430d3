"""Settings of arms that a contrast does not look at, told before the run."""

from __future__ import annotations

from goodhart.analysis.hypotheses import Contrast, implied
from goodhart.recipes.arm import settings_of
from goodhart.report.grid import listed
from goodhart.studies.spec import Study

SHOWN = 5
"""How many contrasts are named at the start of a run; of the others the number is."""


def deciding(study: Study) -> list[Contrast]:
    """The contrasts that decide the study's hypotheses, said or implied."""
    hypotheses = study.hypotheses or implied(list(study.arms))
    return [contrast for each in hypotheses.values() for contrast in each.contrasts if contrast.decides]


def left_out(study: Study) -> list[str]:
    """A line for each deciding contrast of arms that share some settings but not all: what it leaves out."""
    return list(dict.fromkeys(line for contrast in deciding(study) if (line := _left_out(study, contrast))))


def left_out_in_short(study: Study) -> list[str]:
    """The same, at most `SHOWN` of them, and how many more there are."""
    lines = left_out(study)
    more = len(lines) - SHOWN
    return lines if more <= 0 else [*lines[:SHOWN], f"and {more} more contrasts leave settings out"]


def _left_out(study: Study, contrast: Contrast) -> str:
    arms = {name: [at for at, _ in settings_of(study.arms[name])] for name in contrast.arms if name in study.arms}
    shared = set[str].intersection(*map(set, arms.values())) if arms else set[str]()
    others = {name: [at for at in each if at not in shared] for name, each in arms.items()}
    if not shared or not any(others.values()):
        return ""
    parts = [f"{listed(each)} of {name!r}" for name, each in others.items() if each]
    return f"{listed(list(map(repr, arms)))} are compared at the settings that they share, without {listed(parts)}"
