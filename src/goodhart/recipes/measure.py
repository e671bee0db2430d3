"""Recipes that measure: the opponents' responses, one evaluated checkpoint, a classified stream."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Float

from goodhart.alignment.labellers import JudgeLabels
from goodhart.alignment.pair_table import read_pairs
from goodhart.analysis.hypotheses import PROXY
from goodhart.cells.workplace import Workplace
from goodhart.evaluation import schema
from goodhart.evaluation.checkpoint import Answers, Columns, Hidden, classify, judged, verdicts, written
from goodhart.evaluation.verdicts import OPPONENTS
from goodhart.recipes.earlier import Earlier, inputs_of, same_files
from goodhart.recipes.models import judge, load_policy, load_reference, reference_name, scored, with_reference
from goodhart.recipes.opponents import read_judges, read_opponents, same_opponents
from goodhart.recipes.panel import DRAWS, Panel, pieces
from goodhart.recipes.run_state import STREAM
from goodhart.tasks.similarity import similarity


def evaluation(work: Workplace) -> dict[str, Any]:
    """`rows.parquet` and `pairs.parquet` of one checkpoint, without the names that a study gives it."""
    step = int(work.settings["step"])
    below = f"step-{step}" if step else "final"
    policy, tokenizer = load_policy(work.inputs["policy"] / below, work.settings["max_response"])
    panel = Panel.read(work)
    judges, theirs = read_judges(work), read_opponents(work, panel)
    earlier = Earlier.read([folder / ROWS_FILE for folder in _of_same_policy(work, below)], "sample")
    work.watch.start()
    write = partial(
        written,
        policy,
        load_policy(work.inputs["sft"] / "final", work.settings["max_response"])[0],
        eos=tokenizer.eos_token_id,
        decode=lambda tokens: tokenizer.decode(list(tokens), skip_special_tokens=True),
        seed=int(work.settings["seed"]),
    )
    parts: list[pa.Table] = []
    for piece in pieces(panel.sizes, int(work.settings["responses"])):
        rows = panel.of(piece)
        prompts = [row.prompt for row in rows]
        known = earlier.find(piece, [p.id for p in prompts])
        hidden = hidden_measure([row.reference for row in rows for _ in piece.draws])
        columns: Columns = known.to_pydict() if known else write(prompts, piece.draws, hidden=hidden)
        answers: dict[str, Answers] = {}
        for name, each in judges.by_name.items():
            opposing = theirs[name][panel.place(piece)]
            before = {w: _whole(columns[f"{name}_{w}"], opposing.number) for w in OPPONENTS} if known else None
            answers[name] = judged(each, [p.tokens for p in prompts], columns["response"], opposing, before)
        columns |= verdicts(answers) | {f"{n}_{w}": each for n, own in answers.items() for w, each in own.items()}
        parts.append(pa.table({**columns, "split": [piece.split] * len(piece.rows)}, schema=_ROWS))
    table = pa.concat_tables(parts)
    pq.write_table(table, work.folder / ROWS_FILE)
    index = work.inputs["prompts"] / "prompts.parquet"
    classified: list[pa.Table] = []
    for source, split, name in (("labels", "train", "train"), ("tests", "test", "held_out")):
        pairs, ids, _ = read_pairs(work.inputs[source] / "pairs.parquet", split, index)
        size = min(len(pairs), int(work.settings["pairs"]))
        found = classify(policy, pairs[:size])
        classified.append(pa.table({**found, "pair": ids[:size], "split": [name] * size}))
    pq.write_table(pa.concat_tables(classified), work.folder / "pairs.parquet")
    work.watch.lap("evaluate")
    return {"means": _means(table), "layout": policy.layout}


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
    found = {PROXY: pairs.label - 0.5}
    for name, step in work.settings["last"].items():
        policy, _ = load_policy(work.inputs[f"classifier {name}"] / f"step-{step}", work.settings["max_response"])
        rho = scored(policy, pairs) - known
        found[name] = rho[:, 0] - rho[:, 1]
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
        for name, margin in found.items()
    ]
    pq.write_table(pa.concat_tables(parts), work.folder / "rows.parquet")
    return {"pairs": len(pairs)}


def hidden_measure(references: list[str | None]) -> Hidden | None:
    """Similarity to the human lines, where every prompt has one."""
    lines = [line for line in references if line is not None]
    if len(lines) < len(references):
        return None

    def hidden(texts: Sequence[str]) -> Float[np.ndarray, " text"]:
        return similarity(texts, lines)

    return hidden
