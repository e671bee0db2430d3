"""The arithmetic that language models are asked for, counted from their shapes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch

from goodhart.compute.meter import charge
from goodhart.models.encoder_decoder import is_encoder_decoder


def count(model: Any, tokens: int, predicted: int, attended: float) -> None:
    """Add a forward pass to the account, and the backward pass that will follow where gradients are on.

    2 N tokens + 2 H V predicted + 4 L A attended operations, with N the parameters that are neither embeddings nor
    output layer, H the hidden size, V the vocabulary, L the layers, A the width of attention (the heads' sizes added
    up) and `attended` the (token, earlier token) pairs; three times as much with the backward pass (arXiv 2204.02311,
    appendix B, whose 6N + 12 L A T per token this is). Weights that rest below an adapter have no gradient of their
    own, so theirs are twice as much. Of an encoder-decoder it is the decoder's part.
    """
    vocabulary, hidden = model.get_input_embeddings().weight.shape
    config = getattr(model, "config", None)
    layers, trunk = getattr(config, "num_hidden_layers", 0), _weights(model, model)
    if is_encoder_decoder(model):
        layers = _decoder_layers(model)
        trunk -= _weights(model, model.get_encoder()) + _prompt_weights(model)
    weighed = 2.0 * trunk * tokens + 2.0 * hidden * vocabulary * predicted
    _charge(model, tokens, weighed, 4.0 * layers * _width(model) * attended)


def count_encoding(model: Any, lengths: Sequence[int], copies: int = 1) -> None:
    """Add an encoder's pass over prompts, and what the decoder makes of them `copies` times: its keys and values.

    2 (N + copies K) tokens + 4 L A attended operations, with N and L of the encoder, K the weights of the decoder's
    projections of the prompt, and every token of a prompt attending to all of them.
    """
    encoder = model.get_encoder()
    tokens, attended = sum(lengths), sum(n * n for n in lengths)
    weights = _weights(model, encoder) + copies * _prompt_weights(model)
    _charge(model, tokens, 2.0 * weights * tokens, 4.0 * encoder.config.num_hidden_layers * _width(model) * attended)


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
        _charge(model, 0, -2.0 * (_weights(model, last) - kept) * unread, -4.0 * _width(model) * pairs)


def _charge(model: Any, tokens: int, weighed: float, attended: float) -> None:
    """Operations of a forward pass: products with weights, and those of attention."""
    rest = _resting(model) if torch.is_grad_enabled() else 0.0
    charge(tokens, weighed * (1 - rest / 3) + attended)


def _resting(model: Any) -> float:
    """The share of a model's weights that have no gradient, where some have one."""
    if model not in _RESTING:
        sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
        trained = sum(size for size, moves in sizes if moves)
        _RESTING[model] = 1 - trained / sum(size for size, _ in sizes) if trained else 0.0
    return _RESTING[model]


_RESTING: WeakKeyDictionary[Any, float] = WeakKeyDictionary()
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
