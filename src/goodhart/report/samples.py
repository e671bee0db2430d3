"""Responses of the same prompt by every arm, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow.compute as pc

from goodhart.analysis.table import SFT
from goodhart.randomness import permutation
from goodhart.report.contents import Contents
from goodhart.report.findings import GOLDEN_POLICY, spoken

PROMPTS = 8
"""How many prompts are shown."""


@dataclass(frozen=True)
class Response:
    """What one policy wrote."""

    writer: str
    text: str
    note: str


@dataclass(frozen=True)
class Sample:
    """One prompt and everybody's responses."""

    prompt: str
    human: str | None
    responses: tuple[Response, ...]


@dataclass(frozen=True)
class Selection:
    """The samples, and in words which checkpoints wrote them."""

    origin: str
    samples: tuple[Sample, ...]


def select(contents: Contents) -> Selection:
    """Keyed random held-out prompts, the final checkpoints of the first seed, the first setting that all arms have."""
    table = contents.rows.filter(pc.field("split") == "held_out")
    rows: list[dict[str, Any]] = table.select(
        [
            "arm",
            "setting",
            "seed",
            "step",
            "prompt",
            "sample",
            "text",
            "tokens",
            "kl",
            "golden_vs_sft",
            "golden_vs_policy",
        ]
    ).to_pylist()
    arms = [arm for arm in (*contents.few, GOLDEN_POLICY, SFT) if any(row["arm"] == arm for row in rows)]
    chosen = {arm: _final(rows, arm, _setting(rows, contents.arms, arm)) for arm in arms}
    texts = {row["prompt"]: row for row in contents.prompts.to_pylist() if row["split"] == "held_out"}
    ids = sorted(set.intersection(set(texts), *(set(result) for result in chosen.values())))
    picked = [ids[int(i)] for i in permutation(len(ids), 0, "report/samples")[:PROMPTS]]
    samples = tuple(
        _sample(texts[prompt], {arm: result[prompt] for arm, result in chosen.items()}) for prompt in picked
    )
    return Selection(_origin(chosen, len(ids)), samples)


def _setting(rows: Sequence[Mapping[str, Any]], arms: Sequence[str], arm: str) -> str:
    """The first setting that all arms of the study share, where this arm has it; else the arm's own first."""
    own = {a: list(dict.fromkeys(row["setting"] for row in rows if row["arm"] == a)) for a in {*arms, arm}}
    shared = [s for s in own[arm] if all(s in own[a] for a in arms)]
    return (shared or own[arm])[0]


def _final(rows: Sequence[Mapping[str, Any]], arm: str, setting: str) -> dict[str, Mapping[str, Any]]:
    """The rows of the last checkpoint of the first seed, by prompt."""
    of_arm = [row for row in rows if row["arm"] == arm and row["setting"] == setting and row["sample"] == 0]
    seed = min(row["seed"] for row in of_arm)
    last = max(row["step"] for row in of_arm if row["seed"] == seed)
    return {row["prompt"]: row for row in of_arm if row["seed"] == seed and row["step"] == last}


def _sample(prompt: Mapping[str, Any], rows: Mapping[str, Mapping[str, Any]]) -> Sample:
    responses = [Response(spoken(arm), row["text"], _note(row)) for arm, row in rows.items()]
    return Sample(prompt["text"], prompt["reference"], tuple(responses))


def _note(row: Mapping[str, Any]) -> str:
    parts = [f"{row['tokens']} tokens"]
    if row["arm"] != SFT:
        parts.append(f"KL {row['kl']:.1f} nats")
        parts += _won(row["golden_vs_sft"], "the SFT policy")
    if row["arm"] not in (SFT, GOLDEN_POLICY):
        parts += _won(row["golden_vs_policy"], "the golden policy")
    return ", ".join(parts)


def _won(rate: float | None, whom: str) -> list[str]:
    """What share of the opponents a response beats, ties one half."""
    return [] if rate is None else [f"{rate:.0%} against {whom}"]


def _origin(chosen: Mapping[str, Mapping[str, Mapping[str, Any]]], held_out: int) -> str:
    named: list[str] = []
    for arm, result in chosen.items():
        row = next(iter(result.values()))
        where = ", ".join(filter(None, (row["setting"], f"seed {row['seed']}", f"step {row['step']}")))
        named += [f"{arm} ({where})"] if arm != SFT else []
    return (
        f"Drawn by a keyed shuffle from {held_out} held-out prompts, not picked by hand. The writers: "
        f"{'; '.join(named)}; and the SFT policy. The first of each one's responses, at temperature 1. Behind it stand "
        "the shares of the baselines' fixed responses, which are other draws than those shown, that it beats by the "
        "golden judge, ties one half."
    )
