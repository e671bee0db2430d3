"""The optimiser of every stage: AdamW with warm-up, decay, clipping and exact accumulation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from goodhart.compute.ranks import leads
from goodhart.compute.shards import part_like, whole
from goodhart.errors import GoodhartError
from goodhart.training.schedule import learning_rate
from goodhart.training.settings import Optimisation


class Descent:
    """Parameters with their optimiser state; `step` follows the schedule.

    `fast` parameters move at `fast_factor` times the learning rate. `lowered` are copies of the parameters, in their
    order, in the lower precision that a model computes in. Their gradients are added up, clipped and applied to the
    parameters in float32, and what comes out is rounded to the copies: an update smaller than their last bit is kept.
    """

    def __init__(
        self,
        parameters: Iterable[Parameter],
        settings: Optimisation,
        total: int,
        fast: Iterable[Parameter] = (),
        fast_factor: float = 1.0,
        lowered: Iterable[Parameter] = (),
    ) -> None:
        quick = {id(p) for p in fast}
        self.parameters = [p for p in parameters if p.requires_grad]
        groups = [
            {"params": [p for p in self.parameters if (id(p) in quick) == chosen], "factor": factor}
            for chosen, factor in ((False, 1.0), (True, fast_factor))
        ]
        copies = [p for p in lowered if p.requires_grad]
        self.copies = list(zip(self.parameters, copies, strict=True)) if copies else []
        for parameter, copy in self.copies:
            copy.register_post_accumulate_grad_hook(partial(_gather, parameter))
        self.settings = settings
        self.total = total
        self.optimiser = torch.optim.AdamW(
            [group for group in groups if group["params"]],
            lr=settings.lr,
            betas=(settings.beta1, settings.beta2),
            weight_decay=settings.weight_decay,
        )

    def step(self, step: int, loss: float) -> float:
        """Apply the gradients gathered for step 0, 1, ...; returns their norm before clipping.

        Raises GoodhartError if loss or gradient is not finite: the parameters are left as they were.
        """
        s = self.settings
        size = whole(torch.nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None]))
        torch.nn.utils.clip_grads_with_norm_(self.parameters, s.clip, size)
        norm = float(size)
        if not (torch.isfinite(torch.tensor(norm)) and torch.isfinite(torch.tensor(loss))):
            raise GoodhartError(
                f"loss {loss:g} or gradient norm {norm:g} is not finite at step {step + 1} of {self.total}",
                f"lower the learning rate (its peak is {s.lr:g}) or raise the warm-up (now {s.warmup} steps)",
            )
        rate = learning_rate(step, peak=s.lr, warmup=s.warmup, total=self.total, decay=s.decay)
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group["factor"]
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self._round()
        return norm

    def save(self, path: Path, step: int) -> None:
        """Write parameters and optimiser state to `path` by temporary name and rename."""
        save_state(path, {**self.state(), "step": step})

    def load(self, path: Path) -> int:
        """Restore what `save` wrote; returns the number of steps taken."""
        state = load_state(path)
        self.restore(state)
        return int(state["step"])

    def state(self) -> dict[str, Any]:
        """Parameters and what the optimiser remembers of them, whole, whatever processes hold parts of them."""
        optimiser = self.optimiser.state_dict()
        kept = {
            place: {name: _whole(value) for name, value in each.items()} for place, each in optimiser["state"].items()
        }
        return {
            "parameters": [_whole(p.detach()) for p in self.parameters],
            "optimiser": {**optimiser, "state": kept},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        with torch.no_grad():
            for parameter, value in zip(self.parameters, state["parameters"], strict=True):
                parameter.copy_(part_like(parameter, value))
        ordered = [p for group in self.optimiser.param_groups for p in group["params"]]
        kept = {
            place: {name: part_like(ordered[place], value) if value.dim() else value for name, value in each.items()}
            for place, each in state["optimiser"]["state"].items()
        }
        self.optimiser.load_state_dict({**state["optimiser"], "state": kept})
        self._round()

    @torch.no_grad()
    def _round(self) -> None:
        for parameter, copy in self.copies:
            copy.copy_(parameter)


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write tensors and plain values by temporary name and rename; of several processes the first one does."""
    if not leads():
        return
    temporary = path.with_suffix(".tmp")
    torch.save(dict(state), temporary)
    temporary.replace(path)


def load_state(path: Path) -> dict[str, Any]:
    """Read what `save_state` wrote; nothing in it is run."""
    # a run may go on with other GPUs than those that it was saved from
    return torch.load(path, map_location="cpu", weights_only=True)


def _whole(value: Tensor) -> Tensor:
    """What is in parts as a whole on the CPU, in the process that writes it; what is whole as it is."""
    full = whole(value)
    if full is value:
        return value
    return full.cpu() if leads() else full.new_empty(0)


def _gather(parameter: Parameter, copy: Tensor) -> None:
    """Move the gradient of a copy to its parameter, which adds up those of micro-batches without rounding."""
    assert copy.grad is not None
    gradient, copy.grad = copy.grad.to(parameter.dtype), None
    parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
