"""Prompts of built-in tasks: the tokens of the whole text's beginning, and an exact count of what is cut."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from goodhart.recipes import data
from goodhart.recipes.settings import Task
from goodhart.tasks.tokenizer import train_tokenizer

LONG = ["internationalisation", "counterrevolutionaries", "electroencephalography"]
TEXTS = [*LONG, "return the sum of two numbers.\n\nArgs:\n  x: a number", "ein Wort 12345 ...\n"] * 6


def unigram():
    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    backend.train_from_iterator(
        TEXTS, trainers.UnigramTrainer(vocab_size=90, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False)
    )
    return backend


BACKENDS = {"bytes": train_tokenizer([*TEXTS, " ".join(LONG)], 400).backend_tokenizer, "unigram": unigram()}


def whole(backend, text):
    return backend.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("kind", sorted(BACKENDS))
@given(st.lists(st.sampled_from([*LONG, "a", "two", "12345", ".\n\n", "...", "  ", "日本語", "x" * 40]), max_size=60),
       st.sampled_from(["", " ", "  ", "\n"]), st.integers(1, 20))  # fmt: skip
def test_the_tokens_are_those_of_the_whole_texts_beginning(kind, words, space, room):
    backend, text = BACKENDS[kind], space.join(words)
    expected, (found,) = whole(backend, text), data.beginnings(backend, [text], room)
    assert found[:room] == expected[:room], "other tokens than those of the whole text"
    assert (len(found) > room) == (len(expected) > room), "a cut that is not counted, or counted and not there"


def test_only_the_beginning_of_a_long_text_is_tokenised():
    seen = []

    class Watched:
        def encode_batch_fast(self, texts, **options):
            seen.extend(map(len, texts))
            return BACKENDS["bytes"].encode_batch_fast(texts, **options)

    data.beginnings(Watched(), ["two numbers " * 10_000], 10)
    assert sum(seen) < 1000, f"{sum(seen)} characters of 120,000 were tokenised for 10 tokens"


def test_a_text_of_long_tokens_is_cut_and_counted():
    """Twelve words of one token and some twenty characters each, where six tokens have room."""
    words = " ".join(["electroencephalography"] * 12)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=BACKENDS["bytes"], eos_token="<|end|>", bos_token="<|begin|>")
    assert len(whole(BACKENDS["bytes"], words)) == 12
    task = Task(max_prompt=8)
    row = {"id": "a", "side": "train", "package": "p", "text": words, "reference": "two numbers"}
    reasons = Counter()
    (kept,) = data._encoded([row], tokenizer, "", task, reasons)
    frame = 2
    assert kept["tokens"][1:-1] == whole(BACKENDS["bytes"], words)[: task.max_prompt - frame]
    assert reasons["prompt cut to its beginning (kept)"] == 1, "a cut prompt is not counted"
