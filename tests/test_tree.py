"""Trees: one row of real tokens, in which every branch reads its prompt and itself, on any kind of attention."""

import functools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from goodhart.models.last_layer import last_layer
from goodhart.models.logprobs import choose_layout, sequence_logps
from goodhart.models.norms import fuse_norms
from goodhart.models.tree import plant
from goodhart.models.tree_attention import reading_trees
from tiny_models import bart, gpt2, gradients, llama, naive_logp

SMALL = {
    "vocab_size": 16,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "initializer_range": 0.4,
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": None,
}
PROMPTS = [[2, 3, 4, 5, 6], [7], [8, 9, 10]]
TWO = [[[11, 12, 1], [13, 1]], [[1], [14, 15, 2, 3, 4]], [[5, 6], [7, 8, 1]]]
FOUR = [[*row, row[0][::-1], []] for row in TWO]
ONE = [row[1:] for row in TWO]


def made(kind, config):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return kind(config).eval()


def grouped():
    return made(LlamaForCausalLM, LlamaConfig(**SMALL, num_key_value_heads=2))


def windowed():
    return made(MistralForCausalLM, MistralConfig(**SMALL, num_key_value_heads=2, sliding_window=3))


def flat():
    """Its attention has a scale of its own, as Granite's and Gemma's."""
    model = llama()
    for layer in model.model.layers:
        layer.self_attn.scaling = 0.05
    return model


MODELS = {"rotary": llama, "absolute": gpt2, "grouped heads": grouped, "sliding window": windowed, "own scale": flat}


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("responses", [ONE, TWO, FOUR], ids=["one", "two", "four"])
@pytest.mark.parametrize("layout", ["shared prompt", "shared prompt, all rows"])
def test_values_and_gradients_are_those_of_one_sequence_at_a_time(make, responses, layout):
    model = make()
    assert choose_layout(model, 0) == "shared prompt"
    found = sequence_logps(model, PROMPTS, responses, pad=0, layout=layout)
    expected = torch.stack(
        [
            torch.stack([naive_logp(model, p, r).sum() if r else torch.zeros(()) for r in row])
            for p, row in zip(PROMPTS, responses, strict=True)
        ]
    )
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    weights = torch.linspace(-1, 2, found.numel()).view_as(found)
    slope = gradients(model, (expected * weights).sum())
    assert slope.norm() > 1
    torch.testing.assert_close(gradients(model, (found * weights).sum()), slope, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("branches", [1, 2, 4])
@pytest.mark.parametrize("layout", ["shared prompt", "shared prompt, all rows"])
def test_responses_that_are_all_empty_have_probability_one(branches, layout):
    found = sequence_logps(llama(), PROMPTS, [[[]] * branches] * 3, pad=0, layout=layout)
    assert found.tolist() == [[0.0] * branches] * 3


def test_a_window_shorter_than_the_prompt_matters():
    wide = windowed()
    wide.config.sliding_window = 50
    narrow = sequence_logps(windowed(), PROMPTS, TWO, pad=0, layout="shared prompt")
    assert (sequence_logps(wide, PROMPTS, TWO, pad=0, layout="shared prompt") - narrow).abs().max() > 0.01


def test_a_model_whose_attention_is_more_than_a_softmax_is_scored_plainly():
    config = Gemma2Config(
        **SMALL, num_key_value_heads=2, head_dim=4, attn_logit_softcapping=1.0, query_pre_attn_scalar=4
    )
    model = made(Gemma2ForCausalLM, config)
    model.set_attn_implementation("eager")
    assert choose_layout(model, 0) == "plain"
    with pytest.raises(ValueError, match="softcap"):
        sequence_logps(model, PROMPTS, TWO, pad=0, layout="shared prompt")


def test_the_models_own_attention_is_left_as_it_was():
    model = llama()
    before = model.config._attn_implementation
    with reading_trees(model):
        assert model.config._attn_implementation != before
    assert model.config._attn_implementation == before
    with pytest.raises(IndexError):
        sequence_logps(model, [[99]], [[[1]]], pad=0, layout="shared prompt")
    assert model.config._attn_implementation == before


def test_without_a_tree_a_model_that_could_read_one_reads_a_row_and_leaves_its_padding_out():
    model = llama()
    row = {"input_ids": torch.tensor([[9, 2, 3, 4]]), "attention_mask": torch.tensor([[0, 1, 1, 1]])}
    own = model(**row).logits
    with reading_trees(model):
        found = model(**row).logits
    torch.testing.assert_close(found[:, 1:], own[:, 1:])


@pytest.mark.parametrize("responses", [ONE, TWO, FOUR], ids=["one", "two", "four"])
def test_neither_padding_nor_what_nothing_reads_goes_through_the_model(responses):
    model, seen = llama(), []
    for layer in model.model.layers:
        layer.mlp.register_forward_hook(lambda module, inputs, out: seen.append(out.shape[1]))
    model.lm_head.register_forward_hook(lambda module, inputs, out: seen.append(out.shape[1]))
    prompt, written = sum(map(len, PROMPTS)), sum(len(r) for row in responses for r in row)
    sequence_logps(model, PROMPTS, responses, pad=0, layout="shared prompt")
    assert seen == [prompt + written, len(PROMPTS) + written, written]
    seen.clear()
    sequence_logps(model, PROMPTS, responses, pad=0, layout="shared prompt, all rows")
    assert seen == [prompt + written, prompt + written, written]


def test_a_tree_by_hand():
    tree = plant([[5, 6], [7]], [[[8, 9], [1]], [[], [2]]])
    assert tree.ids.tolist() == [5, 6, 7, 8, 9, 1, 2]
    assert tree.written.tolist() == [8, 9, 1, 2]
    assert tree.positions.tolist() == [0, 1, 0, 2, 3, 2, 1]
    assert tree.kept.tolist() == [1, 2, 3, 4, 5, 6]
    assert tree.predictors.tolist() == [1, 3, 1, 2]
    assert tree.all.prompts.index.tolist() == [[0, 1], [2, 0]]
    assert tree.all.branches.index.tolist() == [[3, 4], [5, 0], [0, 0], [6, 0]]
    assert tree.ends.prompts.index.tolist() == [[0], [1]]
    assert tree.ends.branches.index.tolist() == [[2, 3], [4, 0], [0, 0], [5, 0]]

    def seen(part, row, **last):
        mask = tree.mask(part, torch.float32, None, **last)[row, 0].numpy()
        return [np.flatnonzero(row == 0).tolist() for row in mask]

    assert seen("whole", 0) == [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3], [0, 1, 4], [0, 1, 4, 5]]
    assert seen("whole", 0, last=True) == [[0, 1], [0, 1, 2], [0, 1, 2, 3], [0, 1, 4], [0, 1, 4, 5]]
    assert seen("prompts", 1, last=True) == [[0]]
    assert seen("branches", 3) == seen("branches", 3, last=True) == [[0, 2], [0, 2, 3]]


