"""How often a study that is looked at several times errs, and how many seeds it takes.

Run: python benchmarks/looks.py [replications] [name filter]. Worlds are Gaussian summaries: arms with a mean, effects
of runs, of prompts and of responses; nine contrasts of one arm with each other one, or one contrast. Looks at 3, 5 and
8 seeds with shares .1, .3 and .6 of the error; an arm whose contrast is decided gets no more seeds; the size of
interest is .03. Intervals are of `goodhart.analysis.interval.combine`, families of `goodhart.analysis.looks`.

Columns: share of replications with any false difference among contrasts of no gap (family), of false differences per
such contrast (each), of found differences per contrast with a gap (power), of "no difference" per contrast (small),
of replications with any "no difference" where the gap is as large as the size of interest (false small), mean seeds of
a contrast's second arm.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np
from scipy import special

from goodhart.analysis.interval import STRONGEST, Side, combine
from goodhart.analysis.looks import Family, Spent
from goodhart.randomness import stream

SMALLEST = 0.03
ARMS = (slice(0, 1), slice(1, None))
"""The first arm of every contrast, and the second of each."""


@dataclass(frozen=True)
class World:
    """Gaps of the contrasts, and what runs, prompts and responses add to them (standard deviations)."""

    name: str
    gaps: tuple[float, ...]
    run: float = 0.015
    mixed: float = 0.42
    """Of a contrast's seed on a prompt: .42 with one response and one opponent, .32 with two and eight."""
    prompt: float = 0.09
    prompts: int = 256
    unlike: float = 1.0
    """How many times as variable the runs of the last arm are."""
    looks: tuple[int, ...] = (3, 5, 8)
    shares: tuple[float, ...] = (0.1, 0.3, 0.6)


NINE = (0.0,) * 9
WORLDS = (
    World("nine, no gap", NINE),
    World("nine, no gap, K 2 J 8", NINE, mixed=0.32),
    World("nine, no gap, K 4 J 8", NINE, mixed=0.25),
    World("nine, no gap, runs alike", NINE, run=0.0),
    World("nine, no gap, runs vary twice as much", NINE, run=0.03),
    World("nine, no gap, last arm 3 times as variable", NINE, unlike=3.0),
    World("nine, no gap, unadjusted looks", NINE, shares=(1.0, 1.0, 1.0)),
    World("nine, three gaps of .08", (0.08,) * 3 + (0.0,) * 6),
    World("nine, six gaps of .08", (0.08,) * 6 + (0.0,) * 3),
    World("nine, gaps of .05", (0.05,) * 9),
    World("nine, gaps of .08", (0.08,) * 9),
    World("nine, gaps of .03", (0.03,) * 9),
    World("nine, gaps of .03, K 4 J 8", (0.03,) * 9, mixed=0.25),
    World("one, no gap", (0.0,)),
    World("one, no gap, K 4 J 8, second arm 3 times as variable", (0.0,), mixed=0.25, unlike=3.0),
    World("nine, no gap, K 4 J 8, runs twice, last arm 3 times", NINE, run=0.03, mixed=0.25, unlike=3.0),
    World("one, no gap, unadjusted looks", (0.0,), shares=(1.0, 1.0, 1.0)),
    *(World(f"one, gap {gap:g}, K 2 J 8", (gap,), mixed=0.32) for gap in (0.0, 0.03, 0.05, 0.08)),
    World("one, gap .05, K 2 J 8, 3 seeds at once", (0.05,), mixed=0.32, looks=(3,), shares=(1.0,)),
    World("one, gap .05, K 2 J 8, 8 seeds at once", (0.05,), mixed=0.32, looks=(8,), shares=(1.0,)),
)


@dataclass(frozen=True)
class Drawn:
    """Arms by replication: seed means, mean square of the interaction over the prompts, fixed effect of the prompts."""

    means: np.ndarray
    """[replication, arm, seed]"""
    rng: np.random.Generator


def draw(world: World, replications: int) -> Drawn:
    """Seed means of the first arm, whose mean is 0, and of the others; a contrast is another arm less the first."""
    rng, arms = stream(0, "benchmarks/looks", world.name), len(world.gaps) + 1
    scale = np.array([1.0] * (arms - 1) + [world.unlike])[:, None]
    mean = np.array([0.0, *world.gaps])[:, None] + world.prompt * rng.normal(size=(replications, arms, 1)) / np.sqrt(
        2 * world.prompts
    )
    shape = (replications, arms, world.looks[-1])
    runs = world.run * scale * rng.normal(size=shape)
    return Drawn(mean + runs + world.mixed * rng.normal(size=shape) / np.sqrt(2 * world.prompts), rng)


