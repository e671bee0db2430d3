"""What losses read of a whole batch: computed before the first gradient, so that no micro-batch changes it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float

from goodhart.alignment.batch import Batch
from goodhart.tasks.prompts import Prompt
from goodhart.training.alignment import Facts, Known, Statistic, score


def distance(facts: Facts) -> Mapping[str, np.ndarray]:
    """KTO's z = max(0, mean of log policy(y'|x) - log reference(y'|x)) in nats, y' the response to the next prompt.

    arXiv 2402.01306. Each prompt has the same number.
    """
    rows = facts.batch.responses
    elsewhere = Batch(facts.batch.prompts, [*rows[1:], *rows[:1]])
    apart = score(facts.policy, elsewhere) - score(facts.reference, elsewhere)
    return {"kl": np.full(len(rows), max(0.0, float(apart.mean())))}


def baseline(parameters: Mapping[str, float]) -> Statistic:
    """REINFORCE's baseline: the mean over other prompts' responses of R = r - kl (log policy - log reference)."""

    def of(facts: Facts) -> Mapping[str, np.ndarray]:
        if facts.batch.reward is None:
            raise ValueError("a baseline is of rewards, and the batch has none")
        gain = facts.batch.reward - parameters["kl"] * (_written(facts) - facts.known)
        return {"baseline": others(gain.mean(1), facts.batch.prompts)}

    return of


def bond(facts: Facts) -> Mapping[str, np.ndarray]:
    """J-BOND's return R = r_J - rho(y) and its baseline, the mean of the other prompts' R (arXiv 2407.14622).

    r_J = -log 16 where the first response is worse than both of the anchor's, and 0 elsewhere.
    """
    reward = facts.batch.reward
    if reward is None:
        raise ValueError("J-BOND compares rewards, and the batch has none")
    worse = reward[:, 0] < reward[:, 1:].min(1)
    gain = np.where(worse, -math.log(16), 0.0) - (_written(facts) - facts.known)[:, 0]
    return {"return": gain, "baseline": others(gain, facts.batch.prompts)}


def quantile(facts: Facts) -> Mapping[str, np.ndarray]:
    """BOND's return R = (N - 1) log p - rho(y), and its baseline, the mean of the other prompts' R (arXiv 2407.14622).

    p = (1 + the number of the anchor's N responses that are no better than y) / (1 + N).
    """
    reward = facts.batch.reward
    if reward is None:
        raise ValueError("BOND compares rewards, and the batch has none")
    number = reward.shape[1] - 1
    p = (1 + (reward[:, 1:] <= reward[:, :1]).sum(1)) / (1 + number)
    gain = (number - 1) * np.log(p) - (_written(facts) - facts.known)[:, 0]
    return {"return": gain, "baseline": others(gain, facts.batch.prompts)}


def others(values: Float[np.ndarray, " row"], prompts: Sequence[Prompt]) -> Float[np.ndarray, " row"]:
    """For each row of a batch the mean over the rows of other prompts; 0 where there are none."""
    _, which = np.unique([prompt.id for prompt in prompts], return_inverse=True)
    number = np.bincount(which)[which]
    # a row's own value would do for rows that were drawn alone, but an enumerated prompt's rows are one draw
    apart = values.sum() - (values if number.max() == 1 else np.bincount(which, values)[which])
    return np.where(number < len(values), apart / np.maximum(len(values) - number, 1), 0.0)


def _written(facts: Facts) -> Known:
    """Log writer(y|x): as it is known, else by the policy now."""
    writer = facts.batch.writer
    if writer is not None and not np.isnan(writer).any():
        return writer
    now = score(facts.policy, facts.batch)
    return now if writer is None else np.where(np.isnan(writer), now, writer)


STATISTICS: dict[str, Callable[[Mapping[str, float]], Statistic]] = {
    "kl": lambda _: distance,
    "baseline": baseline,
    "bond": lambda _: bond,
    "quantile": lambda _: quantile,
}
"""By the name that a loss asks for them by, given the method's parameters."""
