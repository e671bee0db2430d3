"""A decoding step as a recorded graph: the model's own operations without the Python code between them.

For a small model that code takes longer than the arithmetic.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from goodhart.compute.placement import is_spread
from goodhart.compute.shards import is_sharded

Logits = Float[Tensor, "row sample vocabulary"]
EAGER_BATCHES = 2
"""Batches that a model decodes in the ordinary way before its step is recorded, which takes as long as one or two."""
_FAULTS = (RuntimeError, TypeError, ValueError, AttributeError, IndexError)


class Inputs(NamedTuple):
    """What a step reads besides the cache."""

    tokens: Int[Tensor, "row sample"]
    mask: Float[Tensor, "row 1 sample column"]
    positions: Int[Tensor, "row sample"]


class _Written(DynamicLayer):
    """A layer of a cache whose new columns have their places already."""

    def __init__(self, keys: Tensor, values: Tensor, places: Tensor) -> None:
        super().__init__()
        self.keys, self.values, self.places = keys, values, places
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        """Write the new columns and return all."""
        assert self.keys is not None
        assert self.values is not None
        self.keys.index_copy_(2, self.places, key_states)
        self.values.index_copy_(2, self.places, value_states)
        return self.keys, self.values


class _Step(nn.Module):
    """The step as a function of tensors alone."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, tokens: Tensor, mask: Tensor, positions: Tensor, places: Tensor, *buffers: Tensor
    ) -> Float[Tensor, "row sample vocabulary"]:
        """Logits of the next tokens; keys and values are written into the buffers."""
        cache = DynamicCache(config=self.model.config)
        pairs = zip(buffers[::2], buffers[1::2], strict=True)
        cache.layers[:] = [_Written(keys, values, places) for keys, values in pairs]
        return self.model(
            input_ids=tokens, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
        ).logits


_Recorded = Callable[..., Tensor] | None


class _Record:
    """What is known of a model's step, by the number of samples of a prompt."""

    def __init__(self) -> None:
        self.batches: dict[int, int] = {}
        self.steps: dict[int, _Recorded] = {}


_TRACING = threading.Lock()
"""PyTorch's tracer and Python's warning filters are the process's, and copies of a model are recorded by threads."""
_RECORDS: WeakKeyDictionary[Any, _Record] = WeakKeyDictionary()


def begin_batch(model: Any, cache: Any, samples: int) -> None:
    """Count a batch that is about to be decoded, and record the model's step when it pays.

    The step stays unrecorded where the recording fails, or where it does not give the model's logits bit for bit on
    other sizes than those it was recorded on. That of a model on several devices always does: a graph knows one. That
    of one whose weights lie on several processes does too.
    """
    if is_spread(model) or is_sharded(model):
        return
    record = _RECORDS.setdefault(model, _Record())
    record.batches[samples] = record.batches.get(samples, 0) + 1
    if record.batches[samples] > EAGER_BATCHES and samples not in record.steps:
        with _TRACING:
            record.steps[samples] = _record(model, cache, samples)


def decode(model: Any, cache: Any, inputs: Inputs) -> Logits:
    """Logits of the next tokens, by the recorded step where there is one; the cache grows by the new columns."""
    record = _RECORDS.get(model)
    step = record.steps.get(inputs.tokens.shape[1]) if record else None
    if step is None:
        return model(
            input_ids=inputs.tokens,
            attention_mask=inputs.mask,
            position_ids=inputs.positions,
            past_key_values=cache,
            use_cache=True,
        ).logits
    new = inputs.tokens.shape[1]
    places = torch.arange(cache.layers[0].filled, cache.layers[0].filled + new, device=inputs.tokens.device)
    return step(*inputs, places, *(buffer for layer in cache.layers for buffer in layer.extended(new)))


def _record(model: Any, cache: Any, samples: int) -> _Recorded:
    step = _Step(model)
    shapes = [buffer.shape for layer in cache.layers for buffer in layer.buffers]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the tracer warns of every Python number; the trial below is the proof
            recorded: Any = torch.jit.trace(step, _trial(model, shapes, samples, 3, 7), check_trace=False)
            same = all(
                torch.equal(
                    step(*_trial(model, shapes, samples, rows, columns)),
                    recorded(*_trial(model, shapes, samples, rows, columns)),
                )
                for rows, columns in ((3, 7), (5, shapes[0][2]), (1, 4 + samples), (2, 9))
            )
    except _FAULTS:
        return None
    return recorded if same else None


def _trial(model: Any, shapes: list[torch.Size], samples: int, rows: int, columns: int) -> tuple[Tensor, ...]:
    """Inputs and cache contents of some size; the same at every call."""
    draw = torch.Generator().manual_seed(0)
    weight = next(model.parameters())
    size = model.get_input_embeddings().num_embeddings
    new, columns = samples, max(columns, samples)
    tokens = torch.randint(0, size, (rows, new), generator=draw)
    mask = torch.zeros(rows, 1, new, columns)
    mask[:, :, 1:, 0] = torch.finfo(weight.dtype).min
    positions = torch.full((rows, new), columns - new)
    places = torch.arange(columns - new, columns)
    buffers = [torch.randn(rows, heads, columns, width, generator=draw) for _, heads, _, width in shapes]
    floats = [each.to(weight) for each in (mask, *buffers)]
    whole = [each.to(weight.device) for each in (tokens, positions, places)]
    return whole[0], floats[0], whole[1], whole[2], *floats[1:]