def tests(world: World, drawn: Drawn, seeds: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two-sided p, p of a value that is not small, and estimate, per replication and contrast, with so many seeds.

    `seeds` are those that each arm has [replication, arm]; the study's prior is of all of them, and has two degrees of
    freedom: so many have two arms of three seeds.
    """
    between, mixed = sides(world, drawn, seeds)
    degrees = seeds - 1.0
    tau = np.maximum(((between - mixed) * degrees).sum(axis=1) / degrees.sum(axis=1), 0.0)[:, None]
    flat = (world.prompt**2 + world.mixed**2 / number) / world.prompts
    shape = (len(seeds), len(world.gaps))
    by_prompt = flat * drawn.rng.chisquare(world.prompts - 1, shape) / (world.prompts - 1)
    both = [Side(np.broadcast_to(between[:, at], shape), np.broadcast_to(mixed[:, at], shape)) for at in ARMS]
    noise = mixed[:, 1:] + mixed[:, :1]
    size = {"seeds": number, "prompts": world.prompts}
    parts = combine(both, noise, by_prompt, **size, variance=np.broadcast_to(tau, shape), freedom=STRONGEST)
    variance, freedom = parts.seeds + parts.prompts, parts.freedom
    means = drawn.means[..., :number].mean(axis=-1)
    estimate, se = means[:, 1:] - means[:, :1], np.sqrt(variance)
    p = 2 * special.stdtr(freedom, -np.abs(estimate) / se)
    return p, special.stdtr(freedom, (np.abs(estimate) - SMALLEST) / se), estimate


def sides(world: World, drawn: Drawn, seeds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The variance of each arm's seed means, and its interaction's mean square over the prompts, with its own seeds."""
    between = np.zeros(seeds.shape)
    for number in np.unique(seeds):
        between = np.where(seeds == number, drawn.means[..., :number].var(axis=-1, ddof=1), between)
    degrees = (seeds - 1) * (world.prompts - 1)
    return between, world.mixed**2 / (2 * world.prompts) * drawn.rng.chisquare(degrees) / degrees


def follow(world: World, replications: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per replication and contrast: a difference found (+1, -1, 0), found small, and seeds of the second arm."""
    drawn = draw(world, replications)
    shape = (replications, len(world.gaps))
    active = np.ones(shape, dtype=bool)
    seeds = np.full((replications, len(world.gaps) + 1), world.looks[0])
    found, small = np.zeros(shape), np.zeros(shape, dtype=bool)
    spent: list[list[list[tuple[Spent, Spent, float]]]] = [[[] for _ in world.gaps] for _ in range(replications)]
    for look, (number, share) in enumerate(zip(world.looks, world.shares, strict=True)):
        seeds[:, 1:] = np.where(active, number, seeds[:, 1:])
        seeds[:, 0] = np.where(active.any(axis=1), number, seeds[:, 0])
        p, within, estimate = tests(world, drawn, seeds, number)
        for i in np.flatnonzero(active.any(axis=1)):
            for j in np.flatnonzero(active[i]):
                one, two = (Spent(look, share, float(each[i, j])) for each in (p, within))
                spent[i][j].append((one, two, float(estimate[i, j])))
            found[i], small[i] = settle(spent[i])
        active = (found == 0) & ~small
    return found, small, seeds[:, 1:]


def settle(spent: list[list[tuple[Spent, Spent, float]]]) -> tuple[np.ndarray, np.ndarray]:
    """The verdicts of one study, as `rulings.rule` has them."""
    apart = Family({j: [one for one, _, _ in own] for j, own in enumerate(spent)}).outcomes()
    alike = Family({j: [two for _, two, _ in own] for j, own in enumerate(spent)}).outcomes()
    sign = [np.sign(own[apart[j].spent.look][2]) if apart[j].decided else 0.0 for j, own in enumerate(spent)]
    small = [alike[j].decided and not apart[j].decided for j in range(len(spent))]
    return np.array(sign), np.array(small)


def line(world: World, replications: int) -> str:
    """A world's errors, its power, and the seeds that it takes."""
    found, small, seeds = follow(world, replications)
    gaps = np.array(world.gaps)
    none, some, large = gaps == 0, gaps > 0, gaps >= SMALLEST
    cells = [
        ("family", (found[:, none] != 0).any(axis=1).mean() if none.any() else np.nan),
        ("each", (found[:, none] != 0).mean() if none.any() else np.nan),
        ("power", (found[:, some] > 0).mean() if some.any() else np.nan),
        ("small", small.mean()),
        ("false small", small[:, large].any(axis=1).mean() if large.any() else np.nan),
        ("seeds", seeds.mean()),
    ]
    return f"{world.name:54s} " + "  ".join(f"{name} {value:.3f}" for name, value in cells)


def main(replications: int, wanted: str = "") -> None:
    """Print a line for every world."""
    for world in WORLDS:
        if wanted in world.name:
            print(line(world, replications), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5000, sys.argv[2] if len(sys.argv) > 2 else "")
