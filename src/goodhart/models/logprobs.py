"""The one way to a log-probability: masked, from the training forward, reduced in float32."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from goodhart.models.packing import Packed, Tokens, additive, pack, pad_right

Layout = Literal["shared prompt", "plain"]
"""How responses are scored: behind one shared prompt, or one padded row for each response."""


@dataclass(frozen=True, slots=True)
class ResponseLogits:
    """The laws of the next token at every response position, and the tokens that stood there."""

    logits: Float[Tensor, "row position vocabulary"]
    """float32, unnormalised."""
    tokens: Int[Tensor, "row position"]
    real: Bool[Tensor, "row position"]
    states: Float[Tensor, "row position hidden"] | None = None
    """The trunk's last states at the tokens themselves, where they were asked for."""

    def logp(self) -> Float[Tensor, "row position"]:
        """Log p(token | prompt, earlier tokens) in nats, 0 on padding."""
        flat = torch.nn.functional.cross_entropy(self.logits.flatten(0, 1), self.tokens.flatten(), reduction="none")
        return torch.where(self.real, -flat.view_as(self.tokens), 0.0)


def response_logits(
    model: Any,
    prompts: Sequence[Tokens],
    responses: Sequence[Sequence[Tokens]],
    *,
    pad: int,
    layout: Layout,
    states: bool = False,
) -> list[ResponseLogits]:
    """Next-token logits at the response positions, one entry per response slot (first responses, second, ...)."""
    if layout == "shared prompt":
        return _shared(model, pack(prompts, responses, pad), states)
    return [_plain(model, prompts, [row[j] for row in responses], pad, states) for j in range(len(responses[0]))]


def _shared(model: Any, packed: Packed, states: bool) -> list[ResponseLogits]:
    device = next(model.parameters()).device
    out = model(
        input_ids=packed.input_ids.to(device),
        attention_mask=additive(packed.allowed.to(device), next(model.parameters()).dtype),
        position_ids=packed.position_ids.to(device),
        logits_to_keep=packed.kept,
        output_hidden_states=states,
        use_cache=False,
    )
    laws = packed.split(out.logits.index_select(1, packed.predictors().to(device)).float())
    tokens = packed.split(packed.input_ids[:, packed.prompt_width :].to(device))
    real = packed.split(packed.real.to(device))
    last = packed.split(out.hidden_states[-1][:, packed.prompt_width :]) if states else [None] * len(laws)
    return [ResponseLogits(*slot) for slot in zip(laws, tokens, real, last, strict=True)]


def _plain(
    model: Any, prompts: Sequence[Tokens], responses: Sequence[Tokens], pad: int, states: bool
) -> ResponseLogits:
    device = next(model.parameters()).device
    ids, real = pad_right([[*p, *r] for p, r in zip(prompts, responses, strict=True)], pad)
    positions = torch.arange(ids.shape[1]).expand_as(ids)
    out = model(
        input_ids=ids.to(device),
        attention_mask=real.long().to(device),
        position_ids=positions.to(device),
        output_hidden_states=states,
        use_cache=False,
    )
    tokens, token_real = pad_right(responses, pad)
    starts = torch.tensor([len(p) for p in prompts])
    columns = starts[:, None] + torch.arange(tokens.shape[1])
    laws = _at(out.logits, columns - 1).float()
    last = _at(out.hidden_states[-1], columns) if states else None
    return ResponseLogits(laws, tokens.to(device), token_real.to(device), last)


def _at(values: Float[Tensor, "row column size"], columns: Int[Tensor, "row position"]) -> Tensor:
    """Values at some columns of each row; positions behind a row's end are padding and read its last column."""
    index = columns.clamp(max=values.shape[1] - 1).to(values.device)
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[-1]))


def sequence_logps(
    model: Any, prompts: Sequence[Tokens], responses: Sequence[Sequence[Tokens]], *, pad: int, layout: Layout
) -> Float[Tensor, "row response"]:
    """Log p(response | prompt) in nats: the sum over the response's tokens, its end token included."""
    slots = response_logits(model, prompts, responses, pad=pad, layout=layout)
    return torch.stack([slot.logp().sum(1) for slot in slots], dim=1)


def choose_layout(model: Any, pad: int) -> Layout:
    """`shared prompt` if the model gives the plain forward's log-probabilities with it, else `plain`.

    Models that ignore or refuse a four-dimensional mask or explicit positions are found out here, once.
    """
    size = model.get_input_embeddings().num_embeddings
    draw = torch.Generator().manual_seed(0)
    text = [torch.randint(0, size, (n,), generator=draw).tolist() for n in (5, 3, 4, 2, 1, 6)]
    probe = (text[:2], [text[2:4], text[4:6]])
    with torch.inference_mode():
        try:
            shared = sequence_logps(model, *probe, pad=pad, layout="shared prompt")
        except (TypeError, ValueError, RuntimeError, IndexError):
            return "plain"
        plain = sequence_logps(model, *probe, pad=pad, layout="plain")
    half = next(model.parameters()).dtype in (torch.bfloat16, torch.float16)
    close = torch.allclose(shared, plain, rtol=2e-2 if half else 1e-4, atol=0.5 if half else 1e-3)
    return "shared prompt" if close else "plain"
