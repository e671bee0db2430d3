"""Keyed ancestral sampling: temperature 1, no truncation, one uniform per (seed, purpose, prompt, sample, position)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from goodhart.compute.ranks import anywhere
from goodhart.compute.shards import computed_in
from goodhart.compute.threads import spread
from goodhart.models.encoder_decoder import is_encoder_decoder
from goodhart.models.operations import count
from goodhart.models.packing import Tokens, additive, even_cuts
from goodhart.randomness import uniforms
from goodhart.sampling.cache import decoding_cache, keep_rows
from goodhart.sampling.encoder_decoder import EncoderDecoding
from goodhart.sampling.recording import Inputs, begin_batch, decode
from goodhart.sampling.written import Written


@dataclass(frozen=True, slots=True)
class Draws:
    """What names the random numbers of a call: they depend on nothing else."""

    seed: int
    purpose: str
    prompts: Sequence[int]
    """A number for each prompt."""
    first_sample: int | Sequence[int] = 0
    """The number of the first of the samples, of all prompts or of each; the others follow."""

    def uniforms(self, samples: int, tokens: int) -> Float[np.ndarray, "prompt sample token"]:
        """A number in [0, 1) for each place of each response, which nothing but its names decides."""
        ids = np.repeat(np.asarray(self.prompts, dtype=np.int64), samples)
        first = np.broadcast_to(np.asarray(self.first_sample, dtype=np.int64), len(self.prompts))
        numbers = (first[:, None] + np.arange(samples)).flatten()
        return uniforms(self.seed, self.purpose, ids, numbers, tokens).reshape(len(first), samples, tokens)

    def seeds(self, samples: int) -> list[list[int]]:
        """A seed below 2^53 for each response, for a sampler that draws with a generator of its own."""
        first = self.uniforms(samples, 1)[:, :, 0]
        return [[int(value) for value in row] for row in first * 2.0**53]


@runtime_checkable
class ModelSampler(Protocol):
    """Writes responses for prompts with a model that it is given."""

    def __call__(self, model: Any, prompts: Sequence[Tokens], samples: int, draws: Draws) -> list[list[list[int]]]:
        """`samples` responses for each prompt, as token ids that include the end token unless cut by the cap."""
        ...

    def written(self, model: Any, prompts: Sequence[Tokens], samples: int, draws: Draws) -> Written:
        """The same with the log-probabilities that they were drawn with."""
        ...


_BLOCK = 64
"""Tokens whose probabilities are added up before the sums are searched."""


def inverse_cdf(logits: Float[Tensor, "row vocabulary"], u: Float[Tensor, " row"]) -> Int[Tensor, " row"]:
    """The token at which the cumulative softmax first exceeds `u` (float64: 53-bit uniforms need it)."""
    return _drawn(logits, u)[0]


def _drawn(
    logits: Float[Tensor, "row vocabulary"], u: Float[Tensor, " row"]
) -> tuple[Int[Tensor, " row"], Float[Tensor, " row"]]:
    """The tokens of `inverse_cdf`, and the log of the probability that each had, in nats.

    Sums of blocks of tokens are searched first, then the block that is hit.
    """
    logits = logits.float()
    weights = (logits - logits.amax(-1, keepdim=True)).exp_()
    short = -weights.shape[-1] % _BLOCK
    blocks = (torch.nn.functional.pad(weights, (0, short)) if short else weights).unflatten(-1, (-1, _BLOCK))
    sums = blocks.sum(-1).cumsum(-1, dtype=torch.float64)
    target = u[:, None] * sums[:, -1:]
    block = torch.searchsorted(sums, target, right=True).clamp(max=sums.shape[1] - 1)
    before = torch.where(block > 0, sums.gather(1, (block - 1).clamp(min=0)), 0.0)
    inside = blocks.gather(1, block[..., None].expand(-1, -1, _BLOCK))[:, 0].double()
    column = torch.arange(_BLOCK, device=logits.device)
    # where rounding leaves the target behind the block's last sum, the last token that has a probability is it
    last = torch.where(inside > 0, column, 0).amax(-1, keepdim=True)
    place = torch.searchsorted(before + inside.cumsum(-1), target, right=True).minimum(last)
    return (block * _BLOCK + place)[:, 0], (inside.gather(1, place).log() - sums[:, -1:].log())[:, 0]


@dataclass(frozen=True, slots=True)
class KeyedSampler:
    """Decoding with a cache in which all samples of a prompt share its encoding."""

    eos: int
    pad: int
    max_tokens: int
    temperature: float = 1.0
    batch: int = 256
    """Prompts per batch."""

    def __call__(self, model: Any, prompts: Sequence[Tokens], samples: int, draws: Draws) -> list[list[list[int]]]:
        """See `ModelSampler`."""
        return self.written(model, prompts, samples, draws).responses

    def written(self, model: Any, prompts: Sequence[Tokens], samples: int, draws: Draws) -> Written:
        """See `ModelSampler`; the log-probabilities are of the law at the sampler's temperature."""

        def write(writer: Any, chosen: slice) -> Written:
            was_training = writer.training
            writer.eval()
            result = self.decoded(beginning(writer), prompts[chosen], samples, self._uniforms(draws, chosen, samples))
            writer.train(was_training)
            return result

        return _joined(spread(model, write, even_cuts(len(prompts), self.batch)), samples)

    def _uniforms(self, draws: Draws, chosen: slice, samples: int) -> Float[np.ndarray, "row sample token"]:
        first = np.broadcast_to(np.asarray(draws.first_sample, dtype=np.int64), len(draws.prompts))[chosen]
        part = Draws(draws.seed, draws.purpose, draws.prompts[chosen], [int(each) for each in first])
        return part.uniforms(samples, self.max_tokens)

    def blended(
        self, models: Sequence[tuple[Any, float]], prompts: Sequence[Tokens], samples: int, draws: Draws
    ) -> Written:
        """Samples of softmax(sum_i weight_i logits_i), token by token: a geometric mixture of the models' laws."""
        result: list[Written] = []
        for chosen in even_cuts(len(prompts), self.batch):
            trained = [model.training for model, _ in models]
            for model, _ in models:
                model.eval()
            begin = functools.partial(_Blend.begin, models)
            result.append(self.decoded(begin, prompts[chosen], samples, self._uniforms(draws, chosen, samples)))
            for (model, _), training in zip(models, trained, strict=True):
                model.train(training)
        return _joined(result, samples)

    @torch.no_grad()
    def decoded(
        self, begin: Begin, prompts: Sequence[Tokens], samples: int, u: Float[np.ndarray, "row sample token"]
    ) -> Written:
        """All samples by given uniforms."""
        state = begin(prompts, samples, self.pad, self.max_tokens)
        uniform = torch.from_numpy(u).to(state.device).view(*state.open.shape, self.max_tokens)
        out = np.full(uniform.shape, -1, dtype=np.int64)
        logps = torch.zeros(uniform.shape[:2], dtype=torch.float64, device=state.device)
        for t in range(self.max_tokens):
            scaled = state.logits.flatten(0, 1)
            scaled = scaled if self.temperature == 1 else scaled / self.temperature
            tokens, logp = _drawn(scaled, uniform[state.rows, :, t].flatten())
            chosen = tokens.view(state.open.shape)
            logps[state.rows] += torch.where(state.open, logp.view(state.open.shape), 0.0)
            written = torch.where(state.open, chosen, -1)
            out[state.rows.cpu().numpy(), :, t] = written.cpu().numpy()
            state.open = state.open & (chosen != self.eos)
            # processes that make a cell together gather the weights together, so all go on while one of them does
            if t + 1 == self.max_tokens or not anywhere(bool(state.open.any())):
                break
            state.advance(torch.where(state.open, chosen, self.pad))
        texts = [[[int(v) for v in sample if v >= 0] for sample in row] for row in out.reshape(u.shape)]
        return Written(texts, logps.view(u.shape[:2]).cpu().numpy())


