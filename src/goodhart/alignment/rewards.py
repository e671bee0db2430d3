"""Rewards and marks: supervision of single responses, and what is chosen of several by it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Float

from goodhart.alignment.batch import Batch
from goodhart.alignment.judge import PairJudge
from goodhart.alignment.labellers import Labeller, both_orders

Selection = Literal["all", "best and worst", "best"]
"""What of a prompt's responses is learnt from: all of them, a pair of the best and the worst, or the best alone."""


def judged(judge: PairJudge, batch: Batch) -> Float[np.ndarray, "prompt response"]:
    """A number for each response by which those to one prompt are ordered.

    Of a scalar judge its score in logits; else the mean over the prompt's other responses of the probability to be
    preferred, both orders asked. Raises ValueError for a single response and a judge that compares.
    """
    read = batch.whole
    texts = [list(column) for column in zip(*read.responses, strict=True)]
    if judge.scalar:
        return judge.alone(read.prompt_tokens, texts)
    if len(texts) < 2:
        raise ValueError("a judge that compares two responses gives no reward to a single one")
    won = np.zeros((len(batch), len(texts)))
    for i in range(len(texts)):
        for j in range(i + 1, len(texts)):
            first = both_orders(judge.prefer(Batch.of_pairs(read.prompts, texts[i], texts[j])), "soft")
            won[:, i] += first
            won[:, j] += 1 - first
    return won / (len(texts) - 1)


@dataclass(frozen=True, slots=True)
class JudgeRewards:
    """What a judge says of each response."""

    judge: PairJudge

    def label(self, batch: Batch, step: int) -> Batch:  # noqa: ARG002 - nothing is drawn
        """The responses with rewards (`judged`)."""
        return replace(batch, reward=judged(self.judge, batch))


@dataclass(frozen=True, slots=True)
class Selected:
    """Of several responses those that a judge puts first or last."""

    judge: PairJudge
    selection: Selection

    def label(self, batch: Batch, step: int) -> Batch:  # noqa: ARG002 - nothing is drawn
        """`best and worst`: pairs whose first is preferred, ties labelled 1/2; `best`: one response for each prompt.

        Of equals the earlier is the best, and the later the worst.
        """
        reward = judged(self.judge, batch)
        best, last = reward.argmax(1), reward.shape[1] - 1
        worst = last - reward[:, ::-1].argmin(1)
        if self.selection == "best":
            return replace(batch, reward=reward).columns(best[:, None].tolist())
        tied = np.take_along_axis(reward, best[:, None], 1) == np.take_along_axis(reward, worst[:, None], 1)
        pairs = batch.columns(np.stack([best, worst], axis=1).tolist())
        return pairs.labelled(np.where(tied[:, 0], 0.5, 1.0))


@dataclass(frozen=True, slots=True)
class Marks:
    """Pairs with labels as single responses that are good or bad: the preferred one is good, the other is not."""

    labeller: Labeller

    def label(self, batch: Batch, step: int) -> Batch:
        """Mark = (p, 1 - p), p the label. Raises ValueError for what has no label."""
        labelled = self.labeller.label(batch, step)
        if labelled.label is None:
            raise ValueError("marks are made of labels, and the responses have none")
        return replace(labelled, label=None, mark=np.stack([labelled.label, 1 - labelled.label], axis=1))


@dataclass(frozen=True, slots=True)
class LabelRewards:
    """Pairs with labels as single responses with rewards of mean 0 and, with hard labels, variance 1."""

    labeller: Labeller

    def label(self, batch: Batch, step: int) -> Batch:
        """Reward = (2 p - 1, 1 - 2 p), p the label. Raises ValueError for what has no label."""
        labelled = self.labeller.label(batch, step)
        if labelled.label is None:
            raise ValueError("rewards are made of labels here, and the responses have none")
        gap = 2 * labelled.label - 1
        return replace(labelled, label=None, reward=np.stack([gap, -gap], axis=1))
