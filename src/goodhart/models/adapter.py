"""LoRA adapters by way of peft, beside linear layers whose weights a base model goes on sharing.

A policy with an adapter is a module tree of its own, with the base's own tensors in it. So the base stays what it was,
bit for bit, and serves as the reference while the adapter is trained: no switch has to be thrown between the two.
"""

from __future__ import annotations

import copy
import importlib
import json
import math
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import Parameter

from goodhart.compute.ranks import leads
from goodhart.compute.shards import whole
from goodhart.errors import GoodhartError
from goodhart.models.adapter_settings import Adapter
from goodhart.models.encoder_decoder import is_encoder_decoder
from goodhart.randomness import key

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
"""The files of an adapter, as peft has them."""
_NAME = "default"
"""What peft calls the one adapter of a model."""
_PREFIX = "base_model.model."
"""Stands before the names of tensors in peft's files."""


def check_installed() -> None:
    """Raises GoodhartError if there is no peft."""
    try:
        importlib.import_module("peft")
    except ImportError as error:
        problem = f"adapters need the package peft, which cannot be imported ({error})"
        raise GoodhartError(problem, "pip install 'goodhart[lora]', or leave `adapter` out") from error


def is_adapter(folder: Path | str) -> bool:
    """Whether a checkpoint's folder holds an adapter alone."""
    return (Path(folder) / CONFIG).is_file()


def has_adapter(model: Any) -> bool:
    """Whether some of a model's layers have an adapter."""
    return next(_adapted_layers(model), None) is not None


def linear_layers(model: Any) -> dict[str, tuple[int, int]]:
    """(inputs, outputs) of every layer that an adapter can stand beside, by name: all linear ones but the output."""
    from transformers.pytorch_utils import Conv1D

    output = model.get_output_embeddings()
    result: dict[str, tuple[int, int]] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and module is not output:
            result[name] = module.in_features, module.out_features
        elif isinstance(module, Conv1D):
            result[name] = module.weight.shape[0], module.weight.shape[1]
    return result


def chosen_layers(model: Any, adapter: Adapter) -> dict[str, tuple[int, int]]:
    """Those of `linear_layers` that an adapter asks for.

    Raises GoodhartError for a target that is none of them, and for a rank that is no lower than a layer's own.
    """
    known = linear_layers(model)
    for target in adapter.targets:
        if not any(_is(name, target) for name in known):
            ends = ", ".join(sorted({name.rpartition(".")[2] for name in known})) or "none"
            raise GoodhartError(
                f"adapter.targets names {target!r}, which is no linear layer inside {type(model).__name__}",
                f"its linear layers are: {ends}; without targets all of them have an adapter",
            )
    result = {n: size for n, size in known.items() if not adapter.targets or any(_is(n, t) for t in adapter.targets)}
    if not result:
        raise GoodhartError(f"{type(model).__name__} has no linear layers for an adapter", "leave `adapter` out")
    narrow = min(result, key=lambda name: min(result[name]))
    if adapter.rank > min(result[narrow]):
        inputs, outputs = result[narrow]
        raise GoodhartError(
            f"adapter.rank is {adapter.rank}, and {narrow} of {type(model).__name__} has {inputs} inputs and {outputs} "
            "outputs: such an adapter is larger than the layer",
            f"set adapter.rank to at most {min(result[narrow])} (8 to 64 are common), or train without an adapter",
        )
    return result


