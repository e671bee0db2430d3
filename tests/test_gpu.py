"""The same code on a GPU; without one these tests are skipped, and the summary of the tests says so."""

import os

import pytest
import torch

from goodhart.cells.record import machine
from goodhart.cells.worker import started
from goodhart.compute.placement import VISIBLE, gpus, groups, is_spread, place
from goodhart.models.logprobs import choose_layout, sequence_logps
from goodhart.models.norms import fuse_norms
from goodhart.models.precision import in_precision
from goodhart.models.preference import PreferenceModel
from goodhart.sampling import recording
from goodhart.sampling.keyed import Draws, KeyedSampler
from goodhart.training.optimiser import Descent
from goodhart.training.settings import Optimisation
from tiny_models import CAUSAL, END, MODELS, PAD, llama

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="NO GPU: sampling, scoring and training on one were NOT tested"
)
on_two = pytest.mark.skipif(
    torch.cuda.device_count() < 2, reason="FEWER THAN TWO GPUS: models spread over several were NOT tested"
)
on_all = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
on_causal = pytest.mark.parametrize("make", CAUSAL.values(), ids=CAUSAL)
PROMPTS = [[2, 3, 4, 5, 6], [7], [8, 9, 10]]
RESPONSES = [[[11, 12, 1], [13, 1]], [[1], [14, 15, 2, 3, 4]], [[5, 6], [7, 8, 1]]]


def both(make):
    models = make(), make().to("cuda")
    for model in models:
        fuse_norms(model)
    return models


def slopes(model, layout):
    logp = sequence_logps(model, PROMPTS, RESPONSES, pad=PAD, layout=layout)
    (logp[:, 0] - logp[:, 1]).square().sum().backward()
    return logp.detach().cpu(), torch.cat([p.grad.flatten().cpu() for p in model.parameters()])


@on_causal
@pytest.mark.parametrize("layout", ["shared prompt", "plain"])
def test_scores_and_gradients_are_those_of_the_cpu(make, layout):
    (one, here), (two, there) = (slopes(model, layout) for model in both(make))
    torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(here, there, rtol=1e-2, atol=1e-3)


@on_causal
def test_nearly_all_tokens_are_those_of_the_cpu_also_by_a_recorded_step(make):
    sampler, texts = KeyedSampler(END, PAD, 12), []
    for model in both(make):
        for seed in range(recording.EAGER_BATCHES + 2):
            drawn = sampler(model, PROMPTS * 8, 2, Draws(seed, "gpu", range(24)))
        texts.append([text for row in drawn for text in row])
    assert sum(a == b for a, b in zip(*texts, strict=True)) >= 46


def trained(model):
    """The optimiser of a model whose loss it has lowered."""
    descent, losses = Descent(model.parameters(), Optimisation(lr=1e-2, warmup=1), 8), []
    for step in range(8):
        logp = sequence_logps(model, PROMPTS, RESPONSES, pad=PAD, layout="shared prompt")
        loss = (logp[:, 0] - logp[:, 1] - 1).square().mean()
        loss.backward()
        losses.append(float(loss.detach()))
        descent.step(step, losses[-1])
    assert losses[-1] < losses[0]
    return descent


@on_causal
def test_training_lowers_the_loss_in_both_precisions(make):
    for precision in ("float32", "bfloat16"):
        trained(in_precision(both(make)[1], precision))


def test_a_model_for_one_gpu_is_moved_there_without_hooks():
    model = place(llama(), 1)
    assert not is_spread(model)
    assert {p.device for p in model.parameters()} == {torch.device("cuda", 0)}


def what_a_worker_sees():
    return os.environ[VISIBLE], torch.cuda.device_count(), torch.ones(1, device="cuda").item()


def test_a_worker_computes_on_its_group_and_the_record_names_the_gpus():
    names = gpus()
    last = groups(names, 1)[-1:]
    with started(1, "default", last) as (worker,):
        worker.submit("a question", what_a_worker_sees)
        assert worker.result() == (names[-1], 1, 1.0)
    assert torch.cuda.get_device_name() in machine()["GPUs"]


def apart(make):
    """On one GPU, and on two."""
    models = make(layers=4), make(layers=4)
    for model in models:
        fuse_norms(model)
    one, two = models[0].to("cuda"), place(models[1], 2)
    assert is_spread(two)
    assert len({p.device for p in two.parameters()}) == 2
    return one, two


@on_two
@on_all
def test_scores_and_gradients_on_two_gpus_are_those_on_one(make):
    models = apart(make)
    layouts = {choose_layout(model, PAD) for model in models}
    assert len(layouts) == 1
    (one, here), (two, there) = (slopes(model, layout) for model in models for layout in layouts)
    torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(here, there, rtol=1e-2, atol=1e-3)


@on_two
@on_all
def test_nearly_all_tokens_on_two_gpus_are_those_on_one(make):
    sampler, models = KeyedSampler(END, PAD, 12), apart(make)
    texts = [sampler(model, PROMPTS * 8, 2, Draws(0, "gpu", range(24))) for model in models]
    pairs = [pair for one, two in zip(*texts, strict=True) for pair in zip(one, two, strict=True)]
    assert sum(one == two for one, two in pairs) >= 46


@on_two
@on_causal
def test_training_on_two_gpus_lowers_the_loss_in_both_precisions_and_goes_on_from_a_file(make, tmp_path):
    for precision in ("float32", "bfloat16"):
        model = in_precision(apart(make)[1], precision)
        assert len({p.device for p in model.parameters()}) == 2
        descent = trained(model)
        descent.save(tmp_path / "state.pt", 8)
        assert Descent(make(layers=4).to("cuda").parameters(), Optimisation(), 8).load(tmp_path / "state.pt") == 8


@on_two
def test_a_preference_model_on_two_gpus_judges_as_on_one():
    judges = [PreferenceModel(llama(layers=4), "pairwise", 1, PAD, "shared prompt") for _ in range(2)]
    judges[0].to("cuda")
    judges[1].placed()
    first, second = ([row[k] for row in RESPONSES] for k in (0, 1))
    one, two = (judge.both(PROMPTS, first, second) for judge in judges)
    torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)
