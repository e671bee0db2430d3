"""Masked log-probabilities do not depend on padding, batch, order or layout: values and gradients."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers import LlamaForCausalLM

from goodhart.errors import GoodhartError
from goodhart.models.logprobs import choose_layout, response_laws, sequence_logps
from goodhart.models.packing import even_cuts, pad_right
from tiny_models import CAUSAL, ENCODER_DECODERS, gradients, llama, naive_logp, plain_states, policy_of

LAYOUTS = ["shared prompt", "plain"]
CASES = [pytest.param(make, layout, id=f"{name}-{layout}") for name, make in CAUSAL.items() for layout in LAYOUTS]
CASES += [pytest.param(make, "encoder-decoder", id=name) for name, make in ENCODER_DECODERS.items()]
PROMPTS = [[2, 3, 4, 5, 6], [7], [8, 9, 10]]
RESPONSES = [[[11, 12, 1], [13, 1]], [[1], [14, 15, 2, 3, 4]], [[5, 6], [7, 8, 1]]]
WEIGHTS = torch.tensor([[1.0, -2.0], [0.5, 3.0], [-1.5, 0.7]])

on_every_model = pytest.mark.parametrize(("make", "layout"), CASES)
everywhere = pytest.mark.parametrize("layout", LAYOUTS)
on_causal = pytest.mark.parametrize("make", CAUSAL.values(), ids=CAUSAL)
on_encoder_decoders = pytest.mark.parametrize("make", ENCODER_DECODERS.values(), ids=ENCODER_DECODERS)


def naive(model):
    rows = zip(PROMPTS, RESPONSES, strict=True)
    return torch.stack([torch.stack([naive_logp(model, p, r).sum() for r in row]) for p, row in rows])


@on_every_model
def test_values_and_gradients_are_those_of_one_sequence_at_a_time(make, layout):
    model = make()
    found = sequence_logps(model, PROMPTS, RESPONSES, pad=0, layout=layout)
    expected = naive(model)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    slope = gradients(model, (expected * WEIGHTS).sum())
    assert slope.norm() > 1
    torch.testing.assert_close(gradients(model, (found * WEIGHTS).sum()), slope, rtol=1e-3, atol=1e-4)


@on_every_model
def test_every_token_has_its_own_value_and_padding_has_zero(make, layout):
    model = make()
    laws = response_laws(model, PROMPTS, RESPONSES, pad=0, layout=layout)
    assert laws.counts().tolist() == [[len(r) for r in row] for row in RESPONSES]
    reals = laws.real.split(list(laws.widths), dim=1)
    for j, (real, logp) in enumerate(zip(reals, laws.columns(laws.logp()), strict=True)):
        for i, tokens in enumerate(PROMPTS):
            length = len(RESPONSES[i][j])
            assert real[i].tolist() == [t < length for t in range(real.shape[1])]
            assert logp[i, length:].tolist() == [0.0] * (real.shape[1] - length)
            torch.testing.assert_close(
                logp[i, :length], naive_logp(model, tokens, RESPONSES[i][j]), rtol=1e-5, atol=1e-5
            )


@on_every_model
def test_cutting_the_batch_changes_nothing(make, layout):
    model = make()
    whole = sequence_logps(model, PROMPTS, RESPONSES, pad=0, layout=layout)
    for cut in (slice(0, 1), slice(1, 2), slice(1, 3)):
        part = sequence_logps(model, PROMPTS[cut], RESPONSES[cut], pad=0, layout=layout)
        torch.testing.assert_close(part, whole[cut], rtol=1e-5, atol=1e-5)


@on_every_model
def test_order_padding_and_company_change_nothing(make, layout):
    model = make()
    whole = sequence_logps(model, PROMPTS, RESPONSES, pad=0, layout=layout)
    company = ([[3] * 20, *PROMPTS[::-1]], [[[4] * 15, [5] * 9], *RESPONSES[::-1]])
    found = sequence_logps(model, *company, pad=9, layout=layout)[1:].flip(0)
    torch.testing.assert_close(found, whole, rtol=1e-5, atol=1e-5)


@everywhere
def test_no_gradient_reaches_the_padding_token(layout):
    model = llama()
    assert all(0 not in row for row in PROMPTS + [r for pair in RESPONSES for r in pair])
    value = (sequence_logps(model, PROMPTS, RESPONSES, pad=0, layout=layout) * WEIGHTS).sum()
    (slope,) = torch.autograd.grad(value, [model.get_input_embeddings().weight])
    assert slope[0].tolist() == [0.0] * slope.shape[1]
    assert slope[2].norm() > 0


@on_every_model
def test_branches_do_not_see_each_other(make, layout):
    model = make()
    others = [[row[0], [2, 2, 2, 2, 2, 2, 2]] for row in RESPONSES]
    found = sequence_logps(model, PROMPTS, RESPONSES, pad=0, layout=layout)[:, 0]
    torch.testing.assert_close(found, sequence_logps(model, PROMPTS, others, pad=0, layout=layout)[:, 0])


@on_every_model
def test_the_states_asked_for_are_those_at_the_tokens(make, layout):
    model = make()
    laws = response_laws(model, PROMPTS, RESPONSES, pad=0, layout=layout, states=True)
    for j, found in enumerate(laws.states.split(list(laws.widths), dim=1)):
        for i, tokens in enumerate(PROMPTS):
            expected = plain_states(model, tokens, RESPONSES[i][j])
            torch.testing.assert_close(found[i, : len(expected)], expected, rtol=1e-4, atol=1e-5)


@on_every_model
def test_an_empty_response_has_probability_one(make, layout):
    found = sequence_logps(make(), [[2, 3], [4]], [[[], [5]], [[6], []]], pad=0, layout=layout)
    assert found[0, 0] == 0
    assert found[1, 1] == 0
    assert found[0, 1] < 0


@given(st.data())
def test_layouts_agree_on_any_batch(data):
    token = st.integers(1, 15)
    rows = data.draw(st.integers(1, 4))
    branches = data.draw(st.integers(1, 3))
    prompts = [data.draw(st.lists(token, min_size=1, max_size=6)) for _ in range(rows)]
    responses = [[data.draw(st.lists(token, max_size=5)) for _ in range(branches)] for _ in range(rows)]
    found = [sequence_logps(SHARED_MODEL, prompts, responses, pad=0, layout=layout) for layout in LAYOUTS]
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-4)


SHARED_MODEL = llama(seed=3)


class ScalesItsLogits(LlamaForCausalLM):
    """A model whose logits are more than its output layer on the trunk's states."""

    def forward(self, *arguments, **named):
        out = super().forward(*arguments, **named)
        out.logits = 3 * out.logits
        return out


