"""What two cores give: online IPO steps per second of one process, of two at once, and of one with two threads.

Run: python benchmarks/pool.py [--models tiny small] [--steps 20] [--rounds 3]. The arrangements take turns; the
last column is the speed-up over one one-thread process, the median over rounds.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import sys
import time
from multiprocessing.synchronize import Barrier

from goodhart.cells.work import ENVIRONMENT

if __name__ == "__main__" and os.environ.get("MALLOC_MMAP_MAX_") is None:
    os.environ.update(ENVIRONMENT)  # glibc reads its settings at the start only
    os.execv(sys.executable, [sys.executable, *sys.argv])

import torch

from goodhart.alignment.losses import LOSSES
from goodhart.alignment.sources import PolicySource
from goodhart.training.alignment import Objective, train
from goodhart.training.optimiser import Descent
from step import STILL, LongerWins, prepare

ARRANGEMENTS = {"1 process, 1 thread": (1, 1), "2 processes, 1 thread each": (2, 1), "1 process, 2 threads": (1, 2)}
BATCH = 32


def steps(model: str, number: int, threads: int, start: Barrier, found: multiprocessing.Queue[float]) -> None:
    """Seconds of some steps, which begin when all processes are ready."""
    torch.set_num_threads(threads)
    bench = prepare(model, BATCH)
    policy = bench.policy
    source = PolicySource(bench.pairs.prompts, BATCH, 0)
    descent = Descent(policy.parameters(), STILL, number + 2)
    goal = Objective(LOSSES["ipo"], {"beta": 0.1})
    run = train(policy, bench.policy, source, LongerWins(), descent, goal, steps=number + 2)
    for _ in range(2):
        next(run)
    start.wait()
    began = time.perf_counter()
    for _ in run:
        pass
    found.put(time.perf_counter() - began)


def rate(model: str, number: int, processes: int, threads: int) -> float:
    """Steps per second of all processes together."""
    context = multiprocessing.get_context("spawn")
    start, found = context.Barrier(processes), context.Queue()
    arguments = (model, number, threads, start, found)
    pool = [context.Process(target=steps, args=arguments) for _ in range(processes)]
    for process in pool:
        process.start()
    slowest = max(found.get() for _ in pool)
    for process in pool:
        process.join()
    return processes * number / slowest


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["tiny", "small"])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    print(f"torch {torch.__version__}, {os.cpu_count()} cores, batch {BATCH}")
    for model in given.models:
        found = {name: list[float]() for name in ARRANGEMENTS}
        for _ in range(given.rounds):
            for name, (processes, threads) in ARRANGEMENTS.items():
                found[name].append(rate(model, given.steps, processes, threads))
        alone = found["1 process, 1 thread"]
        for name, rates in found.items():
            speed_up = statistics.median(r / one for r, one in zip(rates, alone, strict=True))
            print(f"{model:6} {name:28} {statistics.median(rates):6.2f} steps/s  {speed_up:5.2f}x", flush=True)


if __name__ == "__main__":
    main()
