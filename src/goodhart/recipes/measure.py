"""Recipes that measure: the opponents' responses, one evaluated checkpoint, a classified stream."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Float

from goodhart.alignment.batch import Batch
from goodhart.alignment.labellers import JudgeLabels
from goodhart.alignment.pair_table import read_pairs
from goodhart.analysis.hypotheses import PROXY
from goodhart.cells.workplace import Workplace
from goodhart.evaluation import schema
from goodhart.evaluation.checkpoint import Answers, Columns, Hidden, classify, judged, verdicts, written
from goodhart.evaluation.verdicts import OPPONENTS, Opponents
from goodhart.models.logprobs import Layout
from goodhart.recipes.earlier import Earlier, inputs_of, same_files
from goodhart.recipes.models import (
    judge,
    load_beside,
    load_policy,
    load_reference,
    reference_name,
    scored,
    with_reference,
)
from goodhart.recipes.opponents import JUDGES, read_opponents, same_opponents
from goodhart.recipes.panel import DRAWS, Panel, Piece, pieces
from goodhart.recipes.run_state import STREAM
from goodhart.tasks.prompt_table import PromptRow
from goodhart.tasks.prompts import Prompt
from goodhart.tasks.similarity import similarity


def evaluation(work: Workplace) -> dict[str, Any]:
    """`rows.parquet` and `pairs.parquet` of one checkpoint, without the names that a study gives it."""
    step = int(work.settings["step"])
    below = f"step-{step}" if step else "final"
    panel = Panel.read(work)
    theirs = read_opponents(work, panel)
    earlier = Earlier.read([folder / ROWS_FILE for folder in _of_same_policy(work, below)], "sample")
    asked = [
        _Asked(piece, panel.of(piece), panel.place(piece))
        for piece in pieces(panel.sizes, int(work.settings["responses"]))
    ]
    known = [earlier.find(each.piece, each.ids) for each in asked]
    parts = [rows.to_pydict() if rows else {} for rows in known]
    layout, classified = _by_policy(work, below, asked, parts)
    answers = {name: _by_judge(work, name, asked, parts, theirs[name]) for name in JUDGES}
    tables: list[pa.Table] = []
    for number, (each, columns) in enumerate(zip(asked, parts, strict=True)):
        by_judge = {name: by_piece[number] for name, by_piece in answers.items()}
        columns |= verdicts(by_judge) | {
            f"{n}_{w}": margins for n, mine in by_judge.items() for w, margins in mine.items()
        }
        tables.append(pa.table({**columns, "split": [each.piece.split] * len(each.piece.rows)}, schema=_ROWS))
    table = pa.concat_tables(tables)
    pq.write_table(table, work.folder / ROWS_FILE)
    pq.write_table(classified, work.folder / "pairs.parquet")
    return {"means": _means(table), "layout": layout}


@dataclass(frozen=True, slots=True)
class _Asked:
    """A piece of the panel."""

    piece: Piece
    rows: list[PromptRow]
    place: slice

    @property
    def prompts(self) -> list[Prompt]:
        """Its prompts."""
        return [row.prompt for row in self.rows]

    @property
    def ids(self) -> list[str]:
        """Of its prompts."""
        return [row.prompt.id for row in self.rows]


def _by_policy(work: Workplace, below: str, asked: Sequence[_Asked], parts: list[Columns]) -> tuple[Layout, pa.Table]:
    """Fills the pieces that are not known with what the policy writes; returns its layout and classified pairs.

    The exact KL needs both laws at every token, so the policy and the SFT policy are held together; over one base with
    an adapter they are one copy of the weights. No judge is held beside them.
    """
    sft_folder = work.inputs["sft"] / "final"
    sft, tokenizer = load_policy(sft_folder, work.settings["max_response"])
    policy = load_beside(sft, sft_folder, work.inputs["policy"] / below)
    work.watch.start()
    for number, each in enumerate(asked):
        parts[number] = parts[number] or written(
            policy,
            sft,
            each.prompts,
            each.piece.draws,
            eos=tokenizer.eos_token_id,
            decode=lambda tokens: tokenizer.decode(list(tokens), skip_special_tokens=True),
            hidden=hidden_measure([row.reference for row in each.rows for _ in each.piece.draws]),
            seed=int(work.settings["seed"]),
        )
    index = work.inputs["prompts"] / "prompts.parquet"
    classified: list[pa.Table] = []
    for source, split, name in (("labels", "train", "train"), ("tests", "test", "held_out")):
        pairs, ids, _ = read_pairs(work.inputs[source] / "pairs.parquet", split, index)
        size = min(len(pairs), int(work.settings["pairs"]))
        columns = classify(policy, pairs[:size])
        classified.append(pa.table({**columns, "pair": ids[:size], "split": [name] * size}))
    work.watch.lap("evaluate")
    return policy.layout, pa.concat_tables(classified)


def _by_judge(
    work: Workplace, name: str, asked: Sequence[_Asked], parts: Sequence[Columns], opponents: Opponents
) -> list[Answers]:
    """The margins of every piece's responses by one judge, which is held for no longer than that."""
    model = judge(work.inputs[name])
    work.watch.start()
    answers: list[Answers] = []
    for each, columns in zip(asked, parts, strict=True):
        theirs = opponents[each.place]
        known = f"{name}_{OPPONENTS[0]}" in columns
        before = {w: _whole(columns[f"{name}_{w}"], theirs.number) for w in OPPONENTS} if known else None
        answers.append(judged(model, [p.tokens for p in each.prompts], columns["response"], theirs, before))
    work.watch.lap("evaluate")
    return answers


