"""The study file of a proposal: short, with the reasons of its numbers beside them.

Names of files, models and columns come from outside. In the text they are quoted scalars, never a comment.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import yaml

if TYPE_CHECKING:
    from goodhart.proposal import Facts, Steps

OPPONENTS = 4
"""Responses of each baseline that a checkpoint's is judged against, as in what ships."""
_RULES = {
    "pairs": "or another rule: best and worst, best and other, all",
    "marks": "the judge learns from marks one by one; labels are for each response beside an SFT sample",
}
"""What is said of the rule of pairs."""
_LARGE = {"sft": 1e-5, "judge": 1e-5, "arm": 1e-6}
"""Learning rates that models of more than 50 million parameters are commonly trained with."""


def quoted(text: str) -> str:
    """A double-quoted YAML scalar on one line, whatever the text holds."""
    return yaml.safe_dump(text, default_style='"', width=float("inf")).rstrip("\n")


def study_text(facts: Facts, steps: Steps, seeds: Sequence[int], evaluation: int, told: Sequence[str]) -> str:
    """The file; `told` is what stands above it on time and power."""
    lines = [
        "# Written by goodhart init. All keys: docs/study_files.md; what is not named has its default.",
        *(f"# {each}." for each in told),
        *_task(facts, evaluation),
        *_models(facts, steps),
        *_arms(facts, steps),
        f"measurement: {{opponents: {OPPONENTS}}}",
        f"seeds: [{', '.join(map(str, seeds))}]",
    ]
    return "\n".join(lines) + "\n"


def _task(facts: Facts, evaluation: int) -> list[str]:
    task, sizes, limits, loaded = facts.task, facts.sizes, facts.limits, facts.loaded
    longer, filtered = facts.readable - len(limits.kept), sum(loaded.filtered.values())
    columns = ", ".join(f"{quoted(ours)}: {quoted(theirs)}" for ours, theirs in task.columns.items())
    return [
        f"# {loaded.rows:,} rows of layout {loaded.layout}: {len(loaded.examples):,} {loaded.unit}, "
        f"{filtered:,} filtered.",
        *(f"# {number:,} {what}." for what, number in loaded.left_out.items()),
        "task:",
        f"  data: {quoted(facts.data)}",
        *([f"  layout: {task.layout}"] if task.layout != "auto" else []),
        *([f"  data_split: {quoted(task.data_split)}"] if task.data_split else []),
        *([f"  columns: {{{columns}}}"] if columns else []),
        *([f"  pairs: {loaded.rule}  # {_RULES[loaded.unit]}"] if loaded.rule else []),
        *([f"  template: {task.template}  # the model has no chat template"] if task.template != "auto" else []),
        f"  # {limits.share:.0%} of the prompts, and of the {loaded.unit} by their longer response, are no longer than "
        "this.",
        f"  # As longer, {longer:,} of {facts.readable:,} {loaded.unit} ({longer / facts.readable:.1%}) are left out.",
        f"  max_prompt: {limits.prompt}",
        f"  max_response: {limits.response}",
        f"  # Nothing is trained on the held-out prompts, of which {sizes.held_out_prompts:,} fit.",
        f"  held_out: {sizes.held_out:g}",
        f"  evaluation: {evaluation}",
        f"  validation: {sizes.validation}",
        f"  test: {sizes.test}",
        f"  train_evaluation: {sizes.train_evaluation(evaluation)}  # of the training prompts",
    ]


def _models(facts: Facts, steps: Steps) -> list[str]:
    portions, labels = facts.portions, facts.sizes.labels
    gib = facts.room.each / 2**30
    sft, judge = (_optimisation(facts, kind, warmup) for kind, warmup in (("sft", steps.sft), ("judge", steps.golden)))
    head = ", head_factor: 1" if facts.large else ""
    proxy = _optimisation(facts, "judge", steps.proxy)
    alike = facts.policy == facts.golden
    return [
        *(["# A model that ships: small, to try the path. --policy names another."] if facts.shipped else []),
        f"policy: {quoted(facts.policy)}",
        f"# Micro-batches are for {gib:.1f} GiB in each of {facts.room.workers} workers; they change no result."
        if portions.fits
        else f"# Training may want more than the {gib:.1f} GiB of each of {facts.room.workers} workers: --workers 1.",
        f"sft: {{steps: {steps.sft}, batch: {steps.sft_batch}, early: {max(1, steps.sft // 3)}, "
        f"optimisation: {{{sft}micro_batch: {portions.sft}}}}}",
        "# The judge. A larger model with the same tokenizer judges better."
        if alike
        else "# The judge, a larger model with the same tokenizer.",
        f"golden: {{model: {quoted(facts.golden)}, kind: bradley-terry, steps: {steps.golden}, batch: {steps.batch}, "
        f"check_every: {max(1, steps.golden // 6)}{head}, optimisation: {{{judge}micro_batch: {portions.golden}}}}}",
        f"labels: {{number: {labels}}}  # of {facts.sizes.train_pairs:,} training {facts.loaded.unit}; "
        f"fewer widen the gap",
        f"proxy: {{model: {quoted(facts.policy)}, kind: bradley-terry, steps: {steps.proxy}, batch: {steps.batch}, "
        f"check_every: {max(1, steps.proxy // 6)}{head}, optimisation: {{{proxy}micro_batch: {portions.proxy}}}}}",
    ]


def _arms(facts: Facts, steps: Steps) -> list[str]:
    rate = f"lr: [{_number(_LARGE['arm'])}], " if facts.large else ""
    shared = f"batch: {steps.batch}"
    ending = f"optimisation: {{micro_batch: {facts.portions.arms}}}"
    return [
        "# The baseline of every win rate: online against the judge.",
        f"golden_policy: {{beta: [0.1], {rate}steps: {steps.golden_policy}, {shared}, checkpoints: 1, {ending}}}",
        "# The same loss and strength, with checkpoints where KL doubles, not steps, so that both overlap in KL.",
        "arms:",
        f"  online: {{beta: [0.03], {rate}steps: {steps.online}, {shared}, checkpoints: 3, spacing: log, {ending}}}",
        f"  offline: {{source: data, labeller: data, beta: [0.03], {rate}steps: {steps.offline}, {shared}, "
        f"checkpoints: 3, spacing: log, {ending}}}",
    ]


def _optimisation(facts: Facts, kind: str, steps: int) -> str:
    """What a section says of its optimiser beside the micro-batch."""
    warmup = f"warmup: {max(1, min(50 if facts.large else 10, steps // 10))}, "
    return f"lr: {_number(_LARGE[kind])}, {warmup}" if facts.large else warmup


def _number(rate: float) -> str:
    return f"{rate:.1e}"  # YAML 1.1 reads 1e-5 as text, and 1.0e-05 as a number