def test_a_window_that_no_prompt_exceeds_needs_no_mask():
    """So that prompts are read by the kernel for causal attention, which is faster than one with a mask."""
    tree = plant([[5, 6, 7], [8]], [[[9], [1]], [[], [2]]])
    for window in (None, 4, 3):
        assert tree.mask("prompts", torch.float32, window) is None
    mask = tree.mask("prompts", torch.float32, 2)[0, 0].numpy()
    assert [np.flatnonzero(row == 0).tolist() for row in mask] == [[0], [0, 1], [1, 2]]


class Mixing(torch.nn.Module):
    """A layer that reads its neighbour's output besides attention."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, hidden_states, **settings):
        found = self.layer(hidden_states, **settings)
        return found + 0.5 * torch.nn.functional.pad(found, (0, 0, 1, 0))[:, :-1]


class Still(torch.nn.Module):
    """A layer that does not attend."""

    def forward(self, hidden_states, **_):
        return torch.tanh(hidden_states)


def test_a_last_layer_of_which_nothing_can_be_left_out_is_computed_whole():
    model = llama()
    model.model.layers[1] = Still()
    assert choose_layout(model, 0) == "shared prompt, all rows"
    found = sequence_logps(model, PROMPTS, TWO, pad=0, layout="shared prompt, all rows")
    torch.testing.assert_close(found, sequence_logps(model, PROMPTS, TWO, pad=0, layout="plain"))
    with pytest.raises(ValueError, match="does not attend"):
        sequence_logps(model, PROMPTS, TWO, pad=0, layout="shared prompt")


def test_a_layer_that_mixes_tokens_outside_attention_is_found_out():
    model = llama()
    model.model.layers[1] = Mixing(model.model.layers[1])
    assert choose_layout(model, 0) == "plain"


class Steered(torch.nn.Module):
    """A layer that adds what it is given beside the tokens."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, hidden_states, steering, **settings):
        return self.layer(hidden_states, **settings) + steering.flatten(0, -2).sum(0)


