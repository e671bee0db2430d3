"""How far the built-in sampler's log-probabilities are from the trainer's, and what it costs to know that.

Run: python benchmarks/mismatch.py [--model tiny]. One thread; 32 prompts of 48 random tokens, two responses of at most
24 tokens to each. The cost is that of the operations that log-probabilities add to a decoding step, times the steps.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from goodhart.models.checkpoint import find
from goodhart.recipes.models import load_policy
from goodhart.sampling.keyed import Draws
from goodhart.sampling.probe import PROBED, Probe

PROMPTS, SAMPLES, PROMPT, LONGEST, REPEATS = 32, 2, 48, 24, 9


def milliseconds(work: Callable[[], object]) -> float:
    """Processor time, which other work on the machine moves least: the median of some calls."""
    took: list[float] = []
    for _ in range(REPEATS):
        began = time.process_time()
        work()
        took.append(1000 * (time.process_time() - began))
    return statistics.median(took)


def added() -> None:
    """What a decoding step does for the log-probabilities."""
    weights, sums = torch.rand(PROMPTS * SAMPLES, 64).double(), torch.rand(PROMPTS * SAMPLES, 64).double()
    total, still = torch.zeros(PROMPTS, SAMPLES).double(), torch.ones(PROMPTS, SAMPLES, dtype=torch.bool)
    place, rows = torch.zeros(PROMPTS * SAMPLES, 1, dtype=torch.long), torch.arange(PROMPTS)
    for _ in range(LONGEST):
        logp = (weights.gather(1, place).log() - sums[:, -1:].log())[:, 0]
        total[rows] += torch.where(still, logp.view(still.shape), 0.0)


def main() -> None:
    """Print both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny")
    torch.set_num_threads(1)
    master, tokenizer = load_policy(find(parser.parse_args().model).path, LONGEST)
    draw = np.random.default_rng(0)
    prompts = [[int(each) for each in draw.integers(5, len(tokenizer), PROMPT)] for _ in range(PROMPTS)]
    draws = Draws(0, "mismatch", list(range(PROMPTS)))
    for precision in ("float32", "bfloat16"):
        policy = master.at(precision)
        written = policy.sampler.written(policy.model, prompts, SAMPLES, draws)
        with torch.no_grad():
            scored = policy.log_probs(prompts, written.responses).double().numpy()
        apart = written.logps - scored
        tokens = np.array([[len(text) for text in row] for row in written.responses])
        print(
            f"{precision}: mismatch {apart.mean():+.1e}, spread {apart.std():.1e} nats a response of "
            f"{tokens.mean():.1f} tokens; {(np.abs(apart) / tokens).mean():.1e} nats a token",
            flush=True,
        )
    whole = milliseconds(lambda: master.sampler.written(master.model, prompts, SAMPLES, draws))
    more = milliseconds(added)
    print(f"sampling {whole:.0f} ms, of which log-probabilities {more:.2f} ms ({100 * more / whole:.2f}%)")
    probe, written = Probe("keyed", master.pad, master.layout), master.sampler.written(master.model, prompts, 2, draws)
    print(f"a probe of {PROBED} responses {milliseconds(lambda: probe.look(master.model, prompts, written)):.0f} ms")


if __name__ == "__main__":
    main()
