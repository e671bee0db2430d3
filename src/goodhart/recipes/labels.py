"""Recipes of the golden data set: what the golden model says of training pairs, and of those that only measure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from goodhart.alignment.batch import Batch
from goodhart.alignment.labellers import JudgeLabels, coins
from goodhart.alignment.pair_table import read_pairs, write_pairs
from goodhart.cells.workplace import Workplace
from goodhart.errors import GoodhartError
from goodhart.recipes.models import judge, load_reference, with_reference
from goodhart.recipes.people import MARKED, PEOPLE
from goodhart.recipes.settings import HELD_OUT_PAIRS, Labels


def golden_labels(work: Workplace) -> dict[str, Any]:
    """`pairs.parquet` with golden labels and SFT log-probabilities: train and validation.

    Pairs are of the kinds that `Labels.of` says, by default two samples of the SFT policy, as the paper's golden data
    set is close to "sft against sft" (arXiv 2405.08448, section 6), or pairs of people, or marked responses against
    samples.
    """
    settings = work.setting(Labels, "labels")
    pairs, ids, initial = to_label(work, work.inputs["pairs"], "train", settings.number, settings.of)
    if len(ids) < settings.number:
        raise GoodhartError(
            f"labels.number is {settings.number}, but only {len(ids)} training pairs can be labelled",
            "lower labels.number",
        )
    parts = [Part("train", pairs, ids, initial)]
    held_out = to_label(work, work.inputs["pairs"], "validation", HELD_OUT_PAIRS, settings.of)
    parts.append(Part("validation", *held_out))
    return _golden(work, parts, settings)


def test_labels(work: Workplace) -> dict[str, Any]:
    """`pairs.parquet` with golden labels and SFT log-probabilities: the pairs that only measure (test).

    They have the golden model's hard labels, whatever noise and kinds of pair the study's own labels have.
    """
    part = Part("test", *to_label(work, work.inputs["tests"], "test", HELD_OUT_PAIRS, Labels().of))
    if not part.ids:
        raise GoodhartError("none of the test pairs is of two samples or of people", "raise task.test")
    return _golden(work, [part], Labels())


@dataclass(frozen=True, slots=True)
class Part:
    """Pairs of one split with their identities and, where they have any, their initial labels."""

    split: str
    pairs: Batch
    ids: list[str]
    initial: Float[np.ndarray, " pair"]


def to_label(
    work: Workplace, folder: Path, split: str, number: int, of: Sequence[str]
) -> tuple[Batch, list[str], Float[np.ndarray, " pair"]]:
    """The first pairs of a split that are of some kinds, or of people, or of marked responses."""
    index = work.inputs["prompts"] / "prompts.parquet"
    pairs, ids, _ = read_pairs(folder / "pairs.parquet", split, index, number, (*of, PEOPLE, MARKED))
    return pairs, ids, np.zeros(0) if pairs.label is None else pairs.label


def _golden(work: Workplace, parts: list[Part], settings: Labels) -> dict[str, Any]:
    """Golden labels for some pairs, written as one table."""
    parts = [part for part in parts if part.ids]
    labelled = golden_labelled(work, parts, settings)
    return write_labels(work, parts, labelled, initial_agreement(parts, labelled))


def initial_agreement(parts: Sequence[Part], labelled: Sequence[Batch]) -> dict[str, float]:
    """By split, how often labels agree with the initial ones; half of a tie does."""
    agreement: dict[str, float] = {}
    for part, after in zip(parts, labelled, strict=True):
        assert after.label is not None
        if len(part.initial):  # nobody has compared a marked response with a sample
            agreement[part.split] = agreed(after.label, part.initial)
    return agreement


def agreed(first: Float[np.ndarray, " pair"], second: Float[np.ndarray, " pair"]) -> float:
    """The share of pairs of which two labels prefer the same response; a tie beside a preference is one half."""
    away = np.abs(np.sign(first - 0.5) - np.sign(second - 0.5))
    return float(1 - away.mean() / 2)


def write_labels(
    work: Workplace, parts: Sequence[Part], labelled: Sequence[Batch], agreement: dict[str, float]
) -> dict[str, Any]:
    """`pairs.parquet` of labelled pairs with the reference's log-probabilities, and what is recorded of them."""
    reference = load_reference(work)
    work.watch.start()
    done = [
        (with_reference(reference, after), part.ids, part.split) for part, after in zip(parts, labelled, strict=True)
    ]
    work.watch.lap("reference")
    _write_parts(work.folder / "pairs.parquet", done)
    labels = np.concatenate([pairs.label for pairs, _, _ in done if pairs.label is not None])
    return {
        "pairs": {split: len(ids) for _, ids, split in done},
        "agreement with initial labels": agreement,
        "first preferred": float(labels.mean()),
        "ties": int((labels == 0.5).sum()),
    }


def golden_labelled(work: Workplace, parts: Sequence[Part], settings: Labels) -> list[Batch]:
    """The parts' pairs with golden labels; the golden model is held for no longer than that."""
    golden = judge(work.inputs["golden"])
    work.watch.start()
    result = [JudgeLabels(golden, settings.mode, 0, part.split).label(part.pairs, 0) for part in parts]
    work.watch.lap("label")
    return [flipped(pairs, settings.flip, part.split) for pairs, part in zip(result, parts, strict=True)]


def flipped(pairs: Batch, probability: float, split: str) -> Batch:
    """The pairs with every label exchanged with that probability, by a coin for each pair (label noise)."""
    assert pairs.label is not None
    turned = coins(pairs, 0, "label noise", split) < probability
    return pairs.labelled(np.where(turned, 1 - pairs.label, pairs.label))


def _write_parts(path: Path, parts: list[tuple[Batch, list[str], str]]) -> None:
    whole = Batch.joined([pairs for pairs, _, _ in parts])
    ids = [i for _, part, _ in parts for i in part]
    splits = [split for pairs, _, split in parts for _ in range(len(pairs))]
    write_pairs(path, whole, ids, splits, ["golden"] * len(whole))
