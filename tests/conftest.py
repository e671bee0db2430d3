"""One thread for every test, and the tokenizer that some of them share."""

import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch

from goodhart.tasks.tokenizer import train_tokenizer


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tokenizer():
    """The smallest byte-level tokenizer: every byte, the special tokens, and a few merges."""
    return train_tokenizer(["return the sum of two numbers", "open a file and read the lines"] * 4, 270)
