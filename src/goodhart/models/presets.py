"""Model presets: ordinary Llama configurations, from 0.4 to 16 million parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from goodhart.errors import GoodhartError

if TYPE_CHECKING:
    from transformers import LlamaConfig


@dataclass(frozen=True, slots=True)
class Preset:
    """The shape of a small decoder."""

    hidden: int
    layers: int
    heads: int
    feed_forward: int


PRESETS = {
    "nano": Preset(hidden=64, layers=3, heads=2, feed_forward=176),  # 0.41M parameters with 4096 tokens
    "tiny": Preset(hidden=128, layers=4, heads=4, feed_forward=352),  # 1.3M
    "small": Preset(hidden=256, layers=5, heads=4, feed_forward=704),  # 5.1M
    "base": Preset(hidden=448, layers=6, heads=7, feed_forward=1216),  # 16.5M
}
VOCABULARY = 4096
CONTEXT = 256


def preset_config(name: str, *, vocab_size: int, bos: int, eos: int, pad: int) -> LlamaConfig:
    """The Hugging Face configuration of a preset. Raises GoodhartError for a name that is none."""
    if name not in PRESETS:
        raise GoodhartError(f"there is no model preset {name!r}", f"choose one of {', '.join(PRESETS)}")
    return config_of(PRESETS[name], vocab_size=vocab_size, bos=bos, eos=eos, pad=pad)


def config_of(shape: Preset, *, vocab_size: int, bos: int, eos: int, pad: int) -> LlamaConfig:
    """The Hugging Face configuration of a shape."""
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=shape.hidden,
        intermediate_size=shape.feed_forward,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=bos,
        eos_token_id=eos,
        pad_token_id=pad,
    )
