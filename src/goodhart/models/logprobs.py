"""The one way to a log-probability: masked, from the training forward, reduced in float32."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from goodhart.errors import is_out_of_memory
from goodhart.models.encoder_decoder import encode, is_encoder_decoder, logits_at, start_token
from goodhart.models.last_layer import keeping_ends, last_layer
from goodhart.models.operations import count_responses
from goodhart.models.packing import Tokens, pad_right
from goodhart.models.tree import plant
from goodhart.models.tree_attention import reading_trees

Layout = Literal["shared prompt", "shared prompt, all rows", "plain", "encoder-decoder"]
"""How responses are scored.

shared prompt: all responses behind one prompt, without padding; logits at response tokens only, and the last layer at
no more of the prompt than predicts them (`models/tree.py`).
shared prompt, all rows: the same for models of whose last layer nothing can be left out.
plain: one right-padded row for each response, for causal models that cannot read trees.
encoder-decoder: the encoder reads each prompt once, and the decoder one right-padded row for each response.
"""


@dataclass(frozen=True, slots=True)
class Laws:
    """The law of the next token at every real response token, row by row and response by response."""

    logits: Float[Tensor, "token vocabulary"]
    """float32, unnormalised."""
    tokens: Int[Tensor, " token"]
    """What stood there."""
    real: Bool[Tensor, "row column"]
    """Where the real tokens are; the responses of a row stand side by side, `widths` columns each."""
    widths: tuple[int, ...]
    states: Float[Tensor, "row column hidden"] | None = None
    """The trunk's last states at the tokens themselves, where they were asked for."""

    def logp(self) -> Float[Tensor, " token"]:
        """Log p(token | prompt, earlier tokens) in nats."""
        if torch.is_grad_enabled() and self.logits.requires_grad:
            return _Picked.apply(self.logits, self.tokens)
        return -torch.nn.functional.cross_entropy(self.logits, self.tokens, reduction="none")

    def columns(self, values: Float[Tensor, " token"]) -> list[Float[Tensor, "row position"]]:
        """One value for each token, laid out by response; 0 on padding."""
        places = self.real.flatten().nonzero().squeeze(1)
        flat = values.new_zeros(self.real.numel()).index_copy(0, places, values)
        return list(flat.view(self.real.shape).split(list(self.widths), dim=1))

    def sums(self, values: Float[Tensor, " token"]) -> Float[Tensor, "row response"]:
        """One value for each token, summed over each response."""
        return torch.stack([part.sum(1) for part in self.columns(values)], dim=1)

    def counts(self) -> Int[Tensor, "row response"]:
        """Real tokens of each response."""
        return torch.stack([part.sum(1) for part in self.real.split(list(self.widths), dim=1)], dim=1)


