"""Samplers by name: the built-in one, those of installed packages, and functions of the user's own.

One that is not built in has weights and a law of its own, so it is told the policy's weights whenever they have
changed, and what it then writes is held against what the policy itself says of it.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import inspect
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch

from goodhart import functions
from goodhart.errors import GoodhartError
from goodhart.functions import is_function
from goodhart.models.packing import Tokens
from goodhart.sampling.keyed import Draws
from goodhart.sampling.probe import Probe
from goodhart.sampling.written import Written

KEYED = "keyed"
"""The built-in sampler, `goodhart.sampling.keyed`."""
GROUP = "goodhart.samplers"
"""The entry points of installed packages: each names what makes a `Sampler` from a `Setup`."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What a sampler is made from."""

    folder: Path
    """The Hugging Face checkpoint that the run begins with."""
    end: int
    """The end token, which a response includes unless it is cut."""
    pad: int
    max_tokens: int
    """Of a response, the end token included."""


@runtime_checkable
class Sampler(Protocol):
    """Writes responses with a copy of the policy's weights."""

    def update(self, model: Any) -> None:
        """Take over the policy's weights, `model.state_dict()`: before the first sample, and after every change."""
        ...

    def sample(self, prompts: Sequence[Tokens], samples: int, draws: Draws) -> Written:
        """`samples` responses for each prompt at temperature 1, and the log-probabilities that they were drawn with.

        What is random is a function of `draws` (`Draws.uniforms`, `Draws.seeds`).
        """
        ...


def check_known(name: str, where: str) -> None:
    """Raises GoodhartError for a sampler that there is not, or a function that cannot be called as one."""
    if is_function(name):
        if not inspect.isclass(functions.load(name)):
            functions.check_takes(name, ("model", "prompts", "uniforms", "end"), where)
        return
    names = [KEYED, *(point.name for point in _points())]
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(names)}"
        raise GoodhartError(f"{where} is {name!r}", f"{hint} (a function of your own is FILE.py:NAME)")


def code_of(name: str) -> dict[str, str]:
    """What a run's address has of the code of an installed package's sampler: a function's name has its own digest."""
    if name == KEYED or is_function(name):
        return {}
    spec = importlib.util.find_spec(_point(name).module)
    if spec is None or spec.origin is None:
        raise GoodhartError(f"the sampler {name!r} is of the module {_point(name).module!r}", "install it again")
    return {"sampler code": hashlib.sha256(Path(spec.origin).read_bytes()).hexdigest()[:12]}


def sampler_of(name: str, setup: Setup) -> Sampler:
    """The sampler of a name that `check_known` knows. Raises GoodhartError for one that cannot be made."""
    if is_function(name) and not inspect.isclass(functions.load(name)):
        return FunctionSampler(name, setup)
    make = functions.load(name) if is_function(name) else _point(name).load()
    try:
        result = make(setup)
    except Exception as error:  # whatever its own code meets
        words = " ".join(str(error).split())[:200]
        raise GoodhartError(
            f"the sampler {name} cannot begin ({type(error).__name__}: {words})", "mend it, or leave sampler out"
        ) from error
    if not isinstance(result, Sampler):
        raise GoodhartError(
            f"the sampler {name} is a {type(result).__name__}",
            "give it update(model) and sample(prompts, samples, draws)",
        )
    return result


def _points() -> list[EntryPoint]:
    return list(entry_points(group=GROUP))


def _point(name: str) -> EntryPoint:
    check_known(name, "sampler")
    return next(point for point in _points() if point.name == name)


@dataclass(slots=True)
class FunctionSampler:
    """A function (model, prompts, uniforms, end) -> (responses, log-probabilities) as a sampler."""

    reference: str
    setup: Setup
    model: Any = None

    def update(self, model: Any) -> None:
        """The function samples from the policy itself."""
        self.model = model

    @torch.no_grad()
    def sample(self, prompts: Sequence[Tokens], samples: int, draws: Draws) -> Written:
        """See `Sampler`; `uniforms` has a number for each prompt, sample and token."""
        uniforms = draws.uniforms(samples, self.setup.max_tokens)
        asked = [list(prompt) for prompt in prompts]
        on = f"{len(asked)} prompts"
        with _evaluating(self.model):
            value = functions.call(self.reference, self.model, asked, uniforms, self.setup.end, on=on)
        if not isinstance(value, tuple) or len(value) != 2:
            raise _wrong(self.reference, f"returned a {type(value).__name__}", len(asked), samples)
        try:
            rows, logps = [[list(text) for text in row] for row in value[0]], np.array(value[1], dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise _wrong(self.reference, f"returned what is no list ({error})", len(asked), samples) from error
        if logps.ndim != 2:
            got = f"returned log-probabilities of shape {logps.shape}"
            raise _wrong(self.reference, got, len(asked), samples)
        return Written(rows, logps)


@contextmanager
def _evaluating(model: Any) -> Generator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


@dataclass(slots=True)
class Synced:
    """A sampler of others in the policy's hands: told of every change of weights, checked, and probed after it."""

    name: str
    sampler: Sampler
    setup: Setup
    probe: Probe
    at: tuple[int, ...] = field(default=())
    """Which weights the sampler has: PyTorch counts the changes of every tensor."""

    def __call__(self, model: Any, prompts: Sequence[Tokens], samples: int, draws: Draws) -> list[list[list[int]]]:
        """See `ModelSampler`."""
        return self.written(model, prompts, samples, draws).responses

    def written(self, model: Any, prompts: Sequence[Tokens], samples: int, draws: Draws) -> Written:
        """See `ModelSampler`. Raises GoodhartError for what are no responses, or not of the policy's law."""
        now = (id(model), *(each._version for each in model.parameters()))
        changed = now != self.at
        if changed:
            self.sampler.update(model)
            self.at = now
        result = self.sampler.sample(prompts, samples, draws)
        self._check(result, len(prompts), samples, model.get_input_embeddings().num_embeddings)
        if changed:
            with _evaluating(model):
                self.probe.look(model, prompts, result)
        return result

    def _check(self, result: Written, prompts: int, samples: int, vocabulary: int) -> None:
        rows, logps = result.responses, result.logps
        if len(rows) != prompts or any(len(row) != samples for row in rows):
            got = f"returned {len(rows)} rows of {sorted({len(row) for row in rows})} responses"
            raise _wrong(self.name, got, prompts, samples)
        if logps.shape != (prompts, samples) or not np.isfinite(logps).all() or bool((logps > 1e-4).any()):
            raise _wrong(
                self.name, f"returned log-probabilities of shape {logps.shape}: {logps}"[:200], prompts, samples
            )
        for text in (text for row in rows for text in row):
            ended = len(text) == self.setup.max_tokens or text[-1:] == [self.setup.end]
            if not 1 <= len(text) <= self.setup.max_tokens or not ended or self.setup.end in text[:-1]:
                raise GoodhartError(
                    f"the sampler {self.name} wrote {text[:20]} ({len(text)} tokens)",
                    f"end every response by its first end token, {self.setup.end}, or after {self.setup.max_tokens} "
                    "tokens",
                )
            if any(type(each) is not int or not 0 <= each < vocabulary for each in text):
                raise GoodhartError(
                    f"the sampler {self.name} wrote {text[:20]}", f"give token ids, int from 0 to {vocabulary - 1}"
                )


def _wrong(name: str, what: str, prompts: int, samples: int) -> GoodhartError:
    return GoodhartError(
        f"the sampler {name} {what}",
        f"return (responses, log-probabilities): for each of {prompts} prompts {samples} lists of token ids, and "
        "as many finite numbers in nats, 0 or less",
    )
