"""Training of preference models, and how well they judge."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch.nn.functional import binary_cross_entropy_with_logits

from goodhart.alignment.batch import Batch
from goodhart.alignment.judge import ModelJudge, PairJudge
from goodhart.alignment.labellers import Judge, both_orders
from goodhart.alignment.sources import places
from goodhart.compute.threads import descend
from goodhart.models.packing import cuts
from goodhart.models.preference import PreferenceModel
from goodhart.training.marks import auc
from goodhart.training.optimiser import Descent
from goodhart.training.settings import Preference

CENTRED = 256
"""Marks whose scores say where the offset of a preference model begins."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """How a preference model does on labelled pairs, or on marks."""

    pairs: int
    """Or marks."""
    loss: float
    """Mean negative log-likelihood of the labels over both orders, nats; of marks, their own."""
    accuracy: float
    """Share of pairs in which the sign over both orders agrees with the label, ties one half; of marks, the AUC."""
    flips: float
    """Share of pairs in which the two orders alone would name different winners."""


def judge_quality(model: PreferenceModel, pairs: Batch) -> tuple[Judgement, Float[np.ndarray, " pair"]]:
    """The quality on labelled pairs, and for each pair whether the judge agreed (ties one half)."""
    return quality_of(ModelJudge(model), pairs)


def quality_of(judge: Judge, pairs: Batch) -> tuple[Judgement, Float[np.ndarray, " pair"]]:
    """The same of any judge."""
    assert pairs.label is not None
    r = np.clip(judge.prefer(pairs), 1e-12, 1 - 1e-12)
    p = pairs.label
    loss = -(p * np.log(r[:, 0]) + (1 - p) * np.log1p(-r[:, 0]))
    loss = (loss - ((1 - p) * np.log(r[:, 1]) + p * np.log1p(-r[:, 1]))) / 2
    verdict, truth = both_orders(r, "hard"), np.sign(p - 0.5)
    agreed = (np.sign(verdict - 0.5) * truth + 1) / 2
    flips = (r[:, 0] - 0.5) * (r[:, 1] - 0.5) > 0  # an undecided order names no winner
    return Judgement(len(p), float(loss.mean()), float(agreed.mean()), float(flips.mean())), agreed


def quality_of_marks(judge: PairJudge, marks: Batch) -> Judgement:
    """The same on marks, by a judge with a score for each response. Raises ValueError without good or without bad."""
    good, scores = _alone(judge, marks)
    loss = np.logaddexp(0, scores) - good * scores
    return Judgement(len(good), float(loss.mean()), auc(scores, good), 0.0)


def _alone(judge: PairJudge, marks: Batch) -> tuple[Float[np.ndarray, " mark"], Float[np.ndarray, " mark"]]:
    """(marks, scores in logits) of marked responses."""
    assert marks.mark is not None
    return marks.mark[:, 0], judge.alone(marks.prompt_tokens, [[row[0] for row in marks.responses]])[:, 0]


def fit(
    model: PreferenceModel,
    data: Batch,
    validation: Batch,
    settings: Preference,
    seed: int,
    say: Callable[[dict[str, int | float]], None],
) -> list[dict[str, int | float]]:
    """Maximise E[1/2 log r(x,yw,yl) + 1/2 log(1 - r(x,yl,yw))] (arXiv 2405.08448, equation 5).

    Both orders of every pair stand in its batch: drawing one of them at random has the same expectation, but the
    noise of the draw teaches a small model to prefer a place.

    Of marks (`Batch.mark`, one response a prompt) it is E[m log p + (1 - m) log(1 - p)] with p = sigmoid(s(x, y)), the
    probability that a response is good. A mark says so of s = r - b, and what compares reads differences of r, from
    which the offset b is gone: sigmoid(s(x, y1) - s(x, y2)) is the probability that y1 is the good one of two, if one
    of them is and marks are given independently. b begins where half of the responses are above the share of good ones.

    Stops at the validation plateau by the rule of `Preference`; the model ends with the weights
    of the lowest validation loss. Returns the looks at the validation set, step 0 included.
    """
    if data.mark is not None:
        _centre(model, data[:CENTRED])
    descent = Descent(
        model.parameters(), settings.optimisation, settings.steps, model.head.parameters(), settings.head_factor
    )
    looks = [_look(model, validation, 0)]
    best, kept = looks[0]["loss"], _trained(model)
    since = 0
    for step in range(settings.steps):
        loss, norm = _descend(model, data, descent, settings, seed, step)
        say({"step": step + 1, "loss": loss, "gradient_norm": norm})
        if (step + 1) % settings.check_every and step + 1 < settings.steps:
            continue
        looks.append(_look(model, validation, step + 1))
        say(looks[-1])
        if looks[-1]["loss"] < best:
            best, kept, since = looks[-1]["loss"], _trained(model), 0
        else:
            since += 1
        if since >= settings.patience:
            break
    model.load_state_dict(kept, strict=False)
    model.eval()
    return looks


def _centre(model: PreferenceModel, marks: Batch) -> None:
    """Lets the median response be good with the probability that responses are; the head has seen no mark before."""
    model.eval()
    good, scores = _alone(ModelJudge(model), marks)
    share = np.clip(good.mean(), 0.5 / len(good), 1 - 0.5 / len(good))
    with torch.no_grad():
        model.head.bias.add_(float(np.log(share / (1 - share)) - np.median(scores)))


def _trained(model: PreferenceModel) -> dict[str, torch.Tensor]:
    """A copy of its state, but for the weights below an adapter, which rest."""
    resting = {id(p) for p in model.parameters() if not p.requires_grad}
    state = model.state_dict(keep_vars=True).items()
    return {name: tensor.detach().clone() for name, tensor in state if id(tensor) not in resting}


def _look(model: PreferenceModel, validation: Batch, step: int) -> dict[str, int | float]:
    model.eval()
    marks = validation.mark is not None
    result = quality_of_marks(ModelJudge(model), validation) if marks else judge_quality(model, validation)[0]
    return {"step": step, "loss": result.loss, "accuracy": result.accuracy, "flips": result.flips}


def _descend(
    model: PreferenceModel, data: Batch, descent: Descent, settings: Preference, seed: int, step: int
) -> tuple[float, float]:
    """(loss, gradient norm) of a step that is taken."""
    chosen = places(step, settings.batch, len(data), seed)
    batch = data.take(chosen)

    def loss(judge: PreferenceModel, cut: slice) -> torch.Tensor:
        logits, targets = _targets(judge, batch[cut])
        return binary_cross_entropy_with_logits(logits, targets, reduction="sum") / (targets.shape[1] * len(batch))

    total = descend(model, loss, cuts(len(batch), settings.optimisation.micro_batch))
    return total, descent.step(step, total)


def _targets(
    judge: PreferenceModel, part: Batch
) -> tuple[Float[torch.Tensor, "prompt answer"], Float[torch.Tensor, "prompt answer"]]:
    """(logits, probabilities that they should be of): of pairs in both orders, of marks of each response."""
    if part.mark is not None:
        logits = judge.alone(part.prompt_tokens, [[row[0] for row in part.responses]])
        return logits, torch.as_tensor(part.mark, dtype=logits.dtype, device=logits.device)
    logits = judge.both(part.prompt_tokens, part.first, part.second)
    label = torch.as_tensor(part.label, dtype=logits.dtype, device=logits.device)
    return logits, torch.stack([label, 1 - label], dim=1)
