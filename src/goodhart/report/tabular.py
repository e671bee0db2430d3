"""A finite world: its tables in words, and where every method should end beside where it did."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from goodhart.report.contents import Contents
from goodhart.report.grid import NONE, Grid, number
from goodhart.report.page import Section


def world_said(record: Mapping[str, Any]) -> str:
    """What is exact in a tabular study, and what its labels rest on."""
    study = record["study"]
    world = study["world"]
    sentence = (
        "Policies are tables over a few responses, so win rates, KL and optima are sums over all of them: nothing is "
        "sampled in the measurement, and intervals are over prompts"
    )
    sentence += " and, of arms that sample, over seeds. "
    if world["data"] == "population":
        return sentence + "Offline arms learn from every pair with its true preference; the proxy is the truth."
    return sentence + (
        f"Offline arms learn from {study['labels']['number']:,} labelled pairs, and the proxy is their empirical win "
        "matrix."
    )


def optimum_grid(contents: Contents) -> Grid:
    """By arm and setting, the winners' probabilities and the distance to the method's optimum."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for line in contents.record["optima"]:
        groups.setdefault((line["arm"], line["setting"]), []).append(line)
    rows = tuple(_row(arm, _short(setting, groups), lines) for (arm, setting), lines in groups.items())
    note = (
        "Where a method ends by computation, and its last checkpoint. Predicted / found: mean probability of the "
        "Condorcet winner (beats every other response) and of the Borda winner (highest mean win rate), by the "
        "preferences that the arm learns from. Distance: total variation to the optimum, mean over prompts and seeds, "
        "and the largest. Steps: exact where a step is an expectation over all responses."
    )
    header = ("arm", "setting", "steps", "optimum", "Condorcet", "Borda", "distance", "largest")
    return Grid("Predicted optimum beside what was found", header, rows, note)


def _short(setting: str, groups: Iterable[tuple[str, str]]) -> str:
    """A setting without the learning rate, where that is one for all."""
    rates = {word for _, each in groups for word in each.split() if word.startswith("lr=")}
    return " ".join(w for w in setting.split() if len(rates) > 1 or w not in rates) or NONE


def _row(arm: str, setting: str, lines: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    winners = (_winner(lines, name) for name in ("Condorcet", "Borda"))
    known = [line for line in lines if "distance" in line]
    distance = number(float(np.mean([line["distance"] for line in known])), 4) if known else NONE
    largest = number(max(float(line["furthest"]) for line in known), 4) if known else NONE
    words = str(lines[0].get("optimum", "not known"))
    return (arm, setting, str(lines[0]["gradient"]), words, *winners, distance, largest)


def _winner(lines: Sequence[Mapping[str, Any]], name: str) -> str:
    sides = [[line[side][name] for line in lines if side in line] for side in ("predicted", "found")]
    return " / ".join(
        number(float(np.mean(each)), 3) if each and all(v is not None for v in each) else NONE for each in sides
    )


def world_section(contents: Contents) -> Section:
    """The world's numbers, and those of the proxy that is learnt of it."""
    record = contents.record
    facts = {**record["golden"], **({} if record["proxy"] == record["golden"] else record["proxy"])}
    rows = [
        (name, f"{value:,}" if isinstance(value, int) else number(float(value), 3)) for name, value in facts.items()
    ]
    note = (
        "A Condorcet winner beats every other response to its prompt; the Borda winner has the highest mean win rate."
    )
    grid = Grid("The world", ("quantity", "value"), tuple(rows), note)
    return Section("world", "World", paragraphs=(world_said(record),), grids=(grid,))
