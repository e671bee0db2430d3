"""How many rows a machine's memory takes at a time in training, from the models' shapes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from goodhart.compute.placement import may_have_gpus
from goodhart.models.model_files import config, parameters

_TRAINED, _HELD = 16, 4
"""Bytes for each weight in float32: that is trained by AdamW, with its gradient and two moments; that is only read."""
_PER_LAYER, _PER_LOGIT = 68, 12
"""Bytes that a token's activations take in a layer for each unit of its width (arXiv 2205.05198, in float32), and for
each entry of the vocabulary where a response is scored."""
_USED = 0.7
"""Of the free memory; the rest is for what is not counted here."""
_NAMES = {"width": ("hidden_size", "d_model", "n_embd"), "layers": ("num_hidden_layers", "num_layers", "n_layer")}
_USUAL = {"width": 1024, "layers": 24}
"""For a model whose `config.json` calls them something else."""


@dataclass(frozen=True, slots=True)
class Room:
    """Memory that each worker has for training."""

    each: int
    """Bytes."""
    workers: int

    @classmethod
    def of(cls, workers: int) -> Room:
        """What is free now, shared by the workers: of the GPUs, one for each, where there are any."""
        free = _gpu_memory() or psutil.virtual_memory().available // workers
        return cls(int(_USED * free), workers)


def _gpu_memory() -> int:
    """Free bytes of the first GPU; 0 where there is none."""
    if not may_have_gpus():
        return 0
    import torch

    return torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else 0


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes that training a model takes."""

    fixed: int
    row: int
    """For each pair of a micro-batch."""

    @classmethod
    def of(cls, folder: Path, beside: Mapping[Path, int], prompt: int, response: int) -> Need:
        """Of a model in a folder, beside copies of others that are only read, by the limits of tokens."""
        settings = config(folder)
        width, layers = (_shape(settings, name) for name in _NAMES)
        held = sum(_HELD * parameters(other) * copies for other, copies in beside.items())
        vocabulary = int(settings.get("vocab_size") or 0)
        row = 2 * (prompt + response) * layers * width * _PER_LAYER + 2 * response * vocabulary * _PER_LOGIT
        return cls(_TRAINED * parameters(folder) + held, row)

    def rows(self, room: Room, batch: int) -> int:
        """The largest power of two of pairs that has room, at most half the batch, so that two cores can share it."""
        rows = 1
        while rows * 2 <= max(1, batch // 2) and self.fixed + rows * 2 * self.row <= room.each:
            rows *= 2
        return rows

    def fits(self, room: Room) -> bool:
        """Whether there is memory for one pair at a time."""
        return self.fixed + self.row <= room.each


def _shape(settings: dict[str, Any], name: str) -> int:
    return next((int(settings[each]) for each in _NAMES[name] if isinstance(settings.get(each), int)), _USUAL[name])
