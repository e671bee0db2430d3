"""Recipes for the arms: one training run, and pairs that two checkpoints write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from goodhart.alignment.batch import Batch, occurrences
from goodhart.alignment.labellers import JudgeLabels
from goodhart.alignment.pair_table import read_pairs, write_pairs
from goodhart.alignment.policy import LanguagePolicy
from goodhart.cells.steps import STEPS_FILE, Steps
from goodhart.cells.workplace import Workplace
from goodhart.compute.meter import Spent
from goodhart.compute.ranks import leads
from goodhart.models.packing import Tokens
from goodhart.models.precision import FLOAT32, Precision
from goodhart.models.recomputation import recompute_layers
from goodhart.recipes.arm import Arm
from goodhart.recipes.code import load_code
from goodhart.recipes.labels import flipped
from goodhart.recipes.models import (
    judge,
    load_beside,
    load_policy,
    read_policy,
    reference_name,
    save_policy,
    scored,
    with_reference,
)
from goodhart.recipes.run_parts import checkpoints_of, parts_of, with_sampler
from goodhart.recipes.run_state import STREAM_FILE, TRAINING_FILE, Stream, begin_from_shorter
from goodhart.recipes.slots import START, records
from goodhart.training.alignment import Step, train
from goodhart.training.optimiser import Descent, load_state, save_state


def alignment_run(work: Workplace) -> dict[str, Any]:
    """`step-N/` checkpoints and `metrics.jsonl` of one arm at one setting and seed; resumes at its last checkpoint.

    It goes on from the longest finished run that is its beginning, and keeps what a longer one needs (`training.pt`).
    """
    load_code(work)
    arm = work.setting(Arm, "arm")
    begin_from_shorter(work, arm)
    precision: Precision = work.settings.get("precision", FLOAT32)
    beginning = _beginning(work)
    start_policy, tokenizer = read_policy(beginning, work.settings["max_response"], whole=True)
    if arm.optimisation.gradient_checkpointing:
        recompute_layers(start_policy.model)
    master = start_policy.adapted(arm.adapter, int(work.settings["seed"])) if arm.adapter else start_policy
    policy = master.at(precision)
    # with the adapter off the policy is the one that the run began with: where that is SFT, it is the reference
    held = start_policy if arm.adapter and START not in work.inputs else None
    copies = () if policy.model is master.model else policy.parameters()
    policy = with_sampler(policy, arm.sampler, beginning, tokenizer, int(work.settings["max_response"]))
    parts = parts_of(work, arm, master, policy, precision, tokenizer, held)
    descent = Descent(master.parameters(), replace(arm.optimisation, lr=arm.lr[0]), arm.steps, lowered=copies)
    state, start = work.state / TRAINING_FILE, 0
    if state.exists():
        saved = load_state(state)
        descent.restore(saved)
        parts.restore(saved.get("parts", {}), policy)
        start = int(saved["step"])
    stream = Stream(work.state / "stream", start) if records(arm.method) else None
    with Steps(work.folder / STEPS_FILE, start) as steps:
        for step in train(
            policy,
            parts.reference,
            parts.source,
            parts.labeller,
            descent,
            parts.objective,
            steps=arm.steps,
            start=start,
            followers=parts.followers,
        ):
            steps.add(step.plain())
            _tell(work, arm, step)
            if stream:
                stream.add(step)
            if step.step in arm.checkpoint_steps():
                folder = work.folder / f"step-{step.step}"
                title = f"Policy at step {step.step}"
                save_policy(checkpoints_of(parts, master), tokenizer, folder, work, title, beginning)
                if stream:
                    stream.save(step.step)
                save_state(state, {**descent.state(), "step": step.step, "parts": parts.state()})
    if stream:
        stream.gather(work.folder / STREAM_FILE)
    if arm.grows and leads():
        state.replace(work.folder / TRAINING_FILE)
    for record in steps.records:
        for stage, spent in record["stages"].items():
            work.watch.stages[stage] = work.watch.stages.get(stage, Spent()) + Spent(**spent)
    return {"last": steps.records[-1], "layout": policy.layout}


def _beginning(work: Workplace) -> Path:
    """The policy that the run begins with: the SFT policy, what a round left, or another run's checkpoint."""
    start = work.inputs.get(START)
    return work.inputs["sft"] / "final" if start is None else start / work.settings.get("begin", "final")


def _tell(work: Workplace, arm: Arm, step: Step) -> None:
    rate = 1 / max(1e-9, sum(spent.seconds for spent in step.stages.values()))
    learnt = f"margin {step.margin:+.2f} nats" if step.margin is not None else f"drift {step.drift:+.2f} nats"
    work.say(step.step, arm.steps, f"loss {step.loss:.3f}, {learnt}, {rate:.1f} steps/s")


def written_pairs(work: Workplace) -> dict[str, Any]:
    """`pairs.parquet`: two checkpoints answer every prompt of the golden data set, the golden model labels.

    The data sets of arXiv 2405.08448, sections 5.2 and 6, with the writers' and the SFT policy's log-probabilities.
    """
    seed, limit = int(work.settings["seed"]), int(work.settings["max_response"])
    index = work.inputs["prompts"] / "prompts.parquet"
    data, ids, _ = read_pairs(work.inputs["labels"] / "pairs.parquet", "train", index)
    before, _ = occurrences(data.prompts)
    work.watch.start()
    sides: list[Sequence[Tokens]] = []
    writers: list[LanguagePolicy] = []
    sft = load_policy(work.inputs["sft"] / "final", limit)[0]
    for number, step in enumerate(work.settings["steps"]):
        checkpoint = None if step == 0 else work.inputs[f"writer {number}"] / f"step-{step}"
        writers.append(sft if checkpoint is None else load_beside(sft, work.inputs["sft"] / "final", checkpoint))
        work.say(number, 4, "samples")
        samples = [2 * earlier + number for earlier in before]
        drawn = writers[-1].sample(data.prompts, 1, seed=seed, purpose="written pair", first_sample=samples)
        sides.append([one[0] for one in drawn])
    work.watch.lap("generate")
    pairs = Batch.of_pairs(data.prompts, sides[0], sides[1])
    work.say(2, 4, "log-probabilities")
    scores = [scored(writer, pairs)[:, [side]] for side, writer in enumerate(writers)]
    pairs = replace(
        with_reference(replace(sft, name=reference_name(work)), pairs), writer=np.concatenate(scores, axis=1)
    )
    work.watch.lap("reference")
    del sft, writers  # the judge is not held beside the policies
    work.say(3, 4, "labels")
    pairs = JudgeLabels(judge(work.inputs["golden"]), work.settings["mode"], seed, "written").label(pairs, 0)
    pairs = flipped(pairs, work.settings["flip"], f"written {seed}")
    work.watch.lap("label")
    write_pairs(work.folder / "pairs.parquet", pairs, ids, ["train"] * len(pairs), ["written"] * len(pairs))
    assert pairs.label is not None
    return {"pairs": len(pairs), "first preferred": float(pairs.label.mean())}
