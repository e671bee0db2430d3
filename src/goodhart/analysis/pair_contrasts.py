"""The contrasts of arms as classifiers: on golden pairs, along recorded streams, against their win rates."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pyarrow.compute as pc
from jaxtyping import Float

from goodhart.analysis.classification import classify, correct, correlate
from goodhart.analysis.frontier import checkpoint_points
from goodhart.analysis.hypotheses import Contrast
from goodhart.analysis.interval import Interval, Prior, around, of_mean, prior, side
from goodhart.analysis.study_tables import Estimate, Tables, settings_of
from goodhart.analysis.table import by_checkpoint, floats, of_split

Answers = Mapping[int, Mapping[str, float]]
"""By seed and prompt, an arm's mean over the golden pairs."""


def classified(tables: Tables, contrast: Contrast) -> Estimate:
    """The difference of the arms' means over golden pairs at each run's last checkpoint, by seed and prompt."""
    arms = _answers(tables, contrast)
    own = [arms.get(arm, {}) for arm in (contrast.first, contrast.second)]
    seeds = sorted(set(own[0]) & set(own[1]))
    prompts = _shared_prompts([each[seed] for each in own for seed in seeds])
    if len(prompts) < 2:
        return Estimate(None, "no pairs in common")
    one, two = (np.array([[each[s][p] for p in prompts] for s in seeds]) for each in own)
    sides = (side(one), side(two)) if contrast.first != contrast.second else (side(one - two),)
    interval = of_mean(one - two, sides, _known(arms, tables.untrained))
    return Estimate(interval, f"{len(prompts)} prompts of {contrast.split.replace('_', '-')} pairs")


def _shared_prompts(each: Sequence[Mapping[str, float]]) -> list[str]:
    return sorted(set.intersection(*(set(one) for one in each))) if each else []


def _known(arms: Mapping[str, Answers], untrained: Collection[str]) -> Prior:
    """What all trained arms show of the variance between seeds of a mean over golden pairs."""
    result: list[Float[np.ndarray, "1 seed prompt"]] = []
    for arm in sorted(set(arms) - set(untrained)):
        prompts = _shared_prompts(list(arms[arm].values()))
        if len(prompts) > 1:
            result.append(np.array([[[arms[arm][seed][p] for p in prompts] for seed in sorted(arms[arm])]]))
    return prior(result)


def _answers(tables: Tables, contrast: Contrast) -> dict[str, Answers]:
    """Every arm's answers at the last checkpoints of those of its settings that the contrast's arms share."""
    settings, table = settings_of(tables, contrast), of_split(tables.pairs, contrast.split)
    result = [(at, rows) for at, rows in by_checkpoint(table) if at.step > 0]
    result = [(at, rows) for at, rows in result if not settings or at.setting in settings]
    last: dict[tuple[str, str, int], int] = {}
    for at, _ in result:
        last[at.arm, at.setting, at.seed] = max(at.step, last.get((at.arm, at.setting, at.seed), 0))
    label, rho_w, rho_l = (floats(table, name) for name in ("label", "rho_w", "rho_l"))
    values = {"accuracy": correct(label, rho_w, rho_l), "winner shift": rho_w, "loser shift": rho_l}[contrast.statistic]
    kept = np.ones(len(label), dtype=bool) if contrast.statistic == "accuracy" else label != 0.5
    names = table.column("prompt").to_pylist()
    gathered: dict[str, dict[int, dict[str, list[float]]]] = {}
    for at, rows in result:
        if at.step == last[at.arm, at.setting, at.seed]:
            own = gathered.setdefault(at.arm, {}).setdefault(at.seed, {})
            for row in rows[kept[rows]]:
                own.setdefault(names[row], []).append(float(values[row]))
    return {arm: {seed: _means(own) for seed, own in seeds.items()} for arm, seeds in gathered.items()}


def _means(values: Mapping[str, Sequence[float]]) -> dict[str, float]:
    return {name: float(np.mean(each)) for name, each in values.items()}


def stream_accuracy(tables: Tables, contrast: Contrast) -> Estimate:
    """Agreement with golden on the recorded pairs, the first classifier's less the second's, by seed and prompt.

    V = max(V_S, V_N): of the seeds' means over S, and of all (seed, prompt) over their number N, with S - 1 degrees of
    freedom whichever is larger, because V_S is larger by chance too; with one seed V_N, with N - 1.
    """
    by: dict[str, dict[tuple[str, int, int, str], tuple[str, float]]] = {}
    for row in tables.streams.filter(pc.field("arm") == contrast.stream).to_pylist():
        pair = (row["setting"], row["seed"], row["step"], row["pair"])
        by.setdefault(row["classifier"], {})[pair] = row["prompt"], row["correct"]
    first, second = (by.get(name, {}) for name in (contrast.first, contrast.second))
    # A classifier may lack a setting of the stream, so only the pairs that both classified are compared.
    gathered: dict[tuple[int, str], list[float]] = {}
    for pair in sorted(set(first) & set(second)):
        prompt, answer = first[pair]
        gathered.setdefault((pair[1], prompt), []).append(answer - second[pair][1])
    keys = sorted(gathered)
    if len(keys) < 2:
        return Estimate(None, "the study keeps no classified stream of them")
    difference = np.array([np.mean(gathered[key]) for key in keys])
    seeds = len({seed for seed, _ in keys})
    clusters = [difference[[i for i, (seed, _) in enumerate(keys) if seed == s]] for s in sorted({s for s, _ in keys})]
    between = float(np.var([c.mean() for c in clusters], ddof=1) / seeds) if seeds > 1 else 0.0
    within = float(difference.var(ddof=1) / len(difference))
    se, freedom = float(np.sqrt(max(between, within))), float(seeds - 1 if seeds > 1 else len(keys) - 1)
    interval = around(float(difference.mean()), se, freedom, seeds=seeds, prompts=len(keys))
    return Estimate(interval, f"{len(keys)} pairs along the stream")


def correlation(tables: Tables, contrast: Contrast) -> Estimate:
    """Spearman's correlation of accuracy and win rate over the checkpoints of the arms."""
    matrix = tables.matrix("held_out")
    arms = contrast.arms
    rates = {
        at.checkpoint: at.value.estimate for arm in arms for at in checkpoint_points(matrix, arm, contrast.measure)
    }
    result = correlate(
        classify(tables.pairs, contrast.split),
        rates,
        arms=arms,
        name=" ".join(arms),
        resamples=tables.resamples,
        seed=tables.seed,
    )
    if result is None or not np.isfinite(result.low + result.high):
        return Estimate(None, "too few checkpoints")
    interval = Interval(result.estimate, result.low, result.high, result.se, float(result.runs - 1), result.runs, 0)
    return Estimate(interval, f"{result.checkpoints} checkpoints of {result.runs} runs")
