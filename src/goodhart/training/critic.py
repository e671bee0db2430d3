"""A value that is learnt beside the policy: of a prompt (DRO-V), or of every state of a response (PPO)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from goodhart.alignment.policy import LanguagePolicy
from goodhart.errors import GoodhartError
from goodhart.models.encoder_decoder import is_encoder_decoder
from goodhart.models.packing import Tokens, pad_right
from goodhart.training.alignment import Facts, Known
from goodhart.training.optimiser import Descent
from goodhart.training.settings import Optimisation


@runtime_checkable
class Valuing(Protocol):
    """What says how much reward is to be expected."""

    def parameters(self) -> Any:
        """What is learnt."""
        ...

    def start(self, contexts: Sequence[Tokens]) -> Float[Tensor, " row"]:
        """V(x)."""
        ...

    def along(
        self, contexts: Sequence[Tokens], responses: Sequence[Sequence[Tokens]]
    ) -> Float[Tensor, "row response token"]:
        """V(x, y_<t) before every token; anything behind a response's end."""
        ...


class ValueModel(nn.Module):
    """A language model's trunk with a linear head on its states, which starts at 0."""

    def __init__(self, language_model: Any, pad: int) -> None:
        super().__init__()
        self.language_model, self.pad = language_model, pad
        self.head = nn.Linear(language_model.config.hidden_size, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    @classmethod
    def of(cls, policy: LanguagePolicy) -> ValueModel:
        """With the policy's weights; over an adapter's base it is an adapter too.

        Raises GoodhartError for an encoder-decoder.
        """
        if is_encoder_decoder(policy.model):
            raise GoodhartError("an encoder-decoder has no value model here", "take a method without a critic")
        return cls(policy.frozen().model, policy.pad).to(next(policy.model.parameters()).device)

    def _states(self, rows: Sequence[Tokens]) -> Float[Tensor, "row token hidden"]:
        ids, present = pad_right(rows, self.pad)
        device = self.head.weight.device
        out = self.language_model(
            input_ids=ids.to(device),
            attention_mask=present.long().to(device),
            output_hidden_states=True,
            use_cache=False,
        )
        return out.hidden_states[-1].to(self.head.weight.dtype)

    def start(self, contexts: Sequence[Tokens]) -> Float[Tensor, " row"]:
        """V(x), from the state at the prompt's last token."""
        states = self._states(contexts)
        last = torch.tensor([len(each) - 1 for each in contexts], device=states.device)
        return self.head(states[torch.arange(len(contexts), device=states.device), last])[:, 0]

    def along(
        self, contexts: Sequence[Tokens], responses: Sequence[Sequence[Tokens]]
    ) -> Float[Tensor, "row response token"]:
        """V(x, y_<t), from the state at the token before."""
        number, longest = len(responses[0]), max(len(r) for row in responses for r in row)
        states = self._states([[*x, *r] for x, row in zip(contexts, responses, strict=True) for r in row])
        values = self.head(states)[..., 0]
        starts = torch.tensor([len(x) - 1 for x in contexts], device=values.device).repeat_interleave(number)
        places = (starts[:, None] + torch.arange(longest, device=values.device)).clamp(max=values.shape[1] - 1)
        return values.gather(1, places).view(len(contexts), number, longest)


class Critic:
    """Learns a value beside the policy, and gives the loss what it needs of it."""

    def __init__(self, model: Valuing, descent: Descent, parameters: Mapping[str, float]) -> None:
        self.model, self.descent, self.parameters = model, descent, parameters

    @classmethod
    def of(
        cls, kind: str, model: Valuing, settings: Optimisation, steps: int, parameters: Mapping[str, float]
    ) -> Critic:
        """A `value` of prompts, or a `critic` of every state."""
        chosen = PromptValue if kind == "value" else StateValue
        return chosen(model, Descent(model.parameters(), settings, steps), parameters)

    def state(self) -> dict[str, Any]:
        """Its parameters and their optimiser's state."""
        return self.descent.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.descent.restore(state)


class PromptValue(Critic):
    """V(x) of DRO-V: descends on (r - V - t rho)^2 / 2, t = beta, rho without gradient (arXiv 2405.19107)."""

    @torch.no_grad()
    def statistics(self, facts: Facts) -> Mapping[str, np.ndarray]:
        """`value`: V(x) of each prompt."""
        return {"value": self.model.start(facts.batch.contexts).double().cpu().numpy()}

    def learn(self, facts: Facts, logp: Known, step: int) -> None:
        """One step. Raises ValueError for a batch without rewards."""
        if facts.batch.reward is None:
            raise ValueError("a value is of rewards, and the batch has none")
        value = self.model.start(facts.batch.contexts)
        target = facts.batch.reward - self.parameters["beta"] * (logp - facts.known)
        target = torch.as_tensor(target, dtype=value.dtype)
        loss = (target.to(value.device) - value[:, None]).square().mean() / 2
        loss.backward()
        self.descent.step(step, float(loss.detach()))


class StateValue(Critic):
    """V(x, y_<t) of PPO, with generalised advantages (arXiv 1506.02438, equation 16).

    r_t = -kl (log policy - log reference) of the token, and the judge's reward at the last one;
    A_t = sum_l (discount smoothing)^l (r_{t+l} + discount V_{t+l+1} - V_{t+l}); it descends on (A + V - V')^2 / 2.
    """

    def __init__(self, model: Valuing, descent: Descent, parameters: Mapping[str, float]) -> None:
        super().__init__(model, descent, parameters)
        self._target: Float[np.ndarray, "prompt response token"] | None = None

    @torch.no_grad()
    def statistics(self, facts: Facts) -> Mapping[str, np.ndarray]:
        """`advantage`: of each token. Raises ValueError without rewards, or without the tokens' log-probabilities."""
        batch, before, reference = facts.batch, facts.before, facts.reference_tokens
        if batch.reward is None or before is None or reference is None:
            raise ValueError("advantages are of rewards and of tokens' log-probabilities, and some of them are missing")
        values = self.model.along(batch.contexts, batch.responses).double().cpu().numpy()
        lengths = batch.lengths[..., None]
        place = np.arange(values.shape[2])
        penalty = self.parameters["kl"] * (before - reference).double().cpu().numpy()
        reward = np.where(place == lengths - 1, batch.reward[..., None], 0.0) - penalty
        result = advantages(
            reward, values * (place < lengths), self.parameters["discount"], self.parameters["smoothing"]
        ) * (place < lengths)
        self._target = result + values
        return {"advantage": result}

    def learn(self, facts: Facts, logp: Known, step: int) -> None:  # noqa: ARG002 - a value of states needs no ratios
        """One step on what `statistics` looked at."""
        assert self._target is not None
        batch = facts.batch
        value = self.model.along(batch.contexts, batch.responses)
        target = torch.as_tensor(self._target, dtype=value.dtype, device=value.device)
        real = torch.as_tensor(np.arange(value.shape[2]) < batch.lengths[..., None], device=value.device)
        loss = (target - value)[real].square().mean() / 2
        loss.backward()
        self.descent.step(step, float(loss.detach()))


def advantages(
    reward: Float[np.ndarray, "prompt response token"],
    value: Float[np.ndarray, "prompt response token"],
    discount: float,
    smoothing: float,
) -> Float[np.ndarray, "prompt response token"]:
    """Generalised advantages by their recursion from the last token on; rewards and values are 0 behind the end."""
    result = np.zeros_like(value)
    following, after = np.zeros(value.shape[:2]), np.zeros(value.shape[:2])
    for t in reversed(range(value.shape[2])):
        after = reward[..., t] + discount * following - value[..., t] + discount * smoothing * after
        result[..., t] = after
        following = value[..., t]
    return result
