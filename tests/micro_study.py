"""A study small enough for a test: a model of some thousand weights, and preferences made on the spot."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from goodhart.cells.cell import Cell, closure
from goodhart.cells.executor import Progress
from goodhart.cells.make import make
from goodhart.cells.store import Store
from goodhart.cli import main
from goodhart.compute.kernels import using
from goodhart.compute.threads import use_threads
from goodhart.randomness import stream
from goodhart.studies import session
from goodhart.studies.engine import Engine, settle
from goodhart.studies.graph import Graph, build_graph
from goodhart.studies.results import Unfinished, write_results
from goodhart.studies.session import spent
from goodhart.studies.spec import Study
from goodhart.tasks.tokenizer import train_tokenizer

WORDS = ["red", "blue", "green", "small", "large", "round", "flat", "cat", "dog", "bird", "runs", "sleeps", "sings"]


def sentence(draw, words: int) -> str:
    return " ".join(WORDS[int(i)] for i in draw.integers(len(WORDS), size=words))


def preference_lines(pairs: int) -> list[dict[str, str]]:
    """The response that repeats the prompt's first word is preferred."""
    lines = []
    for i in range(pairs):
        draw = stream(0, "micro preferences", i)
        prompt = f"say {i} {sentence(draw, 3)}"
        good, bad = f"{prompt.split()[2]} {sentence(draw, 2)}", sentence(draw, 3)
        lines.append({"prompt": prompt, "chosen": f" {good}", "rejected": f" {bad}!"})
    return lines


