"""Turn a Hugging Face model into a folder that the recipes read: safetensors weights, and a chat template.

    python recipes/prepare_model.py google/t5-v1_1-large models/t5-v1_1-large

Some models of the Hub have no safetensors weights (Goodhart reads nothing else), and base models have no chat template,
which the arena task needs; a template that is there is kept.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from goodhart.tasks.preference_tokens import PLAIN_TEMPLATE


def prepare(name: str, folder: Path) -> None:
    """Read the model and its tokenizer, without remote code, and write both to the folder."""
    config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    kind.from_pretrained(name, dtype=torch.float32, trust_remote_code=False).save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    if not tokenizer.chat_template:
        tokenizer.chat_template = PLAIN_TEMPLATE
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    prepare(sys.argv[1], Path(sys.argv[2]))
