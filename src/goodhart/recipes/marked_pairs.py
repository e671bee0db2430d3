"""The recipe of pairs for marked responses, which have none: each beside a sample of the SFT policy."""

from __future__ import annotations

from collections import Counter
from typing import Any

from goodhart.alignment.batch import Batch, occurrences
from goodhart.alignment.mark_table import read_marks
from goodhart.alignment.pair_table import write_pairs
from goodhart.cells.workplace import Workplace
from goodhart.models.checkpoint import load_model, load_tokenizer
from goodhart.recipes.people import MARKED, MARKS
from goodhart.sampling.keyed import Draws, KeyedSampler


def marked_pairs(work: Workplace) -> dict[str, Any]:
    """`pairs.parquet`: the first marked responses of each split, beside samples of their own, without labels.

    The golden model, which has learnt from the marks, labels them as it labels all pairs: a mark says nothing of the
    sample.
    """
    index = work.inputs["prompts"] / "prompts.parquet"
    parts: list[Batch] = []
    ids: list[str] = []
    splits: list[str] = []
    for split, number in work.settings["pairs"].items():
        marks, names = read_marks(work.inputs["marks"] / MARKS, split, index)
        parts.append(marks[:number])
        ids += names[:number]
        splits += [split] * len(parts[-1])
    work.watch.start()
    marks = Batch.joined(parts)
    samples = _samples(work, marks)
    work.watch.lap("generate")
    pairs = Batch.of_pairs(marks.prompts, [row[0] for row in marks.responses], samples)
    write_pairs(work.folder / "pairs.parquet", pairs, ids, splits, [MARKED] * len(pairs))
    return {"pairs": dict(Counter(splits))}


def _samples(work: Workplace, marks: Batch) -> list[list[int]]:
    """One of the SFT policy for each response; several to one prompt are different draws."""
    folder = work.inputs["sft"] / "final"
    tokenizer = load_tokenizer(folder)
    sampler = KeyedSampler(tokenizer.eos_token_id, tokenizer.pad_token_id, int(work.settings["max_response"]))
    before, _ = occurrences(marks.prompts)
    draws = Draws(0, "marked pairs", [p.number for p in marks.prompts], before)
    return [row[0] for row in sampler(load_model(folder), marks.prompt_tokens, 1, draws)]
