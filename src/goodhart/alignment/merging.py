"""Weight space: several policies from one start, merged into one."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

Weights = Mapping[str, Tensor]
"""Of a model, by name."""
Merge = Literal["slerp", "linear"]
_BLOCK = re.compile(r"^(.*\.\d+)\.")
_SMALL = 1e-6
"""An angle below which the arc is its chord."""


def blocks(names: Sequence[str]) -> list[list[str]]:
    """The names of each layer together; what is in no numbered layer is one of its own."""
    result: dict[str, list[str]] = {}
    for name in names:
        inside = _BLOCK.match(name)
        result.setdefault(inside.group(1) if inside else name, []).append(name)
    return list(result.values())


def lerp(start: Weights, end: Weights, share: float) -> dict[str, Tensor]:
    """(1 - share) start + share end."""
    return {name: (1 - share) * start[name] + share * end[name] for name in start}


def slerp(start: Weights, first: Weights, second: Weights, share: float) -> dict[str, Tensor]:
    """Start + sin((1 - s) W) / sin W d1 + sin(s W) / sin W d2, layer by layer (WARP, arXiv 2406.16768).

    d1, d2 are the task vectors first - start and second - start of a layer, W the angle between them, s the share.
    Where they are parallel or one of them is 0, the arc is the chord between them.
    """
    merged: dict[str, Tensor] = {}
    for names in blocks(list(start)):
        one, two = (torch.cat([(end[n] - start[n]).double().flatten() for n in names]) for end in (first, second))
        lengths = one.norm() * two.norm()
        cosine = float((one @ two / lengths).clamp(-1, 1)) if lengths > 0 else 1.0
        angle = torch.arccos(torch.tensor(cosine, dtype=torch.float64))
        if float(torch.sin(angle)) < _SMALL:
            weights = (1 - share, share)
        else:
            weights = tuple(float(torch.sin(part * angle) / torch.sin(angle)) for part in (1 - share, share))
        moved, place = weights[0] * one + weights[1] * two, 0
        for name in names:
            size = start[name].numel()
            merged[name] = start[name] + moved[place : place + size].view_as(start[name]).to(start[name].dtype)
            place += size
    return merged


def merge(start: Weights, ends: Sequence[Weights], how: Merge) -> dict[str, Tensor]:
    """The policies folded into one: the m-th at share 1 / m, so that linear merging is their mean.

    Raises ValueError without any.
    """
    if not ends:
        raise ValueError("there is nothing to merge")
    merged = dict(ends[0])
    for number, end in enumerate(ends[1:], 2):
        share = 1 / number
        merged = lerp(merged, end, share) if how == "linear" else slerp(start, merged, end, share)
    return merged
