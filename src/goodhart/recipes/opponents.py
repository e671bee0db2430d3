"""The opponents: fixed responses of the golden policy and the SFT policy that checkpoints are judged against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from goodhart.alignment.judge import PairJudge
from goodhart.alignment.policy import LanguagePolicy
from goodhart.cells.workplace import Workplace
from goodhart.evaluation.verdicts import OPPONENTS, Opponents, known_of
from goodhart.recipes.earlier import Earlier
from goodhart.recipes.models import judge, load_policy
from goodhart.recipes.panel import Panel, Piece, pieces
from goodhart.tasks.prompts import Prompt

OPPONENTS_FILE = "responses.parquet"
JUDGES = ("golden", "proxy")
"""Who judges, by the names of a cell's inputs and of columns."""
_OPPONENTS = pa.schema(
    [
        ("split", pa.string()),
        ("prompt", pa.string()),
        ("opponent", pa.int64()),  # its number among those of the prompt: the draw of either writer
        ("policy", pa.list_(pa.int32())),  # token ids of the golden policy's response
        ("sft", pa.list_(pa.int32())),  # of the SFT policy's
        ("golden", pa.list_(pa.float64())),  # what the golden judge needs of (policy, sft); null: it judges fewer
        ("proxy", pa.list_(pa.float64())),
    ]
)


def opponents(work: Workplace) -> dict[str, Any]:
    """`responses.parquet`: what the golden policy and the SFT policy write for the evaluated prompts.

    One row for each prompt and opponent, with what the judges need of its responses in every judgement.
    """
    panel, numbers = Panel.read(work), work.settings["opponents"]
    golden_folder = work.inputs["golden_policy"] / f"step-{work.settings['step']}"
    folders = {"policy": golden_folder, "sft": work.inputs["sft"] / "final"}
    earlier = Earlier.read([folder / OPPONENTS_FILE for folder in work.family], "opponent")
    every = pieces(panel.sizes, max(numbers.values()))
    prompts = [[row.prompt for row in panel.of(piece)] for piece in every]
    parts: list[dict[str, list[Any]]] = [
        {
            "split": [piece.split] * len(piece.rows),
            "prompt": [each.id for each in asked for _ in piece.draws],
            "opponent": [j for _ in asked for j in piece.draws],
        }
        for piece, asked in zip(every, prompts, strict=True)
    ]
    known = [earlier.find(piece, [each.id for each in asked]) for piece, asked in zip(every, prompts, strict=True)]
    for name, folder in folders.items():  # one model at a time is held
        _write(work, name, folder, list(zip(every, prompts, known, parts, strict=True)))
    for name in JUDGES:
        _judge(work, name, list(zip(every, prompts, parts, strict=True)), numbers[name])
    pq.write_table(
        pa.concat_tables([pa.table(part, schema=_OPPONENTS) for part in parts]), work.folder / OPPONENTS_FILE
    )
    table = {
        "prompt": [row.prompt.id for row in panel.rows],
        "split": [split for split, size in panel.sizes.items() for _ in range(size)],
        "text": [row.text for row in panel.rows],
        "reference": [row.reference for row in panel.rows],
    }
    pq.write_table(pa.table(table), work.folder / "prompts.parquet")
    return {"prompts": panel.sizes, "opponents": numbers}


def _write(
    work: Workplace,
    writer: str,
    folder: Path,
    asked: Sequence[tuple[Piece, Sequence[Prompt], pa.Table | None, dict[str, list[Any]]]],
) -> None:
    """What a policy writes for every piece."""
    policy = load_policy(folder, work.settings["max_response"])[0]
    work.watch.start()
    for piece, prompts, known, columns in asked:
        columns[writer] = known.column(writer).to_pylist() if known else _drawn(policy, prompts, piece.draws, writer)
    work.watch.lap("generate")


def _judge(
    work: Workplace, name: str, asked: Sequence[tuple[Piece, Sequence[Prompt], dict[str, list[Any]]]], number: int
) -> None:
    """What a judge needs of every piece."""
    model = judge(work.inputs[name])
    work.watch.start()
    for piece, prompts, columns in asked:
        columns[name] = _known(model, prompts, columns, piece, number)
    work.watch.lap("label")


def _drawn(policy: LanguagePolicy, prompts: Sequence[Prompt], draws: range, writer: str) -> list[list[int]]:
    drawn = policy.sample(prompts, len(draws), seed=0, purpose=f"opponent {writer}", first_sample=draws.start)
    return [response for row in drawn for response in row]


def _known(
    model: PairJudge, prompts: Sequence[Prompt], columns: Mapping[str, Sequence[Any]], piece: Piece, number: int
) -> list[list[float] | None]:
    """What a judge needs of the opponents of a piece; None for those that it is not asked about."""
    asked, size = len(range(piece.draws.start, min(piece.draws.stop, number))), len(piece.draws)
    if not asked:
        return [None] * len(piece.rows)
    answers = {w: [columns[w][i : i + asked] for i in range(0, len(piece.rows), size)] for w in OPPONENTS}
    values = known_of(model, [p.tokens for p in prompts], answers["policy"], answers["sft"]).tolist()
    return [each for row in values for each in (*row, *[None] * (size - asked))]


def read_opponents(work: Workplace, panel: Panel) -> dict[str, Opponents]:
    """What a cell of opponents holds, for each judge those that it is asked about, prompts in the panel's order."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in pq.read_table(work.inputs["opponents"] / OPPONENTS_FILE).to_pylist():
        rows.setdefault(row["prompt"], []).append(row)
    result: dict[str, Opponents] = {}
    for name in JUDGES:
        by_prompt = [[row for row in rows[each.prompt.id] if row[name] is not None] for each in panel.rows]
        policy, sft = ([[row[writer] for row in prompt_rows] for prompt_rows in by_prompt] for writer in OPPONENTS)
        result[name] = Opponents(
            policy, sft, np.array([[row[name] for row in prompt_rows] for prompt_rows in by_prompt])
        )
    return result


def same_opponents(this: Path, other: Path) -> bool:
    """Whether those that both have are the same, which they are wherever a computation can be repeated."""
    if this == other:
        return True
    if not (other / OPPONENTS_FILE).is_file():
        return False
    first, second = (_responses(folder) for folder in (this, other))
    return all(first[at] == second[at] for at in first.keys() & second.keys())


def _responses(folder: Path) -> dict[tuple[str, int], tuple[list[int], list[int]]]:
    """The golden policy's and the SFT policy's response by prompt and opponent."""
    rows = pq.read_table(folder / OPPONENTS_FILE, columns=["prompt", "opponent", *OPPONENTS]).to_pylist()
    return {(row["prompt"], row["opponent"]): (row["policy"], row["sft"]) for row in rows}
