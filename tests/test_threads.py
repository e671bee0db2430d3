"""Threads that share the parts of a piece of work: any number of them gives the same bits."""

import threading
import warnings
from contextlib import nullcontext

import pytest
import torch
from torch.autograd.graph import get_gradient_edge

from goodhart.alignment.judge import ModelJudge
from goodhart.cells import executor, local
from goodhart.cells.cell import Cell
from goodhart.cells.local import share
from goodhart.cells.store import Store
from goodhart.cells.worker import Worker
from goodhart.compute import threads
from goodhart.compute.meter import Stopwatch
from goodhart.compute.threads import _COPIES, descend, spread, threads_used, use_threads
from goodhart.models.last_layer import last_layer
from goodhart.models.logprobs import sequence_logps
from goodhart.models.packing import cuts
from goodhart.models.preference import PreferenceModel
from goodhart.sampling import recording
from goodhart.sampling.keyed import Draws, KeyedSampler
from goodhart.sampling.recording import EAGER_BATCHES
from goodhart.training.optimiser import Descent
from goodhart.training.settings import Optimisation
from tiny_models import CAUSAL, END, MODELS, PAD, llama

NUMBERS = [2, 3, 8]
PROMPTS = [[2, 3, 4, 5, 6], [7], [8, 9, 10], [4, 4], [9, 2, 3], [5], [6, 7, 8, 9]]
FIRST = [[11, 12, 1], [1], [5, 6], [13, 1], [2, 3, 1], [14, 1], [3]]
SECOND = [[13, 1], [14, 15, 2, 3, 4], [7, 8, 1], [1], [12], [6, 6, 6, 1], [4, 1]]


@pytest.fixture(autouse=True)
def one_hand():
    yield
    use_threads(1)


def with_threads(number, work):
    use_threads(number)
    return work()


def loss(model, cut):
    rows = list(zip(FIRST[cut], SECOND[cut], strict=True))
    logp = sequence_logps(model, PROMPTS[cut], rows, pad=PAD, layout="shared prompt")
    return (logp[:, 0] - logp[:, 1] - 1).square().sum()


def slope(model, pieces=2):
    total = descend(model, loss, cuts(len(PROMPTS), pieces))
    found = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    return total, found


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("make", CAUSAL.values(), ids=CAUSAL)
def test_gradients_are_the_same_bit_for_bit(make, number):
    model = make()
    (one, alone), (many, together) = slope(model), with_threads(number, lambda: slope(model))
    assert threads_used() == min(number, 4)
    assert one == many
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))
    assert sum(float(g.norm()) for g in alone) > 1


def test_gradients_are_added_to_those_that_are_there():
    model = llama()
    _, once = slope(model)
    use_threads(2)
    for _ in range(2):
        descend(model, loss, cuts(len(PROMPTS), 2))
    for parameter, gradient in zip(model.parameters(), once, strict=True):
        torch.testing.assert_close(parameter.grad, 2 * gradient)


def test_the_node_of_a_gradient_lives_while_threads_descend(monkeypatch):
    # where it does not, PyTorch 2.13 can wait for ever; one thread here, because looking at a node is as dangerous
    monkeypatch.setattr(threads, "_in_turn", lambda model, work, parts: (work(model, part) for part in parts))
    weight = torch.nn.Parameter(torch.ones(2))
    makers = []

    def marked(model, part):
        makers.append(get_gradient_edge(weight).node.metadata.setdefault("made by part", part))
        return (model[0] * part).sum()

    use_threads(2)
    descend(torch.nn.ParameterList([weight]), marked, [1.0, 2.0, 3.0])
    assert makers == [1.0] * 3
    assert weight.grad.tolist() == [6.0, 6.0]
    assert "made by part" not in get_gradient_edge(weight).node.metadata


