"""A made-up study folder: rows with the schema's columns, a plausible record, no model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from goodhart.evaluation import schema
from goodhart.randomness import stream

SUBJECTS = ("the axes", "a parser", "the graph", "one column", "the event loop", "a date", "its cache", "the header")
VERBS = ("Return", "Set", "Draw", "Build", "Read", "Merge", "Check", "Yield")
DETAILS = ("from the given options.", "in place.", "if it exists.", "for every row.", "as a new object.", "or raise.")


@dataclass(frozen=True)
class Made:
    """What a synthetic study looks like."""

    arms: tuple[str, ...] = ("online", "offline")
    heights: tuple[float, ...] = (0.30, 0.18)
    reach: tuple[float, ...] = (9.0, 7.0)
    """KL of each arm's last checkpoint at the first beta, nats; twice that at the second."""
    start: tuple[float, ...] = (0.0, 0.0)
    """KL added to every checkpoint of the arm."""
    betas: tuple[float, ...] = (0.1, 0.03)
    seeds: tuple[int, ...] = (0, 1)
    steps: tuple[int, ...] = (15, 30, 45, 60)
    prompts: int = 24
    train_prompts: int = 8
    pairs: int = 16
    hidden: bool = True
    hypotheses: Mapping[str, Any] = field(default_factory=dict)
    axes: Mapping[str, Any] = field(default_factory=dict)
    league: Mapping[str, Any] | None = None
    best_of_n: bool = False
    """Whether the last arm is no arm of the study file but best-of-n by the proxy."""
    spice: str = ""
    """Added to every text of the data set."""


@dataclass(frozen=True)
class Point:
    """A checkpoint and its true KL and win rates."""

    arm: str
    setting: str
    beta: float | None
    lr: float | None
    seed: int
    step: int
    kl: float
    wins: tuple[float, float]
    share: float
    """Of the way to the arm's last checkpoint."""


def points(made: Made) -> Iterator[Point]:
    """The checkpoints of every arm, SFT and golden policy included."""
    yield Point("sft", "", None, None, 0, 0, 0.0, (0.2, 0.5), 0.0)
    yield Point("golden policy", "beta=0.1 lr=0.0002", 0.1, 2e-4, 0, 60, 6.0, (0.5, 0.84), 1.0)
    for arm, height, reach, start in zip(made.arms, made.heights, made.reach, made.start, strict=False):
        for place, beta in enumerate(made.betas):
            for seed in made.seeds:
                shift = 0.02 * stream(0, "seed effect", arm, place, seed).normal()
                for step in made.steps:
                    share = step / made.steps[-1]
                    kl = start + reach * (1 + place) * share
                    rise = height * (1 + 0.3 * place) * (1 - ((share - 0.75) / 0.75) ** 2)
                    wins = (0.2 + rise + shift, 0.5 + 1.1 * rise + shift)
                    yield Point(arm, f"beta={beta:g} lr=0.0002", beta, 2e-4, seed, step, kl, wins, share)


def prompt_rows(made: Made) -> list[dict[str, Any]]:
    """The prompts' texts and human lines."""
    found = []
    for i in range(made.prompts + made.train_prompts):
        rng = stream(0, "prompt", i)
        subject, verb = rng.choice(SUBJECTS), rng.choice(VERBS)
        body = f"Parameters\n----------\n{subject.split()[-1]} : object\n    What to {verb.lower()}.{made.spice}"
        text = f"{subject.split()[-1].title()}.{verb.lower()}_{i}\n{body}"
        line = f"{verb} {subject} {rng.choice(DETAILS)}{made.spice}"
        split = "held_out" if i < made.prompts else "train"
        found.append({"prompt": f"p{i:04d}", "split": split, "text": text, "reference": line if made.hidden else None})
    return found


