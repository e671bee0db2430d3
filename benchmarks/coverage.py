"""How often the analysis's nominal 95% intervals and bands contain the truth, in worlds where the truth is known.

Run: python benchmarks/coverage.py [replications] [part of a world's name]. Per world and statistic: how often the
interval contains the truth, its standard error over the estimate's standard deviation, the estimate's mean error in
these; for curves how often the band and all pointwise intervals at once contain the whole; and in worlds of ten arms
without any gap how often at least one of the nine contrasts of neighbours is claimed after Holm's correction.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from goodhart.analysis.crossfit import Curve, Draws, draw
from goodhart.analysis.envelope import Rule, evaluate, highest, hull, trajectory
from goodhart.analysis.frontier import envelope, peak
from goodhart.analysis.gap import Range, along_settings, budgets, common_range, matched, over_settings
from goodhart.analysis.interval import LEVEL, Interval
from goodhart.analysis.prior import prior
from goodhart.analysis.table import SFT, Cloud, Point
from goodhart.randomness import stream

Sweep = tuple[tuple[float, float], ...]
"""Per setting the final KL and the height of the win rate's arc above the SFT policy's."""

RESAMPLES = 100


@dataclass(frozen=True)
class World:
    """Arms with their sweeps, of which the first two are compared; in a world of one sweep the neighbours are too."""

    name: str
    arms: tuple[Sweep, ...]
    seeds: int = 3
    prompts: int = 96
    steps: int = 3
    seed_effect: float = 0.02
    prompt_effect: float = 0.15
    responses: int = 1
    first: float = 1.0
    """How many times the variance between seeds the first arm has."""

    @property
    def alike(self) -> bool:
        """Whether there are many arms and no gap between any two."""
        return len(self.arms) > 2 and len(set(self.arms)) == 1


@dataclass(frozen=True)
class Found:
    """One interval, or one curve, and the truth."""

    name: str
    interval: Interval
    truth: float
    whole: tuple[bool, bool] | None = None
    """Whether the band, and whether all pointwise intervals, contain the whole curve."""


HIGH, LOW = ((6.0, 0.30), (4.0, 0.25)), ((6.0, 0.20), (4.0, 0.15))
LONE, SWEPT = ((6.0, 0.25),), ((6.0, 0.25),) * 6
TEN = (((6.0, 0.25), (4.0, 0.20)),) * 10
REAL = {"prompts": 256, "prompt_effect": 0.3, "seed_effect": 0.015}
"""Shares of the variance as in recorded rows: 38% of it the prompt's, 1.5 points between seeds."""

WORLDS = (
    World("gap .10", (HIGH, LOW)),
    World("gap .10, 2 seeds", (HIGH, LOW), 2),
    World("gap .10, 5 seeds", (HIGH, LOW), 5),
    World("gap .10, 1 seed, no seed effect", (HIGH, LOW), 1, seed_effect=0.0),
    World("gap .10, no seed effect", (HIGH, LOW), seed_effect=0.0),
    World("gap .10, strong seeds", (HIGH, LOW), seed_effect=0.06),
    World("no gap, 6 settings against 1", (SWEPT, LONE)),
    World("no gap, 6 against 1, strong seeds", (SWEPT, LONE), seed_effect=0.06),
    World("no gap, 6 against 1, 2 seeds", (SWEPT, LONE), 2),
    World("no gap, near ties", (((6.0, 0.25), (6.0, 0.23), (6.0, 0.21)), ((6.0, 0.25), (5.0, 0.20)))),
    World("gap .10, 4 responses", (HIGH, LOW), responses=4),
    World("gap .10, first arm's seeds 3 times", (HIGH, LOW), first=3.0),
    World("ten arms, gap .10, first arm's seeds 3 times", (HIGH, *(LOW,) * 9), first=3.0, responses=4),
    World("ten alike, 3 seeds, 1 response", TEN, **REAL),
    World("ten alike, 3 seeds, 4 responses", TEN, responses=4, **REAL),
    World("ten alike, 5 seeds, 1 response", TEN, 5, **REAL),
    World("ten alike, 5 seeds, 4 responses", TEN, 5, responses=4, **REAL),
    World("ten alike, first arm's seeds 3 times", TEN, responses=4, first=3.0, **REAL),
    World("ten alike, no seed effect", TEN, responses=4, **{**REAL, "seed_effect": 0.0}),
)


def truth(world: World, sweep: Sweep) -> tuple[np.ndarray, np.ndarray]:
    """KL and win rate of every (setting, step), the SFT policy first; a setting falls after its peak at 3/4."""
    kl, value = [0.0], [0.4]
    for final, height in sweep:
        for step in range(1, world.steps + 1):
            part = step / world.steps
            kl.append(final * part)
            value.append(0.4 + height * (1 - ((part - 0.75) / 0.75) ** 2))
    return np.array(kl), np.array(value)


def sample(world: World, arm: int, easy: np.ndarray, rng: np.random.Generator) -> Cloud:
    """The share that wins of each prompt's responses: effects of prompts, of runs and, smaller, of checkpoints."""
    sweep = world.arms[arm]
    kl, value = truth(world, sweep)
    shape = (len(kl) - 1, world.seeds)
    run = np.repeat(rng.normal(size=(len(sweep), world.seeds)), world.steps, axis=0)
    effect = world.seed_effect * (world.first if arm == 0 else 1.0) ** 0.5 * (0.9 * run + 0.44 * rng.normal(size=shape))
    chance = np.clip(value[1:, None, None] + effect[..., None] + easy, 0, 1)
    wins = rng.binomial(world.responses, chance) / world.responses
    spread = 0.3 / world.responses**0.5
    noise = 1 + 0.05 * rng.normal(size=shape)[..., None] + spread * rng.normal(size=chance.shape)
    start = (rng.random(len(easy)) < np.clip(value[0] + easy, 0, 1)).astype(float)
    cubes = [
        np.concatenate([np.broadcast_to(first, (1, *chance.shape[1:])), rest])
        for first, rest in ((0.0, kl[1:, None, None] * noise), (start, wins))
    ]
    names = [Point(f"beta={i}", float(i), 1e-4, step) for i in range(len(sweep)) for step in range(1, world.steps + 1)]
    return Cloud(f"arm {arm}", (Point(SFT, None, None, 0), *names), True, cubes[0], cubes[1])


