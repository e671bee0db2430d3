"""Gradient checkpointing: layers whose activations are computed again in the backward pass (arXiv 1604.06174).

Transformers' own does nothing in evaluation mode, in which all training is here, and would compute a layer again when
the model no longer reads a tree.
"""

from __future__ import annotations

import functools
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from goodhart.compute.placement import is_spread
from goodhart.errors import GoodhartError


def recompute_layers(model: Any) -> int:
    """Let all layers of a model but the last of each stack keep their inputs alone; returns how many.

    The backward pass begins with the last one, whose activations would be there again at once. The gradients are the
    same bits where a computation gives the same bits twice. Raises GoodhartError for a model whose layers are not
    known to bear it, and for one that lies on several devices.
    """
    if is_spread(model):
        raise GoodhartError(
            "gradient_checkpointing does not work for a model whose layers lie on several GPUs",
            "use --gpus-per-worker 1, set executor.processes to the number of GPUs, or set gradient_checkpointing: "
            "false and a smaller micro_batch",
        )
    stacks = [m for m in model.modules() if isinstance(m, nn.ModuleList) and _bears_it(m)]
    if not stacks:
        raise GoodhartError(
            f"the layers of {type(model).__name__} cannot be computed again",
            "set gradient_checkpointing: false, and a smaller micro_batch",
        )
    layers: list[Any] = [layer for stack in stacks for layer in list(stack)[:-1]]
    for layer in layers:
        if not hasattr(layer, "kept"):
            layer.__class__ = _again(type(layer))
        layer.settings = model.config
    return len(layers)


def _bears_it(stack: nn.ModuleList) -> bool:
    return len(stack) > 0 and all(isinstance(layer, GradientCheckpointingLayer) for layer in stack)


def _forward(self: Any, *given: Any, **named: Any) -> Any:
    if not torch.is_grad_enabled():
        return self.kept(*given, **named)
    attention = self.settings._attn_implementation

    def compute(*again: Any, **more: Any) -> Any:
        with _attending(self.settings, attention):
            return self.kept(*again, **more)

    return checkpoint(compute, *given, use_reentrant=False, preserve_rng_state=False, **named)


@contextmanager
def _attending(settings: Any, attention: str) -> Generator[None]:
    """The attention of the forward pass, in the backward pass as well."""
    before = settings._attn_implementation
    settings._attn_implementation = attention
    try:
        yield
    finally:
        settings._attn_implementation = before


@functools.cache
def _again(kind: type[Any]) -> type[Any]:
    return type(kind.__name__, (kind,), {"forward": _forward, "kept": kind.forward, "__module__": kind.__module__})
