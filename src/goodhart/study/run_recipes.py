"""Recipes for the arms: one training run, and pairs that two checkpoints write."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from goodhart.alignment.batch import Pairs, occurrences
from goodhart.alignment.labellers import DataLabels, JudgeLabels, Labeller
from goodhart.alignment.pair_table import read_pairs, write_pairs
from goodhart.alignment.policy import LanguagePolicy
from goodhart.alignment.sources import DataSource, DelayedSource, MixtureSource, PolicySource, Source, StreamSource
from goodhart.config import build
from goodhart.models.meter import Spent
from goodhart.models.packing import Tokens
from goodhart.models.precision import FLOAT32, Precision
from goodhart.store import write_atomically
from goodhart.study.arm import Arm
from goodhart.study.model_recipes import (
    flipped,
    judge,
    load_policy,
    load_reference,
    save_policy,
    scored,
    with_reference,
)
from goodhart.study.run_state import (
    METRICS_FILE,
    STREAM,
    STREAM_FILE,
    TRAINING_FILE,
    SamplerState,
    Stream,
    begin_from_shorter,
)
from goodhart.study.workplace import Workplace
from goodhart.training.alignment import Step, train
from goodhart.training.optimiser import Descent


def alignment_run(work: Workplace) -> dict[str, Any]:
    """`step-N/` checkpoints and `metrics.jsonl` of one arm at one setting and seed; resumes at its last checkpoint.

    It goes on from the longest finished run that is its beginning, and keeps what a longer one needs (`training.pt`).
    """
    arm, seed = work.setting(Arm, "arm"), int(work.settings["seed"])
    begin_from_shorter(work, arm)
    precision: Precision = work.settings.get("precision", FLOAT32)
    master, tokenizer = load_policy(work.inputs["sft"] / "final", work.settings["max_response"])
    policy = master.at(precision)
    reference = load_reference(work).at(precision)
    source, labeller = _slots(work, arm, seed, reference)
    copies = () if policy is master else policy.parameters()
    descent = Descent(master.parameters(), replace(arm.optimisation, lr=arm.lr[0]), arm.steps, lowered=copies)
    state, log = work.state / TRAINING_FILE, work.folder / METRICS_FILE
    start = descent.load(state) if state.exists() else 0
    kept = [json.loads(line) for line in log.read_text().splitlines()[:start]] if start else []
    write_atomically(log, "".join(json.dumps(record) + "\n" for record in kept))
    stream = Stream(work.state / "stream", start) if arm.source == "policy" else None
    held = SamplerState(work.state, source) if isinstance(source, DelayedSource) else None
    if held and start:
        held.load(start, policy)
    with log.open("a") as file:
        for step in train(
            policy,
            reference,
            source,
            labeller,
            descent,
            loss=arm.loss,
            beta=arm.beta[0] if arm.beta else None,
            steps=arm.steps,
            start=start,
            reduction=arm.reduction,
        ):
            kept.append(step.plain())
            file.write(json.dumps(kept[-1]) + "\n")
            file.flush()
            _tell(work, arm, step)
            if stream:
                stream.add(step)
            if step.step in arm.checkpoint_steps():
                save_policy(
                    master.model, tokenizer, work.folder / f"step-{step.step}", work, f"Policy at step {step.step}"
                )
                if stream:
                    stream.save(step.step)
                if held:
                    held.save(step.step)
                descent.save(state, step.step)
    if stream:
        stream.gather(work.folder / STREAM_FILE)
    if arm.grows:
        state.replace(work.folder / TRAINING_FILE)
    for record in kept:
        for stage, spent in record["stages"].items():
            work.watch.stages[stage] = work.watch.stages.get(stage, Spent()) + Spent(**spent)
    return {"last": kept[-1], "layout": policy.layout}


def _tell(work: Workplace, arm: Arm, step: Step) -> None:
    rate = 1 / max(1e-9, sum(spent.seconds for spent in step.stages.values()))
    work.say(step.step, arm.steps, f"loss {step.loss:.3f}, margin {step.margin:+.2f} nats, {rate:.1f} steps/s")


def _slots(work: Workplace, arm: Arm, seed: int, reference: LanguagePolicy) -> tuple[Source, Labeller]:
    """Source and labeller of the arm; all sources walk the same prompts in the same order."""
    if arm.source != "mixture":
        return _slot(arm, seed, arm.batch, work.inputs, reference)
    parts: list[tuple[Source, Labeller]] = []
    for number, each in enumerate(work.settings["parts"]):
        name = f"part {number}"
        own = {key.removeprefix(f"{name}/"): path for key, path in work.inputs.items() if key.startswith(f"{name}/")}
        part = build(Arm, each["arm"], name)
        parts.append(_slot(part, seed, int(each["pairs"]), {**work.inputs, **own}, reference, name))
    return MixtureSource(parts), DataLabels()


def _slot(
    arm: Arm, seed: int, batch: int, inputs: Mapping[str, Path], reference: LanguagePolicy, name: str = ""
) -> tuple[Source, Labeller]:
    prompts = inputs["prompts"] / "prompts.parquet"
    if arm.source == "stream":
        recorded, _, _ = read_pairs(inputs["stream"] / STREAM_FILE, STREAM, prompts)
        return StreamSource(recorded, batch, seed, arm.window), DataLabels()
    folder = inputs["written" if arm.source == "samples" else "labels"]
    data, _, _ = read_pairs(folder / "pairs.parquet", "train", prompts)
    if arm.source in ("data", "samples"):
        if data.under(reference.name) is None:
            # what is kept with fixed data is in float32: the rounding of a policy in bfloat16 is not in it
            data = with_reference(reference, data)
        assert data.reference is not None
        own = data.reference if data.writer is None else data.writer
        # The SFT policy stands in for a writer that is not known: people, or samples at other temperatures.
        known = replace(data, writer=np.where(np.isnan(own), data.reference, own))
        return DataSource(known, batch, seed), DataLabels()
    source: Source = PolicySource(data.prompts, batch, seed)
    if arm.refresh != 1:
        source = DelayedSource(source, arm.refresh)
    return source, JudgeLabels(judge(inputs["judge"]), arm.mode, seed, name)


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
    for number, step in enumerate(work.settings["steps"]):
        folder = work.inputs["sft"] / "final" if step == 0 else work.inputs[f"writer {number}"] / f"step-{step}"
        writer, _ = load_policy(folder, limit)
        work.say(number, 4, "samples")
        samples = [2 * earlier + number for earlier in before]
        drawn = writer.sample(data.prompts, 1, seed=seed, purpose="written pair", first_sample=samples)
        sides.append([one[0] for one in drawn])
        writers.append(writer)
    work.watch.lap("generate")
    pairs = Pairs(data.prompts, sides[0], sides[1])
    work.say(2, 4, "labels")
    pairs = JudgeLabels(judge(work.inputs["golden"]), work.settings["mode"], seed, "written").label(pairs, 0)
    pairs = flipped(pairs, work.settings["flip"], f"written {seed}")
    work.watch.lap("label")
    own = [scored(writer, pairs)[:, [side]] for side, writer in enumerate(writers)]
    pairs = replace(with_reference(load_reference(work), pairs), writer=np.concatenate(own, axis=1))
    work.watch.lap("reference")
    write_pairs(work.folder / "pairs.parquet", pairs, ids, ["train"] * len(pairs), ["written"] * len(pairs))
    assert pairs.label is not None
    return {"pairs": len(pairs), "first preferred": float(pairs.label.mean())}
