"""Sampling alone: two responses to each prompt by Goodhart's sampler and by `generate`, interleaved on one thread.

Run: python benchmarks/sampling.py [--models tiny small large] [--steps 15] [--batch 32]. Both sample at temperature 1
without truncation, up to the same cap, with a key-value cache; `generate` gets each prompt twice, as TRL gives it.
Lengths are random on the peer's side, so the figure to compare is microseconds for each token that was written.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch

import step as harness
from goodhart.sampling.keyed import Draws, KeyedSampler


def theirs(bench: harness.Bench, prompts: list[list[int]]) -> int:
    """Tokens that `generate` wrote, padding behind the end token left out."""
    width, pad = max(map(len, prompts)), bench.tokenizer.pad_token_id
    twice = [p for p in prompts for _ in range(2)]
    ids = torch.tensor([[pad] * (width - len(p)) + p for p in twice])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in twice])
    with torch.no_grad():
        out = bench.model.generate(
            ids,
            attention_mask=mask,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            max_new_tokens=harness.RESPONSE_TOKENS,
            pad_token_id=pad,
            eos_token_id=bench.tokenizer.eos_token_id,
        )[:, width:]
    ended = (out == bench.tokenizer.eos_token_id).cumsum(1)
    return int(((ended - (out == bench.tokenizer.eos_token_id).long()) == 0).sum())


def ours(bench: harness.Bench, prompts: list[list[int]], number: int) -> int:
    """Tokens that the keyed sampler wrote."""
    sampler = KeyedSampler(bench.tokenizer.eos_token_id, bench.tokenizer.pad_token_id, harness.RESPONSE_TOKENS)
    drawn = sampler(bench.model, prompts, 2, Draws(number, "benchmark", list(range(len(prompts)))))
    return sum(len(text) for row in drawn for text in row)


def per_token(work: Any) -> float:
    began = time.perf_counter()
    tokens = work()
    return (time.perf_counter() - began) / tokens * 1e6


def main() -> None:
    """Print the table."""
    args = harness.options(__doc__)
    harness.quiet()
    for name in args.models:
        compare(harness.prepare(name, args.batch), args.steps)


def compare(bench: harness.Bench, steps: int) -> None:
    """Interleaved calls; the first of each is not counted."""
    prompts = [list(p.tokens) for p in bench.pairs.prompts]
    torch.manual_seed(0)
    pairs: list[tuple[float, float]] = []
    for i in range(steps + 1):
        pairs.append((per_token(lambda: theirs(bench, prompts)), per_token(lambda i=i: ours(bench, prompts, i))))
    a, b = (statistics.median(column) for column in zip(*pairs[1:], strict=True))
    ratio = statistics.median(x / y for x, y in pairs[1:])
    print(f"{bench.name:6s} generate {a:6.0f} us a token   Goodhart {b:6.0f} us   ratio {ratio:.2f}", flush=True)


if __name__ == "__main__":
    main()
