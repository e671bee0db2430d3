"""Precisions that a policy can be trained in: float32, or bfloat16 weights below a float32 master."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.nn import Parameter

from goodhart.compute.choice import Candidate, Choice, choose, median_seconds, one_thread
from goodhart.errors import GoodhartError
from goodhart.models.adapter import has_adapter
from goodhart.models.logprobs import choose_layout, sequence_logps

Precision = Literal["float32", "bfloat16"]
FLOAT32: Precision = "float32"
BFLOAT16: Precision = "bfloat16"
FACTOR = 1.3
"""bfloat16 is chosen only if a training step is this many times as fast: it rounds what float32 does not."""
_REPEATS, _BUDGET = 3, 1.0


def in_precision(model: Any, precision: Precision) -> Any:
    """The model itself in float32; else a copy with bfloat16 parameters.

    Buffers stay as they are: rotary frequencies and positions of many tokens do not survive eight bits. The weights
    below an adapter need no float32 master, since they rest: they are lowered where they are, for all that share them.
    """
    if precision == FLOAT32:
        return model
    if has_adapter(model):
        return _lowered_over_base(model)
    # a parameter that deepcopy is told about is not copied in float32 first, and stays tied where it was
    lowered = {id(p): Parameter(p.detach().to(torch.bfloat16), p.requires_grad) for p in model.parameters()}
    return copy.deepcopy(model, lowered)


def _lowered_over_base(model: Any) -> Any:
    for parameter in model.parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.to(torch.bfloat16)
    kept = {id(p): Parameter(p.detach().to(torch.bfloat16)) if p.requires_grad else p for p in model.parameters()}
    return copy.deepcopy(model, kept)


def check_supported(precision: Precision) -> None:
    """Raises GoodhartError if this machine cannot compute in a precision."""
    fault = "" if precision == FLOAT32 else bfloat16_fault()
    if fault:
        raise GoodhartError(f"this machine cannot train in bfloat16: {fault}", "use --precision float32")


def bfloat16_fault() -> str:
    """Why this machine cannot compute in bfloat16; empty where it can, if only slowly."""
    if torch.cuda.is_available():
        fine = torch.cuda.is_bf16_supported(including_emulation=False)
        return "" if fine else f"{torch.cuda.get_device_name()} has no bfloat16 arithmetic"
    weight = torch.ones(2, 2, dtype=torch.bfloat16, requires_grad=True)
    try:
        (weight @ weight).sum().backward()
    except RuntimeError as error:
        return " ".join(str(error).split())
    return ""


@dataclass(frozen=True, slots=True)
class Batch:
    """The size of the batch whose step is timed."""

    pairs: int
    prompt: int
    """Tokens of each prompt."""
    response: int
    """Tokens of each response."""


def measure(model: Any, batch: Batch) -> Choice:
    """Time forward and backward passes of a float32 policy and of its bfloat16 copy on a batch of pairs."""
    fault = bfloat16_fault()
    if fault:
        return choose([Candidate(FLOAT32), Candidate(BFLOAT16, refused=fault)], FACTOR)
    with one_thread():
        layout = choose_layout(model, 0)
        size = model.get_input_embeddings().num_embeddings
        draw = torch.Generator().manual_seed(0)
        texts = torch.randint(0, size, (batch.pairs, batch.prompt + 2 * batch.response), generator=draw).tolist()
        prompts = [row[: batch.prompt] for row in texts]
        ends = batch.prompt + batch.response
        responses = [[row[batch.prompt : ends], row[ends:]] for row in texts]
        seconds: dict[str, float] = {}
        for precision in (FLOAT32, BFLOAT16):
            policy = in_precision(model, precision)

            def step(policy: Any = policy) -> None:
                sequence_logps(policy, prompts, responses, pad=0, layout=layout).sum().backward()
                policy.zero_grad()

            # one after the other, so that both never hold gradients at once
            seconds |= median_seconds({precision: step}, _REPEATS, _BUDGET)
    return choose([Candidate(name, result) for name, result in seconds.items()], FACTOR)
