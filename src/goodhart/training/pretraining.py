"""Base models: next-token pretraining on the installed training packages, resumable at any step."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from safetensors.torch import save_file
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from goodhart.cells.steps import Steps
from goodhart.models.presets import CONTEXT, VOCABULARY, preset_config
from goodhart.randomness import key, permutation, stream
from goodhart.tasks import docstrings
from goodhart.tasks.docstring_text import BEGIN, END, PAD, RESPOND, Document, Kind, documents
from goodhart.tasks.tokenizer import train_tokenizer
from goodhart.training.schedule import learning_rate

KINDS: tuple[Kind, ...] = ("summary", "code", "prose", "source")
SOURCE_FILES = 3000
"""Of the `source` kind, this many files in keyed order: more than its share of a run can use."""
LOG_EVERY, SAVE_EVERY = 20, 200
PROMPT_TOKENS = 64
"""Where a `summary` or `code` document's head is cut, as the task cuts its prompts."""


@dataclass(frozen=True)
class Pretraining:
    """Settings of one base model."""

    preset: str = "small"
    """Model preset."""
    steps: int = 2100
    """Optimiser steps."""
    batch: int = 16
    """Rows of `CONTEXT` tokens per step."""
    peak: float = 2e-3
    """Peak learning rate; linear decay to 0."""
    warmup: int = 100
    """Warm-up steps."""
    seed: int = 0
    """Seed of weights and order."""
    summary: float = 0.3
    """Share of rows from the task's own prompts and summaries."""
    code: float = 0.3
    """Share of rows from code followed by its first docstring line."""
    prose: float = 0.3
    """Share of rows from whole docstrings; the rest is source text."""
    threads: int = 1
    """PyTorch threads."""
    compile: bool = False
    """Compile forward and loss (needs a C++ compiler; pays after some hundred steps)."""

    @property
    def shares(self) -> dict[Kind, float]:
        """Share of rows by kind of document."""
        rest = 1 - self.summary - self.code - self.prose
        return {"summary": self.summary, "code": self.code, "prose": self.prose, "source": rest}


def special_ids(tokenizer: PreTrainedTokenizerFast) -> tuple[int, int, int, int]:
    """Ids of the begin, respond, end and padding tokens."""
    vocabulary = tokenizer.get_vocab()
    return vocabulary[BEGIN], vocabulary[RESPOND], vocabulary[END], vocabulary[PAD]


def encode(tokenizer: PreTrainedTokenizerFast, given: list[Document]) -> list[list[int]]:
    """Token ids of documents: heads cut to `PROMPT_TOKENS` as the task does, everything framed by special tokens."""
    backend = tokenizer.backend_tokenizer
    begin, respond, end, _ = special_ids(tokenizer)
    heads = backend.encode_batch_fast([d.head[:1000] for d in given])
    tails = backend.encode_batch_fast([d.tail for d in given])
    rows: list[list[int]] = []
    for document, head, tail in zip(given, heads, tails, strict=True):
        opening = [begin, *head.ids[: PROMPT_TOKENS - 2], respond] if document.head else [begin]
        rows.append([*opening, *tail.ids, end])
    return rows


def pack(rows: list[list[int]]) -> Int[np.ndarray, "row context"]:
    """Documents end to end, cut into rows of `CONTEXT` tokens; the remainder of less than a row is left out."""
    flat = np.fromiter((t for row in rows for t in row), dtype=np.int32)
    return flat[: len(flat) // CONTEXT * CONTEXT].reshape(-1, CONTEXT)


def prepare(
    folder: Path, seed: int, say: Callable[[str], None]
) -> tuple[PreTrainedTokenizerFast, dict[str, Int[np.ndarray, "row context"]]]:
    """Tokenizer and packed rows by kind, kept in `folder` for the next call."""
    if not (folder / "DONE").exists():
        folder.mkdir(parents=True, exist_ok=True)
        result = list(documents(docstrings.train_packages(), seed))
        say(f"{len(result)} documents")
        tokenizer = train_tokenizer([d.head[:300] + "\n" + d.tail[:2000] for d in result], VOCABULARY)
        tokenizer.save_pretrained(folder / "tokenizer")
        for kind in KINDS:
            chosen = [d for d in result if d.kind == kind]
            if kind == "source":
                chosen = chosen[:SOURCE_FILES]
            np.save(folder / f"{kind}.npy", pack(encode(tokenizer, chosen)))
        test = [d for d in documents(docstrings.test_packages(), seed) if d.kind == "summary"][:512]
        held_out = encode(tokenizer, test)
        np.save(folder / "held_out.npy", np.array([r[:CONTEXT] + [-1] * (CONTEXT - len(r)) for r in held_out]))
        (folder / "DONE").touch()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder / "tokenizer")
    return tokenizer, {name: np.load(folder / f"{name}.npy") for name in (*KINDS, "held_out")}


