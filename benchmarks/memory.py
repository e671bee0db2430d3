"""The memory of a training step against batch and length, with and without micro-batches.

Run: python benchmarks/memory.py [--model small]. Every row is a process of its own; the figure is the most memory that
it held, less what it held before its first step. Responses are as long as the prompts.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource

import torch

from goodhart.models.checkpoint import find, load_model
from goodhart.models.logprobs import sequence_logps
from goodhart.models.packing import cuts
from goodhart.training.optimiser import Descent
from goodhart.training.settings import Optimisation

ROWS = [(batch, length, micro) for length in (24, 48) for batch in (16, 64) for micro in (0, 8)]


def peak() -> float:
    """The most memory that this process has held, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def step(name: str, batch: int, length: int, micro: int, found: multiprocessing.Queue[float]) -> None:
    """Two steps on random pairs."""
    torch.set_num_threads(1)
    model = load_model(find(name).path)
    descent = Descent(model.parameters(), Optimisation(micro_batch=micro), 2)
    draw = torch.Generator().manual_seed(0)
    tokens = torch.randint(5, 4000, (batch, 3, length), generator=draw).tolist()
    before = peak()
    for number in range(2):
        for cut in cuts(batch, micro):
            rows = tokens[cut]
            logp = sequence_logps(model, [r[0] for r in rows], [r[1:] for r in rows], pad=0, layout="shared prompt")
            ((logp[:, 0] - logp[:, 1]).square().sum() / batch).backward()
        descent.step(number, 0.0)
    found.put(peak() - before)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="small")
    name = parser.parse_args().model
    context = multiprocessing.get_context("spawn")
    for batch, length, micro in ROWS:
        found = context.Queue()
        process = context.Process(target=step, args=(name, batch, length, micro, found))
        process.start()
        grown = found.get()
        process.join()
        pieces = f"{micro} at a time" if micro else "at once"
        print(
            f"{name:6s} {batch:3d} pairs of {length} + 2 x {length} tokens, {pieces:12s} {grown:6.0f} MiB", flush=True
        )


if __name__ == "__main__":
    main()
