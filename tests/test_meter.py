"""The account of a stage: seconds, real tokens, and the operations that a counter of PyTorch sees."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from goodhart.compute.meter import Spent, Stopwatch, matrix_rate
from goodhart.models.logprobs import choose_layout, sequence_logps
from goodhart.sampling.keyed import Draws, KeyedSampler
from tiny_models import END, MODELS, PAD, llama, t5

PROMPTS = [[2, 3, 4, 5, 6], [7, 8, 9, 10, 11]]
RESPONSES = [[[11, 12, 1], [13, 14, 1]], [[5, 6, 1], [14, 15, 1]]]


def spent(work):
    watch = Stopwatch()
    work()
    watch.lap("work")
    return watch.stages["work"]


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_operations_are_those_of_a_forward_and_of_a_backward_pass(make):
    model = make(hidden=64)
    layout = choose_layout(model, PAD)
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        quiet = spent(lambda: sequence_logps(model, PROMPTS, RESPONSES, pad=0, layout=layout))
    with FlopCounterMode(display=False) as both:
        loud = spent(lambda: sequence_logps(model, PROMPTS, RESPONSES, pad=0, layout=layout).sum().backward())
    assert quiet.tokens == loud.tokens == 2 * (5 + 6)
    assert quiet.operations == pytest.approx(forward.get_total_flops(), rel=0.06)
    assert loud.operations == pytest.approx(both.get_total_flops(), rel=0.06)


@torch.no_grad()
def test_padding_and_layout_are_no_work():
    model = llama()
    shared = spent(lambda: sequence_logps(model, PROMPTS, RESPONSES, pad=0, layout="shared prompt, all rows"))
    less = spent(lambda: sequence_logps(model, PROMPTS, RESPONSES, pad=0, layout="shared prompt"))
    plain = spent(lambda: sequence_logps(model, PROMPTS, RESPONSES, pad=0, layout="plain"))
    longer = [[*PROMPTS[0]], [7] * 9], [RESPONSES[0], [[5] * 7, [1]]]
    apart = [spent(lambda i=i: sequence_logps(model, longer[0][i : i + 1], longer[1][i : i + 1], pad=0, layout="plain"))
             for i in range(2)]  # fmt: skip
    whole = spent(lambda: sequence_logps(model, *longer, pad=0, layout="plain"))
    assert shared.operations == plain.operations > less.operations > 0
    assert shared.tokens == less.tokens
    assert whole.operations == pytest.approx(sum(one.operations for one in apart))


@pytest.mark.parametrize(("make", "starts"), [(llama, 0), (t5, 2)], ids=["causal", "encoder-decoder"])
def test_a_sampler_is_charged_for_the_tokens_that_it_feeds(make, starts):
    model = make()
    sampler = KeyedSampler(END, PAD, 7)
    found = []
    account = spent(lambda: found.extend(sampler(model, PROMPTS, 3, Draws(0, "meter", [1, 2]))))
    lengths = [len(text) for row in found for text in row]
    # the last token of a response is never fed; a decoder's start token is, once for each prompt
    assert account.tokens == 10 + starts + sum(n - 1 for n in lengths)
    assert account.operations > 0


def test_stages_add_up_and_what_is_left_out_is_not_charged():
    watch = Stopwatch()
    work = lambda: sequence_logps(llama(), PROMPTS, RESPONSES, pad=0, layout="plain")  # noqa: E731
    for _ in range(2):
        watch.start()
        work()
        watch.lap("score")
        work()
    watch.start()
    watch.lap("nothing")
    assert watch.stages["score"].tokens == 2 * 22
    assert (watch.stages["nothing"].tokens, watch.stages["nothing"].operations) == (0, 0)
    total = watch.stages["score"] + Spent(1.0, 2, 3.0)
    assert (total - watch.stages["score"]).plain() == {"seconds": 1.0, "tokens": 2, "operations": 3.0}


def test_the_matrix_rate_is_a_rate():
    assert 1e8 < matrix_rate() < 1e15