def batch_rows(
    packed: Mapping[str, Int[np.ndarray, "row context"]], settings: Pretraining, step: int
) -> Int[np.ndarray, "batch context"]:
    """The rows of a step, a function of (settings, step): each kind is walked epoch by epoch in a keyed order."""
    kinds = list(settings.shares)
    draw = stream(settings.seed, "pretraining mix")
    picks = draw.choice(len(kinds), size=settings.steps * settings.batch, p=list(settings.shares.values()))
    rows = []
    window = range(step * settings.batch, (step + 1) * settings.batch)
    for kind_index, kind in enumerate(kinds):
        before = int((picks[: window.start] == kind_index).sum())
        for offset in range(int((picks[window.start : window.stop] == kind_index).sum())):
            epoch, place = divmod(before + offset, len(packed[kind]))
            order = permutation(len(packed[kind]), settings.seed, "pretraining epoch", kind, epoch)
            rows.append(packed[kind][order[place]])
    return np.stack(rows)


def held_out_loss(model: LlamaForCausalLM, rows: Int[np.ndarray, "row context"], respond: int) -> tuple[float, float]:
    """Mean negative log-likelihood per summary token (nats) given its own prompt, and given another one's."""

    def nll(ids: np.ndarray) -> float:
        ids = ids[:, : int((ids >= 0).sum(1).max())]
        tokens = torch.from_numpy(np.maximum(ids, 0))
        after = (tokens == respond).cumsum(1).bool() & (tokens != respond) & torch.from_numpy(ids >= 0)
        with torch.inference_mode():
            total, count = 0.0, 0
            for part, mask in zip(tokens.split(64), after.split(64), strict=True):
                logp = model(input_ids=part, use_cache=False).logits[:, :-1].log_softmax(-1)
                chosen = logp.gather(-1, part[:, 1:, None]).squeeze(-1)
                total -= float(chosen[mask[:, 1:]].sum())
                count += int(mask[:, 1:].sum())
        return total / count

    def split(row: np.ndarray) -> tuple[list[int], list[int]]:
        real = [int(t) for t in row if t >= 0]
        cut = real.index(respond) + 1
        return real[:cut], real[cut:]

    heads, tails = zip(*(split(row) for row in rows), strict=True)
    other = [(*heads[(i + 1) % len(heads)], *tail) for i, tail in enumerate(tails)]
    width = rows.shape[1]
    mismatched = np.array([list(r)[:width] + [-1] * (width - len(r)) for r in other])
    return nll(rows), nll(mismatched)


def log_file(settings: Pretraining, work: Path) -> Path:
    """Where a run says how it goes, a record for every few steps (`goodhart.cells.steps`)."""
    return work / f"{settings.preset}-seed{settings.seed}.jsonl"


def pretrain(settings: Pretraining, out: Path, work: Path, say: Callable[[str], None] = print) -> None:
    """Train a base model and write it to `out` (bfloat16 safetensors, tokenizer, record); goes on where it stopped.

    Settings may change when it goes on (fewer steps, to finish sooner); the record lists them from step to step.
    """
    torch.set_num_threads(settings.threads)
    tokenizer, packed = prepare(work / "text", settings.seed, say)
    begin, respond, end, pad = special_ids(tokenizer)
    torch.manual_seed(key(settings.seed, "pretraining weights") % 2**63)
    config = preset_config(settings.preset, vocab_size=VOCABULARY, bos=begin, eos=end, pad=pad)
    model = LlamaForCausalLM(config)
    run = _Run(settings, model, packed, respond, log_file(settings, work), say)
    run.train()
    own, other = held_out_loss(model, packed["held_out"], respond)
    losses = {"held out": own, "held out, another prompt": other}
    write_base_model(model, tokenizer, run.segments, out, losses, run.log_file)


