"""Training of preference models, and how well they judge."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch.nn.functional import binary_cross_entropy_with_logits

from goodhart.alignment.batch import Batch
from goodhart.alignment.judge import ModelJudge
from goodhart.alignment.labellers import Judge, both_orders
from goodhart.alignment.sources import places
from goodhart.compute.threads import descend
from goodhart.models.packing import cuts
from goodhart.models.preference import PreferenceModel
from goodhart.training.optimiser import Descent
from goodhart.training.settings import Preference


@dataclass(frozen=True, slots=True)
class Judgement:
    """How a preference model does on labelled pairs."""

    pairs: int
    loss: float
    """Mean negative log-likelihood of the labels over both orders, nats."""
    accuracy: float
    """Share of pairs in which the sign over both orders agrees with the label; ties one half."""
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

    Stops at the validation plateau by the rule of `Preference`; the model ends with the weights
    of the lowest validation loss. Returns the looks at the validation set, step 0 included.
    """
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


def _trained(model: PreferenceModel) -> dict[str, torch.Tensor]:
    """A copy of its state, but for the weights below an adapter, which rest."""
    resting = {id(p) for p in model.parameters() if not p.requires_grad}
    state = model.state_dict(keep_vars=True).items()
    return {name: tensor.detach().clone() for name, tensor in state if id(tensor) not in resting}


def _look(model: PreferenceModel, validation: Batch, step: int) -> dict[str, int | float]:
    model.eval()
    result = judge_quality(model, validation)[0]
    return {"step": step, "loss": result.loss, "accuracy": result.accuracy, "flips": result.flips}


def _descend(
    model: PreferenceModel, data: Batch, descent: Descent, settings: Preference, seed: int, step: int
) -> tuple[float, float]:
    """(loss, gradient norm) of a step that is taken."""
    chosen = places(step, settings.batch, len(data), seed)
    batch = data.take(chosen)

    def loss(judge: PreferenceModel, cut: slice) -> torch.Tensor:
        part = batch[cut]
        logits = judge.both(part.prompt_tokens, part.first, part.second)
        label = torch.as_tensor(part.label, dtype=logits.dtype, device=logits.device)
        targets = torch.stack([label, 1 - label], dim=1)
        return binary_cross_entropy_with_logits(logits, targets, reduction="sum") / (2 * len(batch))

    total = descend(model, loss, cuts(len(batch), settings.optimisation.micro_batch))
    return total, descent.step(step, total)
