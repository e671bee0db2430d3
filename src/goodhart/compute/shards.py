"""Models whose weights lie in parts on the processes that make a cell together: PyTorch's FSDP2.

It is what accelerate prepares a model with. It is asked for directly, because an `Accelerator` shards on GPUs alone,
and because accelerate 1.15 writes of adapters the first process's rows only (huggingface/accelerate#4206).
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from goodhart.compute.placement import device
from goodhart.compute.ranks import leads, number
from goodhart.errors import GoodhartError

_COMPUTED = "goodhart_computed"
"""The attribute of a sharded model that says what it computes in."""


def sharded(model: Any, computed: torch.dtype = torch.float32) -> Any:
    """The model, which holds its part of every weight from now on: row r of n processes' r-th of the rows.

    A layer's weights are gathered when it computes, in the precision that it computes in, and gradients are added up
    over the processes in float32. The losses of all processes add up to that of the whole batch, so nothing is divided.
    Raises GoodhartError for an encoder-decoder, whose parts are called without the whole of it.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        raise GoodhartError(
            f"several processes cannot share an encoder-decoder ({type(model).__name__})",
            "leave executor.processes out",
        )
    # of views that a model gives; nothing here writes into them
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module", category=UserWarning)
    lower = computed != torch.float32
    policy = MixedPrecisionPolicy(param_dtype=computed, reduce_dtype=torch.float32) if lower else MixedPrecisionPolicy()
    mesh = init_device_mesh(device(), (number(),))
    layers: set[str] = set(getattr(model, "_no_split_modules", None) or ())
    for module in [*(m for m in model.modules() if type(m).__name__ in layers), model]:
        # what stayed gathered would be the weights of the step before
        fully_shard(module, mesh=mesh, mp_policy=policy, reshard_after_forward=True)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # gloo knows no other
    setattr(model, _COMPUTED, computed)
    return model


def in_parts(model: Any) -> Any:
    """The model in parts where several processes make the cell, else as it is."""
    return sharded(model) if number() > 1 else model


def is_sharded(model: Any) -> bool:
    """Whether the model's weights lie on several processes."""
    return hasattr(model, _COMPUTED)


def computed_in(model: Any) -> torch.dtype:
    """What a model's layers compute in."""
    return getattr(model, _COMPUTED, None) or next(model.parameters()).dtype


def whole(tensor: Tensor) -> Tensor:
    """A tensor with the parts of all processes, each of which has to ask."""
    gather = getattr(tensor, "full_tensor", None)
    return tensor if gather is None else gather()


def whole_state(model: Any) -> dict[str, Tensor]:
    """A model's state with the parts of all processes, each of which has to ask; tied weights are one tensor.

    The first process has it, on the CPU, and the others have nothing of it.
    """
    gathered: dict[int, Tensor] = {}
    result: dict[str, Tensor] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in gathered:
            full = whole(tensor.detach())
            gathered[id(tensor)] = full.cpu() if leads() else full.new_empty(0)
        result[name] = gathered[id(tensor)]
    return result if leads() else {}


def part_like(tensor: Tensor, value: Tensor) -> Tensor:
    """This process's part of a whole value, as `tensor` is cut; the value itself where that is whole."""
    if not hasattr(tensor, "full_tensor"):
        return value
    from torch.distributed.tensor import distribute_tensor

    held: Any = tensor
    return distribute_tensor(value.to(held.device), held.device_mesh, held.placements, src_data_rank=None)
