"""Processes that make one cell together: which of them this one is, and what they tell one another.

All of them do the same, step by step, with the same numbers. They differ in which parts of a batch they compute
(`goodhart.compute.shares`) and in which rows of the weights they hold (`goodhart.compute.shards`). The first of them
alone writes weights, and what the others write is thrown away.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import distributed

_PATIENCE = timedelta(days=1)
"""What one process may take while the others wait: if one dies, whoever began them ends the others."""


@dataclass(slots=True)
class _Group:
    number: int = 1
    rank: int = 0


_GROUP = _Group()


def number() -> int:
    """How many processes make the cell; 1 where this one is alone."""
    return _GROUP.number


def rank() -> int:
    """Which of them this one is, from 0 on."""
    return _GROUP.rank


def leads() -> bool:
    """Whether this process is the one that writes weights."""
    return _GROUP.rank == 0


def join(meeting: Path, rank: int, number: int) -> None:
    """Meet the other processes at a file that none of them has used yet; with GPUs each process has one of its own."""
    gpus = torch.cuda.is_available()
    if gpus:
        torch.cuda.set_device(rank)
    distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if gpus else "gloo",
        init_method=f"file://{meeting}",
        rank=rank,
        world_size=number,
        timeout=_PATIENCE,
    )
    _GROUP.number, _GROUP.rank = number, rank


def leave() -> None:
    """Be alone again, once all of them are done."""
    _GROUP.number, _GROUP.rank = 1, 0
    distributed.destroy_process_group()


def told(value: Any) -> Any:
    """What the first process says, in all of them."""
    if _GROUP.number == 1:
        return value
    said = [value]
    distributed.broadcast_object_list(said)
    return said[0]


def of_all(value: Any) -> list[Any]:
    """What every process says, by rank."""
    if _GROUP.number == 1:
        return [value]
    said: list[Any] = [None] * _GROUP.number
    distributed.all_gather_object(said, value)
    return said


def anywhere(here: bool) -> bool:
    """Whether it is so in any of the processes."""
    if _GROUP.number == 1:
        return here
    flag = torch.tensor([int(here)])
    distributed.all_reduce(flag, op=distributed.ReduceOp.MAX)
    return bool(flag)


def summed(values: Sequence[float]) -> list[float]:
    """The sums over all processes."""
    if _GROUP.number == 1:
        return list(values)
    total = torch.tensor(values, dtype=torch.float64)
    distributed.all_reduce(total)
    return total.tolist()