WRITTEN = sum(len(response) for row in TWO for response in row)


@pytest.mark.parametrize("shape", [(2, 16), (2, 3, 16), (1, sum(map(len, PROMPTS)) + WRITTEN, 1, 16)])
def test_what_a_last_layer_is_given_beside_the_tokens_reaches_it_whole(shape):
    model, steering = llama(), torch.linspace(-1, 1, 16).expand(shape)
    layer = model.model.layers[1] = Steered(model.model.layers[1])
    layer.register_forward_pre_hook(
        lambda layer, args, settings: (args, {**settings, "steering": steering}), with_kwargs=True
    )
    found = sequence_logps(model, PROMPTS, TWO, pad=0, layout="shared prompt")
    torch.testing.assert_close(found, sequence_logps(model, PROMPTS, TWO, pad=0, layout="plain"))


class Placed(Steered):
    """A layer that reads where its tokens stand."""

    def forward(self, hidden_states, position_ids, **settings):
        moved = hidden_states + 0.1 * position_ids[..., None]
        return self.layer(moved, position_ids=position_ids, **settings)


def test_a_last_layer_has_the_positions_of_the_tokens_that_it_reads():
    model = llama()
    model.model.layers[1] = Placed(model.model.layers[1])
    found = sequence_logps(model, PROMPTS, TWO, pad=0, layout="shared prompt")
    torch.testing.assert_close(found, sequence_logps(model, PROMPTS, TWO, pad=0, layout="plain"))


def test_layers_that_are_in_no_list_are_all_computed_whole():
    model = llama()
    model.config.num_hidden_layers = 3
    assert choose_layout(model, 0) == "shared prompt, all rows"
    with pytest.raises(ValueError, match="no single list"):
        last_layer(model)


def test_of_a_model_that_reads_and_writes_the_last_layer_is_that_of_its_writing_side():
    model = bart()
    assert last_layer(model) is model.model.decoder.layers[-1]


def test_the_last_layer_is_left_as_it_was():
    model = llama()
    layer = last_layer(model)
    sequence_logps(model, PROMPTS, TWO, pad=0, layout="shared prompt")
    assert "forward" not in vars(layer)
    own = layer.forward = functools.partial(type(layer).forward, layer)
    with pytest.raises(IndexError):
        sequence_logps(model, [[99]], [[[1]]], pad=0, layout="shared prompt")
    sequence_logps(model, PROMPTS, TWO, pad=0, layout="shared prompt")
    assert layer.forward is own


@pytest.mark.parametrize(
    ("prompts", "branches"), [([[]], [[[1]]]), ([[2], [3]], [[[1]], [[1], [2]]]), ([[2], [3]], [[[1]]])]
)
def test_what_is_no_tree_is_refused(prompts, branches):
    with pytest.raises(ValueError, match="prompt"):
        plant(prompts, branches)


@given(st.integers(1, 5), st.integers(1, 40), st.integers(0, 2**31))
def test_a_fused_norm_has_the_values_and_the_gradients_of_the_chain(rows, size, seed):
    draw = torch.Generator().manual_seed(seed)
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    plain, fused = LlamaRMSNorm(size, eps=1e-5), LlamaRMSNorm(size, eps=1e-5)
    weight = torch.randn(size, generator=draw)
    for norm in (plain, fused):
        norm.weight.data.copy_(weight)
    assert fuse_norms(torch.nn.Sequential(fused)) == 1
    assert isinstance(fused, LlamaRMSNorm)
    x = torch.randn(rows, 3, size, generator=draw)
    slope = torch.randn(rows, 3, size, generator=draw)
    found = []
    for norm in (plain, fused):
        start = x.clone().requires_grad_()
        out = norm(start)
        out.backward(slope)
        found.append((out.detach(), start.grad, norm.weight.grad))
        with torch.no_grad():
            torch.testing.assert_close(norm(x), found[0][0], rtol=1e-5, atol=1e-5)
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


class HalfNorm(torch.nn.Module):
    """It has a norm's attributes and another formula."""

    def __init__(self):
        super().__init__()
        self.weight, self.variance_epsilon = torch.nn.Parameter(torch.ones(4)), 1e-6

    def forward(self, x):
        return self.weight * x / x.abs().mean(-1, keepdim=True)


def test_only_norms_of_the_same_formula_are_fused_and_only_once():
    model = torch.nn.Sequential(llama(), HalfNorm())
    assert fuse_norms(model) == 5
    assert fuse_norms(model) == 0
    assert type(model[1]) is HalfNorm