def evaluation_rows(made: Made, point: Point, prompts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per prompt of one checkpoint."""
    rng = stream(1, "rows", point.arm, point.setting, point.seed, point.step)
    found = []
    for i, prompt in enumerate(prompts):
        easy = 0.15 * stream(2, "easy", i).normal()
        tokens = int(rng.integers(6, 24))
        wins = [rng.random() < np.clip(w + easy, 0.02, 0.98) for w in (*point.wins, *(w + 0.05 for w in point.wins))]
        kl = max(0.0, point.kl * (1 + 0.3 * rng.normal())) if point.step else 0.0
        line = f"{rng.choice(VERBS)} {rng.choice(SUBJECTS)} {rng.choice(DETAILS)}{made.spice}"
        judged = dict(
            zip(("golden_vs_policy", "golden_vs_sft", "proxy_vs_policy", "proxy_vs_sft"), map(float, wins), strict=True)
        )
        names = {name: getattr(point, name) for name in schema.CHECKPOINT}
        similarity = float(np.clip(0.3 + 0.08 * point.share * (1.4 - point.share) + 0.1 * rng.normal(), 0, 1))
        found.append(
            {
                **names,
                **judged,
                "split": prompt["split"],
                "prompt": prompt["prompt"],
                "sample": 0,
                "response": list(range(tokens)),
                "text": line,
                "tokens": tokens,
                "ended": bool(rng.random() < 0.9),
                "kl": kl,
                "entropy": 2.8 - 0.8 * point.share,
                "logp": -20.0,
                "ref_logp": -20.0 - kl,
                "hidden": similarity if made.hidden else None,
            }
        )
    return found


def pair_rows(made: Made, point: Point) -> list[dict[str, Any]]:
    """Log-ratios on golden pairs of one checkpoint."""
    rng = stream(1, "pairs", point.arm, point.setting, point.seed, point.step)
    push = 6.0 if point.arm == made.arms[-1] else 1.0
    found = []
    for split in ("train", "held_out"):
        for i in range(made.pairs):
            noise = rng.normal(size=2) * 4 * point.share
            names = {name: getattr(point, name) for name in schema.CHECKPOINT}
            found.append(
                {
                    **names,
                    "split": split,
                    "pair": f"{split}-{i}",
                    "prompt": f"q{i:04d}",
                    "label": float(rng.random() < 0.5),
                    "rho_w": float(-push * point.share + noise[0]),
                    "rho_l": float(-1.6 * push * point.share + noise[1]),
                }
            )
    return found


def budget_row(made: Made, point: Point) -> dict[str, Any]:
    """What one checkpoint took: the first arm samples, so its steps are dearer."""
    names = {name: getattr(point, name) for name in schema.CHECKPOINT}
    first = point.arm == made.arms[0]
    cost = {"operations": (3e10 if first else 1e10) * point.step, "pairs": 32 * point.step, "labels": 1024}
    return {**names, **cost, "drift": 0.0 if first else -3.0 * point.share, "drift_spread": 0.0 if first else 2.0}


def judged(accuracy: float, pairs: int = 512) -> dict[str, Any]:
    """How a preference model's quality is recorded."""
    half = 1.96 * (accuracy * (1 - accuracy) / pairs) ** 0.5
    ends = {"low": accuracy - half, "high": min(1.0, accuracy + half)}
    return {"pairs": pairs, "loss": 0.9 - 0.5 * accuracy, "accuracy": accuracy, "flips": 0.08, **ends}


def preference_model(top: float, kinds: tuple[str, ...]) -> dict[str, Any]:
    """The recorded result of a preference model's cell."""
    looks = [
        {
            "step": step,
            "loss": 0.693 - (top - 0.5) * (1 - 0.5 ** (step / 50)),
            "accuracy": 0.5 + (top - 0.5) * (1 - 0.4 ** (step / 50)),
            "flips": 0.5 * 0.5 ** (step / 50) + 0.05,
        }
        for step in range(0, 251, 50)
    ]
    found = {"looks": looks, "training pairs": 1024, "parameters": 5100000, "test": judged(top), "train": judged(0.9)}
    return {**found, "test by kind": {kind: judged(top, 128) for kind in kinds}}


def trained(made: Made) -> tuple[str, ...]:
    """The arms of the study file."""
    return made.arms[:-1] if made.best_of_n else made.arms


def settings(made: Made, name: str) -> dict[str, Any]:
    """The study's settings as they are recorded."""
    optimisation = {"lr": 1e-4, "warmup": 10, "decay": "constant", "clip": 1.0, "weight_decay": 0.0}
    arm = {"source": "policy", "labeller": "proxy", "loss": "ipo", "reduction": "sum", "beta": list(made.betas)}
    return {
        "name": name,
        "question": "At the same KL budget, what does sampling from the policy buy?" + made.spice,
        "task": {
            "kind": "docstrings" if made.hidden else "preferences",
            "max_response": 24,
            "evaluation": made.prompts,
        },
        "policy": "tiny",
        "sft": {"steps": 120, "optimisation": optimisation},
        "golden": {"model": "small", "kind": "bradley-terry", "steps": 60},
        "proxy": {"model": "tiny", "kind": "pairwise", "steps": 60},
        "labels": {"number": 1024, "mode": "hard"},
        "golden_policy": {**arm, "labeller": "golden", "beta": [0.1]},
        "arms": {
            a: {**arm, "steps": made.steps[-1], "batch": 32, "lr": [2e-4], "optimisation": optimisation}
            for a in trained(made)
        },
        "hypotheses": dict(made.hypotheses),
        "axes": dict(made.axes),
        "league": dict(made.league) if made.league else None,
        "seeds": list(made.seeds),
        "resamples": 50,
    }


def data_record(made: Made) -> dict[str, Any]:
    """What the data cells record."""
    reasons = {"no body": 23017, "summary not of 3 to 18 words": 2076, "duplicate": 354}
    side = {"kept": 19221, "packages": {"numpy": 993, "sympy": 4021, "torch": 5210, "scipy": 1203}, "left out": reasons}
    test = {"kept": 4251, "packages": {"pandas": 2306, "networkx": 1120}, "left out": {"no body": 2886}}
    splits = {"evaluation": made.prompts, "test": 2915, "train": 17381, "validation": 512}
    left_out = {"human line longer than 24 tokens": 2080, "prompt cut to its beginning (kept)": 16164}
    counts = {"splits": splits, "left out": left_out, "prompt tokens, mean": 58.9, "response tokens, mean": 14.7}
    if not made.hidden:
        return {"preferences": {"counts": {**counts, "pairs": 9000, "layout": "chosen/rejected"}}}
    return {
        "corpus": {"counts": {"held_out": test, "train": side}},
        "prompts": {"counts": counts},
        "pairs": {
            "ties settled by a coin": 12,
            "kinds": {"train samples": 2000, "train human": 600, "test samples": 90},
        },
    }


def cells(made: Made) -> list[dict[str, Any]]:
    """The lines of the record about cells."""

    def line(kind: str, number: int, label: str, stages: dict[str, float]) -> dict[str, Any]:
        files = {"model/weights.safetensors": "ab" * 32, "metrics.jsonl": "cd" * 32}
        seconds = round(sum(stages.values()) + 1.5, 1)
        name = f"{kind}-{number:012x}"
        return {
            "id": name,
            "kind": kind,
            "label": label,
            "seconds": seconds,
            "stages": {
                stage: {"seconds": spent, "tokens": int(1000 * spent), "operations": 4e10 * spent}
                for stage, spent in stages.items()
            },
            "threads": 1,
            "matrix rate": 1e11,
            "files": files,
        }

    found = [line("corpus", 1, "corpus", {}), line("sft", 2, "SFT", {"train": 60.0})]
    found += [
        line("preference", 3 + i, f"{n} model", {"train": 90.0, "evaluate": 20.0})
        for i, n in enumerate(("golden", "proxy"))
    ]
    found.append(line("labels", 5, "golden labels", {"label": 9.0, "reference": 4.0}))
    number = 6
    for arm in trained(made):
        for beta in made.betas:
            for seed in made.seeds:
                first = {"generate": 12.0, "label": 5.0, "reference": 4.0, "train": 14.0}
                stages = (
                    first if arm == made.arms[0] else {"generate": 0.1, "label": 0.0, "reference": 0.0, "train": 28.0}
                )
                label = f"{arm} beta={beta:g} lr=0.0002 seed {seed}"
                found += [{**line("run", number, label, stages), "arm": arm}]
                found += [
                    line("evaluation", number + 1 + i, f"measure {label} step {step}", {"evaluate": 7.0})
                    for i, step in enumerate(made.steps)
                ]
                number += 1 + len(made.steps)
    return found


def record(made: Made, name: str) -> dict[str, Any]:
    """`record.json` of the study."""
    golden = preference_model(0.70, ("degenerate", "human", "mismatched", "samples"))
    names = (
        "own prompt over another",
        "human line over sample",
        *(f"sample over {n}" for n in ("repetition", "fixed line", "empty")),
    )
    golden["probes"] = {n: judged(a, 400) for n, a in zip(names, (0.78, 0.72, 0.97, 0.96, 1.0), strict=True)}
    return {
        "study": settings(made, name),
        "anchors": dict.fromkeys(made.arms, "sft"),
        "variants": {},
        "versions": {"python": "3.11.7", "goodhart": "0.1.0", "torch": "2.13.0+cpu", "numpy": "2.4.6"},
        "machine": {"processor": "Example CPU @ 2.50GHz", "cores": 2, "memory GiB": 23.5, "system": "Linux x86_64"},
        "git": "0123456789ab",
        "cost": {
            "seconds of this call": 812.4,
            "workers": 2,
            "cells made": 48,
            "cells reused": 0,
            "seconds of all cells": 1490.2,
            "largest worker, GiB": 1.31,
        },
        "data": data_record(made),
        "sft": {
            "nats per token, own prompt": 2.71,
            "nats per token, another prompt": 4.05,
            "layout": "shared prompt",
            "parameters": 1328256,
        },
        "golden": golden if made.hidden else preference_model(0.7, ("people",)),
        "labels": {
            "pairs": {"train": 1024, "validation": 250, "test": 500},
            "agreement with initial labels": {"train": 0.71, "validation": 0.68, "test": 0.69},
            "first preferred": 0.498,
            "ties": 3,
        },
        "proxy": preference_model(0.77, ("golden",)),
        "cells": cells(made),
    }


def make_study(folder: Path, made: Made | None = None) -> Path:
    """Write `rows.parquet`, `pairs.parquet`, `prompts.parquet` and `record.json`; returns the folder."""
    made = made or Made()
    folder.mkdir(parents=True, exist_ok=True)
    prompts, checkpoints = prompt_rows(made), list(points(made))
    tables = {
        "rows": ([row for point in checkpoints for row in evaluation_rows(made, point, prompts)], schema.ROWS),
        "pairs": ([row for point in checkpoints for row in pair_rows(made, point)], schema.PAIR_ROWS),
        "prompts": (prompts, schema.PROMPTS),
        "budgets": ([budget_row(made, point) for point in checkpoints if point.arm in trained(made)], schema.BUDGETS),
        "streams": ([], schema.STREAM_ROWS),
    }
    for name, (rows, columns) in tables.items():
        pq.write_table(pa.Table.from_pylist(rows, schema=columns), folder / f"{name}.parquet")
    (folder / "record.json").write_text(json.dumps(record(made, folder.name)), encoding="utf-8")
    return folder
