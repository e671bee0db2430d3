"""The recipe for initial pairs of the docstrings task: who writes them, and which side is preferred."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from goodhart.alignment.batch import Pairs
from goodhart.alignment.pair_table import write_pairs
from goodhart.models.checkpoint import load_model, load_tokenizer
from goodhart.randomness import permutation, stream
from goodhart.sampling.keyed import Draws, KeyedSampler
from goodhart.study.spec import Pool, Task
from goodhart.study.workplace import Workplace
from goodhart.tasks.prompt_table import PromptRow, read_prompts
from goodhart.tasks.similarity import similarity

FIXED_LINE = "Return the value of the object."
"""The degenerate response that is the same for every prompt."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A pair before it is labelled."""

    row: PromptRow
    kind: str
    first: list[int]
    second: list[int]


class Writers:
    """Samples of the SFT policy at a temperature, drawn once for all prompts."""

    def __init__(self, work: Workplace, task: Task, rows: Sequence[PromptRow], temperatures: Sequence[float]) -> None:
        sft = work.inputs["sft"]
        self.tokenizer = load_tokenizer(sft / "final")
        sampler = KeyedSampler(self.tokenizer.eos_token_id, self.tokenizer.pad_token_id, task.max_response)
        prompts = [row.prompt.tokens for row in rows]
        numbers = [row.prompt.number for row in rows]
        model = load_model(sft / "final")
        self.samples: dict[float, list[list[list[int]]]] = {}
        for i, temperature in enumerate(temperatures):
            work.say(i, len(temperatures) + 1, f"sampling at temperature {temperature}")
            hot = replace(sampler, temperature=temperature)
            self.samples[temperature] = hot(model, prompts, 2, Draws(0, "initial pairs", numbers, 2 * i))
        early = load_model(sft / "early")
        self.early = [two[0] for two in sampler(early, prompts, 1, Draws(0, "initial pairs, early", numbers))]


def initial_pairs(work: Workplace) -> dict[str, Any]:
    """`pairs.parquet` (train, validation, test) and `probes.parquet` (test prompts, one kind of opponent each)."""
    task, pool = work.setting(Task, "task"), work.setting(Pool, "pool")
    rows = read_prompts(work.inputs["prompts"] / "prompts.parquet")
    train = [r for r in rows if r.split == "train"]
    order = permutation(len(train), 0, "prompts of initial pairs")[: pool.pairs]
    tests = [r for r in rows if r.split == "test"][: pool.test_pairs]
    chosen = [train[int(i)] for i in order] + [r for r in rows if r.split == "validation"] + tests
    writers = Writers(work, task, chosen, pool.temperatures)
    drafts = [_draft(writers, chosen, i, pool) for i in range(len(chosen))]
    ties = _write(work, writers, drafts, "pairs.parquet")
    places = [i for i, row in enumerate(chosen) if row.split == "test"]
    _write(work, writers, _probes(writers, chosen, places, pool.temperatures[0]), "probes.parquet")
    kinds = Counter(f"{d.row.split} {d.kind}" for d in drafts)
    return {"ties settled by a coin": ties, "kinds": dict(sorted(kinds.items()))}


def _draft(writers: Writers, rows: Sequence[PromptRow], i: int, pool: Pool) -> Draft:
    """The pair of prompt i: its kind and its writers are keyed by the prompt."""
    row = rows[i]
    draw = stream(0, "kind of pair", row.prompt.id)
    shares = {k: getattr(pool, k) for k in ("samples", "early", "human", "mismatched", "degenerate")}
    kind = str(draw.choice(list(shares), p=list(shares.values())))
    one, two = (pool.temperatures[int(draw.integers(len(pool.temperatures)))] for _ in range(2))
    own = writers.samples[one][i][0]
    other = (i + 1 + int(draw.integers(len(rows) - 1))) % len(rows)
    if kind == "mismatched" and draw.random() < 0.5:
        own = list(row.demonstration)
    opponent = {
        "samples": lambda: writers.samples[two][i][1],
        "early": lambda: writers.early[i],
        "human": lambda: list(row.demonstration),
        "mismatched": lambda: (
            list(rows[other].demonstration) if draw.random() < 0.5 else writers.samples[two][other][0]
        ),
        "degenerate": lambda: _degenerate(writers, own, int(draw.integers(3))),
    }[kind]()
    first, second = (own, opponent) if draw.random() < 0.5 else (opponent, own)
    return Draft(row, kind, first, second)


def _degenerate(writers: Writers, own: list[int], which: int) -> list[int]:
    """0: the response's first two tokens over and over; 1: a line that is the same for every prompt; 2: nothing."""
    eos = writers.tokenizer.eos_token_id
    if which == 0:
        words = [t for t in own if t != eos][:2] or [eos]
        return (words * 12)[: max(8, len(own))]
    if which == 1:
        return [*writers.tokenizer.encode(FIXED_LINE, add_special_tokens=False), eos]
    return [eos]


def _probes(writers: Writers, rows: Sequence[PromptRow], tests: Sequence[int], temperature: float) -> list[Draft]:
    """For every test prompt: its response against another prompt's, the human line against a sample, it against junk.

    The side that should win stands first.
    """
    drafts: list[Draft] = []
    for place, i in enumerate(tests):
        row, own = rows[i], writers.samples[temperature][i][0]
        next_place = tests[(place + 1) % len(tests)]
        elsewhere = writers.samples[temperature][next_place][0]
        drafts.append(Draft(row, "own prompt over another, samples", own, elsewhere))
        line, other_line = list(row.demonstration), list(rows[next_place].demonstration)
        drafts.append(Draft(row, "own prompt over another, human lines", line, other_line))
        drafts.append(Draft(row, "human line over sample", list(row.demonstration), own))
        for which, name in enumerate(("repetition", "fixed line", "empty")):
            drafts.append(Draft(row, f"sample over {name}", own, _degenerate(writers, own, which)))
    return drafts


def _write(work: Workplace, writers: Writers, drafts: list[Draft], name: str) -> int:
    """Label by similarity to the human line (probes: the first side); returns how many ties a keyed coin settled."""
    ties = 0
    if name == "probes.parquet":
        label = np.ones(len(drafts))
    else:
        references = [d.row.reference or "" for d in drafts]
        decode = writers.tokenizer.batch_decode
        a = similarity(decode([d.first for d in drafts], skip_special_tokens=True), references)
        b = similarity(decode([d.second for d in drafts], skip_special_tokens=True), references)
        coin = np.array([stream(0, "tie", d.row.prompt.id).random() < 0.5 for d in drafts])
        label = np.where(a == b, coin, a > b).astype(np.float64)
        ties = int((a == b).sum())
    pairs = Pairs([d.row.prompt for d in drafts], [d.first for d in drafts], [d.second for d in drafts], label)
    ids = [f"{d.row.prompt.id}-{i}" for i, d in enumerate(drafts)]
    write_pairs(work.folder / name, pairs, ids, [d.row.split for d in drafts], [d.kind for d in drafts])
    return ties
