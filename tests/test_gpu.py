"""The same code on a GPU; without one these tests are skipped, and the summary of the tests says so."""

import pytest
import torch

from goodhart.models.logprobs import sequence_logps
from goodhart.models.norms import fuse_norms
from goodhart.models.precision import in_precision
from goodhart.sampling import recording
from goodhart.sampling.keyed import Draws, KeyedSampler
from goodhart.training.optimiser import Descent
from goodhart.training.settings import Optimisation
from tiny_models import CAUSAL, END, PAD

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="NO GPU: sampling, scoring and training on one were NOT tested"
)
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


@on_causal
def test_training_lowers_the_loss_in_both_precisions(make):
    for precision in ("float32", "bfloat16"):
        model = in_precision(both(make)[1], precision)
        descent, losses = Descent(model.parameters(), Optimisation(lr=1e-2, warmup=1), 8), []
        for step in range(8):
            logp = sequence_logps(model, PROMPTS, RESPONSES, pad=PAD, layout="shared prompt")
            loss = (logp[:, 0] - logp[:, 1] - 1).square().mean()
            loss.backward()
            losses.append(float(loss.detach()))
            descent.step(step, losses[-1])
        assert losses[-1] < losses[0]
