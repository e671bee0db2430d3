"""Recipes that measure: the opponents' responses, one evaluated checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float

from goodhart.alignment.labellers import JudgeLabels
from goodhart.alignment.pair_table import read_pairs
from goodhart.analysis.hypotheses import PROXY
from goodhart.evaluation.checkpoint import Hidden, Judges, Opponents, classify, measure
from goodhart.study.model_recipes import judge, load_policy, load_reference, reference_name, scored, with_reference
from goodhart.study.run_state import STREAM
from goodhart.study.workplace import Workplace
from goodhart.tasks.prompt_table import HeldOut, PromptRow, find_prompts, held_out_number, read_held_out
from goodhart.tasks.similarity import similarity


@dataclass(frozen=True)
class Panel:
    """The prompts that checkpoints are measured on, by split."""

    held_out: list[PromptRow]
    train: list[PromptRow]

    @classmethod
    def read(cls, work: Workplace) -> Panel:
        """Held-out prompts to evaluate, and the first training prompts of the golden data set."""
        table, sizes = work.inputs["prompts"] / "prompts.parquet", work.settings["panel"]
        data = pq.read_table(
            work.inputs["labels"] / "pairs.parquet", columns=["prompt"], filters=[("split", "=", "train")]
        )
        trained = list(dict.fromkeys(data.column("prompt").to_pylist()))[: sizes["train"]]
        by_id = find_prompts(table, trained)
        uses = HeldOut(sizes["validation"], sizes["evaluation"])
        uses.check(held_out_number(table))
        return cls(read_held_out(table, uses.to_evaluate), [by_id[i] for i in trained])

    @property
    def rows(self) -> list[PromptRow]:
        """All of them."""
        return [*self.held_out, *self.train]


def opponents(work: Workplace) -> dict[str, Any]:
    """`responses.parquet`: what the golden policy and the SFT policy write for the evaluated prompts.

    Beside them stands what the judges need of these responses in every judgement.
    """
    panel = Panel.read(work)
    prompts = [row.prompt for row in panel.rows]
    columns: dict[str, list[Any]] = {"prompt": [p.id for p in prompts]}
    golden_folder = work.inputs["golden_policy"] / f"step-{work.settings['step']}"
    for name, folder in (("policy", golden_folder), ("sft", work.inputs["sft"] / "final")):
        policy, _ = load_policy(folder, work.settings["max_response"])
        drawn = policy.sample(prompts, 1, seed=0, purpose=f"opponent {name}")
        columns[name] = [two[0] for two in drawn]
        work.watch.lap("generate")
    judges = Judges(judge(work.inputs["golden"]), judge(work.inputs["proxy"]))
    known = Opponents.of(judges, prompts, columns["policy"], columns["sft"]).known
    work.watch.lap("label")
    columns |= {name: values.tolist() for name, values in known.items()}
    pq.write_table(pa.table(columns), work.folder / "responses.parquet")
    table = {
        "prompt": columns["prompt"],
        "split": ["held_out"] * len(panel.held_out) + ["train"] * len(panel.train),
        "text": [row.text for row in panel.rows],
        "reference": [row.reference for row in panel.rows],
    }
    pq.write_table(pa.table(table), work.folder / "prompts.parquet")
    return {"prompts": {"held_out": len(panel.held_out), "train": len(panel.train)}}


def read_opponents(work: Workplace) -> Opponents:
    """What a cell of opponents holds."""
    rows = pq.read_table(work.inputs["opponents"] / "responses.parquet").to_pylist()
    known = {name: np.array([row[name] for row in rows]) for name in ("golden", "proxy")}
    return Opponents([row["policy"] for row in rows], [row["sft"] for row in rows], known)


def evaluation(work: Workplace) -> dict[str, Any]:
    """`rows.parquet` and `pairs.parquet` of one checkpoint, without the names that a study gives it."""
    step = int(work.settings["step"])
    folder = work.inputs["policy"] / (f"step-{step}" if step else "final")
    policy, tokenizer = load_policy(folder, work.settings["max_response"])
    sft, _ = load_policy(work.inputs["sft"] / "final", work.settings["max_response"])
    panel = Panel.read(work)
    judges = Judges(judge(work.inputs["golden"]), judge(work.inputs["proxy"]))
    work.watch.start()
    hidden = hidden_measure([row.reference for row in panel.rows])
    columns = measure(
        policy,
        sft,
        [row.prompt for row in panel.rows],
        read_opponents(work),
        judges,
        eos=tokenizer.eos_token_id,
        decode=lambda tokens: tokenizer.decode(list(tokens), skip_special_tokens=True),
        hidden=hidden,
        seed=int(work.settings["seed"]),
    )
    columns["split"] = list[object](["held_out"] * len(panel.held_out) + ["train"] * len(panel.train))
    pq.write_table(pa.table(columns), work.folder / "rows.parquet")
    index = work.inputs["prompts"] / "prompts.parquet"
    parts: list[pa.Table] = []
    for source, split, name in (("labels", "train", "train"), ("tests", "test", "held_out")):
        pairs, ids, _ = read_pairs(work.inputs[source] / "pairs.parquet", split, index)
        size = min(len(pairs), int(work.settings["pairs"]))
        found = classify(policy, pairs[:size])
        parts.append(pa.table({**found, "pair": ids[:size], "split": [name] * size}))
    pq.write_table(pa.concat_tables(parts), work.folder / "pairs.parquet")
    work.watch.lap("evaluate")
    return {"means": _means(columns, len(panel.held_out)), "layout": policy.layout}


def _means(columns: Mapping[str, Sequence[Any]], held_out: int) -> dict[str, float]:
    """What a log says of a checkpoint: means over the held-out prompts, which stand first, as in every table."""
    return {name: float(np.mean(columns[name][:held_out])) for name in ("kl", "golden_vs_policy", "golden_vs_sft")}


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
    assert pairs.reference is not None
    found = {PROXY: pairs.label - 0.5}
    for name, step in work.settings["last"].items():
        policy, _ = load_policy(work.inputs[f"classifier {name}"] / f"step-{step}", work.settings["max_response"])
        rho = scored(policy, pairs) - pairs.reference
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
