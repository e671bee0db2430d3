"""The recipe of labels that others have given to a study's training pairs, in place of the golden model's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds

from goodhart.alignment.batch import Batch
from goodhart.alignment.pair_table import SCHEMA, read_pairs
from goodhart.cells.digest import sha256
from goodhart.cells.workplace import Workplace
from goodhart.config import address
from goodhart.errors import GoodhartError
from goodhart.recipes.labels import Part, agreed, golden_labelled, initial_agreement, to_label, write_labels
from goodhart.recipes.people import MARKED, PAIRS, PEOPLE
from goodhart.recipes.settings import HELD_OUT_PAIRS, Labels
from goodhart.tasks.label_file import Given, read_labels
from goodhart.tasks.row_groups import tables


def adopted_labels(work: Workplace) -> dict[str, Any]:
    """`pairs.parquet` with a file's labels of the first training pairs that have one, and SFT log-probabilities.

    Validation pairs have the golden model's hard labels: they only measure. Raises GoodhartError for a file that has
    changed since it was named, that labels too few of the pairs, or whose labels are of other texts.
    """
    settings, file = work.setting(Labels, "labels"), Path(work.places["file"])
    given = _read(file, str(work.settings["file"]))
    every = _candidates(work, settings)
    labelled = [place for place, pair in enumerate(every) if pair in given]
    _check_number(file, given, len(labelled), settings.number)
    part = _chosen(work, settings, labelled[: settings.number], given)
    parts = [part, Part("validation", *to_label(work, work.inputs["pairs"], "validation", HELD_OUT_PAIRS, settings.of))]
    parts = [each for each in parts if each.ids]
    golden = golden_labelled(work, parts, Labels())
    adopted = part.pairs.labelled(np.array([given[pair].label for pair in part.ids]))
    assert golden[0].label is not None
    assert adopted.label is not None
    result = write_labels(work, parts, [adopted, *golden[1:]], initial_agreement(parts, golden))
    return result | {
        "adopted": {
            "file": file.name,
            "sha256": work.settings["file"],
            "pairs": len(part.ids),
            "agreement with golden": agreed(adopted.label, golden[0].label),
            "pairs without a label": len(every) - len(labelled),
            "labels that are not used": len(labelled) - len(part.ids),
            "labels of other pairs": len(given) - len(labelled),
        }
    }


def _read(file: Path, digest: str) -> dict[str, Given]:
    """The labels of the file that was named. Raises GoodhartError if it has changed since."""
    if not file.is_file() or sha256(file) != digest:
        raise GoodhartError(
            f"the labels in {file} have changed since the study began", "run it again to use them as they are now"
        )
    return read_labels(file)


def _candidates(work: Workplace, settings: Labels) -> list[str]:
    """The ids of all training pairs that could be labelled, in their order."""
    wanted = ds.field("kind").isin(pa.array(kinds_of(settings), pa.string()))
    parts = tables(work.inputs["pairs"] / PAIRS, SCHEMA, (ds.field("split") == "train") & wanted, ["pair"])
    return [pair for part in parts for pair in part.column("pair").to_pylist()]


def kinds_of(settings: Labels) -> tuple[str, ...]:
    """The kinds of pairs that are labelled."""
    return (*settings.of, PEOPLE, MARKED)


def _check_number(file: Path, given: dict[str, Given], labelled: int, number: int) -> None:
    """Raises GoodhartError if the file labels none of the study's pairs, or fewer than are asked for."""
    if not labelled:
        raise GoodhartError(
            f"none of the {len(given):,} labels in {file} is of one of the study's training pairs",
            "label the pairs that 'goodhart pairs' writes for this study",
        )
    if labelled < number:
        raise GoodhartError(
            f"labels.number is {number:,}, and {file} labels {labelled:,} of the study's training pairs",
            f"set labels.number={labelled}, or label more pairs",
        )


def _chosen(work: Workplace, settings: Labels, places: list[int], given: dict[str, Given]) -> Part:
    """The training pairs at some places. Raises GoodhartError for labels of other texts than theirs."""
    index, table = work.inputs["prompts"] / "prompts.parquet", work.inputs["pairs"] / PAIRS
    pairs, ids, kinds = read_pairs(table, "train", index, places[-1] + 1, kinds_of(settings))
    pairs, ids, kinds = pairs.take(places), [ids[i] for i in places], [kinds[i] for i in places]
    for pair, kind, texts in zip(ids, kinds, texts_of(pairs), strict=True):
        said = given[pair]
        if said.texts and said.texts != texts:
            raise GoodhartError(
                f"{said.where}: the label is of other texts than pair {pair!r} has now",
                "the pairs were sampled anew: write them with 'goodhart pairs', and label those",
            )
        if not said.texts and kind != PEOPLE:
            raise GoodhartError(
                f"{said.where}: pair {pair!r} has a sampled response, and without the column texts nobody knows which",
                "keep the column texts that 'goodhart pairs' writes",
            )
    return Part("train", pairs, ids, np.zeros(0) if pairs.label is None else pairs.label)


def texts_of(pairs: Batch) -> list[str]:
    """A digest of each pair's token ids, prompt and both responses: 12 hexadecimal digits."""
    tokens = zip(pairs.prompt_tokens, pairs.first, pairs.second, strict=True)
    return [address([list(prompt), list(first), list(second)]) for prompt, first, second in tokens]