def true_curve(rule: Rule, world: World, sweep: Sweep, at: np.ndarray) -> np.ndarray:
    """A rule on the true points."""
    kl, value = (each[None] for each in truth(world, sweep))
    return evaluate(rule(kl, value, at), kl, value, at)[0]


def curve_found(name: str, curve: Curve, true: np.ndarray) -> Found:
    """The mean of a curve, and whether all of it is in its band."""
    band = bool(((curve.simultaneous.low <= true) & (true <= curve.simultaneous.high)).all())
    pointwise = all(at.low <= t <= at.high for at, t in zip(curve.pointwise, true, strict=True))
    return Found(name, curve.mean, float(true.mean()), (band, pointwise))


def replicate(world: World, number: int) -> list[Found]:
    """Everything found in one draw of a world."""
    rng = stream(number, "benchmarks/coverage", world.name)
    easy = world.prompt_effect * rng.normal(size=world.prompts)
    clouds = [sample(world, arm, easy, rng) for arm in range(len(world.arms))]
    draws = draw(world.seeds, world.prompts, RESAMPLES, number)
    known = prior(clouds, hull)
    along = prior(clouds, trajectory, among=list(along_settings(*clouds[:2])))
    pairs = range(len(clouds) - 1) if world.alike else (0,)
    found: list[Found] = []
    for i in pairs:
        first, second = clouds[i], clouds[i + 1]
        at = budgets(common_range(first, second))
        true = true_curve(hull, world, world.arms[i], at) - true_curve(hull, world, world.arms[i + 1], at)
        gap = matched(first, second, "m", draws, known)
        found.append(curve_found("gap", gap.curve, true))
        equal = list(along_settings(first, second).values())
        interval = over_settings([terms for _, terms in equal], draws, along)
        found.append(Found("equal setting", interval, equal_truth(world, i, [common for common, _ in equal])))
    return found if world.alike else [*found, *lone(world, clouds, draws)]


def equal_truth(world: World, arm: int, ranges: Sequence[Range]) -> float:
    """The true gap at equal setting of an arm and the next."""
    true: list[float] = []
    for i, common in enumerate(ranges):
        own, at = np.concatenate([[0], 1 + i * world.steps + np.arange(world.steps)]), budgets(common)
        sides = [[part[None, own] for part in truth(world, sweep)] for sweep in world.arms[arm : arm + 2]]
        levels = [evaluate(trajectory(kl, value, at), kl, value, at).mean() for kl, value in sides]
        true.append(levels[0] - levels[1])
    return float(np.mean(true))


def lone(world: World, clouds: Sequence[Cloud], draws: Draws) -> list[Found]:
    """The first arm's peak and envelope."""
    best = peak(clouds[0], draws, prior(clouds, highest)).value
    own = envelope(clouds[0], draws, prior(clouds, hull))
    true = true_curve(hull, world, world.arms[0], own.budgets)
    return [Found("peak", best, float(truth(world, world.arms[0])[1].max())), curve_found("envelope", own, true)]


def claimed(each: Sequence[Interval]) -> bool:
    """Whether Holm's correction claims any of them: whether the smallest p is at most 5% over their number."""
    p = [2 * special.stdtr(i.freedom, -abs(i.estimate) / i.se) for i in each]
    return min(p) * len(p) <= 1 - LEVEL


def shown(world: World, runs: Sequence[Sequence[Found]]) -> list[str]:
    """The lines of one world."""
    lines: list[str] = []
    for name in dict.fromkeys(found.name for found in runs[0]):
        own = [[found for found in run if found.name == name] for run in runs]
        every = [found for run in own for found in run]
        inside = np.mean([f.interval.low <= f.truth <= f.interval.high for f in every])
        error = np.array([f.interval.estimate - f.truth for f in every])
        ratio = np.sqrt(np.mean([f.interval.se**2 for f in every])) / error.std()
        freedom = np.median([f.interval.freedom for f in every])
        text = f"{world.name:46s} {name:14s} {inside:.3f}  se/sd {ratio:.2f}  df {freedom:5.1f}"
        text += f"  bias {error.mean() / error.std():+.2f} sd"
        if every[0].whole:
            text += "  whole curve: band {:.3f} pointwise {:.3f}".format(*np.mean([f.whole for f in every], axis=0))
        if world.alike:
            text += f"  claimed {np.mean([claimed([f.interval for f in run]) for run in own]):.3f}"
        lines.append(text)
    return lines


def main(replications: int, name: str) -> None:
    """Print what every world whose name has a part in it shows."""
    error = (0.95 * 0.05 / replications) ** 0.5
    print(f"{replications} replications; one standard error of a share of .95 is {error:.3f}")
    for world in WORLDS:
        if name in world.name:
            start = time.time()
            runs = [replicate(world, number) for number in range(replications)]
            print(*shown(world, runs), f"  {time.time() - start:.0f} s", sep="\n", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 500, sys.argv[2] if len(sys.argv) > 2 else "")
