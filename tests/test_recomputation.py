"""Layers that are computed again in the backward pass give the same gradients, and hold less."""

import copy

import pytest
import torch

from goodhart.errors import GoodhartError
from goodhart.models.adapter import adapted
from goodhart.models.adapter_settings import Adapter
from goodhart.models.logprobs import sequence_logps
from goodhart.models.preference import PreferenceModel
from goodhart.models.recomputation import recompute_layers
from tiny_models import ENCODER_DECODERS, MODELS, PAD, llama

PROMPTS = [[5, 6, 7, 8], [9, 3]]
RESPONSES = [[[4, 5, 1], [6, 1], [2, 2, 7, 1]], [[7, 1], [3, 4, 5, 6, 1], [8, 1]]]
CASES = [
    *((name, layout) for name in ("rotary", "absolute") for layout in ("shared prompt", "plain")),
    ("rotary", "shared prompt, all rows"),
    *((name, "encoder-decoder") for name in ENCODER_DECODERS),
]


def slopes(model, layout):
    value = sequence_logps(model, PROMPTS, RESPONSES, pad=PAD, layout=layout).square().sum()
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    found = torch.autograd.grad(value, [p for _, p in named], materialize_grads=True)
    return {name: slope for (name, _), slope in zip(named, found, strict=True)}


def saved(model, layout):
    """Numbers that a forward pass keeps for the backward pass, parameters left out."""
    own, total = {p.data_ptr() for p in model.parameters()}, [0]

    def keep(tensor):
        total[0] += tensor.numel() * (tensor.data_ptr() not in own)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        sequence_logps(model, PROMPTS, RESPONSES, pad=PAD, layout=layout).sum()
    return total[0]


@pytest.mark.parametrize("trained", ["weights", "adapter"])
@pytest.mark.parametrize(("name", "layout"), CASES)
def test_gradients_are_the_same_bits_in_every_layout(name, layout, trained):
    one, two = (MODELS[name](layers=3) for _ in range(2))
    assert recompute_layers(two) == 2 + (3 if layout == "encoder-decoder" else 0)
    if trained == "adapter":
        one, two = (adapted(model, Adapter(rank=2), 0) for model in (one, two))
    plain, again = slopes(one, layout), slopes(two, layout)
    assert plain.keys() == again.keys()
    for key, slope in plain.items():
        assert torch.equal(slope, again[key]), key
    with torch.no_grad():
        same = [sequence_logps(each, PROMPTS, RESPONSES, pad=PAD, layout=layout) for each in (one, two)]
    assert torch.equal(*same)


@pytest.mark.parametrize("layout", ["shared prompt", "plain"])
def test_less_is_kept_and_a_copy_computes_again_by_itself(layout):
    model = llama(layers=6)
    held = saved(model, layout)
    recompute_layers(model)
    twin = copy.deepcopy(model, {id(t): t for t in (*model.parameters(), *model.buffers())})
    assert saved(model, layout) < held / 2
    assert all(map(torch.equal, slopes(model, layout).values(), slopes(twin, layout).values()))
    assert twin.model.layers[0].settings is twin.config


@pytest.mark.parametrize("kind", ["pairwise", "bradley-terry"])
def test_a_preference_model_too(kind):
    models = [PreferenceModel(llama(layers=3), kind, 2, PAD, "shared prompt") for _ in range(2)]
    recompute_layers(models[1].language_model)
    found = []
    for model in models:
        value = model.both(PROMPTS, [[4, 1], [5, 1]], [[6, 7, 1], [8, 1]]).square().sum()
        found.append(torch.autograd.grad(value, list(model.parameters()), materialize_grads=True))
    assert all(map(torch.equal, *found))


def test_layers_that_are_not_known_to_bear_it_are_refused_by_name():
    model = llama()
    model.model.layers = torch.nn.ModuleList([torch.nn.Linear(2, 2)])
    with pytest.raises(GoodhartError, match="layers of LlamaForCausalLM cannot be computed again"):
        recompute_layers(model)
    model = llama()
    model._hf_hook = object()
    with pytest.raises(GoodhartError, match="several GPUs"):
        recompute_layers(model)