class _Picked(torch.autograd.Function):
    """log softmax at one token of each row, half as long as PyTorch's, which goes over the vocabulary more often.

    d log p(y) / d logit(v) = [v = y] - p(v).
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Float[Tensor, "token vocabulary"], tokens: Int[Tensor, " token"]
    ) -> Float[Tensor, " token"]:
        top = logits.amax(1, keepdim=True)
        weights = (logits - top).exp_()
        total = weights.sum(1, keepdim=True)
        ctx.save_for_backward(weights, total, tokens)
        return (logits.gather(1, tokens[:, None]) - top - total.log())[:, 0]

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None]:
        weights, total, tokens = ctx.saved_tensors
        slope = slopes[0][:, None]
        return (weights * (-slope / total)).scatter_add_(1, tokens[:, None], slope), None


def response_laws(
    model: Any,
    prompts: Sequence[Tokens],
    responses: Sequence[Sequence[Tokens]],
    *,
    pad: int,
    layout: Layout,
    states: bool = False,
) -> Laws:
    """Next-token logits at the response tokens; every prompt has the same number of responses."""
    count_responses(model, prompts, responses, last_layer(model) if layout == "shared prompt" else None)
    if layout == "encoder-decoder":
        return _encoder_decoder(model, prompts, responses, pad, states)
    if layout == "plain":
        return _plain(model, prompts, responses, pad, states)
    return _tree(model, prompts, responses, states, keep_ends=layout == "shared prompt")


def _tree(
    model: Any, prompts: Sequence[Tokens], responses: Sequence[Sequence[Tokens]], states: bool, *, keep_ends: bool
) -> Laws:
    device = next(model.parameters()).device
    tree = plant(prompts, responses).to(device)
    with reading_trees(model), keeping_ends(model, tree) if keep_ends else nullcontext():
        out = model(
            input_ids=tree.ids[None],
            # four-dimensional masks pass Transformers' mask code unchanged, and a tree's attention needs none
            attention_mask=torch.zeros(1, 1, 1, 1, device=device),
            position_ids=tree.positions[None],
            logits_to_keep=tree.predictors,
            output_hidden_states=states,
            use_cache=False,
            tree=tree,
        )
    branches = tree.all.branches
    rows, width = branches.shape
    real = torch.zeros(rows * width, dtype=torch.bool, device=device).index_fill_(0, branches.places, True)
    return Laws(
        out.logits[0].float(),
        tree.written,
        real.view(len(prompts), -1),
        (width,) * tree.slots,
        branches.spread(out.hidden_states[-1][0]).unflatten(0, (len(prompts), tree.slots)).flatten(1, 2)
        if states
        else None,
    )


def _plain(
    model: Any, prompts: Sequence[Tokens], responses: Sequence[Sequence[Tokens]], pad: int, states: bool
) -> Laws:
    device = next(model.parameters()).device
    ids, present = pad_right([[*p, *r] for p, row in zip(prompts, responses, strict=True) for r in row], pad)
    out = model(
        input_ids=ids.to(device),
        attention_mask=present.long().to(device),
        position_ids=torch.arange(ids.shape[1]).expand_as(ids).to(device),
        output_hidden_states=states,
        use_cache=False,
    )
    slots = len(responses[0])
    tokens, real = pad_right([r for row in responses for r in row], pad)
    starts = torch.tensor([len(p) for p in prompts]).repeat_interleave(slots)
    columns = starts[:, None] + torch.arange(tokens.shape[1])
    predictors = (torch.arange(len(ids))[:, None] * ids.shape[1] + columns - 1)[real].to(device)
    return Laws(
        out.logits.flatten(0, 1).index_select(0, predictors).float(),
        tokens[real].to(device),
        real.view(len(prompts), -1).to(device),
        (tokens.shape[1],) * slots,
        _at(out.hidden_states[-1], columns).unflatten(0, (len(prompts), slots)).flatten(1, 2) if states else None,
    )


def _encoder_decoder(
    model: Any, prompts: Sequence[Tokens], responses: Sequence[Sequence[Tokens]], pad: int, states: bool
) -> Laws:
    device = next(model.parameters()).device
    slots = len(responses[0])
    tokens, real = pad_right([r for row in responses for r in row], pad)
    read = torch.cat([torch.full((len(tokens), 1), start_token(model)), tokens], dim=1)
    if not states:
        read = read[:, :-1]  # a last token predicts nothing; only its state could be asked for
    places = torch.arange(len(read))[:, None] * read.shape[1] + torch.arange(tokens.shape[1])
    owners = torch.arange(len(prompts), device=device).repeat_interleave(slots)
    with logits_at(model, places[real].to(device)):
        # padding stands behind the tokens, where the causal mask of the decoder hides it
        out = model(
            **encode(model, prompts, pad).take(owners).inputs(),
            decoder_input_ids=read.to(device),
            output_hidden_states=states,
            use_cache=False,
        )
    return Laws(
        out.logits[0].float(),
        tokens[real].to(device),
        real.view(len(prompts), -1).to(device),
        (tokens.shape[1],) * slots,
        out.decoder_hidden_states[-1][:, 1:].unflatten(0, (len(prompts), slots)).flatten(1, 2) if states else None,
    )


def _at(values: Float[Tensor, "row column size"], columns: Int[Tensor, "row position"]) -> Tensor:
    """Values at some columns of each row; positions behind a row's end are padding and read its last column."""
    index = columns.clamp(max=values.shape[1] - 1).to(values.device)
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[-1]))


def sequence_logps(
    model: Any, prompts: Sequence[Tokens], responses: Sequence[Sequence[Tokens]], *, pad: int, layout: Layout
) -> Float[Tensor, "row response"]:
    """Log p(response | prompt) in nats: the sum over the response's tokens, its end token included."""
    laws = response_laws(model, prompts, responses, pad=pad, layout=layout)
    return laws.sums(laws.logp())


def choose_layout(model: Any, pad: int) -> Layout:
    """The shared prompt where it gives the plain forward's log-probabilities.

    Causal models whose attention cannot be told what to read, that ignore explicit positions, or whose last layer does
    more than attend and transform each token, are found out here, once. A machine that cannot go on says nothing about
    the layout: its fault is raised.
    """
    if is_encoder_decoder(model):
        return "encoder-decoder"
    size = model.get_input_embeddings().num_embeddings
    draw = torch.Generator().manual_seed(0)
    text = [torch.randint(0, size, (n,), generator=draw).tolist() for n in (5, 3, 4, 2, 1, 6)]
    probe = (text[:2], [text[2:4], text[4:6]])
    half = next(model.parameters()).dtype in (torch.bfloat16, torch.float16)
    with torch.inference_mode():
        plain = sequence_logps(model, *probe, pad=pad, layout="plain")
        for layout in ("shared prompt", "shared prompt, all rows"):
            try:
                result = sequence_logps(model, *probe, pad=pad, layout=layout)
            except (TypeError, ValueError, RuntimeError, IndexError, AttributeError, KeyError) as fault:
                if is_out_of_memory(fault) or isinstance(fault, torch.AcceleratorError):
                    raise
                continue
            if torch.allclose(result, plain, rtol=2e-2 if half else 1e-4, atol=0.5 if half else 1e-3):
                return layout
    return "plain"