def write_model(folder: Path, texts: list[str], hidden: int = 16) -> None:
    tokenizer = train_tokenizer(texts, 320)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_t5(folder: Path, texts: list[str]) -> None:
    """A T5 1.1 with a tokenizer as T5's: unigram pieces, no beginning token, and an end token behind every text."""
    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    backend.train_from_iterator(
        texts, trainers.UnigramTrainer(vocab_size=120, special_tokens=special, unk_token="<unk>", show_progress=False)
    )
    backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **names)
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=len(tokenizer) + 8,  # T5 has rows for tokens that there are not
        d_model=16,
        d_kv=8,
        d_ff=32,
        num_layers=1,
        num_heads=2,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        decoder_start_token_id=0,
    )
    model = T5ForConditionalGeneration(config)
    model.lm_head.weight = torch.nn.Parameter(0.1 * torch.randn_like(model.shared.weight))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_qwen2(folder: Path, texts: list[str]) -> None:
    """A Qwen2 with a tokenizer as Qwen2.5's: bytes, no beginning token, one end token that also pads, chat turns."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        texts,
        trainers.BpeTrainer(vocab_size=320, special_tokens=special, initial_alphabet=alphabet, show_progress=False),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=special[0],
        pad_token=special[0],
        additional_special_tokens=special[1:],
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(tokenizer) + 8,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_micro_study(folder: Path, write: Callable[[Path, list[str]], None] = write_model, **changes: object) -> Path:
    """`study.yaml` with its model and data beside it."""
    lines = preference_lines(300)
    data = folder / "preferences.jsonl"
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    texts = [" ".join(line.values()) for line in lines]
    write(folder / "model", texts)
    write_model(folder / "wide", texts, hidden=24)
    model = str(folder / "model")
    small = {"steps": 6, "batch": 8}
    study = {
        "name": "micro",
        "task": {
            "kind": "preferences",
            "data": str(data),
            "held_out": 0.4,
            "max_prompt": 24,
            "max_response": 12,
            "evaluation": 16,
            "train_evaluation": 8,
            "validation": 16,
            "test": 32,
        },
        "policy": model,
        "sft": {**small, "early": 3, "optimisation": {"micro_batch": 4}},
        "golden": {"model": model, **small, "check_every": 3, "optimisation": {"micro_batch": 4}},
        "labels": {"number": 32},
        "proxy": {"model": model, "kind": "bradley-terry", **small, "check_every": 3},
        "golden_policy": {"labeller": "golden", "beta": [0.1], "steps": 4, "batch": 8, "checkpoints": 1},
        "arms": {
            "online": {"beta": [0.1], "lr": [0.01], "steps": 6, "batch": 8, "checkpoints": 2},
            "offline": {"source": "data", "labeller": "data", "beta": [0.1], "lr": [0.01], "steps": 6, "batch": 8,
                        "checkpoints": 2},
            "replay": {"source": "stream", "stream": "online", "labeller": "data", "beta": [0.1], "lr": [0.01],
                       "steps": 6, "batch": 8, "checkpoints": 1},
            "written": {"source": "samples", "writers": ["sft", "online@3"], "labeller": "data", "beta": [0.1],
                        "lr": [0.01], "steps": 4, "batch": 8, "checkpoints": 1},
            "mixed": {"source": "mixture", "parts": {"online": 0.5, "replay": 0.5}, "labeller": "data", "beta": [0.1],
                      "lr": [0.01], "steps": 4, "batch": 8, "checkpoints": 1},
            "winners": {"loss": "best-of-2", "beta": [], "lr": [0.01], "steps": 4, "batch": 8, "checkpoints": 1},
            "wide": {"variant": "wide", "beta": [0.1], "lr": [0.01], "steps": 4, "batch": 8, "checkpoints": 1},
            "noisy": {"variant": "noisy", "source": "data", "labeller": "data", "beta": [0.1], "lr": [0.01],
                      "steps": 4, "batch": 8, "checkpoints": 1},
            "delayed": {"refresh": 4, "beta": [0.1], "lr": [0.01], "steps": 6, "batch": 8, "checkpoints": 2},
        },
        "variants": {"wide": {"policy": str(folder / "wide")}, "noisy": {"labels": {"number": 24, "flip": 0.4}}},
        "best_of": {"samples": 4, "n": [2, 4]},
        "hypotheses": {
            "gap": {
                "statement": "Online is ahead.",
                "contrasts": [
                    {"statistic": "gap at equal KL", "first": "online", "second": "offline"},
                    {"statistic": "stream accuracy", "first": "proxy", "second": "online", "stream": "online"},
                ],
            }
        },
        "axes": {"staleness": {"label": "steps", "lines": {"sampled": {"online": 1, "delayed": 4}}}},
        "precision": "float32",
        "seeds": [0, 1],
        "resamples": 50,
    }  # fmt: skip
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump({**study, **changes}))
    return path


def write_small_study(folder: Path, write: Callable[[Path, list[str]], None] = write_model) -> Path:
    """An online, an offline and a replayed arm at one seed, for a test that is not about the kinds of arms."""
    own = {"beta": [0.1], "lr": [0.01], "steps": 4, "batch": 8, "checkpoints": 1}
    arms = {
        "online": own,
        "offline": {**own, "source": "data", "labeller": "data"},
        "replay": {**own, "source": "stream", "stream": "online", "labeller": "data"},
    }
    best = {"samples": 2, "n": [2]}
    return write_micro_study(
        folder, write, arms=arms, seeds=[0], variants={}, hypotheses={}, axes={}, best_of=best, resamples=20
    )


def make_cells_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Studies have their cells made in this process, which has waited for torch once."""

    def execute(store: Store, cells: list[Cell], kernels: str, watch: object) -> Progress:
        progress = Progress(len(cells))
        with using(kernels):
            for cell in cells:
                assert make(store, cell)
                progress.done.append(cell)
        return progress

    monkeypatch.setattr(session, "executor_of", lambda launch, root, workers, kernels, *rest: nullcontext(kernels))
    monkeypatch.setattr(session, "execute", execute)


def make_cells(study: Study, root: Path, threads: int = 1) -> tuple[Study, Graph, Engine]:
    """All cells of a study in this process, in which nothing has to be imported once more."""
    study, engine = settle(study, root, keep=True)
    graph = build_graph(study)
    with using(engine.kernels.choice.chosen):
        for cell in closure(graph.targets):
            use_threads(threads)
            assert make(Store(root), cell)
    use_threads(1)
    return study, graph, engine


def write_tables(root: Path, study: Study, graph: Graph, engine: Engine) -> Path:
    """The tables and the record of a study whose cells are made."""
    store = Store(root)
    cost = {"seconds of this call": 0.0, "workers": 1, **spent(store, closure(graph.targets))}
    return write_results(store, study, graph, engine, cost, Unfinished.of(store, graph))


def goodhart(*arguments: str, **options) -> subprocess.CompletedProcess[str]:
    """The command line as a user has it."""
    command = [sys.executable, "-m", "goodhart.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=400, check=False, **options)


def said(capture: pytest.CaptureFixture[str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """The same in this process, which has waited for torch once; `capture` is pytest's `capfd`."""
    code: Any = 0
    try:
        main([*arguments])
    except SystemExit as end:
        code = end.code
    return subprocess.CompletedProcess(arguments, code, *capture.readouterr())
