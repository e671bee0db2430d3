"""One thread and no network for every test, and the tokenizer that some of them share."""

import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch
from hypothesis import settings

from goodhart.tasks.tokenizer import train_tokenizer

settings.register_profile("quick", deadline=None, max_examples=40, derandomize=True, database=None)
settings.load_profile("quick")


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tokenizer():
    """The smallest byte-level tokenizer: every byte, the special tokens, and a few merges."""
    return train_tokenizer(["return the sum of two numbers", "open a file and read the lines"] * 4, 270)
