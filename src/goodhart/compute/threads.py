"""Threads for the parts of a piece of work, for a process that has more than one core to itself.

What the parts are, and the order in which their results are put together, do not depend on the number of threads. Every
thread computes alone, so where the process has one thread otherwise, the same bits come out with any number.
"""

from __future__ import annotations

import copy
import functools
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from goodhart.compute import ranks
from goodhart.compute.shares import backward, in_shares

Part = TypeVar("Part")
Result = TypeVar("Result")


@dataclass(slots=True)
class _Threads:
    number: int = 1
    used: int = 1


_THREADS = _Threads()
_COPIES: WeakKeyDictionary[Any, list[Any]] = WeakKeyDictionary()


def use_threads(number: int) -> None:
    """Let this process compute with this many threads from now on."""
    _THREADS.number, _THREADS.used = number, 1


def threads_used() -> int:
    """The most threads that were busy at once since `use_threads`."""
    return _THREADS.used


def spread(model: Any, work: Callable[[Any, Part], Result], parts: Sequence[Part]) -> list[Result]:
    """`work(model, part)` of every part, in their order.

    Each thread has a copy of the model with the same parameters, since scoring changes how a model attends for a while.
    Processes that make a cell together take the parts in turn, without threads.
    """
    if ranks.number() > 1:
        return in_shares(lambda part: work(model, part), parts)
    return list(_in_turn(model, work, parts))


def descend(model: Any, loss: Callable[[Any, Part], Tensor], parts: Sequence[Part]) -> float:
    """Add the gradient of the parts' losses to that of the model's parameters; returns the sum of the losses.

    Activations and gradients are held of no more parts than there are threads, and of one that waits.
    """
    if ranks.number() > 1 or _number(parts) < 2:
        return backward(lambda part: (loss(model, part), None), parts)[0]
    total = 0.0
    parameters = [p for p in model.parameters() if p.requires_grad]
    # PyTorch 2.13 locks a parameter while it makes the node of its gradient, or revives one that only Python holds, and
    # needs the interpreter for either; a thread that has the interpreter and waits for that lock then waits for ever
    holding = [p.view_as(p) for p in parameters]

    def slope(mine: Any, part: Part) -> tuple[float, tuple[Tensor | None, ...]]:
        value = loss(mine, part)
        return float(value.detach()), torch.autograd.grad(value, parameters, allow_unused=True)

    for value, gradients in _in_turn(model, slope, parts):
        total += value
        result = [(p, g) for p, g in zip(parameters, gradients, strict=True) if g is not None]
        torch.autograd.backward([p for p, _ in result], [g for _, g in result])
    del holding
    return total


def _number(parts: Sequence[Any]) -> int:
    return min(_THREADS.number, len(parts))


def _in_turn(model: Any, work: Callable[[Any, Part], Result], parts: Sequence[Part]) -> Generator[Result]:
    threads = _number(parts)
    if threads < 2:
        yield from (work(model, part) for part in parts)
        return
    _THREADS.used = max(_THREADS.used, threads)
    free: SimpleQueue[Any] = SimpleQueue()
    for each in (model, *_copies(model, threads - 1)):
        free.put(each)
    gradients = torch.is_grad_enabled()

    def one(part: Part) -> Result:
        mine = free.get()
        try:
            with torch.set_grad_enabled(gradients):
                return work(mine, part)
        finally:
            free.put(mine)

    begun: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads, initializer=functools.partial(torch.set_num_threads, 1)) as pool:
        for part in parts:
            begun.append(pool.submit(one, part))
            if len(begun) > threads:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()


def _copies(model: Any, number: int) -> list[Any]:
    kept = _COPIES.setdefault(model, [])
    while len(kept) < number:
        kept.append(copy.deepcopy(model, {id(t): t for t in (*model.parameters(), *model.buffers())}))
    for each in kept:
        each.train(model.training)
    return kept[:number]
