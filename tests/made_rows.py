"""Rows of checkpoints with given KLs and win rates."""

import pyarrow as pa

from goodhart.analysis.table import SFT
from goodhart.evaluation.schema import PAIR_ROWS, ROWS
from goodhart.randomness import stream


def row(arm, beta, seed, step, prompt, kl, win, split="held_out", sample=0, **other):
    base = {
        "arm": arm,
        "setting": "" if arm == SFT else f"beta={beta} lr=0.0001",
        "beta": None if arm == SFT else beta,
        "lr": None if arm == SFT else 1e-4,
        "seed": seed,
        "step": step,
        "split": split,
        "prompt": f"p{prompt}",
        "sample": sample,
        "response": [prompt, 1],
        "text": "a",
        "tokens": 2,
        "ended": True,
        "kl": kl,
        "entropy": 1.0,
        "logp": -1.0,
        "ref_logp": -1.0,
        "golden_vs_policy": win,
        "golden_vs_sft": win,
        "proxy_vs_policy": win,
        "proxy_vs_sft": win,
        "hidden": None,
    }
    return base | other


def rows_of(records):
    return pa.Table.from_pylist(records, schema=ROWS)


def noiseless(curves, prompts=6, seeds=(0, 1)):
    """Rows where every prompt and seed has the same numbers; curves[arm][beta] = [(kl, win), ...] by step."""
    found = [row(SFT, None, 0, 0, p, 0.0, 0.4) for p in range(prompts)]
    for arm, sweep in curves.items():
        for beta, points in sweep.items():
            for step, (kl, win) in enumerate(points, 1):
                found += [row(arm, beta, s, step, p, kl, win) for s in seeds for p in range(prompts)]
    return rows_of(found)


def pairs_of(records):
    names = ("arm", "setting", "beta", "lr", "seed", "step", "split", "pair", "prompt", "label", "rho_w", "rho_l")
    return pa.Table.from_pylist([dict(zip(names, record, strict=True)) for record in records], schema=PAIR_ROWS)


NO_PAIRS = pairs_of([])
TWO = {"online": {0.1: [(2.0, 0.6), (4.0, 0.7)]}, "offline": {0.1: [(1.0, 0.45), (3.0, 0.55)]}}


def noisy(seed=0, prompts=40, seeds=(0, 1, 2), shift=0.0):
    rng = stream(seed, "test/noisy")
    found = [row(SFT, None, 0, 0, p, 0.0, float(rng.random() < 0.4)) for p in range(prompts)]
    for arm, extra in (("online", 0.1 + shift), ("offline", 0.0)):
        for beta in (0.1, 0.03):
            for s in seeds:
                for step in (1, 2, 3):
                    for p in range(prompts):
                        kl = step * 1.5 * (1 + 0.1 * rng.normal())
                        found.append(row(arm, beta, s, step, p, kl, float(rng.random() < 0.45 + 0.05 * step + extra)))
    return found
