"""A recorded decoding step is the model's own step, or it is not used."""

import gc
import weakref

import pytest
import torch
from transformers import MistralConfig, MistralForCausalLM, Qwen3NextConfig

from goodhart.errors import GoodhartError
from goodhart.models.norms import fuse_norms
from goodhart.sampling import recording
from goodhart.sampling.cache import decoding_cache
from goodhart.sampling.keyed import Draws, KeyedSampler
from tiny_models import CAUSAL, END, PAD, llama

PROMPTS = [[2, 3, 4], [5], [6, 7, 8, 9, 10], [11, 12], [13, 14, 15, 2], [3]]
SAMPLER = KeyedSampler(END, PAD, 9)


def draw(model, seed=0, samples=2, prompts=PROMPTS):
    return SAMPLER(model, prompts, samples, Draws(seed, "recording", range(len(prompts))))


def recorded(model, samples=2):
    return recording._RECORDS[model].steps.get(samples)


@pytest.mark.parametrize("make", CAUSAL.values(), ids=CAUSAL)
@pytest.mark.parametrize("samples", [1, 2])
def test_recorded_and_eager_steps_write_the_same_tokens(make, samples, monkeypatch):
    model = make(seed=1)
    fuse_norms(model)
    for seed in range(5):
        draw(model, seed, samples)
    assert recorded(model, samples) is not None
    found = [draw(model, seed, samples) for seed in range(5)]
    longer = draw(model, 0, samples, [[2] * 20, *PROMPTS])
    monkeypatch.setitem(recording._RECORDS[model].steps, samples, None)
    assert [draw(model, seed, samples) for seed in range(5)] == found
    assert draw(model, 0, samples, [[2] * 20, *PROMPTS]) == longer


def test_the_logits_are_the_models_own_bit_for_bit(monkeypatch):
    model, seen = llama(), []
    for seed in range(3):
        draw(model, seed)
    step = recorded(model)

    def watched(*inputs):
        seen.append(step(*inputs))
        return seen[-1]

    monkeypatch.setitem(recording._RECORDS[model].steps, 2, watched)
    draw(model, 7)
    by_record = list(seen)
    monkeypatch.setitem(recording._RECORDS[model].steps, 2, None)
    seen.clear()
    model.register_forward_hook(lambda module, inputs, out: seen.append(out.logits))
    draw(model, 7)
    assert len(by_record) == len(seen) - 1 > 3
    for one, two in zip(by_record, seen[1:], strict=True):
        assert torch.equal(one, two)


def test_a_step_is_recorded_only_when_it_pays():
    model = llama()
    for batch in range(recording.EAGER_BATCHES):
        draw(model, batch)
        assert recorded(model) is None
    draw(model, 9)
    assert recorded(model) is not None


def test_a_recorded_step_sees_what_training_changes():
    model = llama()
    for seed in range(4):
        draw(model, seed)
    assert recorded(model) is not None
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.5)
    fresh = llama()
    fresh.load_state_dict(model.state_dict())
    assert draw(model, 5) == draw(fresh, 5)
    assert draw(llama(), 5) != draw(fresh, 5)


def test_a_model_is_freed_with_its_record():
    model = llama()
    for seed in range(4):
        draw(model, seed)
    assert recorded(model) is not None
    ghost = weakref.ref(model)
    del model
    gc.collect()
    assert ghost() is None


def windowed(window):
    config = MistralConfig(
        vocab_size=16, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, sliding_window=window, bos_token_id=None, eos_token_id=END, pad_token_id=None,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MistralForCausalLM(config).eval()


def test_a_window_as_long_as_all_tokens_changes_nothing_and_a_shorter_one_is_refused():
    assert draw(windowed(14)) == draw(windowed(50))
    with pytest.raises(GoodhartError, match="window of 13 tokens"):
        draw(windowed(13))


def test_a_model_with_another_memory_is_refused():
    config = Qwen3NextConfig(
        vocab_size=16, hidden_size=16, intermediate_size=32, num_hidden_layers=4, num_attention_heads=2,
        num_key_value_heads=2, num_experts=2, num_experts_per_tok=1,
    )  # fmt: skip
    with pytest.raises(GoodhartError, match="LinearAttentionLayer"):
        decoding_cache(config, 9, 9)


@pytest.mark.parametrize("kind", ["of the width", "of the rows"])
def test_a_model_whose_python_code_decides_by_size_is_not_recorded(kind):
    model = llama()
    own = model.forward

    def forward(**inputs):
        rows, _, _, columns = inputs["attention_mask"].shape
        out = own(**inputs)
        if (int(columns) > 8) if kind == "of the width" else (int(rows) > 4):
            out.logits = out.logits * 1.5
        return out

    model.forward = forward
    for seed in range(4):
        draw(model, seed)
    assert recorded(model) is None
