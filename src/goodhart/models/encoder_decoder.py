"""What scoring and sampling need of an encoder-decoder: the prompts encoded once, and logits at chosen columns only."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput

from goodhart.errors import GoodhartError
from goodhart.models.packing import Tokens, pad_right


def is_encoder_decoder(model: Any) -> bool:
    """Whether the prompt is read by an encoder, and the response alone by the decoder."""
    return bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))


def start_token(model: Any) -> int:
    """What the decoder reads before a response's first token. Raises GoodhartError if the configuration names none."""
    token = model.config.decoder_start_token_id
    if token is None:
        raise GoodhartError(
            f"the configuration of {type(model).__name__} has no decoder_start_token_id",
            "set it (for T5 it is the padding token) and save the model",
        )
    return int(token)


@dataclass(frozen=True, slots=True)
class Encoded:
    """The encoder's states of some prompts."""

    states: Float[Tensor, "row column hidden"]
    real: Int[Tensor, "row column"]
    """1 on tokens, 0 on padding."""

    def take(self, rows: Int[Tensor, " row"]) -> Encoded:
        """These rows, which may repeat."""
        return Encoded(self.states.index_select(0, rows), self.real.index_select(0, rows))

    def inputs(self) -> dict[str, Any]:
        """The arguments of a Hugging Face forward pass that spare it the encoder."""
        return {"encoder_outputs": BaseModelOutput(last_hidden_state=self.states), "attention_mask": self.real}


def encode(model: Any, prompts: Sequence[Tokens], pad: int) -> Encoded:
    """Run the encoder once on each prompt. Raises ValueError for an empty prompt."""
    if any(len(prompt) == 0 for prompt in prompts):
        raise ValueError("a prompt must have at least one token")
    device = next(model.parameters()).device
    ids, real = pad_right(prompts, pad)
    mask = real.long().to(device)
    result = model.get_encoder()(input_ids=ids.to(device), attention_mask=mask)
    return Encoded(result.last_hidden_state, mask)


@contextmanager
def logits_at(model: Any, places: Int[Tensor, " token"]) -> Generator[None]:
    """Within, a forward pass gives logits `[1, token, vocabulary]` at these places of the flattened batch.

    The model's own forward scales and shifts them as it does; only padding never meets the output matrix, whose
    product is most of the memory of a batch.
    """

    def choose(_: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
        return (inputs[0].flatten(0, 1).index_select(0, places)[None],)

    hook = model.get_output_embeddings().register_forward_pre_hook(choose)
    try:
        yield
    finally:
        hook.remove()
