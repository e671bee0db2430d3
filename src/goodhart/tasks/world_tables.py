"""Worlds that are drawn: preference matrices by kind, each a function of the world's seed and the prompt's number."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Float

from goodhart.randomness import stream
from goodhart.tasks.tables import Law, Tables, Wins, log_win_rate
from goodhart.tasks.world import CSV, World
from goodhart.tasks.world_file import read_tables

Matrix = Float[np.ndarray, "response response"]
"""p(row preferred to column) for one prompt."""
_CONCENTRATION = 2.0
"""Of the Dirichlet law that references are drawn from."""


def tables(world: World) -> Tables:
    """The arrays of a world. Raises GoodhartError for a file that cannot be read."""
    result = read_tables(world) if world.kind == CSV else _drawn(world)
    reference = result.reference if world.reference == "column" else _reference(world, result.wins.shape[:2])
    result = replace(result, reference=reference)
    return result if world.reward == "given" else replace(result, reward=log_win_rate(result.wins, reference))


def _reference(world: World, shape: tuple[int, ...]) -> Law:
    prompts, responses = shape
    if world.reference == "uniform":
        return np.full((prompts, responses), 1 / responses)
    concentration = np.full(responses, _CONCENTRATION)
    return np.stack([stream(world.seed, "tabular reference", i).dirichlet(concentration) for i in range(prompts)])


def _drawn(world: World) -> Tables:
    rewards, wins = np.zeros((world.prompts, world.responses)), list[Matrix]()
    for i in range(world.prompts):
        draw = stream(world.seed, "tabular world", world.kind, i)
        if world.kind == "transitive":
            rewards[i] = world.spread * draw.standard_normal(world.responses)
            wins.append(_bradley_terry(rewards[i]))
        else:
            make = _cyclic if world.kind == "cyclic" else _condorcet
            order = draw.permutation(world.responses)
            wins.append(make(world.responses, world.spread, draw)[np.ix_(order, order)])
    names = tuple(f"response {i}" for i in range(world.responses))
    prompts = tuple(f"{world.kind} {i} of seed {world.seed}" for i in range(world.prompts))
    stacked: Wins = np.stack(wins)
    return Tables(prompts, names, np.full(rewards.shape, 1 / world.responses), stacked, rewards)


def _logistic(logits: Matrix) -> Matrix:
    return 1 / (1 + np.exp(-logits))


def _bradley_terry(reward: Float[np.ndarray, " response"]) -> Matrix:
    """p(i > j) = sigmoid(r_i - r_j)."""
    return _antisymmetric(reward[:, None] - reward[None, :])


def _antisymmetric(logits: Matrix) -> Matrix:
    """Probabilities of the upper triangle's logits; below the diagonal what is left of 1, to the last bit."""
    upper = np.triu(_logistic(logits), 1)
    return upper + np.tril(1 - upper.T, -1) + np.eye(len(logits)) / 2


def _cyclic(size: int, spread: float, draw: np.random.Generator) -> Matrix:
    """Rock, paper, scissors: i beats the (size - 1) // 2 responses behind it by a logit of spread (0.5 + u).

    Of an even number the one on the other side of the circle is a tie.
    """
    logits = np.zeros((size, size))
    for i in range(size):
        for ahead in range(1, (size - 1) // 2 + 1):
            j = (i + ahead) % size
            logits[i, j] = spread * (0.5 + draw.random())
            logits[j, i] = -logits[i, j]
    return _antisymmetric(logits)


def _condorcet(size: int, spread: float, draw: np.random.Generator) -> Matrix:
    """Response 0 beats each other by a logit of spread (0.2 + 0.2 u), response 1 the rest by spread (2 + u).

    So 0 is the Condorcet winner, and 1 has the highest mean win rate (Borda). The rest differ by a logit within
    spread / 10 of 0.
    """
    logits = spread * draw.uniform(-0.1, 0.1, (size, size))
    logits[0, 1:] = spread * (0.2 + 0.2 * draw.random(size - 1))
    logits[1, 2:] = spread * (2 + draw.random(size - 2))
    return _antisymmetric(logits)