_MARGINS = [
    pa.field(f"{judge}_{writer}", pa.list_(pa.float64())) for judge in ("golden", "proxy") for writer in OPPONENTS
]
"""Of a response against each opponent by its number: r(x, response, opponent) - r(x, opponent, response)."""
ROWS_FILE = "rows.parquet"
_ROWS = pa.schema([*(field for field in schema.ROWS if field.name not in schema.CHECKPOINT), *_MARGINS])


def _whole(margins: list[list[float]], number: int) -> list[list[float]]:
    """Those against whole pieces of so many opponents: what a judge needs of an opponent is computed by pieces."""
    kept = min(number, len(margins[0]))
    return [row[: kept - kept % DRAWS] for row in margins]


def _of_same_policy(work: Workplace, below: str) -> Iterator[Path]:
    """The family's cells that measured just these weights against just these opponents."""
    for folder in work.family:
        other = inputs_of(folder)
        if same_files(work.inputs["policy"], other["policy"], below) and same_opponents(
            work.inputs["opponents"], other["opponents"]
        ):
            yield folder


def _means(rows: pa.Table) -> dict[str, float]:
    """What a log says of a checkpoint: means over the held-out prompts, as in every table."""
    held_out = rows.filter(pc.field("split") == "held_out")
    return {
        name: float(np.mean(held_out.column(name).to_numpy())) for name in ("kl", "golden_vs_policy", "golden_vs_sft")
    }


def classified_stream(work: Workplace) -> dict[str, Any]:
    """`rows.parquet`: who knows which of a policy's own samples is better, along its stream.

    The last pairs before every checkpoint get golden labels. The proxy's answer is the stream's label; an arm's is the
    sign of the difference of its last checkpoint's log-ratios (arXiv 2405.08448, section 5.3, figure 6).
    """
    index, size = work.inputs["prompts"] / "prompts.parquet", int(work.settings["pairs"])
    recorded, ids, _ = read_pairs(work.inputs["stream"] / "stream.parquet", STREAM, index)
    steps = work.settings["steps"]
    batch = len(recorded) // max(steps)
    ends = {step: range(max(0, step * batch - size), step * batch) for step in steps}
    work.watch.start()
    pairs = recorded.take([i for part in ends.values() for i in part])
    if pairs.under(reference_name(work)) is None:  # the stream's own is in the precision of its run
        pairs = with_reference(load_reference(work), pairs)
    golden = JudgeLabels(judge(work.inputs["golden"]), "hard", 0).label(pairs, 0).label
    work.watch.lap("label")
    assert golden is not None
    assert pairs.label is not None
    known = pairs.under(reference_name(work))
    assert known is not None
    margins = {PROXY: pairs.label - 0.5}
    for name, step in work.settings["last"].items():
        rho = _scored_by(work, work.inputs[f"classifier {name}"] / f"step-{step}", pairs) - known
        margins[name] = rho[:, 0] - rho[:, 1]
    work.watch.lap("evaluate")
    at = [(step, ids[i]) for step, part in ends.items() for i in part]
    parts = [
        pa.table(
            {
                "step": [step for step, _ in at],
                "pair": [pair for _, pair in at],
                "prompt": [p.id for p in pairs.prompts],
                "classifier": [name] * len(pairs),
                "correct": (np.sign(margin) * np.sign(golden - 0.5) + 1) / 2,
            }
        )
        for name, margin in margins.items()
    ]
    pq.write_table(pa.concat_tables(parts), work.folder / "rows.parquet")
    return {"pairs": len(pairs)}


def _scored_by(work: Workplace, folder: Path, pairs: Batch) -> Float[np.ndarray, "pair 2"]:
    """Log-probabilities under a checkpoint that is held for no longer than that."""
    return scored(load_policy(folder, work.settings["max_response"])[0], pairs)


def hidden_measure(references: list[str | None]) -> Hidden | None:
    """Similarity to the human lines, where every prompt has one."""
    lines = [line for line in references if line is not None]
    if len(lines) < len(references):
        return None

    def hidden(texts: Sequence[str]) -> Float[np.ndarray, " text"]:
        return similarity(texts, lines)

    return hidden
