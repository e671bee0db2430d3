"""A study small enough for a test: a model of some thousand weights, and preferences made on the spot."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import torch
import yaml
from transformers import LlamaConfig, LlamaForCausalLM

from goodhart.randomness import stream
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


def write_micro_study(folder: Path, **changes: object) -> Path:
    """`study.yaml` with its model and data beside it."""
    lines = preference_lines(300)
    data = folder / "preferences.jsonl"
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    texts = [" ".join(line.values()) for line in lines]
    write_model(folder / "model", texts)
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
        },
        "policy": model,
        "sft": {**small, "early": 3},
        "golden": {"model": model, **small, "check_every": 3},
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
        "seeds": [0, 1],
        "resamples": 50,
    }  # fmt: skip
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump({**study, **changes}))
    return path


def goodhart(*arguments: str, **options) -> subprocess.CompletedProcess[str]:
    """The command line as a user has it."""
    command = [sys.executable, "-m", "goodhart.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=400, check=False, **options)
