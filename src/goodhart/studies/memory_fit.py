"""What a machine's memory holds of models that are trained, sampled from or asked, counted from their shapes.

One account serves the proposal of a study (how many rows at a time), `--dry-run` and the check before the start.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from goodhart.compute.placement import may_have_gpus
from goodhart.models.adapter_settings import Adapter
from goodhart.models.model_files import config, parameters
from goodhart.training.settings import Optimisation

_FLOAT = 4
"""Bytes of a number in float32."""
_USED = 0.7
"""Of the free memory; the rest is for what is not counted here."""
_NAMES = {
    "width": ("hidden_size", "d_model", "n_embd"),
    "layers": ("num_hidden_layers", "num_layers", "n_layer"),
    "inner": ("intermediate_size", "d_ff", "ffn_dim", "encoder_ffn_dim", "n_inner"),
    "heads": ("num_attention_heads", "num_heads", "n_head", "encoder_attention_heads"),
    "groups": ("num_key_value_heads",),
    "head": ("head_dim", "d_kv"),
    "vocabulary": ("vocab_size",),
}
_USUAL = {"width": 1024, "layers": 24}
"""For a model whose `config.json` calls them something else."""


@dataclass(frozen=True, slots=True)
class Room:
    """Memory that each worker has for training."""

    each: int
    """Bytes."""
    workers: int

    @classmethod
    def of(cls, workers: int) -> Room:
        """What is free now, shared by the workers: of the GPUs, one for each, where there are any."""
        free = _gpu_memory()[0] or psutil.virtual_memory().available // workers
        return cls(int(_USED * free), workers)

    @classmethod
    def whole(cls, workers: int, gpus_each: int) -> Room:
        """All that there is, whoever has it now: of the GPUs of a worker, or of the machine, shared by the workers."""
        gpu = _gpu_memory()[1]
        return cls(gpu * max(1, gpus_each) if gpu else _machine() // workers, workers)


def _machine() -> int:
    """Bytes of the machine, or of the container that this process is in."""
    limit = Path("/sys/fs/cgroup/memory.max")
    most = limit.read_text(encoding="utf-8").strip() if limit.is_file() else "max"
    return min(psutil.virtual_memory().total, int(most) if most.isdigit() else sys.maxsize)


def _gpu_memory() -> tuple[int, int]:
    """Free and all bytes of the first GPU; 0 where there is none."""
    if not may_have_gpus():
        return 0, 0
    import torch

    return torch.cuda.mem_get_info() if torch.cuda.is_available() else (0, 0)


PARTS = ("weights", "gradients", "optimiser", "activations", "logits")
"""Of `Holds`, in its order."""


@dataclass(frozen=True, slots=True)
class Holds:
    """Bytes by what they are for, at the moment when they are most."""

    weights: int = 0
    gradients: int = 0
    optimiser: int = 0
    activations: int = 0
    logits: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.weights + self.gradients + self.optimiser + self.activations + self.logits

    def __add__(self, other: Holds) -> Holds:
        return Holds(*(a + b for a, b in zip(self.parts, other.parts, strict=True)))

    @property
    def parts(self) -> tuple[int, int, int, int, int]:
        """In the order of the fields."""
        return self.weights, self.gradients, self.optimiser, self.activations, self.logits


@dataclass(frozen=True, slots=True)
class Text:
    """What a model reads of one prompt at a time: the prompt once, and its branches."""

    prompt: int
    branches: int
    """How many, each of `length` tokens."""
    length: int

    @property
    def written(self) -> int:
        """Tokens of all branches, at which there are logits."""
        return self.branches * self.length

    @property
    def tokens(self) -> int:
        """All that is read."""
        return self.prompt + self.written


@dataclass(frozen=True, slots=True)
class Shape:
    """What a model's files say of its size."""

    parameters: int
    width: int
    layers: int
    inner: int
    """Of the layer between a block's two linear maps."""
    heads: int
    """The sizes of a layer's heads, added up; `keys` are those that keys have."""
    keys: int
    vocabulary: int

    @classmethod
    def of(cls, folder: Path) -> Shape:
        """Of a model in a folder, from its `config.json` and the headers of its weights."""
        settings = config(folder)

        def size(name: str, otherwise: int) -> int:
            return next(
                (int(settings[each]) for each in _NAMES[name] if isinstance(settings.get(each), int)), otherwise
            )

        width, layers = size("width", _USUAL["width"]), size("layers", _USUAL["layers"])
        number = size("heads", 1)
        head = size("head", width // number)
        if settings.get("is_encoder_decoder"):
            layers += int(settings.get("num_decoder_layers") or settings.get("decoder_layers") or layers)
        return cls(
            parameters(folder),
            width,
            layers,
            size("inner", 4 * width),
            number * head,
            size("groups", number) * head,
            size("vocabulary", 0),
        )

    def adapter(self, adapter: Adapter) -> int:
        """Weights of an adapter beside all linear layers of a block, gated as most are."""
        sides = 2 * (self.width + self.heads) + 2 * (self.width + self.keys) + 3 * (self.width + self.inner)
        return adapter.rank * sides * self.layers

    def held(self) -> Holds:
        """A model that is only read, in float32."""
        return Holds(weights=_FLOAT * self.parameters)

    def trained(
        self, texts: list[Text], rows: int, settings: Optimisation, adapter: Adapter | None, *, cut: bool = False
    ) -> Holds:
        """A step of AdamW in float32 on so many rows at once; each row is a pass over each of the texts.

        `cut` says that they are not the whole batch, so that gradients of others are held already. The most is held
        either where the backward pass begins, or where it has come to the other layers and logits are gone.
        """
        number = self.parameters if adapter is None else self.adapter(adapter)
        always = Holds(weights=_FLOAT * (self.parameters + (number if adapter else 0)), optimiser=2 * _FLOAT * number)
        entries = sum(each.written for each in texts) + max(each.written for each in texts)
        first = Holds(
            gradients=_FLOAT * (number if cut else min(number, self.vocabulary * self.width)),
            activations=rows * sum(self._kept(text, settings, adapter) for text in texts),
            logits=rows * entries * self.vocabulary * _FLOAT,
        )
        again = max(self._again(text, settings, adapter) for text in texts)
        later = Holds(gradients=_FLOAT * number, activations=first.activations + rows * (again + self._passing(texts)))
        return always + largest([first, later])

    def read(self, texts: list[Text], rows: int) -> Holds:
        """Log-probabilities without gradients, of so many rows at once."""
        widest = max(texts, key=lambda text: text.tokens)
        logits = _READ_LOGITS * max(text.written for text in texts) * self.vocabulary
        return Holds(activations=rows * self._passing([widest]), logits=rows * logits * _FLOAT)

    def written(self, prompt: int, response: int, samples: int, rows: int) -> Holds:
        """Sampling: the keys and values of prompts and samples, and the logits of one token of each sample."""
        cache = 2 * self.layers * self.keys * (prompt + samples * response)
        passing = self._passing([Text(prompt, 0, 0)])
        return Holds(
            activations=rows * (_FLOAT * cache + passing),
            logits=rows * samples * self.vocabulary * _FLOAT * _SAMPLED_LOGITS,
        )

    def _kept(self, text: Text, settings: Optimisation, adapter: Adapter | None) -> int:
        """Bytes that one row keeps for the backward pass.

        The last layer is computed at what predicts; of the prompt it needs keys and values.
        """
        token = self._token(adapter)
        last = (text.written + 1) * token + text.prompt * (self.width + 2 * self.keys)
        each = self.width if settings.gradient_checkpointing else token
        return _FLOAT * ((self.layers - 1) * text.tokens * each + last)

    def _again(self, text: Text, settings: Optimisation, adapter: Adapter | None) -> int:
        """Bytes of one row's layer that is computed again, where those of the last layer are gone."""
        token = self._token(adapter)
        more = text.tokens * token - (text.written + 1) * token - text.prompt * (self.width + 2 * self.keys)
        return _FLOAT * max(0, more) if settings.gradient_checkpointing and self.layers > 1 else 0

    def _token(self, adapter: Adapter | None) -> int:
        """Numbers that a layer keeps of a token.

        Its inputs and both norms' results (4 widths), queries, what attention finds and what the next product reads of
        it (3 heads), keys and values, and of the gated layer its two halves, what the activation function gives and
        the product (4 inner); an adapter adds what its A gives.
        """
        token = 4 * self.width + 3 * self.heads + 2 * self.keys + 4 * self.inner
        return token + (7 * adapter.rank if adapter else 0)

    def _passing(self, texts: list[Text]) -> int:
        """Bytes of one row that are gone once the next layer is computed."""
        return _FLOAT * max(text.tokens for text in texts) * (2 * self.width + 3 * self.inner)


_READ_LOGITS, _SAMPLED_LOGITS = 2, 4
"""Numbers for each entry of the vocabulary where no gradient is wanted, and where a token is drawn."""


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes that training a model takes."""

    fixed: int
    row: int
    """For each row of a micro-batch."""

    @classmethod
    def of(cls, folder: Path, beside: dict[Path, int], prompt: int, response: int) -> Need:
        """Of a model in a folder, on pairs, beside copies of others that are only read, by the limits of tokens."""
        shape, text = Shape.of(folder), Text(prompt, 2, response)
        one, two = (shape.trained([text], rows, Optimisation(), None, cut=True).total for rows in (1, 2))
        held = sum(Shape.of(other).held().total * copies for other, copies in beside.items())
        return cls(one - (two - one) + held, two - one)

    def rows(self, room: Room, batch: int) -> int:
        """The largest power of two of pairs that has room, at most half the batch, so that two cores can share it."""
        rows = 1
        while rows * 2 <= max(1, batch // 2) and self.fixed + rows * 2 * self.row <= room.each:
            rows *= 2
        return rows

    def fits(self, room: Room) -> bool:
        """Whether there is memory for one pair at a time."""
        return self.fixed + self.row <= room.each


def largest(stages: list[Holds]) -> Holds:
    """The stage that holds most."""
    return max(stages, key=lambda each: each.total)


def lowered(holds: Holds, shape: Shape, adapter: Adapter | None) -> Holds:
    """Of what is trained in bfloat16: a copy of the weights below the float32 ones, or the base of an adapter alone.

    Activations are half as large; logits are added up in float32 all the same.
    """
    number = shape.parameters
    change = 2 * number if adapter is None else -2 * number
    return replace(holds, weights=holds.weights + change, activations=holds.activations // 2)
