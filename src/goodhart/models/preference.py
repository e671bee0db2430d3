"""Preference models: a language model's trunk with a linear head that judges two responses to one prompt."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from goodhart.compute.placement import place
from goodhart.compute.ranks import leads, number
from goodhart.compute.shards import in_parts, whole_state
from goodhart.models.adapter import adapted, save_adapter, with_saved_adapter
from goodhart.models.adapter_settings import Adapter
from goodhart.models.checkpoint import locate, read_model, save_model
from goodhart.models.logprobs import Layout, response_laws
from goodhart.models.packing import Tokens

Kind = Literal["pairwise", "bradley-terry"]
"""pairwise: r(x, y1, y2) with both responses in context; bradley-terry: sigmoid(s(x, y1) - s(x, y2))."""


NUMBERS, INFORMATION = 4, 2
"""How many numbers the head sees of a response besides the trunk's state; which of them is the mutual information."""


class PreferenceModel(nn.Module):
    """r(x, y1, y2) in [0, 1], the probability that y1 is preferred.

    pairwise: the model reads `x y1 | y2 |`, and the head maps what it finds at both separators to a logit
    (arXiv 2405.08448, appendix A: both responses in context, no Bradley-Terry assumption).
    bradley-terry: the model reads `x y |`, and the head maps what it finds at the separator to a score.
    The encoder of an encoder-decoder reads x, and its decoder what is behind x.

    Of each response the head sees the trunk's state at its separator and four numbers: the language model's mean
    log p(y|x) and mean log p(y|no prompt) per token, their pointwise mutual information log p(y|x) - log p(y) / 10
    (nats) and the length / 10 (tokens). A small trunk takes many thousand pairs to learn to compare a response with
    its prompt; its own next-token law knows already. So the head starts with weight 1 on the mutual information (-1
    for y2) and 0 elsewhere: before any training, the response that its prompt makes likelier is preferred.
    """

    def __init__(
        self,
        language_model: Any,
        kind: Kind,
        separator: int,
        pad: int,
        layout: Layout,
        base: dict[str, str] | None = None,
    ) -> None:
        """`base` is the {name, digest} of the model that an adapter is over."""
        super().__init__()
        self.language_model, self.base = language_model, base
        self.kind: Kind = kind
        self.separator = separator
        self.pad = pad
        self.layout: Layout = layout
        features = language_model.config.hidden_size + NUMBERS
        self.head = nn.Linear(features * (2 if kind == "pairwise" else 1), 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        with torch.no_grad():
            for k, sign in enumerate((1.0, -1.0)[: len(self.head.weight[0]) // features]):
                self.head.weight[0, (k + 1) * features - NUMBERS + INFORMATION] = sign

    @classmethod
    def from_language_model(
        cls, checkpoint: str | Path, kind: Kind, separator: int, pad: int, layout: Layout
    ) -> PreferenceModel:
        """Start from a language model's weights and its judgement of mutual information."""
        return cls(read_model(checkpoint), kind, separator, pad, layout)

    def adapt(self, adapter: Adapter, seed: int, base: dict[str, str]) -> None:
        """Train an adapter in place of the language model's weights; `base` is {name, digest} of these."""
        self.language_model, self.base = adapted(self.language_model, adapter, seed), base

    def logits(
        self, prompts: Sequence[Tokens], first: Sequence[Tokens], second: Sequence[Tokens]
    ) -> Float[Tensor, " pair"]:
        """Logit of r(x, first, second)."""
        return self.both(prompts, first, second, orders=1)[:, 0]

    def both(
        self, prompts: Sequence[Tokens], first: Sequence[Tokens], second: Sequence[Tokens], *, orders: int = 2
    ) -> Float[Tensor, "pair order"]:
        """Logits of r(x, first, second) and, with two orders, of r(x, second, first)."""
        return self.against(prompts, first, [second], orders=orders)[:, 0]

    def against(
        self,
        prompts: Sequence[Tokens],
        responses: Sequence[Tokens],
        opponents: Sequence[Sequence[Tokens]],
        *,
        orders: int = 2,
        known: Float[Tensor, "pair opponent"] | None = None,
    ) -> Float[Tensor, "pair opponent order"]:
        """The same for several opponents of each response, with one pass over the prompt.

        `known` is what `alone` gave for the opponents; it saves computing it again.
        """
        texts = [responses, *opponents]
        alone = self.alone(prompts, texts if known is None else texts[:1])
        if known is not None:
            alone = torch.cat([alone, known], dim=1)
        if self.kind == "bradley-terry":
            margin = alone[:, :1] - alone[:, 1:]
            return torch.stack([margin, -margin][:orders], dim=2)
        places = [order for j in range(1, len(texts)) for order in ((0, j), (j, 0))[:orders]]
        read = self._read(prompts, [[(row[a], row[b]) for a, b in places] for row in zip(*texts, strict=True)])
        logits = [
            self.head(torch.cat([_features(one, alone[:, a]), _features(two, alone[:, b])], dim=1))
            for (one, two), (a, b) in zip(read, places, strict=True)
        ]
        return torch.cat(logits, dim=1).unflatten(1, (len(opponents), orders))

    def alone(self, prompts: Sequence[Tokens], texts: Sequence[Sequence[Tokens]]) -> Float[Tensor, "pair text"]:
        """What a judgement needs of a response whatever its opponent is, for one or more responses to each prompt.

        bradley-terry: the score. pairwise: log p(y) in nats without the prompt, behind its first and last token
        alone (the frame of an empty prompt).
        """
        rows = list(zip(*texts, strict=True))
        frames = [[prompt[0], prompt[-1]] for prompt in prompts]
        laws = response_laws(self.language_model, frames, rows, pad=self.pad, layout=self.layout)
        bare = laws.sums(laws.logp())
        if self.kind == "pairwise":
            return bare
        read = self._read(prompts, [[(text,) for text in row] for row in rows])
        return torch.cat([self.head(_features(result[0], bare[:, j])) for j, result in enumerate(read)], dim=1)

    def _read(self, prompts: Sequence[Tokens], branches: Sequence[Sequence[Sequence[Tokens]]]) -> list[list[_Reading]]:
        """For every branch slot (a chain of responses, each followed by a separator) what is read of its responses."""
        chains = [[[t for text in chain for t in (*text, self.separator)] for chain in row] for row in branches]
        laws = response_laws(self.language_model, prompts, chains, pad=self.pad, layout=self.layout, states=True)
        assert laws.states is not None
        logps, states = laws.columns(laws.logp()), laws.states.split(list(laws.widths), dim=1)
        slots = enumerate(zip(logps, states, strict=True))
        return [_readings(logp, state, [row[j] for row in branches]) for j, (logp, state) in slots]

    def save(self, folder: Path) -> None:
        """Write the language model as a Hugging Face checkpoint, with the head and its settings beside it.

        Of a language model with an adapter it is the adapter alone. Of processes that make a cell together all ask,
        and the first one writes.
        """
        if self.base is None:
            save_model(self.language_model, folder)
        else:
            save_adapter(self.language_model, folder, self.base["name"])
        head = whole_state(self.head)
        if leads():
            save_file({k: v.detach().contiguous() for k, v in head.items()}, folder / "head.safetensors")
        settings: dict[str, Any] = {"kind": self.kind, "separator": self.separator}
        settings |= {"pad": self.pad, "layout": self.layout, **({"base": self.base} if self.base else {})}
        (folder / "preference.json").write_text(json.dumps(settings))

    @classmethod
    def load(cls, folder: Path) -> PreferenceModel:
        """Read what `save` wrote, in evaluation mode.

        Raises GoodhartError if the model that its adapter is over is not there any more, or is another one.
        """
        settings = json.loads((folder / "preference.json").read_text())
        base = settings.get("base")
        model = cls(with_saved_adapter(read_model(locate(base)), folder) if base else read_model(folder), **settings)
        model.head.load_state_dict(load_file(folder / "head.safetensors"))
        return model.eval()

    def placed(self) -> PreferenceModel:
        """The model where `place` puts its language model; the head reads what that gives.

        Of processes that make a cell together each keeps its part of the weights from now on.
        """
        if number() > 1:
            self.language_model, self.head = in_parts(self.language_model), in_parts(self.head)
            return self
        self.language_model = place(self.language_model)
        self.head.to(next(self.language_model.parameters()).device)
        return self


@dataclass(frozen=True, slots=True)
class _Reading:
    """What the model finds of one response."""

    state: Float[Tensor, "row hidden"]
    logp: Float[Tensor, " row"]
    """log p(y | what stands before it), nats."""
    length: Int[Tensor, " row"]


def _readings(
    logp: Float[Tensor, "row position"],
    states: Float[Tensor, "row position hidden"],
    chains: Sequence[Sequence[Tokens]],
) -> list[_Reading]:
    column = torch.arange(logp.shape[1], device=logp.device)
    start = torch.zeros(len(chains), dtype=torch.long, device=logp.device)
    readings: list[_Reading] = []
    for k in range(len(chains[0])):
        length = torch.tensor([len(chain[k]) for chain in chains], device=logp.device)
        inside = (column >= start[:, None]) & (column < (start + length)[:, None])
        end = (start + length)[:, None, None].expand(-1, 1, states.shape[-1])
        state = states.gather(1, end).squeeze(1)
        readings.append(_Reading(state, torch.where(inside, logp, 0.0).sum(1), length))
        start = start + length + 1
    return readings


def _features(reading: _Reading, bare: Float[Tensor, " row"]) -> Float[Tensor, "row feature"]:
    count = reading.length.clamp(min=1)
    numbers = [reading.logp / count, bare / count, (reading.logp - bare) / 10, reading.length / 10]
    return torch.cat([reading.state, torch.stack(numbers, dim=1)], dim=1)
