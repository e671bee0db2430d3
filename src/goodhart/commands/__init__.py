"""What each command does, imported only once a command has been understood: a thin layer over `goodhart.interface`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from goodhart import arguments
from goodhart.commands.lists import list_names
from goodhart.commands.own_data import data, init, pairs
from goodhart.commands.results import compare, export, join, power, push, report, where
from goodhart.commands.study import make, run, status, why
from goodhart.commands.training import pretrain

HANDLERS: dict[type[arguments.Command], Callable[[Any], int | None]] = {
    arguments.Run: run,
    arguments.Status: status,
    arguments.Make: make,
    arguments.Why: why,
    arguments.Report: report,
    arguments.Join: join,
    arguments.Power: power,
    arguments.Compare: compare,
    arguments.Where: where,
    arguments.Push: push,
    arguments.Export: export,
    arguments.List: list_names,
    arguments.Data: data,
    arguments.Init: init,
    arguments.Pairs: pairs,
    arguments.Pretrain: pretrain,
}
"""What obeys a command; it gives the exit code, None for 0."""
