"""Adapters: fresh ones change nothing, all ways of scoring agree with peft's, bases are shared, files are peft's."""

import copy
import json
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file

from goodhart.errors import GoodhartError
from goodhart.models.adapter import (
    WEIGHTS,
    adapted,
    check_adapter,
    chosen_layers,
    has_adapter,
    is_adapter,
    merged,
    save_adapter,
    weights_of,
    with_saved_adapter,
)
from goodhart.models.adapter_settings import Adapter
from goodhart.models.checkpoint import find, read_model, read_whole
from goodhart.models.logprobs import choose_layout, response_laws, sequence_logps
from goodhart.models.precision import in_precision
from goodhart.models.preference import PreferenceModel
from goodhart.training.critic import ValueModel
from tiny_models import CAUSAL, MODELS, PAD, llama, naive_logp, policy_of, prompt

ADAPTER = Adapter(rank=3, alpha=5.0)
PROMPTS = [[5, 6, 7, 8], [9, 3]]
RESPONSES = [[[4, 5, 1], [6, 1], [2, 2, 7, 1]], [[7, 1], [3, 4, 5, 6, 1], [8, 1]]]
LAYOUTS = {"rotary": ("shared prompt", "shared prompt, all rows", "plain"), "absolute": ("shared prompt", "plain")}


def moved(model, scale=0.2):
    """With weights in B, as after some steps."""
    draw = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.copy_(scale * torch.randn(parameter.shape, generator=draw))
    return model


def peft_twin(make, tree):
    """The same weights as peft itself has them: its wrapper over a model of its own."""
    config = LoraConfig(
        r=ADAPTER.rank, lora_alpha=ADAPTER.alpha, target_modules=tree.peft_config["default"].target_modules
    )
    with pytest.warns(UserWarning, match="Conv1D") if make is CAUSAL["absolute"] else nullcontext():
        twin = get_peft_model(make(), config)
    own = dict(tree.named_parameters())
    with torch.no_grad():
        for name, parameter in twin.named_parameters():
            parameter.copy_(own[name.removeprefix("base_model.model.")])
    return twin.eval()


def slopes(model, value):
    """The gradient by the adapter's weights, by name."""
    named = [(n.removeprefix("base_model.model."), p) for n, p in model.named_parameters() if p.requires_grad]
    found = torch.autograd.grad(value, [p for _, p in named], materialize_grads=True)
    return {name: each for (name, _), each in zip(named, found, strict=True)}


def scored(model, layout):
    return sequence_logps(model, PROMPTS, RESPONSES, pad=PAD, layout=layout)


@pytest.mark.parametrize("name", MODELS)
def test_a_fresh_adapter_changes_no_bit_and_its_base_stays_what_it_was(name):
    base, alone = MODELS[name](), MODELS[name]()
    before = [p.clone() for p in base.parameters()]
    tree = adapted(base, ADAPTER, 0)
    layout = choose_layout(base, PAD)
    assert choose_layout(tree, PAD) == layout
    with torch.no_grad():
        assert torch.equal(scored(tree, layout), scored(alone, layout))
        moved(tree)
        assert not torch.allclose(scored(tree, layout), scored(alone, layout), atol=1e-3)
        assert torch.equal(scored(base, layout), scored(alone, layout))
    assert all(map(torch.equal, before, base.parameters()))
    shared = {p.data_ptr() for p in base.parameters()}
    rest = [p for p in tree.parameters() if p.data_ptr() not in shared]
    assert sum(p.numel() for p in rest) == weights_of(chosen_layers(MODELS[name](), ADAPTER), ADAPTER)
    assert {id(p) for p in rest} == {id(p) for p in tree.parameters() if p.requires_grad}


@pytest.mark.parametrize(("name", "layout"), [(name, layout) for name in CAUSAL for layout in LAYOUTS[name]])
def test_every_layout_gives_the_log_probs_and_gradients_of_the_plain_forward_of_peft(name, layout):
    tree = moved(adapted(CAUSAL[name](), ADAPTER, 0))
    twin = peft_twin(CAUSAL[name], tree)
    weights = torch.tensor([[1.0, -2.0, 0.5], [0.3, 1.0, -1.0]])
    ours = scored(tree, layout)
    theirs = torch.stack(
        [torch.stack([naive_logp(twin, p, r).sum() for r in row]) for p, row in zip(PROMPTS, RESPONSES, strict=True)]
    )
    assert torch.allclose(ours, theirs, atol=1e-4)
    own, plain = slopes(tree, (weights * ours).sum()), slopes(twin, (weights * theirs).sum())
    assert own.keys() == plain.keys()
    for key in own:
        assert torch.allclose(own[key], plain[key], atol=1e-4, rtol=1e-3), key


@pytest.mark.parametrize("name", MODELS)
def test_merged_weights_give_the_same_log_probs_and_the_gradient_by_the_chain_rule(name):
    tree = moved(adapted(MODELS[name](), ADAPTER, 0))
    whole, layout = merged(tree), choose_layout(tree, PAD)
    assert not has_adapter(whole)
    assert [n for n, _ in whole.named_parameters()] == [n for n, _ in MODELS[name]().named_parameters()]
    one, two = scored(tree, layout), scored(whole, layout)
    assert torch.allclose(one, two, atol=1e-4)
    names = [n for n, _ in whole.named_parameters()]
    by_weight = dict(
        zip(names, torch.autograd.grad(two.sum(), list(whole.parameters()), materialize_grads=True), strict=True)
    )
    own = slopes(tree, one.sum())
    for layer in chosen_layers(whole, ADAPTER):
        a, b = (tree.get_submodule(layer).lora_A.default.weight, tree.get_submodule(layer).lora_B.default.weight)
        slope = by_weight[f"{layer}.weight"]
        slope = slope.T if slope.shape != (b.shape[0], a.shape[1]) else slope
        if name == "absolute":  # its weights are transposed, square ones too
            slope = by_weight[f"{layer}.weight"].T
        scale = ADAPTER.alpha / ADAPTER.rank
        assert torch.allclose(own[f"{layer}.lora_B.default.weight"], scale * slope @ a.T, atol=2e-3, rtol=1e-3)
        assert torch.allclose(own[f"{layer}.lora_A.default.weight"], scale * b.T @ slope, atol=2e-3, rtol=1e-3)


def test_merging_twice_over_leaves_the_base_alone():
    base = llama()
    before = [p.clone() for p in base.parameters()]
    tree = moved(adapted(base, ADAPTER, 0))
    whole = merged(tree)
    assert all(p.requires_grad for p in whole.parameters())
    assert not any(p.requires_grad for p in base.parameters())
    again = moved(adapted(whole, ADAPTER, 1))
    merged(again)
    assert all(map(torch.equal, before, base.parameters()))


def test_the_adapter_is_a_function_of_its_seed_and_leaves_the_global_generator_alone():
    torch.manual_seed(3)
    state = torch.get_rng_state()
    one, same, other = (adapted(llama(), ADAPTER, seed) for seed in (4, 4, 5))
    assert torch.equal(torch.get_rng_state(), state)
    ours = [p for p in one.parameters() if p.requires_grad]
    assert all(map(torch.equal, ours, [p for p in same.parameters() if p.requires_grad]))
    assert not any(
        torch.equal(a, b)
        for a, b in zip(ours, (p for p in other.parameters() if p.requires_grad), strict=True)
        if a.any()
    )


def test_peft_reads_what_is_saved_and_so_do_we(tmp_path):
    base = llama()
    base.save_pretrained(tmp_path / "sft-1" / "final")
    tree = moved(adapted(base, ADAPTER, 0))
    folder = tmp_path / "run-1" / "step-3"
    save_adapter(tree, folder, "../../sft-1/final")
    assert is_adapter(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["adapter_config.json", WEIGHTS]
    assert sum(p.numel() for p in load_file(folder / WEIGHTS).values()) == weights_of(
        chosen_layers(llama(), ADAPTER), ADAPTER
    )
    with torch.no_grad():
        expected = scored(tree, "plain")
        ours, whole = read_model(folder), read_whole(folder)
        assert torch.equal(scored(ours, "plain"), expected)
        assert torch.allclose(scored(whole, "plain"), expected, atol=1e-4)
        theirs = PeftModel.from_pretrained(llama(), folder).eval()
        assert torch.equal(scored(theirs.base_model.model, "plain"), expected)
        with theirs.disable_adapter():
            assert torch.equal(scored(theirs.base_model.model, "plain"), scored(base, "plain"))


def test_an_adapter_over_an_adapter_is_laid_over_what_that_one_makes(tmp_path):
    base = llama()
    base.save_pretrained(tmp_path / "sft-1" / "final")
    first = moved(adapted(base, ADAPTER, 0))
    save_adapter(first, tmp_path / "run-1" / "step-3", "../../sft-1/final")
    second = moved(adapted(read_whole(tmp_path / "run-1" / "step-3"), ADAPTER, 1), 0.1)
    save_adapter(second, tmp_path / "run-2" / "step-5", "../../run-1/step-3")
    with torch.no_grad():
        assert torch.equal(scored(read_model(tmp_path / "run-2" / "step-5"), "plain"), scored(second, "plain"))


def test_an_adapter_alone_is_no_model_to_begin_with(tmp_path):
    save_adapter(adapted(llama(), ADAPTER, 0), tmp_path / "a", "elsewhere")
    with pytest.raises(GoodhartError, match="is an adapter alone") as caught:
        find(str(tmp_path / "a"))
    assert "--merged" in caught.value.remedy


def test_an_adapter_of_another_model_is_refused(tmp_path):
    save_adapter(adapted(llama(hidden=24), ADAPTER, 0), tmp_path / "a", "elsewhere")
    with pytest.raises(GoodhartError, match="cannot be laid over LlamaForCausalLM"):
        with_saved_adapter(llama(), tmp_path / "a")
    save_adapter(adapted(llama(layers=3), ADAPTER, 0), tmp_path / "b", "elsewhere")
    with pytest.raises(GoodhartError, match="is in no layer"):
        with_saved_adapter(llama(), tmp_path / "b")
    (tmp_path / "b" / "adapter_config.json").write_text("{}")
    with pytest.raises(GoodhartError, match="names no base model"):
        read_model(tmp_path / "b")


def test_what_no_adapter_can_be_is_told_from_the_model_file_alone(tmp_path):
    llama().save_pretrained(tmp_path)
    sizes = chosen_layers(llama(), ADAPTER)
    assert check_adapter(tmp_path, ADAPTER) == sum(3 * (a + b) for a, b in sizes.values())
    assert check_adapter(tmp_path, replace(ADAPTER, targets=("q_proj", "mlp.up_proj"))) == 2 * 3 * (
        (16 + 16) + (16 + 32)
    )
    with pytest.raises(GoodhartError, match="'query', which is no linear layer inside LlamaForCausalLM"):
        check_adapter(tmp_path, replace(ADAPTER, targets=("q_proj", "query")))
    with pytest.raises(GoodhartError, match="'lm_head', which is no linear layer"):
        check_adapter(tmp_path, replace(ADAPTER, targets=("lm_head",)))
    with pytest.raises(GoodhartError, match=r"rank is 17, and .* at most 16|rank is 17"):
        check_adapter(tmp_path, replace(ADAPTER, rank=17))
    check_adapter(tmp_path, replace(ADAPTER, rank=16))


def test_without_peft_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(GoodhartError, match="peft") as caught:
        adapted(llama(), ADAPTER, 0)
    assert "goodhart[lora]" in caught.value.remedy


def test_a_policy_trains_saves_and_freezes_its_adapter_alone():
    start = policy_of(llama())
    policy = start.adapted(ADAPTER, 0)
    assert sum(p.numel() for p in policy.parameters()) == weights_of(chosen_layers(llama(), ADAPTER), ADAPTER)
    held = policy.frozen()
    moved(policy.model)
    own, theirs = dict(policy.model.named_parameters()), dict(held.model.named_parameters())
    for name, parameter in own.items():
        assert (theirs[name] is parameter) == (not parameter.requires_grad)
    with torch.no_grad():
        assert torch.equal(held.log_probs(PROMPTS, RESPONSES), start.log_probs(PROMPTS, RESPONSES))
    value = ValueModel.of(policy)
    assert {n for n, p in value.named_parameters() if p.requires_grad} >= {"head.weight", "head.bias"}
    assert all(p.requires_grad == (".lora_" in n or n.startswith("head")) for n, p in value.named_parameters())


def test_in_bfloat16_the_base_is_held_once_and_the_adapter_has_a_float32_master():
    start = policy_of(llama())
    master = start.adapted(ADAPTER, 0)
    policy = master.at("bfloat16")
    assert {p.dtype for p in master.parameters()} == {torch.float32}
    assert {p.dtype for p in policy.parameters()} == {torch.bfloat16}
    reference = replace(start, name="sft").at("bfloat16")
    resting = {p.data_ptr() for p in policy.model.parameters() if not p.requires_grad}
    assert {p.data_ptr() for p in reference.model.parameters()} == resting
    with torch.no_grad():
        plain = in_precision(llama(), "bfloat16")
        expected = sequence_logps(plain, PROMPTS, RESPONSES, pad=PAD, layout=start.layout)
        assert torch.equal(policy.log_probs(PROMPTS, RESPONSES), expected)
        assert torch.equal(reference.log_probs(PROMPTS, RESPONSES), expected)
    value = ValueModel.of(master)
    assert value.start(PROMPTS).dtype == torch.float32


@pytest.mark.parametrize("kind", ["pairwise", "bradley-terry"])
def test_a_preference_model_keeps_its_adapter_with_its_whole_head(kind, tmp_path):
    llama(vocabulary=16).save_pretrained(tmp_path / "base")
    base = find(str(tmp_path / "base"))
    model = PreferenceModel(read_model(base.path), kind, 2, PAD, "shared prompt").eval()
    before = model.logits(PROMPTS, [[4, 1], [5, 1]], [[6, 7, 1], [8, 1]])
    model.adapt(ADAPTER, 0, {"name": base.path, "digest": base.digest})
    assert torch.equal(model.logits(PROMPTS, [[4, 1], [5, 1]], [[6, 7, 1], [8, 1]]), before)
    assert {n for n, p in model.named_parameters() if p.requires_grad and "lora_" not in n} == {
        "head.weight",
        "head.bias",
    }
    moved(model)
    with torch.no_grad():
        model.head.weight.add_(0.1)
    expected = model.logits(PROMPTS, [[4, 1], [5, 1]], [[6, 7, 1], [8, 1]])
    (tmp_path / "kept").mkdir()
    model.save(tmp_path / "kept")
    assert not list((tmp_path / "kept").glob("model*.safetensors"))
    loaded = PreferenceModel.load(tmp_path / "kept")
    assert torch.equal(loaded.logits(PROMPTS, [[4, 1], [5, 1]], [[6, 7, 1], [8, 1]]), expected)
    llama(seed=1).save_pretrained(tmp_path / "base")
    with pytest.raises(GoodhartError, match="have changed"):
        PreferenceModel.load(tmp_path / "kept")


def test_samples_of_a_policy_with_an_adapter_are_those_of_plain_ancestral_sampling_by_its_laws():
    policy = policy_of(llama(vocabulary=16)).adapted(ADAPTER, 0)
    moved(policy.model)
    asked = [prompt(i, *tokens) for i, tokens in enumerate(PROMPTS)]
    whole = replace(policy, model=merged(policy.model))
    for _ in range(4):  # the later calls are by the recorded step
        drawn = policy.sample(asked, 3, seed=0, purpose="test")
        assert drawn == whole.sample(asked, 3, seed=0, purpose="test")
    twin = copy.deepcopy(policy.model)
    laws = [response_laws(m, PROMPTS, drawn, pad=PAD, layout=policy.layout).logits for m in (policy.model, twin)]
    assert torch.equal(*laws)


def test_the_files_of_one_adapter_have_the_same_bits_every_time(tmp_path):
    for name in ("one", "two"):
        save_adapter(adapted(llama(), ADAPTER, 0), tmp_path / name, "base")
    assert all((tmp_path / "one" / f.name).read_bytes() == f.read_bytes() for f in (tmp_path / "two").iterdir())
    settings = json.loads((tmp_path / "one" / "adapter_config.json").read_text())
    assert settings["target_modules"] == sorted(settings["target_modules"])
    assert "q_proj" in settings["target_modules"]