class _Run:
    """One pretraining run with its optimiser, state file and log."""

    def __init__(
        self,
        settings: Pretraining,
        model: Any,
        packed: dict[str, Int[np.ndarray, "row context"]],
        respond: int,
        log_file: Path,
        say: Callable[[str], None],
    ) -> None:
        self.settings, self.model, self.packed, self.respond = settings, model, packed, respond
        self.state_file, self.log_file, self.say = log_file.with_suffix(".pt"), log_file, say
        self.segments: list[tuple[int, dict[str, Any]]] = []
        self.optimiser = torch.optim.AdamW(
            model.parameters(), lr=settings.peak, betas=(0.9, 0.95), weight_decay=0.1, fused=True
        )

    def train(self) -> None:
        """All steps that are left."""
        start = self._resume()
        with Steps(self.log_file, start) as steps:
            self._train(start, steps)

    def _train(self, start: int, steps: Steps) -> None:
        forward = torch.compile(self._loss) if self.settings.compile else self._loss
        began, recent, norm = time.perf_counter(), list[float](), 0.0
        for step in range(start, self.settings.steps):
            loss, norm = self._step(forward, step)
            recent.append(loss)
            done, last = step + 1, step + 1 == self.settings.steps
            if done % LOG_EVERY == 0 or last:
                record: dict[str, int | float] = {"step": done, "loss": round(float(np.mean(recent)), 4)}
                record["gradient_norm"] = round(norm, 4)
                record["seconds"] = round(time.perf_counter() - began)
                if done % SAVE_EVERY == 0 or last:
                    own, other = held_out_loss(self.model, self.packed["held_out"][:128], self.respond)
                    record |= {"held_out": round(own, 4), "held_out_other_prompt": round(other, 4)}
                steps.add(record)
                if "held_out" in record:
                    self._save(done)
                self.say(json.dumps(record))
                recent = []

    def _loss(self, tokens: torch.Tensor) -> torch.Tensor:
        logits = self.model(input_ids=tokens, use_cache=False).logits
        return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())

    def _step(self, forward: Callable[[torch.Tensor], torch.Tensor], step: int) -> tuple[float, float]:
        s = self.settings
        rate = learning_rate(step, peak=s.peak, warmup=s.warmup, total=s.steps, decay="linear")
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        loss = forward(torch.from_numpy(batch_rows(self.packed, s, step).astype(np.int64)))
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad()
        return float(loss.detach()), float(norm)

    def _resume(self) -> int:
        if not self.state_file.exists():
            self.segments = [(0, asdict(self.settings))]
            return 0
        state = torch.load(self.state_file, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.segments = [(int(step), settings) for step, settings in state["segments"]]
        if self.segments[-1][1] != asdict(self.settings):
            self.segments.append((int(state["step"]), asdict(self.settings)))
        self.say(f"resumed at step {state['step']}")
        return int(state["step"])

    def _save(self, step: int) -> None:
        state = {"model": self.model.state_dict(), "optimiser": self.optimiser.state_dict()}
        state |= {"step": step, "segments": self.segments}
        torch.save(state, self.state_file.with_suffix(".tmp"))
        self.state_file.with_suffix(".tmp").replace(self.state_file)


def write_base_model(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    segments: list[tuple[int, dict[str, Any]]],
    out: Path,
    losses: dict[str, float],
    log_file: Path,
) -> None:
    """The checkpoint folder: weights in bfloat16, configuration, tokenizer, and `pretraining.json`."""
    out.mkdir(parents=True, exist_ok=True)
    tied = {"lm_head.weight"}
    weights = {n: w.detach().to(torch.bfloat16).contiguous() for n, w in model.state_dict().items() if n not in tied}
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    model.config.architectures = ["LlamaForCausalLM"]
    model.config.dtype = torch.bfloat16
    model.config.save_pretrained(out)
    tokenizer.save_pretrained(out)
    shutil.copy(log_file, out / "pretraining.jsonl")
    last = segments[-1][1]
    record = {
        "segments": [{"from step": step, "settings": settings} for step, settings in segments],
        "tokens": last["steps"] * last["batch"] * CONTEXT,
        "parameters": sum(p.numel() for p in model.parameters()),
        "nats per summary token": losses,
        "sha256": {"model.safetensors": hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest()},
    }
    (out / "pretraining.json").write_text(json.dumps(record, indent=2) + "\n")
