"""The recipes for initial pairs of a built-in task: who writes them, and which side is preferred."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from goodhart.alignment.batch import Batch
from goodhart.alignment.pair_table import write_pairs
from goodhart.cells.workplace import Workplace
from goodhart.compute.shards import in_parts
from goodhart.errors import GoodhartError
from goodhart.models.checkpoint import load_model, load_tokenizer
from goodhart.randomness import permutation, stream
from goodhart.recipes.pool_kinds import kinds
from goodhart.recipes.settings import Pool, Task
from goodhart.sampling.keyed import Draws, KeyedSampler
from goodhart.tasks.prompt_table import HeldOut, PromptRow, held_out_number, read_held_out, read_train
from goodhart.tasks.similarity import similarity
from goodhart.tasks.text_task import TEXT_TASKS


@dataclass(frozen=True, slots=True)
class Plan:
    """What a prompt's pair will be, decided by keyed draws before anything is sampled."""

    row: PromptRow
    split: str
    kind: str
    temperatures: tuple[float, float]
    """Of the prompt's own sample, and of a second one."""
    other: int
    """Place of the prompt that a mismatched response is taken from."""
    coins: tuple[float, float, float]
    """Whether the own side is the human line, whether the other prompt's is, and whether own stands first."""
    junk: int
    """Which degenerate response."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A pair before it is labelled."""

    row: PromptRow
    split: str
    kind: str
    first: list[int]
    second: list[int]


def _plans(rows: Sequence[PromptRow], split: str, pool: Pool) -> list[Plan]:
    return [_plan(rows, place, split, kind, pool) for place, kind in enumerate(kinds(pool, len(rows)))]


def _plan(rows: Sequence[PromptRow], place: int, split: str, kind: str, pool: Pool) -> Plan:
    row = rows[place]
    draw = stream(0, "initial pair", row.prompt.id)
    one, two = (pool.temperatures[int(draw.integers(len(pool.temperatures)))] for _ in range(2))
    other = (place + 1 + int(draw.integers(max(1, len(rows) - 1)))) % len(rows)
    coins = (float(draw.random()), float(draw.random()), float(draw.random()))
    return Plan(row, split, kind, (one, two), other, coins, int(draw.integers(3)))


class Writers:
    """The samples that the plans ask for, and no others."""

    def __init__(self, work: Workplace, task: Task, plans: Sequence[Plan]) -> None:
        sft = work.inputs["sft"]
        self.fixed_line = TEXT_TASKS[task.kind].fixed_line
        self.tokenizer = load_tokenizer(sft / "final")
        self.sampler = KeyedSampler(self.tokenizer.eos_token_id, self.tokenizer.pad_token_id, task.max_response)
        model = in_parts(load_model(sft / "final"))
        everyone = range(len(plans))
        work.say(0, 3, "first samples")
        self.first = self._by_temperature(model, plans, everyone, 0)
        work.say(1, 3, "second samples")
        self.second = self._by_temperature(model, plans, [i for i in everyone if plans[i].kind == "samples"], 1)
        work.say(2, 3, "samples of the early checkpoint")
        early = [i for i in everyone if plans[i].kind == "early"]
        self.early = self._samples(in_parts(load_model(sft / "early")), plans, early, 0, 1.0, "initial pairs, early")

    def _by_temperature(
        self, model: Any, plans: Sequence[Plan], places: Sequence[int], sample: int
    ) -> dict[int, list[int]]:
        result: dict[int, list[int]] = {}
        for temperature in sorted({plans[i].temperatures[sample] for i in places}):
            chosen = [i for i in places if plans[i].temperatures[sample] == temperature]
            result |= self._samples(model, plans, chosen, sample, temperature, "initial pairs")
        return result

    def _samples(
        self, model: Any, plans: Sequence[Plan], places: Sequence[int], sample: int, temperature: float, purpose: str
    ) -> dict[int, list[int]]:
        prompts = [plans[i].row.prompt for i in places]
        draws = Draws(0, purpose, [p.number for p in prompts], sample)
        sampler = replace(self.sampler, temperature=temperature)
        drawn = sampler(model, [p.tokens for p in prompts], 1, draws) if prompts else []
        return {i: row[0] for i, row in zip(places, drawn, strict=True)}


