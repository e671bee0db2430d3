"""Where models live: on the CPU, on a GPU, or spread over the GPUs of a worker process."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from goodhart.errors import GoodhartError

VISIBLE = "CUDA_VISIBLE_DEVICES"


def may_have_gpus() -> bool:
    """Whether a driver of GPUs is there at all, told without PyTorch."""
    return any(Path(path).exists() for path in ("/proc/driver/nvidia", "/dev/nvidiactl", "/dev/kfd", "/dev/dxg"))


def gpu_name() -> str:
    """What the first GPU calls itself; empty where there is none."""
    if not may_have_gpus():
        return ""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else ""


def gpus() -> list[str]:
    """The GPUs that this process may use, by the names that CUDA_VISIBLE_DEVICES has or takes for them."""
    import torch

    number = torch.cuda.device_count()
    named = os.environ.get(VISIBLE)
    names = map(str, range(number)) if named is None else (name.strip() for name in named.split(","))
    return list(names)[:number]  # CUDA ignores what stands behind the first name that it does not know


def groups(names: Sequence[str], size: int) -> list[tuple[str, ...]]:
    """The GPUs in groups of some size, one for each worker process; what is left over is not used.

    Raises GoodhartError for a size that gives no group. Without GPUs there are none, and a size of 1 is the CPU.
    """
    if not 1 <= size <= max(1, len(names)):
        raise GoodhartError(
            f"a worker cannot have {size} GPUs: this machine has {len(names)}",
            f"use --gpus-per-worker 1 to {len(names)}" if names else "leave --gpus-per-worker out",
        )
    return [tuple(names[start : start + size]) for start in range(0, len(names) - size + 1, size)]


def device() -> str:
    """Where inputs of models go: the first GPU if there is one."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def place(model: Any, most: int | None = None) -> Any:
    """The model on the device, or its layers spread over the GPUs that this process sees, at most this many.

    Every process that makes cells sees those of its group only. Of processes that make a cell together each leaves the
    model where it was read, until it is known what is laid over it and how it is read (`goodhart.compute.shards`).
    """
    import torch

    from goodhart.compute.ranks import number  # brings PyTorch with it

    if number() > 1:
        return model
    seen = torch.cuda.device_count()
    used = seen if most is None else min(seen, most)
    if used < 2:
        return model.to(device())
    return spread(model, {gpu: torch.cuda.mem_get_info(gpu)[0] for gpu in range(used)})


def spread(model: Any, free: Mapping[int, int]) -> Any:
    """The model with whole layers on each GPU, by parameters as even as can be; `free` are bytes by GPU.

    Raises GoodhartError if it does not fit.
    """
    from accelerate import infer_auto_device_map
    from accelerate.utils import get_balanced_memory

    whole: list[str] = list(model._no_split_modules or [])
    most: Any = get_balanced_memory(model, dict(free), whole)  # type: ignore[arg-type]
    chosen = infer_auto_device_map(model, most, whole)
    if not set(chosen.values()) <= set(free):
        raise GoodhartError(
            f"{type(model).__name__} does not fit into what is free on {len(free)} GPUs",
            "raise --gpus-per-worker, or lower --workers if workers share GPUs",
        )
    return dispatched(model, {part: f"cuda:{gpu}" for part, gpu in chosen.items()})


def dispatched(model: Any, devices: Mapping[str, str]) -> Any:
    """The model with hooks that hand what goes through it from device to device; `devices` are those of its parts.

    Its inputs, and what it and its trunk give, are where its first parameter is, as with every other model.
    """
    from accelerate import dispatch_model
    from accelerate.utils import send_to_device

    first = next(name for name, _ in model.named_parameters())
    home = next(place for part, place in devices.items() if f"{first}.".startswith(f"{part}." if part else ""))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of tensors that are in no part, which stay with the inputs
        model = dispatch_model(model, dict(devices), home, force_hooks=True)  # type: ignore[arg-type]
    for mover in ("to", "cuda"):
        del vars(model)[mover]  # those of a copy would move the model that it is a copy of

    def bring(_: Any, __: Any, given: Any) -> Any:
        return send_to_device(given, home)

    crossed = model.config.is_encoder_decoder
    for trunk in (model.get_encoder(), model.get_decoder()) if crossed else (model.base_model,):
        trunk.register_forward_hook(bring)
    return model


def is_spread(model: Any) -> bool:
    """Whether hooks move what goes through the model from device to device."""
    return hasattr(model, "_hf_hook")
