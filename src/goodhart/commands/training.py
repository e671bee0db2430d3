"""The command that trains a base model."""

from __future__ import annotations

import dataclasses

from goodhart import arguments
from goodhart.output import console, say


def pretrain(asked: arguments.Pretrain) -> None:
    """Train a base model."""
    from goodhart.training.pretraining import Pretraining
    from goodhart.training.pretraining import pretrain as train

    settings = dataclasses.asdict(asked)
    out, work = settings.pop("out"), settings.pop("work")
    train(Pretraining(**settings), out, work)
    say(console(), f"base model: {out}")
