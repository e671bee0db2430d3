"""How often the analysis's nominal 95% intervals contain the truth, in worlds where the truth is known.

Run: python benchmarks/coverage.py [replications]. Each line is a world: coverage of the gap at matched KL, of the gap
at equal setting, and of the first arm's peak; mean error of each estimate in units of its standard deviation.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np

from goodhart.analysis.crossfit import Term, curve, draw
from goodhart.analysis.envelope import Rule, evaluate, highest, hull, trajectory
from goodhart.analysis.gap import at_equal_settings, budgets, common_range, matched
from goodhart.analysis.table import SFT, Cloud, Point
from goodhart.randomness import stream


@dataclass(frozen=True)
class World:
    """Two arms: per setting the final KL and the height of the win rate's arc above the SFT policy's."""

    name: str
    first: tuple[tuple[float, float], ...]
    second: tuple[tuple[float, float], ...]
    seeds: int = 3
    prompts: int = 96
    steps: int = 3
    seed_effect: float = 0.02
    prompt_effect: float = 0.15


WORLDS = (
    World("gap .10", ((6.0, 0.30), (4.0, 0.25)), ((6.0, 0.20), (4.0, 0.15))),
    World("gap .10, 2 seeds", ((6.0, 0.30), (4.0, 0.25)), ((6.0, 0.20), (4.0, 0.15)), seeds=2),
    World("gap .10, 5 seeds", ((6.0, 0.30), (4.0, 0.25)), ((6.0, 0.20), (4.0, 0.15)), seeds=5),
    World(
        "gap .10, 1 seed, no seed effect", ((6.0, 0.30), (4.0, 0.25)), ((6.0, 0.20), (4.0, 0.15)), 1, seed_effect=0.0
    ),
    World("gap .10, no seed effect", ((6.0, 0.30), (4.0, 0.25)), ((6.0, 0.20), (4.0, 0.15)), seed_effect=0.0),
    World("gap .10, strong seeds", ((6.0, 0.30), (4.0, 0.25)), ((6.0, 0.20), (4.0, 0.15)), seed_effect=0.06),
    World("no gap, 6 settings against 1", ((6.0, 0.25),) * 6, ((6.0, 0.25),)),
    World("no gap, 6 against 1, strong seeds", ((6.0, 0.25),) * 6, ((6.0, 0.25),), seed_effect=0.06),
    World("no gap, 6 against 1, 2 seeds", ((6.0, 0.25),) * 6, ((6.0, 0.25),), seeds=2),
    World("no gap, near ties", ((6.0, 0.25), (6.0, 0.23), (6.0, 0.21)), ((6.0, 0.25), (5.0, 0.20))),
)


def truth(world: World, sweep: tuple[tuple[float, float], ...]) -> tuple[np.ndarray, np.ndarray]:
    """KL and win rate of every (setting, step), the SFT policy first; a setting falls after its peak at 3/4."""
    kl, value = [0.0], [0.4]
    for final, height in sweep:
        for step in range(1, world.steps + 1):
            part = step / world.steps
            kl.append(final * part)
            value.append(0.4 + height * (1 - ((part - 0.75) / 0.75) ** 2))
    return np.array(kl), np.array(value)


def sample(
    world: World, sweep: tuple[tuple[float, float], ...], arm: str, easy: np.ndarray, rng: np.random.Generator
) -> Cloud:
    """A cloud of Bernoulli wins: prompts shared by everything, an effect per run and a smaller one per checkpoint."""
    kl, value = truth(world, sweep)
    shape = (len(kl) - 1, world.seeds)
    run = np.repeat(rng.normal(size=(len(sweep), world.seeds)), world.steps, axis=0)
    effect = world.seed_effect * (0.9 * run + 0.44 * rng.normal(size=shape))
    chance = np.clip(value[1:, None, None] + effect[..., None] + easy, 0, 1)
    wins = (rng.random(chance.shape) < chance).astype(float)
    noise = 1 + 0.05 * rng.normal(size=shape)[..., None] + 0.3 * rng.normal(size=chance.shape)
    start = (rng.random(len(easy)) < np.clip(value[0] + easy, 0, 1)).astype(float)
    cubes = [
        np.concatenate([np.broadcast_to(first, (1, *chance.shape[1:])), rest])
        for first, rest in ((0.0, kl[1:, None, None] * noise), (start, wins))
    ]
    names = [Point(f"beta={i}", float(i), 1e-4, step) for i in range(len(sweep)) for step in range(1, world.steps + 1)]
    return Cloud(arm, (Point(SFT, None, None, 0), *names), True, cubes[0], cubes[1])


def best(rule: Rule, kl: np.ndarray, value: np.ndarray, at: np.ndarray) -> float:
    """The true value of a rule, averaged over budgets."""
    return float(evaluate(rule(kl[None], value[None], at), kl[None], value[None], at).mean())


def replicate(world: World, number: int, resamples: int) -> list[tuple[float, float, float, float]]:
    """(estimate - truth, low - truth, high - truth, se) of gap, gap at equal setting and peak."""
    rng = stream(number, "benchmarks/coverage", world.name)
    easy = world.prompt_effect * rng.normal(size=world.prompts)
    first, second = (
        sample(world, sweep, arm, easy, rng) for sweep, arm in ((world.first, "online"), (world.second, "offline"))
    )
    (kl1, v1), (kl2, v2) = truth(world, world.first), truth(world, world.second)
    draws = draw(world.seeds, world.prompts, resamples, number)
    found = []
    at = budgets(common_range(first, second))
    found.append((matched(first, second, "m", draws).mean, best(hull, kl1, v1, at) - best(hull, kl2, v2, at)))
    equal, true = at_equal_settings(first, second, "m", draws), []
    for i, item in enumerate(equal.each):
        own = np.concatenate([[0], 1 + i * world.steps + np.arange(world.steps)])
        at = item.gap.curve.budgets
        true.append(best(trajectory, kl1[own], v1[own], at) - best(trajectory, kl2[own], v2[own], at))
    found.append((equal.mean, float(np.mean(true))))
    peak = curve([Term(first, highest, first.trained, np.zeros(1), 1.0)], draws).mean
    found.append((peak, float(v1.max())))
    return [(i.estimate - t, i.low - t, i.high - t, i.se) for i, t in found]


def main(replications: int, resamples: int = 200) -> None:
    """Print the coverage of every world with its binomial standard error."""
    for world in WORLDS:
        rows = np.array([replicate(world, number, resamples) for number in range(replications)])
        inside = ((rows[..., 1] <= 0) & (rows[..., 2] >= 0)).mean(axis=0)
        bias = rows[..., 0].mean(axis=0) / rows[..., 0].std(axis=0)
        ratio = rows[..., 3].mean(axis=0) / rows[..., 0].std(axis=0)
        text = "  ".join(
            f"{name} {c:.3f}±{(c * (1 - c) / replications) ** 0.5:.3f} (bias {b:+.2f} sd, se/sd {r:.2f})"
            for name, c, b, r in zip(("gap", "equal setting", "peak"), inside, bias, ratio, strict=True)
        )
        print(f"{world.name:36s} {text}", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1500)
