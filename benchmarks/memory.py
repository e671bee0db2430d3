"""Memory of a training step: what `goodhart run --dry-run` says against what PyTorch allocates, and the step's seconds.

Run: OMP_NUM_THREADS=1 python benchmarks/memory.py [--models tiny small] [--batch 32] [--prompt 64] [--response 24].
Every row takes two steps on random pairs. Measured is the most that PyTorch has allocated at once in the second, by its
profiler, over the weights and the optimiser's state; seconds are of a step on the processor. `said` is the account of
`goodhart.studies.memory_fit`. What the allocator keeps of what was freed is in neither.
"""

from __future__ import annotations

import argparse
import time
from itertools import product
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from goodhart.models.adapter import adapted
from goodhart.models.adapter_settings import Adapter
from goodhart.models.checkpoint import find, load_model
from goodhart.models.logprobs import sequence_logps
from goodhart.models.packing import cuts
from goodhart.models.recomputation import recompute_layers
from goodhart.studies.memory_fit import Holds, Shape, Text
from goodhart.training.optimiser import Descent
from goodhart.training.settings import Optimisation

MIB = 2**20
ADAPTER = Adapter(rank=8, alpha=16.0)


def most_allocated(run: profile) -> int:
    """The largest sum of what was allocated and not yet freed, bytes."""
    now = most = 0
    for event in run.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    return most


def measure(model: str, batch: int, text: Text, settings: Optimisation, adapter: Adapter | None) -> tuple[int, float]:
    """The most bytes of a step, and the seconds of the step before it."""
    policy = load_model(find(model).path)
    if settings.gradient_checkpointing:
        recompute_layers(policy)
    if adapter:
        policy = adapted(policy, adapter, 0)
    descent = Descent(policy.parameters(), settings, 2)
    draw = torch.Generator().manual_seed(0)
    tokens = torch.randint(5, 4000, (batch, text.tokens), generator=draw).tolist()

    def step(number: int) -> None:
        for cut in cuts(batch, settings.micro_batch):
            rows = tokens[cut]
            prompts, ends = [row[: text.prompt] for row in rows], text.prompt + text.length
            pairs = [[row[text.prompt : ends], row[ends:]] for row in rows]
            logp = sequence_logps(policy, prompts, pairs, pad=0, layout="shared prompt")
            ((logp[:, 0] - logp[:, 1]).square().sum() / batch).backward()
        descent.step(number, 0.0)

    began = time.process_time()
    step(0)
    seconds = time.process_time() - began
    state = [
        each for one in descent.optimiser.state.values() for each in one.values() if isinstance(each, torch.Tensor)
    ]
    held = sum(tensor.nbytes for tensor in (*policy.parameters(), *state))
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as run:
        step(1)
    return held + most_allocated(run), seconds


def said(model: str, batch: int, text: Text, settings: Optimisation, adapter: Adapter | None) -> Holds:
    """The account of the same step."""
    shape = Shape.of(Path(find(model).path))
    rows = min(settings.micro_batch or batch, batch)
    return shape.trained([text], rows, settings, adapter, cut=rows < batch)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["tiny", "small"])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--prompt", type=int, default=64)
    parser.add_argument("--response", type=int, default=24)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    text = Text(asked.prompt, 2, asked.response)
    measure("nano", 1, Text(2, 2, 2), Optimisation(), ADAPTER)  # what is imported on the way takes no part in a step
    print(
        "| model | trained | gradient checkpointing | micro_batch | said, MiB | measured, MiB | said / measured | s |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for model, adapter, again, micro in product(asked.models, (None, ADAPTER), (False, True), (0, asked.batch // 4)):
        settings = Optimisation(micro_batch=micro, gradient_checkpointing=again)
        held, seconds = measure(model, asked.batch, text, settings, adapter)
        account = said(model, asked.batch, text, settings, adapter)
        trained = f"adapter, rank {adapter.rank}" if adapter else "all weights"
        print(
            f"| {model} | {trained} | {'yes' if again else 'no'} | {micro or asked.batch} "
            f"| {account.total / MIB:.0f} | {held / MIB:.0f} | {account.total / held:.2f} | {seconds:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
