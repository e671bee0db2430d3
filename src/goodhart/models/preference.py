"""Preference models: a language model's trunk with a linear head that judges two responses to one prompt."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModel

from goodhart.models.logprobs import Layout
from goodhart.models.packing import Tokens, additive, pack, pad_right

Kind = Literal["pairwise", "bradley-terry"]
"""pairwise: r(x, y1, y2) with both responses in context; bradley-terry: sigmoid(s(x, y1) - s(x, y2))."""


class PreferenceModel(nn.Module):
    """r(x, y1, y2) in [0, 1], the probability that y1 is preferred.

    pairwise: the trunk reads `x y1 | y2 |`, and the head maps the states at both separators to a logit
    (arXiv 2405.08448, appendix A: both responses in context, no Bradley-Terry assumption).
    bradley-terry: the trunk reads `x y |`, and the head maps the state at the separator to a score.
    """

    def __init__(self, trunk: Any, kind: Kind, separator: int, pad: int, layout: Layout) -> None:
        super().__init__()
        self.trunk = trunk
        self.kind: Kind = kind
        self.separator = separator
        self.pad = pad
        self.layout: Layout = layout
        features = trunk.config.hidden_size * (2 if kind == "pairwise" else 1)
        self.head = nn.Linear(features, 1)
        nn.init.zeros_(self.head.weight)  # the first gradient sets the direction; no draw to be seeded
        nn.init.zeros_(self.head.bias)

    @classmethod
    def from_language_model(
        cls, checkpoint: str | Path, kind: Kind, separator: int, pad: int, layout: Layout
    ) -> PreferenceModel:
        """Start from a causal language model's weights, with a zero head (r = 1/2 for every pair)."""
        trunk = AutoModel.from_pretrained(checkpoint, dtype=torch.float32, use_safetensors=True)
        return cls(trunk, kind, separator, pad, layout)

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
    ) -> Float[Tensor, "pair opponent order"]:
        """The same for several opponents of each response, with one pass over the prompt."""
        sep, rows = self.separator, list(zip(responses, *opponents, strict=True))
        if self.kind == "bradley-terry":
            ends = self._states(prompts, [[[*text, sep] for text in row] for row in rows])
            scores = torch.stack([self.head(end[:, -1])[:, 0] for end in ends], dim=1)
            margin = scores[:, :1] - scores[:, 1:]
            return torch.stack([margin, -margin][:orders], dim=2)
        pairs = [[p for other in others for p in ((own, other), (other, own))[:orders]] for own, *others in rows]
        branches = [[[*a, sep, *b, sep] for a, b in row] for row in pairs]
        ends = self._states(prompts, branches, [[len(a) for a, _ in row] for row in pairs])
        logits = torch.stack([self.head(end.flatten(1))[:, 0] for end in ends], dim=1)
        return logits.unflatten(1, (len(opponents), orders))

    def _states(
        self,
        prompts: Sequence[Tokens],
        branches: Sequence[Sequence[Tokens]],
        middles: Sequence[Sequence[int]] | None = None,
    ) -> list[Float[Tensor, "row place hidden"]]:
        """For every branch slot the states at its last token and, before it, at `middles`."""
        device = self.head.weight.device
        out: list[Tensor] = []
        for j, states in enumerate(self._forward(prompts, branches, device)):
            last = torch.tensor([len(row[j]) - 1 for row in branches], device=device)
            columns = [last] if middles is None else [torch.tensor([m[j] for m in middles], device=device), last]
            at = torch.stack(columns, dim=1)[..., None].expand(-1, -1, states.shape[-1])
            out.append(states.gather(1, at))
        return out

    def _forward(
        self, prompts: Sequence[Tokens], branches: Sequence[Sequence[Tokens]], device: torch.device
    ) -> list[Float[Tensor, "row position hidden"]]:
        if self.layout == "shared prompt":
            packed = pack(prompts, branches, self.pad)
            states = self.trunk(
                input_ids=packed.input_ids.to(device),
                attention_mask=additive(packed.allowed.to(device), self.head.weight.dtype),
                position_ids=packed.position_ids.to(device),
                use_cache=False,
            ).last_hidden_state
            return packed.split(states[:, packed.prompt_width :])
        parts: list[Tensor] = []
        for j in range(len(branches[0])):
            ids, real = pad_right([[*p, *row[j]] for p, row in _zip(prompts, branches)], self.pad)
            positions = torch.arange(ids.shape[1], device=device).expand(ids.shape)
            states = self.trunk(
                input_ids=ids.to(device), attention_mask=real.long().to(device), position_ids=positions, use_cache=False
            ).last_hidden_state
            width = max(len(row[j]) for row in branches)
            starts = torch.tensor([len(p) for p in prompts], device=device)
            columns = (starts[:, None] + torch.arange(width, device=device)).clamp(max=ids.shape[1] - 1)
            parts.append(states.gather(1, columns[..., None].expand(-1, -1, states.shape[-1])))
        return parts

    def save(self, folder: Path) -> None:
        """Write the trunk as a Hugging Face checkpoint, with the head and its settings beside it."""
        self.trunk.save_pretrained(folder)
        save_file({k: v.detach().contiguous() for k, v in self.head.state_dict().items()}, folder / "head.safetensors")
        settings = {"kind": self.kind, "separator": self.separator, "pad": self.pad, "layout": self.layout}
        (folder / "preference.json").write_text(json.dumps(settings))

    @classmethod
    def load(cls, folder: Path) -> PreferenceModel:
        """Read what `save` wrote, in evaluation mode."""
        settings = json.loads((folder / "preference.json").read_text())
        trunk = AutoModel.from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
        model = cls(trunk, **settings)
        model.head.load_state_dict(load_file(folder / "head.safetensors"))
        return model.eval()


def _zip(first: Sequence[Any], second: Sequence[Any]) -> list[tuple[Any, Any]]:
    return list(zip(first, second, strict=True))
