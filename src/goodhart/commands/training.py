"""The command that trains a base model."""

from __future__ import annotations

import dataclasses
from functools import partial

from goodhart import arguments
from goodhart.output import console, say

_GROUP = "pretraining"


def pretrain(asked: arguments.Pretrain) -> None:
    """Train a base model. Raises GoodhartError for a tracker that is not installed."""
    from goodhart.tracking.tracker import check_trackers

    trackers = check_trackers(asked.track)
    from goodhart.config import plain_data
    from goodhart.tracking.follow import Follow, sinks_of
    from goodhart.tracking.sink import Run
    from goodhart.training.pretraining import Pretraining, log_file
    from goodhart.training.pretraining import pretrain as train

    given = dataclasses.asdict(asked)
    settings = Pretraining(**{key: given[key] for key in given.keys() - {"out", "work", "track"}})
    screen, steps = console(), log_file(settings, asked.work)
    tell = partial(say, screen)
    with sinks_of(trackers, asked.work / "tracking", _GROUP, tell) as sinks:
        follow = Follow(Run(steps.stem, f"{_GROUP}/{steps.stem}", plain_data(settings)), sinks, tell)

        def told(line: str) -> None:
            tell(line)
            follow.look(steps)

        train(settings, asked.out, asked.work, told)
    say(screen, f"base model: {asked.out}")
