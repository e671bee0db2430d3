"""Language models by preset name, Hub id or path: found, hashed, loaded from safetensors, never with remote code."""

from __future__ import annotations

import difflib
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from goodhart.cells.digest import sha256
from goodhart.compute.placement import place
from goodhart.errors import GoodhartError, is_out_of_memory
from goodhart.models.model_files import BASE_MODELS, check_layers

_FILES = (
    *("*.safetensors", "model.safetensors.index.json", "config.json", "generation_config.json"),
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab*", "merges.txt", "*.model", "*.jinja"),
)
"""What a model is: notes that lie beside it change nothing."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model folder and the digest of what is in it."""

    path: str
    digest: str


def find(name: str) -> Checkpoint:
    """The folder of a base model that ships with the package, of a local path, or of a Hub snapshot.

    Raises GoodhartError if there is none, or if it has no safetensors weights.
    """
    try:
        folder = BASE_MODELS / name
        if not (folder / "config.json").is_file():
            folder = Path(name).expanduser()
        there = folder.is_dir()
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:80]
        raise GoodhartError(
            f"model {name[:60]!r} can be no folder and no name ({reason})", "give a preset, a Hub id or a folder"
        ) from error
    folder = folder if there else _snapshot(name)
    weights = sorted(folder.glob("*.safetensors"))
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        raise GoodhartError(
            f"model {name!r} is an adapter alone, which is no model to begin with",
            "merge it into its base first: goodhart where STUDY ARM --merged FOLDER",
        )
    if not (folder / "config.json").is_file() or not weights:
        raise GoodhartError(
            f"model {name!r} has no config.json with *.safetensors weights in {folder}",
            "save it with model.save_pretrained(folder) and tokenizer.save_pretrained(folder)",
        )
    files = sorted({f for pattern in _FILES for f in folder.glob(pattern)})
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode() + bytes.fromhex(sha256(file)))
    return Checkpoint(str(folder), digest.hexdigest()[:16])


def locate(named: dict[str, str]) -> str:
    """The folder of the model that a cell names as {name, digest}. Raises GoodhartError if its files have changed."""
    result = find(named["name"])
    if result.digest != named["digest"]:
        raise GoodhartError(f"the files of model {named['name']!r} have changed", "run again to use the new files")
    return result.path


def _snapshot(name: str) -> Path:
    from huggingface_hub import snapshot_download

    shipped = sorted(p.name for p in BASE_MODELS.iterdir()) if BASE_MODELS.is_dir() else []
    near = difflib.get_close_matches(name, shipped, n=1)
    remedy = f"did you mean {near[0]!r}? Else check the name" if near else "check the name"
    try:
        return Path(snapshot_download(name, allow_patterns=list(_FILES)))
    except Exception as error:
        raise GoodhartError(
            f"model {name!r} is neither shipped ({', '.join(shipped) or 'none'}) nor a folder, and {_why(error)}",
            f"{remedy}, or download the model and give its folder's path",
        ) from error


def _why(error: Exception) -> str:
    """Why the Hub did not give a model, in words: its own messages go on about caches and settings."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    if isinstance(error, GatedRepoError):
        return "the Hub wants its terms accepted and a login (hf auth login)"
    if isinstance(error, RepositoryNotFoundError | HFValidationError):
        return "the Hub has no such model"
    if isinstance(error, LocalEntryNotFoundError):
        return "the Hub cannot be reached"
    return f"the Hub did not give it ({type(error).__name__})"


def read_model(path: str | Path) -> Any:
    """A causal or encoder-decoder language model on the CPU, in float32 and in evaluation mode.

    Training leaves it in that mode: dropout would draw from a generator that no key decides. An adapter's folder gives
    its base model with the adapter over it. Raises GoodhartError if the folder holds no model that can be read.
    """
    from goodhart.models.adapter import base_of, is_adapter, with_saved_adapter

    if is_adapter(path):
        base = base_of(path)
        return with_saved_adapter(read_whole(base if Path(base).is_dir() else find(base).path), Path(path))
    return _read(path)


def read_whole(path: str | Path) -> Any:
    """The same with the adapter, if there is one, merged into the weights of its base."""
    from goodhart.models.adapter import has_adapter, merged

    model = read_model(path)
    return merged(model) if has_adapter(model) else model


def _read(path: str | Path) -> Any:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

    from goodhart.models.norms import fuse_norms

    check_layers(Path(path))
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
        kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        model: Any = kind.from_pretrained(path, dtype=torch.float32, use_safetensors=True, trust_remote_code=False)
    except Exception as error:  # whatever the library meets in the files
        if is_out_of_memory(error):
            raise
        reason = " ".join(str(error).split())[:200]
        raise GoodhartError(
            f"the model in {path} cannot be loaded ({type(error).__name__}: {reason})",
            "save it again with model.save_pretrained(folder); models that bring code of their own are not run",
        ) from error
    fuse_norms(model)
    return model.eval()


def load_model(path: str | Path, gpus: int | None = None) -> Any:
    """What `read_model` reads, where `place` puts it."""
    return place(read_model(path), gpus)


def load_whole(path: str | Path) -> Any:
    """What `read_whole` reads, where `place` puts it."""
    return place(read_whole(path))


def write_whole(path: Path, into: Path) -> None:
    """A plain Hugging Face checkpoint of what `read_whole` reads, with its tokenizer and card.

    Raises GoodhartError if the folder is there and not empty.
    """
    if into.exists() and (not into.is_dir() or any(into.iterdir())):
        raise GoodhartError(f"{into} is there and not empty", "name a folder that is not there yet")
    read_whole(path).save_pretrained(into)
    load_tokenizer(path).save_pretrained(into)
    card = path / "README.md"
    if card.is_file():
        text = card.read_text(encoding="utf-8").replace("library_name: peft", "library_name: transformers", 1)
        (into / card.name).write_text(text, encoding="utf-8")


def save_model(model: Any, folder: Path) -> None:
    """A plain Hugging Face checkpoint; of processes that make a cell together all ask, and the first one writes."""
    from goodhart.compute.ranks import leads  # brings PyTorch with it
    from goodhart.compute.shards import is_sharded, whole_state

    state = whole_state(model) if is_sharded(model) else None
    if leads():
        model.save_pretrained(folder, state_dict=state)


def load_tokenizer(path: str | Path) -> Any:
    """The tokenizer of a model folder. Raises GoodhartError if there is none, or if it names no end token."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
        tokenizer("a")  # settings of a wrong kind show at the first text
    except Exception as error:  # whatever the library meets in the files
        files = any(Path(path).glob("*token*")) or any(Path(path).glob("*.model"))
        raise GoodhartError(
            f"model folder {path} has {'a tokenizer that cannot be read' if files else 'no tokenizer'} "
            f"({type(error).__name__})",
            "save it there with tokenizer.save_pretrained(folder)",
        ) from error
    if tokenizer.eos_token_id is None:
        raise GoodhartError(f"the tokenizer of {path} has no end-of-text token", "set tokenizer.eos_token and save it")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer
