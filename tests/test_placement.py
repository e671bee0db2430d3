"""Workers have their own GPUs, and a model on several devices computes what it computes on one."""

import collections
import copy
import os
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorDeviceMismatchError, FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from goodhart.cells.worker import started
from goodhart.compute import placement
from goodhart.compute.placement import VISIBLE, dispatched, gpus, groups, is_spread, spread
from goodhart.errors import GoodhartError
from goodhart.models.checkpoint import read_model
from goodhart.models.logprobs import choose_layout, response_laws, sequence_logps
from goodhart.models.norms import fuse_norms
from goodhart.models.packing import additive
from goodhart.models.precision import in_precision
from goodhart.models.preference import PreferenceModel
from goodhart.models.tree import plant
from goodhart.models.tree_attention import tree_attention
from goodhart.sampling import recording
from goodhart.sampling.cache import decoding_cache, keep_rows
from goodhart.sampling.keyed import Draws, KeyedSampler
from goodhart.studies import session
from goodhart.studies.session import Workers, cores
from micro_study import said
from tiny_models import CAUSAL, END, MODELS, PAD, llama

PROMPTS = [[2, 3, 4, 5, 6], [7], [8, 9, 10]]
RESPONSES = [[[11, 12, 1], [13, 1]], [[1], [14, 15, 2, 3, 4]], [[5, 6], [7, 8, 1]]]
THREE = [[*row, [3, 1]] for row in RESPONSES]
"""More branches than one table of attention takes."""
on_all = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
on_causal = pytest.mark.parametrize("make", CAUSAL.values(), ids=CAUSAL)
FREE = {0: 10**9, 1: 10**9}


@given(st.lists(st.text("ab", max_size=3), max_size=9), st.integers(-1, 10))
def test_groups_are_of_one_size_and_in_order_and_as_many_as_there_can_be(names, size):
    if not 1 <= size <= max(1, len(names)):
        with pytest.raises(GoodhartError, match="--gpus-per-worker"):
            groups(names, size)
        return
    found = groups(names, size)
    assert len(found) == len(names) // size
    assert [name for group in found for name in group] == names[: len(found) * size]
    assert {len(group) for group in found} <= {size}


@pytest.mark.parametrize(
    ("visible", "count", "names"),
    [
        (None, 3, ["0", "1", "2"]),
        ("2,0", 2, ["2", "0"]),
        ("GPU-8a, GPU-9b", 2, ["GPU-8a", "GPU-9b"]),
        ("0,-1,1", 1, ["0"]),
        ("", 0, []),
        (None, 0, []),
    ],
)
def test_gpus_are_named_as_the_parent_names_them(monkeypatch, visible, count, names):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(session, "may_have_gpus", lambda: True)
    monkeypatch.delenv(VISIBLE, raising=False)
    if visible is not None:
        monkeypatch.setenv(VISIBLE, visible)
    assert gpus() == names


@pytest.mark.parametrize(
    ("count", "asked", "size", "workers"),
    [(0, 0, 1, cores()), (0, 3, 1, 3), (8, 0, 1, 8), (8, 0, 2, 4), (8, 0, 3, 2), (8, 0, 8, 1), (2, 5, 1, 5)],
)
def test_there_are_as_many_workers_as_groups_unless_a_number_is_given(monkeypatch, count, asked, size, workers):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(session, "may_have_gpus", lambda: True)
    monkeypatch.delenv(VISIBLE, raising=False)
    found = Workers.of(asked, size)
    assert (found.number, len(found.groups)) == (workers, count // size)


def test_more_gpus_than_there_are_is_an_error_with_a_remedy(monkeypatch, tmp_path, capfd):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    found = said(capfd, "run", "quick", "--root", str(tmp_path), "--gpus-per-worker", "2").stderr
    assert "this machine has 0" in found
    assert "leave --gpus-per-worker out" in found
    assert not list(tmp_path.iterdir())
    with pytest.raises(GoodhartError, match="use --gpus-per-worker 1 to 2"):
        groups(["0", "1"], 3)


def what_came_of(worker, work, *arguments):
    worker.submit("a question", work, *arguments)
    return worker.result()


def own_group():
    return os.getpid(), os.environ.get(VISIBLE)


def test_every_worker_sees_one_group_for_its_life_and_groups_are_shared_in_turn(monkeypatch):
    monkeypatch.setenv(VISIBLE, "GPU-a,GPU-b,GPU-c,GPU-d,GPU-e")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 5)
    monkeypatch.setattr(session, "may_have_gpus", lambda: True)
    asked = Workers.of(3, 2)
    with started(asked.number, "default", asked.groups) as workers:
        seen = [{what_came_of(worker, own_group) for _ in range(2)} for worker in workers]
    assert [len(one) for one in seen] == [1, 1, 1]
    assert len({process for one in seen for process, _ in one}) == 3
    assert [group for one in seen for _, group in one] == ["GPU-a,GPU-b", "GPU-c,GPU-d", "GPU-a,GPU-b"]
    assert os.environ[VISIBLE] == "GPU-a,GPU-b,GPU-c,GPU-d,GPU-e"


def test_without_gpus_a_worker_sees_what_its_parent_sees(monkeypatch):
    monkeypatch.setenv(VISIBLE, "")
    with started(1, "default") as (worker,):
        assert what_came_of(worker, os.getenv, VISIBLE) == ""


def parts(model):
    """The smallest parts that a model can be taken into, all on the CPU."""
    leaves = [name for name, module in model.named_modules() if not list(module.children())]
    own = [name for name, _ in (*model.named_parameters(recurse=False), *model.named_buffers(recurse=False))]
    return dict.fromkeys([*leaves, *own], "cpu")


def both(make):
    models = make(), make()
    for model in models:
        fuse_norms(model)
    return models[0], dispatched(models[1], parts(models[1]))


def slopes(model, responses):
    logp = sequence_logps(model, PROMPTS, responses, pad=PAD, layout=choose_layout(model, PAD))
    model.zero_grad()
    (logp[:, 0] - logp[:, 1]).square().sum().backward()
    return logp, {name: p.grad for name, p in model.named_parameters()}


@on_all
@pytest.mark.parametrize("responses", [RESPONSES, THREE], ids=["two", "three"])
def test_scores_and_gradients_are_those_of_the_model_in_one_piece(make, responses):
    one, two = both(make)
    assert choose_layout(one, PAD) == choose_layout(two, PAD)
    for precision in ("float32", "bfloat16"):
        (logp, plain), (spread_logp, spread_plain) = (
            slopes(in_precision(model, precision), responses) for model in (one, two)
        )
        assert torch.equal(logp, spread_logp)
        torch.testing.assert_close(plain, spread_plain, rtol=0, atol=0)


@on_all
def test_samples_are_those_of_the_model_in_one_piece_and_no_step_is_recorded(make):
    sampler, (one, two) = KeyedSampler(END, PAD, 9), both(make)
    for seed in range(recording.EAGER_BATCHES + 2):
        drawn = [sampler(model, PROMPTS * 3, 2, Draws(seed, "spread", range(9))) for model in (one, two)]
        assert drawn[0] == drawn[1]
    assert is_spread(two)
    assert two not in recording._RECORDS


@on_all
def test_a_copy_is_apart_from_its_model_and_is_saved_as_one(make, tmp_path):
    one, two = both(make)
    twin = copy.deepcopy(two)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.mul_(0.5)
    assert torch.equal(slopes(one, RESPONSES)[0], slopes(two, RESPONSES)[0])
    assert not torch.equal(slopes(two, RESPONSES)[0], slopes(twin, RESPONSES)[0])
    twin.hf_device_map = {"": "cuda:0"}  # Transformers takes the CPU for a place of what fits nowhere else
    twin.save_pretrained(tmp_path)
    assert torch.equal(slopes(read_model(tmp_path), RESPONSES)[0], slopes(twin, RESPONSES)[0])


def test_a_preference_model_judges_alike(monkeypatch):
    judges = [PreferenceModel(llama(), "pairwise", 1, PAD, "shared prompt") for _ in range(2)]
    monkeypatch.setattr("goodhart.models.preference.place", lambda model: dispatched(model, parts(model)))
    judges[1].placed()
    assert is_spread(judges[1].language_model)
    first, second = ([row[k] for row in RESPONSES] for k in (0, 1))
    found = [judge.both(PROMPTS, first, second) for judge in judges]
    assert torch.equal(*found)


@on_all
def test_layers_stay_whole_tied_weights_together_and_both_gpus_are_used(make, monkeypatch):
    seen = {}
    monkeypatch.setattr(placement, "dispatched", lambda model, devices: seen.update(devices))
    model = make(layers=4)
    spread(model, FREE)
    places = {name: place for name, _ in model.named_parameters(remove_duplicate=False)
              for part, place in seen.items() if f"{name}.".startswith(f"{part}.")}  # fmt: skip
    assert set(places.values()) == {"cuda:0", "cuda:1"}
    assert places[next(name for name, _ in model.named_parameters())] == "cuda:0"
    weights = dict(model.named_parameters(remove_duplicate=False))
    by_weight = collections.defaultdict(set)
    for name, weight in weights.items():
        by_weight[id(weight)].add(places[name])
    assert all(len(found) == 1 for found in by_weight.values())
    for name, module in model.named_modules():
        if type(module).__name__ in model._no_split_modules:
            assert len({places[f"{name}.{own}"] for own, _ in module.named_parameters()}) == 1


def test_a_model_that_does_not_fit_is_an_error_with_a_remedy():
    with pytest.raises(GoodhartError, match="raise --gpus-per-worker"):
        spread(llama(), {0: 1000, 1: 1000})


@pytest.fixture
def two_devices(monkeypatch):
    """Tensors without numbers that refuse to meet those of another device; `meta` stands in for a second GPU."""
    kept, moved, names = [], {}, {"cuda:0": "cpu", "cuda:1": "meta"}

    def move(module, name, device, **_):
        *path, name = name.split(".")
        module = module.get_submodule(".".join(path))
        held = module._parameters if name in module._parameters else module._buffers
        value = held[name]
        kept.append(value)  # so that no other has its id
        made = torch.nn.Parameter if name in module._parameters else lambda tensor: tensor
        if (id(value), device) not in moved:
            moved[id(value), device] = (
                value if value.device == torch.device(device) else made(value.detach().to(device))
            )
        held[name] = moved[id(value), device]

    # accelerate's own makes a parameter by the class of the tensor, and tells tied ones by where their numbers are
    monkeypatch.setattr("accelerate.hooks.set_module_tensor_to_device", move)
    monkeypatch.setattr(FakeTensor, "data_ptr", lambda self: id(self))
    monkeypatch.setattr(
        placement,
        "dispatched",
        lambda model, devices: dispatched(model, {part: names[d] for part, d in devices.items()}),
    )
    with FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True) as mode:
        yield mode


def homes(model):
    return {str(p.device) for p in model.parameters()}


def test_the_check_sees_two_devices(two_devices):
    with pytest.raises(FakeTensorDeviceMismatchError):
        torch.ones(3, device="cpu") + torch.ones(3, device="meta")


@on_causal
@pytest.mark.parametrize("responses", [RESPONSES, THREE], ids=["two", "three"])
def test_a_tree_is_read_and_learnt_from_across_devices(make, responses, two_devices):
    model = spread(make(layers=4), FREE)
    assert homes(model) == {"cpu", "meta"}
    laws = response_laws(model, PROMPTS, responses, pad=PAD, layout="shared prompt", states=True)
    found = laws.logp()
    assert {str(x.device) for x in (found, laws.tokens, laws.real, laws.states)} == {"cpu"}
    found.sum().backward()
    assert all(p.grad.device == p.device for p in model.parameters())


def test_layers_of_a_device_share_the_tree_there(two_devices):
    tree = plant(PROMPTS, RESPONSES).to("cpu")
    there = tree.to("meta")
    assert tree.to("cpu") is tree
    assert there.to("meta") is there is tree.to("meta")
    assert there.mask("whole", torch.float32, None) is there.mask("whole", torch.float32, None)
    assert str(there.mask("whole", torch.float32, None).device) == "meta"


@on_causal
def test_a_cache_lives_with_its_layers(make, two_devices):
    model = spread(make(layers=4), FREE)
    cache = decoding_cache(model.config, 8, 8)
    ids, mask = torch.ones(3, 5, dtype=torch.long, device="cpu"), torch.ones(3, 5, 5, dtype=torch.bool)
    given = {"attention_mask": additive(mask.to("cpu"), torch.float32), "position_ids": ids}
    with torch.no_grad():
        model(input_ids=ids, past_key_values=cache, use_cache=True, **given)
        keep_rows(cache, torch.arange(2, device="cpu"))
        given = {"attention_mask": given["attention_mask"][:2, :, :1].expand(2, 1, 1, 5), "position_ids": ids[:2, :1]}
        given["attention_mask"] = torch.nn.functional.pad(given["attention_mask"], (0, 1))
        logits = model(input_ids=ids[:2, :1], past_key_values=cache, use_cache=True, **given).logits
    assert str(logits.device) == "cpu"
    assert {str(layer.keys.device) for layer in cache.layers} == {"cpu", "meta"}
    assert {tuple(layer.keys.shape[::2]) for layer in cache.layers} == {(2, 6)}


@on_all
def test_a_trunk_gives_back_to_where_its_inputs_are(make, two_devices):
    model = spread(make(layers=4), FREE)
    trunks = [model.get_encoder(), model.get_decoder()] if model.config.is_encoder_decoder else [model.base_model]
    assert homes(model) == {"cpu", "meta"}
    for trunk in trunks:
        assert str(trunk(input_ids=torch.ones(2, 3, dtype=torch.long)).last_hidden_state.device) == "cpu"


@pytest.mark.parametrize("responses", [RESPONSES, THREE], ids=["two", "three"])
def test_attention_takes_the_tree_to_its_queries(responses, two_devices):
    tree = plant(PROMPTS, responses)
    heads = torch.ones(1, 2, len(tree.ids), 4, device="meta")
    assert str(tree_attention(None, heads, heads, heads, None, tree=tree)[0].device) == "meta"


def test_rows_are_kept_in_every_layer_by_numbers_on_its_device(two_devices):
    seen = []
    layers = [SimpleNamespace(keys=torch.ones(3, device=d), batch_select_indices=seen.append) for d in ("cpu", "meta")]
    keep_rows(SimpleNamespace(layers=layers), torch.arange(2))
    assert [str(rows.device) for rows in seen] == ["cpu", "meta"]