def test_a_model_that_scales_its_logits_keeps_its_own_head():
    model = ScalesItsLogits(llama().config).eval()
    policy = policy_of(model)
    assert policy.layout == "shared prompt"
    torch.testing.assert_close(policy.log_probs(PROMPTS, RESPONSES), naive(model), rtol=1e-5, atol=1e-5)
    assert (policy.log_probs(PROMPTS, RESPONSES) - naive(llama())).abs().max() > 0.1


class IgnoresTheMask(nn.Module):
    """A model that attends causally to everything and counts its own positions."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.config = inner, inner.config

    def get_input_embeddings(self):
        return self.inner.get_input_embeddings()

    def forward(self, input_ids, attention_mask, position_ids, logits_to_keep=0, **_):
        plain = attention_mask if attention_mask.dim() == 2 else None
        return self.inner(input_ids=input_ids, attention_mask=plain, logits_to_keep=logits_to_keep, use_cache=False)


class RefusesTheMask(IgnoresTheMask):
    """A model that takes two-dimensional masks only."""

    def forward(self, input_ids, attention_mask, position_ids, **_):
        if attention_mask.dim() != 2:
            raise ValueError("the mask must be two-dimensional")
        return self.inner(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)


@on_causal
def test_ordinary_models_share_the_prompt(make):
    assert choose_layout(make(), pad=0) == "shared prompt"


@on_encoder_decoders
def test_an_encoder_decoder_has_one_layout(make):
    assert choose_layout(make(), pad=0) == "encoder-decoder"


@on_encoder_decoders
def test_the_encoder_runs_once_for_all_responses_and_the_output_layer_on_no_padding(make):
    model = make()
    seen = {}
    for name, module in (("encoder", model.get_encoder()), ("head", model.get_output_embeddings())):
        hook = lambda module, inputs, named, out, name=name: seen.setdefault(name, []).append(out)  # noqa: E731
        module.register_forward_hook(hook, with_kwargs=True)
    sequence_logps(model, PROMPTS, RESPONSES, pad=0, layout="encoder-decoder")
    assert [out.last_hidden_state.shape[0] for out in seen["encoder"]] == [len(PROMPTS)]
    assert [out.shape[1] for out in seen["head"]] == [sum(len(r) for row in RESPONSES for r in row)]
    assert model(input_ids=torch.tensor([[2]]), labels=torch.tensor([[3, 1]])).logits.shape == (1, 2, 16)


@on_encoder_decoders
def test_what_the_encoder_read_decides_and_an_empty_prompt_is_refused(make):
    model = make()
    found = sequence_logps(model, PROMPTS, RESPONSES, pad=0, layout="encoder-decoder")
    others = sequence_logps(model, PROMPTS[::-1], RESPONSES, pad=0, layout="encoder-decoder")
    assert (found - others).abs()[[0, 2]].min() > 0.01
    with pytest.raises(ValueError, match="at least one token"):
        sequence_logps(model, [[]], [[[1]]], pad=0, layout="encoder-decoder")


def test_a_decoder_without_a_start_token_is_refused():
    model = ENCODER_DECODERS["T5"]()
    model.config.decoder_start_token_id = None
    with pytest.raises(GoodhartError, match="decoder_start_token_id"):
        sequence_logps(model, PROMPTS, RESPONSES, pad=0, layout="encoder-decoder")


@on_causal
@pytest.mark.parametrize("kind", [IgnoresTheMask, RefusesTheMask])
def test_a_model_without_free_masks_is_found_out_and_scored_plainly(make, kind):
    inner = make()
    policy = policy_of(kind(inner))
    assert policy.layout == "plain"
    torch.testing.assert_close(policy.log_probs(PROMPTS, RESPONSES), naive(inner), rtol=1e-5, atol=1e-5)


def test_the_probe_would_notice_a_wrong_layout():
    model = IgnoresTheMask(llama())
    shared = sequence_logps(model, PROMPTS, RESPONSES, pad=0, layout="shared prompt")
    assert (shared - naive(model.inner)).abs().max() > 0.1


class Failing(torch.nn.Module):
    """A model whose forward along a tree ends in a given fault."""

    def __init__(self, fault):
        super().__init__()
        self.inner, self.fault = llama(), fault
        self.config = self.inner.config

    def get_input_embeddings(self):
        return self.inner.get_input_embeddings()

    def forward(self, tree=None, **settings):
        if tree is not None:
            raise self.fault
        return self.inner(**settings)


@pytest.mark.parametrize(
    "fault",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] data. DefaultCPUAllocator: not enough memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        torch.AcceleratorError("CUDA error: device-side assert triggered"),
    ],
    ids=["GPU", "Python", "CPU", "CPU, Windows", "cuBLAS", "assertion on a GPU"],
)
def test_a_machine_that_cannot_go_on_is_not_taken_for_a_model_that_cannot_read_trees(fault):
    with pytest.raises(type(fault)):
        choose_layout(Failing(fault), pad=0)


def test_memory_that_the_allocator_of_cpus_does_not_give_is_no_answer_about_the_layout():
    class Greedy(Failing):
        def forward(self, tree=None, **settings):
            if tree is not None:
                torch.empty(2**60)
            return self.inner(**settings)

    with pytest.raises(RuntimeError, match="allocate memory"):
        choose_layout(Greedy(None), pad=0)


@pytest.mark.parametrize("kind", [TypeError, ValueError, RuntimeError, IndexError, AttributeError, KeyError])
def test_a_model_that_cannot_read_trees_is_scored_plainly(kind):
    assert choose_layout(Failing(kind("unexpected shape of the mask")), pad=0) == "plain"


def test_rows_are_padded_on_the_right():
    ids, real = pad_right([[3, 4], [], [5]], pad=9)
    assert ids.tolist() == [[3, 4], [9, 9], [5, 9]]
    assert real.sum(1).tolist() == [2, 0, 1]


@given(st.integers(0, 60), st.integers(1, 9))
def test_even_cuts_are_few_even_and_complete(size, most):
    cuts = even_cuts(size, most)
    lengths = [cut.stop - cut.start for cut in cuts]
    assert [i for cut in cuts for i in range(cut.start, cut.stop)] == list(range(size))
    assert len(cuts) == -(-size // most)
    assert not lengths or (max(lengths) <= most and max(lengths) - min(lengths) <= 1)