def _joined(parts: Sequence[Written], samples: int) -> Written:
    logps = [part.logps for part in parts]
    rows = [row for part in parts for row in part.responses]
    return Written(rows, np.concatenate(logps) if logps else np.zeros((0, samples)))


@runtime_checkable
class Decoding(Protocol):
    """Samples that are being written."""

    rows: Int[Tensor, " row"]
    """Which prompts have samples that are not at their end."""
    open: Tensor
    """Of these, which samples."""

    @property
    def logits(self) -> Float[Tensor, "row sample vocabulary"]:
        """Of the next token."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the logits are."""
        ...

    def advance(self, tokens: Int[Tensor, "row sample"]) -> None:
        """Feed the tokens just chosen."""
        ...


Begin = Callable[[Sequence[Tokens], int, int, int], Decoding]
"""(prompts, samples, pad, most tokens) -> the state before the first token."""


def beginning(model: Any) -> Begin:
    """How a model begins to write."""
    return functools.partial(EncoderDecoding.begin if is_encoder_decoder(model) else _Decoding.begin, model)


@dataclass(slots=True)
class _Blend:
    """Several models that write the same tokens."""

    states: list[tuple[Any, float]]
    rows: Int[Tensor, " row"]
    open: Tensor

    @property
    def logits(self) -> Float[Tensor, "row sample vocabulary"]:
        """The weighted sum of theirs."""
        (first, weight), *others = self.states
        total = weight * first.logits.float()
        for state, share in others:
            total = total + share * state.logits.float()
        return total

    @property
    def device(self) -> torch.device:
        return self.states[0][0].device

    @classmethod
    def begin(
        cls, models: Sequence[tuple[Any, float]], prompts: Sequence[Tokens], samples: int, pad: int, longest: int
    ) -> _Blend:
        states = [(beginning(model)(prompts, samples, pad, longest), weight) for model, weight in models]
        first: Any = states[0][0]
        return cls(states, first.rows, first.open)

    def advance(self, tokens: Int[Tensor, "row sample"]) -> None:
        for state, _ in self.states:
            state.open = self.open
            state.advance(tokens)
        first = self.states[0][0]
        self.rows, self.open = first.rows, first.open


