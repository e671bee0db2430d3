"""Recipes for the arms: one training run, the opponents' responses, one evaluated checkpoint."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float

from goodhart.alignment.judge import ModelJudge
from goodhart.alignment.labellers import DataLabels, JudgeLabels, Labeller
from goodhart.alignment.pair_table import read_pairs
from goodhart.alignment.sources import DataSource, DelayedSource, PolicySource, Source, StreamSource
from goodhart.evaluation.checkpoint import Hidden, Judges, Opponents, classify, measure
from goodhart.models.checkpoint import device
from goodhart.models.meter import Spent
from goodhart.models.preference import PreferenceModel
from goodhart.store import write_atomically
from goodhart.study.model_recipes import load_policy, save_policy
from goodhart.study.run_state import STREAM, SamplerState, Stream
from goodhart.study.spec import Arm
from goodhart.study.workplace import Workplace
from goodhart.tasks.prompt_table import PromptRow, find_prompts, read_prompts
from goodhart.tasks.similarity import similarity
from goodhart.training.alignment import Step, train
from goodhart.training.optimiser import Descent


def judge(folder: Path) -> ModelJudge:
    """The preference model of a cell."""
    return ModelJudge(PreferenceModel.load(folder / "model").to(device()))


def alignment_run(work: Workplace) -> dict[str, Any]:
    """`step-N/` checkpoints and `metrics.jsonl` of one arm at one setting and seed; resumes at its last checkpoint."""
    arm, seed = work.setting(Arm, "arm"), int(work.settings["seed"])
    policy, tokenizer = load_policy(work.inputs["sft"] / "final", work.settings["max_response"], arm.reduction)
    reference, _ = load_policy(work.inputs["sft"] / "final", 1, arm.reduction)
    source, labeller = _slots(work, arm, seed)
    descent = Descent(policy.parameters(), replace(arm.optimisation, lr=arm.lr[0]), arm.steps)
    state, log = work.state / "training.pt", work.folder / "metrics.jsonl"
    start = descent.load(state) if state.exists() else 0
    kept = [json.loads(line) for line in log.read_text().splitlines()[:start]] if start else []
    write_atomically(log, "".join(json.dumps(record) + "\n" for record in kept))
    stream = Stream(work.state / "stream", start) if arm.source == "policy" else None
    held = SamplerState(work.state, source) if isinstance(source, DelayedSource) else None
    if held and start:
        held.load(start, policy)
    with log.open("a") as file:
        for step in train(
            policy, reference, source, labeller, descent, loss=arm.loss, beta=arm.beta[0], steps=arm.steps, start=start
        ):
            kept.append(step.plain())
            file.write(json.dumps(kept[-1]) + "\n")
            file.flush()
            _tell(work, arm, step)
            if stream:
                stream.add(step)
            if step.step in arm.checkpoint_steps():
                save_policy(
                    policy.model, tokenizer, work.folder / f"step-{step.step}", work, f"Policy at step {step.step}"
                )
                if stream:
                    stream.save(step.step)
                if held:
                    held.save(step.step)
                descent.save(state, step.step)
    if stream:
        stream.gather(work.folder / "stream.parquet")
    for record in kept:
        for stage, spent in record["stages"].items():
            work.watch.stages[stage] = work.watch.stages.get(stage, Spent()) + Spent(**spent)
    return {"last": kept[-1], "layout": policy.layout}


def _tell(work: Workplace, arm: Arm, step: Step) -> None:
    rate = 1 / max(1e-9, sum(spent.seconds for spent in step.stages.values()))
    work.say(step.step, arm.steps, f"loss {step.loss:.3f}, margin {step.margin:+.2f} nats, {rate:.1f} steps/s")


def _slots(work: Workplace, arm: Arm, seed: int) -> tuple[Source, Labeller]:
    """Source and labeller of the arm; both sources walk the same prompts in the same order."""
    prompts = work.inputs["prompts"] / "prompts.parquet"
    if arm.source == "stream":
        recorded, _, _ = read_pairs(work.inputs["stream"] / "stream.parquet", STREAM, prompts)
        return StreamSource(recorded, arm.batch, seed, arm.window), DataLabels()
    data, _, _ = read_pairs(work.inputs["labels"] / "pairs.parquet", "train", prompts)
    if arm.source == "data":
        known = data if arm.reduction == "sum" else data.with_mean_reference()
        return DataSource(known, arm.batch, seed), DataLabels()
    source: Source = PolicySource(data.prompts, arm.batch, seed)
    if arm.refresh != 1:
        source = DelayedSource(source, arm.refresh)
    return source, JudgeLabels(judge(work.inputs["judge"]), arm.mode, seed)


@dataclass(frozen=True)
class Panel:
    """The prompts that checkpoints are measured on, by split."""

    held_out: list[PromptRow]
    train: list[PromptRow]

    @classmethod
    def read(cls, work: Workplace) -> Panel:
        """Held-out prompts of the evaluation split, and the first training prompts of the golden data set."""
        table = work.inputs["prompts"] / "prompts.parquet"
        data = pq.read_table(
            work.inputs["labels"] / "pairs.parquet", columns=["prompt"], filters=[("split", "=", "train")]
        )
        trained = list(dict.fromkeys(data.column("prompt").to_pylist()))[: work.settings["train_evaluation"]]
        by_id = find_prompts(table, trained)
        return cls(read_prompts(table, "evaluation"), [by_id[i] for i in trained])

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


def evaluation(work: Workplace) -> dict[str, Any]:
    """`rows.parquet` and `pairs.parquet` of one checkpoint, without the names that a study gives it."""
    step = int(work.settings["step"])
    folder = work.inputs["policy"] / (f"step-{step}" if step else "final")
    policy, tokenizer = load_policy(folder, work.settings["max_response"])
    sft, _ = load_policy(work.inputs["sft"] / "final", work.settings["max_response"])
    panel = Panel.read(work)
    theirs = pq.read_table(work.inputs["opponents"] / "responses.parquet").to_pylist()
    judges = Judges(judge(work.inputs["golden"]), judge(work.inputs["proxy"]))
    work.watch.start()
    hidden = _hidden_measure([row.reference for row in panel.rows])
    columns = measure(
        policy,
        sft,
        [row.prompt for row in panel.rows],
        Opponents(
            [r["policy"] for r in theirs],
            [r["sft"] for r in theirs],
            {name: np.array([r[name] for r in theirs]) for name in judges.by_name},
        ),
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
    for split, name in (("train", "train"), ("test", "held_out")):
        pairs, ids, _ = read_pairs(work.inputs["labels"] / "pairs.parquet", split, index)
        size = min(len(pairs), int(work.settings["pairs"]))
        found = classify(policy, pairs[:size])
        parts.append(pa.table({**found, "pair": ids[:size], "split": [name] * size}))
    pq.write_table(pa.concat_tables(parts), work.folder / "pairs.parquet")
    work.watch.lap("evaluate")
    mean = {k: sum(map(float, columns[k])) / len(panel.rows) for k in ("kl", "golden_vs_policy", "golden_vs_sft")}  # type: ignore[arg-type]
    return {"means": mean, "layout": policy.layout}


def _hidden_measure(references: list[str | None]) -> Hidden | None:
    """Similarity to the human lines, where every prompt has one."""
    lines = [line for line in references if line is not None]
    if len(lines) < len(references):
        return None

    def hidden(texts: Sequence[str]) -> Float[np.ndarray, " text"]:
        return similarity(texts, lines)

    return hidden