def initial_pairs(work: Workplace) -> dict[str, Any]:
    """`pairs.parquet`: the pairs that train the golden model (train) and that stop it (validation)."""
    pool, table = work.setting(Pool, "pool"), work.inputs["prompts"] / "prompts.parquet"
    train = read_train(table)
    if len(train) < pool.pairs:
        raise GoodhartError(f"pool.pairs is {pool.pairs}, but there are {len(train)} training prompts", "lower it")
    order = permutation(len(train), 0, "prompts of initial pairs")[: pool.pairs]
    validation = read_held_out(table, HeldOut(int(work.settings["validation"])).to_validate)
    plans = _plans([train[int(i)] for i in order], "train", pool)
    plans += _plans(validation, "validation", pool)
    work.watch.start()
    writers = Writers(work, work.setting(Task, "task"), plans)
    work.watch.lap("generate")
    return _labelled(work, writers, plans)


def test_pairs(work: Workplace) -> dict[str, Any]:
    """`pairs.parquet` and `probes.parquet`: pairs that only measure preference models, one kind of opponent a probe."""
    pool, table = work.setting(Pool, "pool"), work.inputs["prompts"] / "prompts.parquet"
    held_out = HeldOut(int(work.settings["validation"]), 0, int(work.settings["test"]))
    plans = _plans(read_held_out(table, held_out.to_test(held_out_number(table))), "test", pool)
    work.watch.start()
    writers = Writers(work, work.setting(Task, "task"), plans)
    work.watch.lap("generate")
    _write(work, writers, _probes(writers, plans), "probes.parquet")
    return _labelled(work, writers, plans)


def _labelled(work: Workplace, writers: Writers, plans: Sequence[Plan]) -> dict[str, Any]:
    drafts = [_draft(writers, plans, i) for i in range(len(plans))]
    ties = _write(work, writers, drafts, "pairs.parquet")
    counts = Counter(f"{d.split} {d.kind}" for d in drafts)
    return {"ties settled by a coin": ties, "kinds": dict(sorted(counts.items()))}


def _draft(writers: Writers, plans: Sequence[Plan], place: int) -> Draft:
    plan = plans[place]
    response = writers.first[place]
    if plan.kind == "samples":
        opponent = writers.second[place]
    elif plan.kind == "early":
        opponent = writers.early[place]
    elif plan.kind == "human":
        opponent = list(plan.row.demonstration)
    elif plan.kind == "mismatched":
        response = list(plan.row.demonstration) if plan.coins[0] < 0.5 else response
        elsewhere = plans[plan.other].row.demonstration
        opponent = list(elsewhere) if plan.coins[1] < 0.5 else writers.first[plan.other]
    else:
        opponent = _degenerate(writers, response, plan.junk)
    first, second = (response, opponent) if plan.coins[2] < 0.5 else (opponent, response)
    return Draft(plan.row, plan.split, plan.kind, first, second)


def _degenerate(writers: Writers, response: list[int], which: int) -> list[int]:
    """0: the response's first two tokens over and over; 1: a line that is the same for every prompt; 2: nothing."""
    eos = writers.tokenizer.eos_token_id
    if which == 0:
        words = [t for t in response if t != eos][:2] or [eos]
        return (words * 12)[: max(8, len(response))]
    if which == 1:
        return [*writers.tokenizer.encode(writers.fixed_line, add_special_tokens=False), eos]
    return [eos]


def _probes(writers: Writers, plans: Sequence[Plan]) -> list[Draft]:
    """For every prompt: its response against another prompt's, the human line against a sample, it against junk.

    The side that should win stands first.
    """
    drafts: list[Draft] = []
    for place, plan in enumerate(plans):
        elsewhere = (place + 1) % len(plans)
        sample, line, other = (
            writers.first[place],
            list(plan.row.demonstration),
            list(plans[elsewhere].row.demonstration),
        )
        opponents = {
            "own prompt over another, samples": (sample, writers.first[elsewhere]),
            "own prompt over another, human lines": (line, other),
            "human line over sample": (line, sample),
        }
        for junk, name in enumerate(("repetition", "fixed line", "empty")):
            opponents[f"sample over {name}"] = (sample, _degenerate(writers, sample, junk))
        drafts += [Draft(plan.row, plan.split, kind, *sides) for kind, sides in opponents.items()]
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
    pairs = Batch.of_pairs(
        [d.row.prompt for d in drafts], [d.first for d in drafts], [d.second for d in drafts], label=label
    )
    ids = [f"{d.row.prompt.id}-{i}" for i, d in enumerate(drafts)]
    write_pairs(work.folder / name, pairs, ids, [d.split for d in drafts], [d.kind for d in drafts])
    return ties