@dataclass(slots=True)
class _Decoding:
    """Rows of one prompt each; step t adds one column for every sample of the prompt."""

    model: Any
    cache: Any
    rows: Int[Tensor, " row"]
    open: Tensor
    logits: Tensor
    mask: Tensor
    """Additive, for all columns that there may ever be; each step takes those that are filled."""
    filled: int
    lengths: Tensor
    steps: int = 0

    @property
    def device(self) -> torch.device:
        return self.logits.device

    @classmethod
    def begin(cls, model: Any, prompts: Sequence[Tokens], samples: int, pad: int, longest: int) -> _Decoding:
        device, dtype = next(model.parameters()).device, computed_in(model)
        width = max(len(p) for p in prompts)
        ids = torch.full((len(prompts), width), pad, dtype=torch.long)
        real = torch.zeros((len(prompts), width), dtype=torch.bool)
        for i, prompt in enumerate(prompts):
            ids[i, width - len(prompt) :] = torch.as_tensor(prompt, dtype=torch.long)
            real[i, width - len(prompt) :] = True
        lengths = real.sum(1)
        positions = (real.cumsum(1) - 1).clamp(min=0)
        allowed = (torch.ones(width, width, dtype=torch.bool).tril()[None] & real[:, None, :]) | torch.eye(
            width, dtype=torch.bool
        )[None]
        count(model, int(lengths.sum()), len(prompts), float((lengths.double() ** 2).sum()) / 2)
        cache = decoding_cache(model.config, width + samples * (longest - 1), width + longest)
        logits = model(
            input_ids=ids.to(device),
            attention_mask=additive(allowed.to(device), dtype),
            position_ids=positions.to(device),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits
        begin_batch(model, cache, samples)
        return cls(
            model=model,
            cache=cache,
            rows=torch.arange(len(prompts), device=device),
            open=torch.ones(len(prompts), samples, dtype=torch.bool, device=device),
            logits=logits.expand(-1, samples, -1),
            mask=_decoding_mask(real, samples, longest, dtype).to(device),
            filled=width,
            lengths=lengths.to(device),
        )

    def advance(self, tokens: Int[Tensor, "row sample"]) -> None:
        """Feed the tokens just chosen; rows whose samples have all ended are left out of the work from here on."""
        still = self.open.any(1)
        if 0 < int(still.sum()) <= 0.75 * len(still):  # compacting copies the cache, so not for every single row
            keep = still.nonzero().squeeze(1)
            keep_rows(self.cache, keep)
            self.rows, self.open, self.mask = self.rows[keep], self.open[keep], self.mask[keep]
            self.lengths, tokens = self.lengths[keep], tokens[keep]
        samples, still_open = tokens.shape[1], int(self.open.sum())
        reach = float((self.open.sum(1) * (self.lengths + self.steps + 1)).sum())
        count(self.model, still_open, still_open, reach)
        self.filled += samples
        positions = (self.lengths + self.steps)[:, None].expand(-1, samples)
        self.logits = decode(self.model, self.cache, Inputs(tokens, self.mask[..., : self.filled], positions))
        self.steps += 1


def _decoding_mask(
    real: Bool[Tensor, "row width"], samples: int, longest: int, dtype: torch.dtype
) -> Float[Tensor, "row 1 sample column"]:
    """What every sample may attend to: its prompt, and its own column of every step."""
    own = torch.eye(samples, dtype=torch.bool).repeat(1, longest - 1)
    allowed = torch.cat([real[:, None].expand(-1, samples, -1), own.expand(len(real), -1, -1)], dim=2)
    return additive(allowed, dtype)
