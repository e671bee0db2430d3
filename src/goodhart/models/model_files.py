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
_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_decoder_layers")
"""What the number of layers is called there."""


def parameters(folder: Path) -> int:
    """The number of weights, from the headers of the safetensors files. Raises GoodhartError for a damaged header."""
    return sum(_weights(file) for file in sorted(folder.glob("*.safetensors")))


def _weights(file: Path) -> int:
    return sum(math.prod(tensor["shape"]) for tensor in _header(file).values())


def _header(file: Path) -> dict[str, Any]:
    """By tensor, what the eight bytes of length and the JSON at the file's beginning say of it."""
    try:
        with file.open("rb") as data:
            (length,) = struct.unpack("<Q", data.read(8))
            if length > file.stat().st_size - 8:
                raise ValueError(f"a header of {length} bytes")
            header = json.loads(data.read(length))
        tensors = {name: each for name, each in header.items() if name != "__metadata__"}
        if not all(all(isinstance(size, int) for size in each["shape"]) for each in tensors.values()):
            raise ValueError("a shape that is no list of numbers")
        return tensors
    except (OSError, struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise GoodhartError(
            f"{file} has no safetensors header that can be read ({error})", "copy or download it again"
        ) from error


def check_layers(folder: Path) -> None:
    """Raises GoodhartError if `config.json` asks for more layers than there are tensors, which no library would notice.

    It would build them one by one before it looks at the weights.
    """
    tensors = sum(len(_header(file)) for file in sorted(folder.glob("*.safetensors")))
    for name in _LAYERS:
        asked = config(folder).get(name)
        if isinstance(asked, int) and asked > tensors:
            raise GoodhartError(
                f"{folder / 'config.json'} says {name} is {asked}, and the weights hold {tensors} tensors",
                "save the model again with model.save_pretrained(folder)",
            )


def config(folder: Path) -> dict[str, Any]:
    """The model's `config.json`. Raises GoodhartError if it is no JSON object."""
    try:
        result = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise GoodhartError(f"{folder / 'config.json'} cannot be read ({error})", "save the model again") from error
    if not isinstance(result, dict):
        raise GoodhartError(f"{folder / 'config.json'} holds {type(result).__name__}", "save the model again")
    return result


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
        result = Tokenizer.from_file(str(file)).get_vocab(with_added_tokens=True)
        added = json.loads(more.read_text(encoding="utf-8")).get("added_tokens_decoder", {}) if more.is_file() else {}
        return {**result, **{token["content"]: int(number) for number, token in added.items()}}
    except Exception as error:  # the library raises Exception itself
        reason = " ".join(str(error).split())[:160]
        raise GoodhartError(
            f"the tokenizer of model folder {folder} cannot be read ({reason})",
            "save it again with its save_pretrained",
        ) from error
