"""What a model folder says of its model without loading it: size, context and vocabulary."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

from goodhart.errors import GoodhartError

BASE_MODELS = Path(__file__).parent.parent / "base_models"
"""The models that ship with the package."""
_CONTEXTS = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_sequence_length", "seq_length")
"""What the number of absolute or rotary positions is called in a `config.json`."""


def parameters(folder: Path) -> int:
    """The number of weights, from the headers of the safetensors files. Raises GoodhartError for a damaged header."""
    return sum(_weights(file) for file in sorted(folder.glob("*.safetensors")))


def _weights(file: Path) -> int:
    try:
        with file.open("rb") as data:
            (length,) = struct.unpack("<Q", data.read(8))
            if length > file.stat().st_size - 8:
                raise ValueError(f"a header of {length} bytes")
            header = json.loads(data.read(length))
        return sum(math.prod(each["shape"]) for name, each in header.items() if name != "__metadata__")
    except (OSError, struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise GoodhartError(
            f"{file} has no safetensors header that can be read ({error})", "copy or download it again"
        ) from error


def config(folder: Path) -> dict[str, Any]:
    """The model's `config.json`. Raises GoodhartError if it is no JSON object."""
    try:
        found = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise GoodhartError(f"{folder / 'config.json'} cannot be read ({error})", "save the model again") from error
    if not isinstance(found, dict):
        raise GoodhartError(f"{folder / 'config.json'} holds {type(found).__name__}", "save the model again")
    return found


def context(settings: dict[str, Any]) -> int | None:
    """How many positions a model has by its `config.json`; None where it has no limit (T5's are relative)."""
    if "relative_attention_num_buckets" in settings:
        return None
    return next((settings[name] for name in _CONTEXTS if isinstance(settings.get(name), int)), None)


def vocabulary(folder: Path) -> dict[str, int] | None:
    """Every token with its id, by `tokenizer.json`; None where a tokenizer has another form.

    Raises GoodhartError if its files cannot be read.
    """
    from tokenizers import Tokenizer

    file = folder / "tokenizer.json"
    if not file.is_file():
        return None
    more = folder / "tokenizer_config.json"
    try:
        found = Tokenizer.from_file(str(file)).get_vocab(with_added_tokens=True)
        added = json.loads(more.read_text(encoding="utf-8")).get("added_tokens_decoder", {}) if more.is_file() else {}
        return {**found, **{token["content"]: int(number) for number, token in added.items()}}
    except Exception as error:  # the library raises Exception itself
        reason = " ".join(str(error).split())[:160]
        raise GoodhartError(
            f"the tokenizer of model folder {folder} cannot be read ({reason})",
            "save it again with its save_pretrained",
        ) from error
