"""Decoding with an encoder-decoder: a prompt is encoded, and the first step taken, once for all of its samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache

from goodhart.models.encoder_decoder import Encoded, encode, start_token
from goodhart.models.operations import count, count_encoding
from goodhart.models.packing import Tokens
from goodhart.sampling.cache import decoding_cache, keep_rows


@dataclass(slots=True)
class EncoderDecoding:
    """Rows of one sample each, those of a prompt side by side; every step adds a column."""

    model: Any
    cache: EncoderDecoderCache
    encoded: Encoded
    rows: Int[Tensor, " row"]
    """Which of all samples each row is."""
    open: Bool[Tensor, "row 1"]
    logits: Float[Tensor, "row 1 vocabulary"]
    steps: int = 1

    @property
    def device(self) -> torch.device:
        """Where the rows live."""
        return self.logits.device

    @classmethod
    def begin(cls, model: Any, prompts: Sequence[Tokens], samples: int, pad: int, longest: int) -> EncoderDecoding:
        """Encode the prompts and read the start token; only then do the samples of a prompt part."""
        config = model.get_decoder().config
        cache = EncoderDecoderCache(decoding_cache(config, longest, longest), DynamicCache(config=config))
        encoded = encode(model, prompts, pad)
        lengths = [len(prompt) for prompt in prompts]
        count_encoding(model, lengths)
        count(model, len(prompts), len(prompts), float(sum(n + 1 for n in lengths)))
        start = torch.full((len(prompts), 1), start_token(model), device=encoded.states.device)
        logits = _next(model, encoded, cache, start)
        owners = torch.arange(len(prompts), device=start.device).repeat_interleave(samples)
        _keep(cache, owners)
        rows = torch.arange(len(owners), device=start.device)
        still = torch.ones(len(owners), 1, dtype=torch.bool, device=start.device)
        return cls(model, cache, encoded.take(owners), rows, still, logits.index_select(0, owners))

    def advance(self, tokens: Int[Tensor, "row 1"]) -> None:
        """Feed the tokens just chosen; samples that have ended are left out of the work from here on."""
        if bool((~self.open).sum() * 4 >= len(self.open)):  # compacting copies the caches, so not for every single row
            keep = self.open[:, 0].nonzero().squeeze(1)
            _keep(self.cache, keep)
            self.encoded = self.encoded.take(keep)
            self.rows, self.open, tokens = self.rows[keep], self.open[keep], tokens[keep]
        self.steps += 1
        fed = int(self.open.sum())
        reach = (self.encoded.real.sum(1, keepdim=True) + self.steps)[self.open]
        count(self.model, fed, fed, float(reach.sum()))
        self.logits = _next(self.model, self.encoded, self.cache, tokens)


def _next(
    model: Any, encoded: Encoded, cache: EncoderDecoderCache, tokens: Int[Tensor, "row 1"]
) -> Float[Tensor, "row 1 vocabulary"]:
    return model(**encoded.inputs(), decoder_input_ids=tokens, past_key_values=cache, use_cache=True).logits


def _keep(cache: EncoderDecoderCache, rows: Int[Tensor, " row"]) -> None:
    for part in (cache.self_attention_cache, cache.cross_attention_cache):
        keep_rows(part, rows)
