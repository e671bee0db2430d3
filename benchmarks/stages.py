"""How near each stage of a step comes to the machine: real arithmetic per second, as a share of a matrix product's.

Run: python benchmarks/stages.py [--models tiny small large] [--steps 15] [--batch 32]. The arithmetic is that of the
report's cost section (real tokens only; padding, element-wise work and the optimiser count as nothing).
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator

import torch

import step as harness
from goodhart.compute.meter import Spent, Stopwatch, matrix_rate
from goodhart.sampling.keyed import Draws, KeyedSampler


def stages(bench: harness.Bench) -> Iterator[dict[str, Spent]]:
    """What an online step's decoding, reference and training took, and decoding alone at eight times the batch."""
    step = harness.our_steps(bench, online=True, cached=False)
    sampler = KeyedSampler(bench.tokenizer.eos_token_id, bench.tokenizer.pad_token_id, harness.RESPONSE_TOKENS)
    many = [list(p.tokens) for p in bench.pairs.prompts] * 8
    while True:
        spent = step().stages
        watch = Stopwatch()
        sampler(bench.model, many, 2, Draws(0, "benchmark", list(range(len(many)))))
        watch.lap("wide")
        yield {
            "decoding": spent["generate"],
            f"decoding, {len(many)} prompts": watch.stages["wide"],
            "scoring": spent["reference"],
            "training": spent["train"],
        }


def main() -> None:
    """Print the table."""
    args = harness.options(__doc__)
    harness.quiet()
    print(f"torch {torch.__version__}, {matrix_rate() / 1e9:.0f} GFLOP/s in float32 matrix products, one thread")
    for name in args.models:
        runs = stages(harness.prepare(name, args.batch))
        for _ in range(3):
            next(runs)
        found = [next(runs) for _ in range(args.steps)]
        for stage in found[0]:
            seconds = statistics.median(each[stage].seconds for each in found)
            shares = statistics.median(each[stage].operations / each[stage].seconds for each in found) / matrix_rate()
            tokens = statistics.median(each[stage].tokens / each[stage].seconds for each in found)
            print(f"{name:6s} {stage:24s} {seconds * 1e3:7.0f} ms {tokens:8.0f} tokens/s {shares:5.0%}", flush=True)


if __name__ == "__main__":
    main()