def _is(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def check_adapter(folder: Path, adapter: Adapter) -> int:
    """The number of weights that an adapter adds to a folder's model, of which no weight is read.

    Raises GoodhartError for what `chosen_layers` refuses, and if there is no peft.
    """
    check_installed()
    return weights_of(chosen_layers(skeleton(folder), adapter), adapter)


def weights_of(layers: dict[str, tuple[int, int]], adapter: Adapter) -> int:
    """Weights of A and B beside some layers."""
    return sum(adapter.rank * (inputs + outputs) for inputs, outputs in layers.values())


def skeleton(folder: Path) -> Any:
    """A folder's model without its weights. Raises GoodhartError for one that the library does not know."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        with torch.device("meta"):
            return kind.from_config(config, trust_remote_code=False)
    except Exception as error:  # whatever the library meets in the file
        reason = " ".join(str(error).split())[:200]
        raise GoodhartError(
            f"the model in {folder} cannot be built ({type(error).__name__}: {reason})",
            "save it again with model.save_pretrained(folder)",
        ) from error


def adapted(model: Any, adapter: Adapter, seed: int) -> Any:
    """A module tree with a fresh adapter over the tensors of `model`, which gives what `model` gives.

    A ~ U(-1/sqrt(inputs), 1/sqrt(inputs)), drawn for (seed, layer); B = 0. The tensors of `model` do not move from now
    on. Raises GoodhartError as `check_adapter` does.
    """
    check_installed()
    names = list(chosen_layers(model, adapter))
    tree = _injected(model, _config(model, adapter, names))
    for name, layer in _adapted_layers(tree):
        first, second = layer.lora_A[_NAME].weight, layer.lora_B[_NAME].weight
        draw = torch.Generator().manual_seed(key(seed, "adapter", name) % 2**63)
        bound = 1 / math.sqrt(first.shape[1])
        with torch.no_grad():
            first.copy_(torch.empty(first.shape).uniform_(-bound, bound, generator=draw))
            second.zero_()
    return tree


def _config(model: Any, adapter: Adapter, names: Sequence[str]) -> Any:
    from peft import LoraConfig

    ends = sorted({name.rpartition(".")[2] for name in names})
    meant = [name for name, _ in model.named_modules() if any(_is(name, end) for end in ends)]
    return LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.alpha,  # type: ignore[arg-type]
        target_modules=ends if sorted(meant) == sorted(names) else sorted(names),
        task_type="SEQ_2_SEQ_LM" if is_encoder_decoder(model) else "CAUSAL_LM",
    )


def _injected(model: Any, config: Any) -> Any:
    """A module tree over the model's tensors with peft's layers in it, their weights as they come."""
    from peft import inject_adapter_in_model

    tree = copy.deepcopy(model, {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())})
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore", UserWarning)  # of GPT-2's layers, whose weights are transposed
        inject_adapter_in_model(config, tree, _NAME)
    return tree.eval()


def _adapted_layers(model: Any) -> Iterator[tuple[str, Any]]:
    for name, module in model.named_modules():
        if hasattr(module, "lora_A") and hasattr(module, "base_layer"):
            yield name, module


def _tensors(model: Any) -> Iterator[tuple[str, Any]]:
    """A and B of every layer by the names of peft's files."""
    for name, layer in _adapted_layers(model):
        for part in ("lora_A", "lora_B"):
            yield f"{_PREFIX}{name}.{part}.weight", getattr(layer, part)[_NAME].weight


def save_adapter(model: Any, folder: Path, base: str) -> None:
    """Write the adapter alone, in peft's format; `base` names its base model, or is the way to it from the folder.

    Of processes that make a cell together all ask, and the first one writes the rows of all of them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: whole(parameter.detach()).contiguous() for name, parameter in _tensors(model)}
    if not leads():
        return
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    settings = {**model.peft_config[_NAME].to_dict(), "base_model_name_or_path": base, "inference_mode": True}
    settings = {name: sorted(value) if isinstance(value, set) else value for name, value in settings.items()}
    (folder / CONFIG).write_text(json.dumps(settings, indent=2, sort_keys=True, default=str), encoding="utf-8")


def base_of(folder: Path | str) -> str:
    """The base model of an adapter's folder: the folder of another checkpoint, or a model's name.

    Raises GoodhartError if the file does not say.
    """
    file = Path(folder) / CONFIG
    try:
        base = str(json.loads(file.read_text(encoding="utf-8"))["base_model_name_or_path"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise GoodhartError(f"{file} cannot be read, or names no base model ({error})", "make the cell anew") from error
    return str((Path(folder) / base).resolve()) if base.startswith("..") else base


def with_saved_adapter(model: Any, folder: Path) -> Any:
    """A module tree over the tensors of a base model with the adapter of a folder.

    Raises GoodhartError if it cannot be read, or is of another model.
    """
    check_installed()
    from peft import LoraConfig

    try:
        config: Any = LoraConfig.from_pretrained(str(folder))
        config.inference_mode = False  # what is held of a policy is told from its base by what can be trained
        tree = _injected(model, config)
        saved = load_file(folder / WEIGHTS)
        with torch.no_grad():
            for name, parameter in _tensors(tree):
                parameter.copy_(saved.pop(name))
        if saved:
            raise ValueError(f"{next(iter(saved))} is in no layer")
    except Exception as error:  # whatever the libraries meet in the files
        reason = " ".join(str(error).split())[:200]
        raise GoodhartError(
            f"the adapter in {folder} cannot be laid over {type(model).__name__} ({type(error).__name__}: {reason})",
            "check that its base model is the one that it was trained on",
        ) from error
    return tree


def copy_adapter(model: Any, source: Any) -> None:
    """Give a model the adapter of another one over the same layers, whatever processes hold parts of that."""
    with torch.no_grad():
        for (_, parameter), (_, value) in zip(_tensors(model), _tensors(source), strict=True):
            parameter.copy_(whole(value.detach()))


def merged(model: Any) -> Any:
    """A model of ordinary layers, W + alpha / rank B A for each that has an adapter; the others' weights are shared.

    All of its weights can be trained; what is shared must not be trained where it is a base's.
    """
    tensors: dict[int, Any] = {id(p): Parameter(p.detach()) for p in model.parameters()}
    tree = copy.deepcopy(model, tensors | {id(buffer): buffer for buffer in model.buffers()})
    for name, layer in list(_adapted_layers(tree)):
        inner = layer.base_layer
        with torch.no_grad():
            inner.weight = Parameter(inner.weight + layer.get_delta_weight(_NAME).to(inner.weight.dtype))
        parent, _, attribute = name.rpartition(".")
        setattr(tree.get_submodule(parent), attribute, inner)
    vars(tree).pop("peft_config", None)
    return tree
