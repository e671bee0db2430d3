"""Where a golden rule's reward lies under SFT and in the golden data set, of studies whose cells are made.

`python benchmarks/rewards.py thin covered --root runs` prints a row for each study and kind of text.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from jaxtyping import Float

from goodhart.alignment.rule import RuleJudge
from goodhart.cells.store import Store
from goodhart.models.packing import Tokens
from goodhart.studies.graph import build_graph
from goodhart.studies.spec import read_study
from goodhart.tasks.prompt_table import find_prompts


def scores(store: Store, name: str) -> dict[str, Float[np.ndarray, " text"]]:
    """Rewards of all samples that the initial pairs hold, of the golden data set, and of the human lines."""
    study = read_study(name, [])
    graph = build_graph(study)
    judge = RuleJudge.load(store.open(graph.golden.id) / "model")
    table = store.open(graph.prompts.id) / "prompts.parquet"
    pairs = pq.read_table(store.open(graph.pairs.id) / "pairs.parquet", filters=[("kind", "=", "samples")]).to_pylist()
    labelled = pq.read_table(
        store.open(graph.labels.id) / "pairs.parquet", filters=[("split", "=", "train")]
    ).to_pylist()
    found = find_prompts(table, (row["prompt"] for row in [*pairs, *labelled]))

    def of(rows: Sequence[tuple[str, Tokens]]) -> Float[np.ndarray, " text"]:
        prompts = [found[prompt].prompt.tokens for prompt, _ in rows]
        return judge.alone(prompts, [[text for _, text in rows]])[:, 0] / judge.rule.scale

    def both(rows: list[dict[str, Any]]) -> list[tuple[str, Tokens]]:
        return [(row["prompt"], row[side]) for row in rows for side in ("first", "second")]

    lines = [(row["prompt"], found[row["prompt"]].demonstration) for row in labelled]
    return {"SFT samples": of(both(pairs)), "golden data set": of(both(labelled)), "human lines": of(lines)}


def main() -> None:
    """Print the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("studies", nargs="+")
    parser.add_argument("--root", type=Path, default=Path("runs"))
    given = parser.parse_args()
    sys.stdout.write("study texts number mean 95% 99% largest share-of-largest\n")
    for name in given.studies:
        for texts, values in scores(Store(given.root), name).items():
            high = " ".join(f"{v:.3f}" for v in (*np.percentile(values, [95, 99]), values.max()))
            at_peak = (values == values.max()).mean()
            sys.stdout.write(f"{name} | {texts} | {len(values)} | {values.mean():.3f} {high} {at_peak:.4f}\n")


if __name__ == "__main__":
    main()
