"""What a piece of work took: seconds, tokens, and the arithmetic that language models were asked for."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch

from goodhart.models.encoder_decoder import is_encoder_decoder


@dataclass(frozen=True, slots=True)
class Spent:
    """The account of one stage."""

    seconds: float = 0.0
    tokens: int = 0
    """Real tokens that went through a model, prompts included; padding is not counted."""
    operations: float = 0.0
    """Floating-point operations of models on those tokens, without what padding, elementwise work or optimisers add."""

    def __add__(self, other: Spent) -> Spent:
        return Spent(self.seconds + other.seconds, self.tokens + other.tokens, self.operations + other.operations)

    def __sub__(self, other: Spent) -> Spent:
        return Spent(self.seconds - other.seconds, self.tokens - other.tokens, self.operations - other.operations)

    def plain(self) -> dict[str, float]:
        """For a record."""
        return {name: round(value, 3) for name, value in asdict(self).items()}


@dataclass(slots=True)
class _Total:
    """What this process has asked of language models since it began."""

    tokens: int = 0
    operations: float = 0.0

    def now(self) -> Spent:
        """The account at this moment."""
        return Spent(time.perf_counter(), self.tokens, self.operations)


_TOTAL = _Total()
_LOCK = threading.Lock()


@dataclass(slots=True)
class Stopwatch:
    """Accounts by stage of the work."""

    stages: dict[str, Spent] = field(default_factory=dict)
    _last: Spent = field(default_factory=_TOTAL.now)

    def start(self) -> None:
        """Leave what was done since the last lap out of the account."""
        self._last = _TOTAL.now()

    def lap(self, stage: str) -> None:
        """Charge what was done since the last lap to a stage."""
        now = _TOTAL.now()
        self.stages[stage] = self.stages.get(stage, Spent()) + (now - self._last)
        self._last = now


def count(model: Any, tokens: int, predicted: int, attended: float) -> None:
    """Add a forward pass to the account, and the backward pass that will follow where gradients are on.

    2 N tokens + 2 H V predicted + 4 L A attended operations, with N the parameters that are neither embeddings nor
    output layer, H the hidden size, V the vocabulary, L the layers, A the width of attention (the heads' sizes added
    up) and `attended` the (token, earlier token) pairs; three times as much with the backward pass (arXiv 2204.02311,
    appendix B, whose 6N + 12 L A T per token this is). Of an encoder-decoder it is the decoder's part.
    """
    vocabulary, hidden = model.get_input_embeddings().weight.shape
    config = getattr(model, "config", None)
    layers, trunk = getattr(config, "num_hidden_layers", 0), _weights(model, model)
    if is_encoder_decoder(model):
        layers = _decoder_layers(model)
        trunk -= _weights(model, model.get_encoder()) + _prompt_weights(model)
    _charge(
        tokens, 2.0 * trunk * tokens + 2.0 * hidden * vocabulary * predicted + 4.0 * layers * _width(model) * attended
    )


def count_encoding(model: Any, lengths: Sequence[int], copies: int = 1) -> None:
    """Add an encoder's pass over prompts, and what the decoder makes of them `copies` times: its keys and values.

    2 (N + copies K) tokens + 4 L A attended operations, with N and L of the encoder, K the weights of the decoder's
    projections of the prompt, and every token of a prompt attending to all of them.
    """
    encoder = model.get_encoder()
    tokens, attended = sum(lengths), sum(n * n for n in lengths)
    weights = _weights(model, encoder) + copies * _prompt_weights(model)
    _charge(tokens, 2.0 * weights * tokens + 4.0 * encoder.config.num_hidden_layers * _width(model) * attended)


def count_responses(
    model: Any,
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[Sequence[int]]],
    last: torch.nn.Module | None = None,
) -> None:
    """Account for scoring responses, each prompt read once for all of its responses.

    Of a `last` layer that is given, all tokens of a prompt but its last are asked for keys and values alone.
    """
    crossed = is_encoder_decoder(model)
    tokens = predicted = 0
    attended = 0.0
    for prompt, row in zip(prompts, responses, strict=True):
        lengths = [len(response) for response in row]
        predicted += sum(lengths)
        tokens += sum(lengths) + (0 if crossed else len(prompt))
        attended += (0 if crossed else len(prompt) ** 2 / 2) + sum(n * (len(prompt) + n / 2) for n in lengths)
    if crossed:
        count_encoding(model, [len(prompt) for prompt in prompts], len(responses[0]))
    count(model, tokens, predicted, attended)
    if last is not None:
        unread = sum(len(prompt) - 1 for prompt in prompts)
        kept = 2 * _key_width(model) * model.get_input_embeddings().weight.shape[1]
        pairs = sum((len(prompt) - 1) ** 2 / 2 for prompt in prompts)
        _charge(0, -2.0 * (_weights(model, last) - kept) * unread - 4.0 * _width(model) * pairs)


def _charge(tokens: int, forward: float) -> None:
    with _LOCK:
        _TOTAL.tokens += tokens
        _TOTAL.operations += forward * (3 if torch.is_grad_enabled() else 1)


_SIZES: WeakKeyDictionary[Any, int] = WeakKeyDictionary()
"""Of parts that were counted: going through a small model's modules takes as long as one of its layers."""


def _weights(model: Any, part: Any) -> int:
    """Parameters of a part of the model that are neither embeddings nor output layer."""
    if part not in _SIZES:
        _SIZES[part] = _counted(model, part)
    return _SIZES[part]


def _counted(model: Any, part: Any) -> int:
    tables = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Embedding)}
    head = getattr(model, "get_output_embeddings", lambda: None)()
    if head is not None:
        tables.add(id(head.weight))
    return sum(p.numel() for p in part.parameters() if id(p) not in tables)


def _width(model: Any) -> int:
    """The sizes of a layer's attention heads, added up."""
    config = getattr(model, "config", None)
    hidden = model.get_input_embeddings().weight.shape[1]
    heads = getattr(config, "num_attention_heads", 1)
    return heads * (getattr(config, "head_dim", None) or hidden // heads)


def _key_width(model: Any) -> int:
    """The sizes of a layer's keys, added up; values have the same."""
    heads = getattr(model.config, "num_attention_heads", 1)
    return _width(model) * (getattr(model.config, "num_key_value_heads", None) or heads) // heads


def _decoder_layers(model: Any) -> int:
    config = model.get_decoder().config
    return getattr(config, "decoder_layers", None) or config.num_hidden_layers


def _prompt_weights(model: Any) -> int:
    """Weights with which an encoder-decoder's decoder makes keys and values of the encoder's states."""
    return 2 * _decoder_layers(model) * _width(model) * model.get_input_embeddings().weight.shape[1]


@functools.cache
def matrix_rate(device: str = "cpu") -> float:
    """Floating-point operations per second of a float32 product of matrices, with the threads that PyTorch has now."""
    size = 1024 if device == "cpu" else 8192
    a = torch.randn(size, size, device=device)
    best = float("inf")
    for _ in range(10):
        began = time.perf_counter()
        float((a @ a)[0, 0])  # reading a number waits for the device
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best