def test_a_parameter_that_no_part_reads_has_no_gradient():
    model = torch.nn.ModuleDict({"read": torch.nn.Linear(2, 1), "other": torch.nn.Linear(2, 1)})
    use_threads(2)
    descend(model, lambda m, x: m["read"](torch.tensor([x, x])).sum(), [1.0, 2.0])
    assert model["read"].weight.grad.tolist() == [[3.0, 3.0]]
    assert model["other"].weight.grad is None


def test_copies_follow_the_parameters_through_training():
    weights = []
    for number in (1, 2):
        use_threads(number)
        model = llama()
        descent = Descent(model.parameters(), Optimisation(lr=1e-2, warmup=1), 5)
        for step in range(5):
            descent.step(step, descend(model, loss, cuts(len(PROMPTS), 2)))
        weights.append([p.detach().clone() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(weights[0], llama().parameters(), strict=True))


@pytest.mark.parametrize("number", [2, 8])
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_tokens_are_the_same_also_by_steps_that_threads_recorded(make, number):
    sampler, model, before = KeyedSampler(END, PAD, 8, batch=2), make(), warnings.filters[:]

    def write(seeds):
        return [sampler(model, PROMPTS, 2, Draws(seed, "threads", range(len(PROMPTS)))) for seed in seeds]

    expected = write(range(2))
    assert with_threads(number, lambda: write(range(2))) == expected
    assert threads_used() == min(number, 4)
    writers = [model, *_COPIES[model]]
    if not model.config.is_encoder_decoder:
        meeting = threading.Barrier(len(writers), timeout=60)

        def record(mine, _):
            meeting.wait()  # all trace at once
            return [sampler(mine, PROMPTS[:2], 2, Draws(0, "threads", range(2))) for _ in range(EAGER_BATCHES + 1)][-1]

        found = spread(model, record, range(len(writers)))
        assert found == [expected[0][:2]] * len(writers)
        assert all(recording._RECORDS[each].steps[2] is not None for each in writers)
        assert write(range(2)) == expected
    assert torch.jit._trace._trace_module_map is None
    assert warnings.filters == before


@pytest.mark.parametrize("kind", ["pairwise", "bradley-terry"])
def test_judgements_are_the_same_bit_for_bit(kind):
    judge = ModelJudge(PreferenceModel(llama(), kind, 15, PAD, "shared prompt").eval(), batch=3)
    known = judge.alone(PROMPTS, [SECOND])
    alone = judge.prefer_each(PROMPTS, FIRST, [SECOND], known)
    use_threads(2)
    assert (judge.alone(PROMPTS, [SECOND]) == known).all()
    assert (judge.prefer_each(PROMPTS, FIRST, [SECOND], known) == alone).all()
    assert threads_used() == 2
    assert alone.std() > 0.01


@pytest.mark.parametrize("number", [1, *NUMBERS])
def test_results_come_in_the_order_of_the_parts_and_every_thread_has_a_model_of_its_own(number):
    model, busy, meeting = torch.nn.Linear(1, 1), set(), threading.Barrier(min(number, 6), timeout=20)

    def work(mine, part):
        assert id(mine) not in busy
        busy.add(id(mine))
        assert mine.weight is model.weight
        meeting.wait()
        busy.remove(id(mine))
        return 10 * part

    assert with_threads(number, lambda: spread(model, work, range(6))) == [0, 10, 20, 30, 40, 50]


def test_threads_compute_gradients_where_the_caller_does():
    use_threads(2)
    assert spread(llama(), lambda *_: torch.is_grad_enabled(), range(4)) == [True] * 4
    with torch.no_grad():
        assert spread(llama(), lambda *_: torch.is_grad_enabled(), range(4)) == [False] * 4


def test_a_fault_of_one_part_is_raised_and_the_models_can_go_on():
    model, attention = llama(), llama().config._attn_implementation

    def work(mine, token):
        return float(sequence_logps(mine, [[2, 3]], [[[token, 1]]], pad=PAD, layout="shared prompt").sum().detach())

    expected = [work(model, token) for token in (4, 5, 6, 7)]
    use_threads(2)
    with pytest.raises(IndexError):
        spread(model, work, [4, 99, 99, 7])
    for each in (model, *_COPIES[model]):
        assert each.config._attn_implementation == attention
        assert "forward" not in vars(last_layer(each))
    assert spread(model, work, [4, 5, 6, 7]) == expected


def test_no_more_gradients_are_held_than_threads_can_make():
    model, begun, added, most = llama(), [], [], []
    model.lm_head.weight.register_post_accumulate_grad_hook(lambda _: added.append(1))

    def counted(mine, cut):
        begun.append(1)
        most.append(len(begun) - len(added))
        return loss(mine, cut)

    use_threads(2)
    descend(model, counted, [slice(0, 1)] * 40)
    assert len(added) == 40
    assert max(most) <= 5


def test_what_hangs_on_the_accumulation_of_gradients_is_called():
    model, seen = llama(), []
    model.lm_head.weight.register_post_accumulate_grad_hook(lambda p: seen.append(float(p.grad.norm())))
    use_threads(2)
    descend(model, loss, cuts(len(PROMPTS), 2))
    assert len(seen) == 4
    assert seen[-1] == float(model.lm_head.weight.grad.norm())


def test_copies_are_in_the_mode_of_the_model():
    model = llama()
    use_threads(2)
    assert spread(model.train(), lambda mine, _: mine.training, range(4)) == [True] * 4
    assert spread(model.eval(), lambda mine, _: mine.training, range(4)) == [False] * 4


def test_the_account_does_not_depend_on_threads():
    model, accounts = llama(), []
    for number in (1, 2):
        use_threads(number)
        watch = Stopwatch()
        for _ in range(3):
            slope(model, 1)
        watch.lap("work")
        accounts.append(watch.stages["work"])
    assert accounts[0].tokens == accounts[1].tokens > 0
    assert accounts[0].operations == pytest.approx(accounts[1].operations)


@pytest.mark.parametrize(
    ("workers", "cells", "threads"), [(1, 1, 1), (2, 1, 2), (2, 2, 1), (8, 3, 2), (8, 0, 6), (2, 9, 1), (4, 1, 4)]
)
def test_cells_share_the_cores_of_idle_workers(monkeypatch, workers, cells, threads):
    monkeypatch.setattr(local, "cores", lambda: 6)
    assert share(workers, cells) == threads


class Inline(Worker):
    """A worker that is quick; it keeps how many threads each cell was given."""

    def __init__(self, kept, threads):
        super().__init__("default")
        self.kept, self.threads = kept, threads

    def submit(self, what, _, __, cell, number):
        self.threads[what] = number
        self.kept.add(cell.id)

    def result(self):
        return True


@pytest.mark.parametrize(("groups", "alone"), [((), 3), ((("0",), ("1",)), 1)], ids=["cores", "GPUs"])
def test_the_cells_that_all_others_wait_for_have_all_cores_but_not_beside_gpus(monkeypatch, tmp_path, groups, alone):
    first = Cell("sft", {}, {}, "first")
    second = Cell("pairs", {}, {"sft": first}, "second")
    last = [Cell("run", {"seed": i}, {"sft": second}, f"last {i}") for i in range(4)]
    kept, threads = set(), {}
    workers = [Inline(kept, threads) for _ in range(3)]
    monkeypatch.setattr(local, "cores", lambda: 8)
    monkeypatch.setattr(Store, "has", lambda _, cell: cell in kept)
    monkeypatch.setattr(local, "started", lambda *_: nullcontext(workers))
    monkeypatch.setattr(local, "finished", lambda at, _: list(at))
    with local.local(tmp_path, 3, "default", groups) as threes:
        executor.execute(Store(tmp_path), [*last, second, first], threes, lambda *_: None)
    assert threads["first"] == threads["second"] == alone
    assert [threads[f"last {i}"] for i in range(3)] == [1, 1, 1]
