"""The parts of a piece of work among the processes that make a cell together; one that is alone computes them all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from torch import Tensor

from goodhart.compute.meter import uncharged
from goodhart.compute.ranks import number, of_all, rank

Part = TypeVar("Part")
Result = TypeVar("Result")


def turns(parts: Sequence[Part]) -> Iterator[tuple[Part, bool]]:
    """This process's parts, and whether each counts.

    All processes take as many turns, for they gather the weights together: one that has no part left repeats the last
    part, which then does not count.
    """
    for start in range(0, len(parts), number()):
        place = start + rank()
        if place < len(parts):
            yield parts[place], True
        else:
            with uncharged():
                yield parts[-1], False


def backward(compute: Callable[[Part], tuple[Tensor, Result]], parts: Sequence[Part]) -> tuple[float, list[Result]]:
    """Add the gradients of what is computed of every part to those of the parameters, part by part.

    Returns the sum of the values, and what came with each, of all parts in their order.
    """
    counted: list[tuple[float, Result]] = []
    for part, counts in turns(parts):
        value, beside = compute(part)
        (value if counts else 0.0 * value).backward()
        if counts:
            counted.append((float(value.detach()), beside))
    total, every = 0.0, _gathered(counted)
    for value, _ in every:
        total += value
    return total, [beside for _, beside in every]


def in_shares(work: Callable[[Part], Result], parts: Sequence[Part]) -> list[Result]:
    """`work(part)` of every part, in their order; with several processes tensors are on the CPU."""
    counted: list[Result] = []
    for part, counts in turns(parts):
        result = work(part)
        counted += [result] if counts else []
    return _gathered(counted)


def _gathered(counted: Sequence[Result]) -> list[Result]:
    """What came of all parts that counted, in their order, from what came of this process's."""
    if number() == 1:
        return list(counted)
    every: list[list[Result]] = of_all([_on_cpu(each) for each in counted])
    return [share[turn] for turn in range(len(every[0])) for share in every if turn < len(share)]


def _on_cpu(value: Any) -> Any:
    return value.detach().cpu() if isinstance(value, Tensor) else value
