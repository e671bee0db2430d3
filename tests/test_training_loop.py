"""The alignment loop with tiny language models: accumulation, resumption, one loop for every source, faults."""

import math
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from goodhart.alignment.batch import Batch
from goodhart.alignment.labellers import DataLabels, JudgeLabels
from goodhart.alignment.sources import DataSource, DelayedSource, MixtureSource, PolicySource, StreamSource
from goodhart.errors import GoodhartError
from goodhart.models.packing import cuts
from goodhart.recipes.run_state import Stream
from goodhart.training import supervised
from goodhart.training.alignment import train
from goodhart.training.optimiser import Descent, load_state, save_state
from goodhart.training.schedule import learning_rate
from goodhart.training.settings import Optimisation, Supervised
from tiny_models import END, gpt2, llama, naive_logp, policy_of, prompt, t5
from tiny_pairs import DATA, PROMPTS, LengthJudge, objective

STEPS = 4


ARMS = {
    "online": lambda: (PolicySource(PROMPTS, 4, 0), JudgeLabels(LengthJudge(), "soft", 0)),
    "coins": lambda: (PolicySource(PROMPTS, 4, 0), JudgeLabels(LengthJudge(), "bernoulli", 0)),
    "offline": lambda: (DataSource(DATA, 4, 0), DataLabels()),
    "mixed": lambda: (
        MixtureSource(
            [
                (PolicySource(PROMPTS, 3, 0), JudgeLabels(LengthJudge(), "bernoulli", 0)),
                (DataSource(DATA, 1, 0), DataLabels()),
            ]
        ),
        DataLabels(),
    ),
}
every_arm = pytest.mark.parametrize("arm", ARMS)


@dataclass
class Run:
    """A policy on its way."""

    micro_batch: int = 0
    make: object = llama
    lr: float = 1e-2
    policy: object = field(init=False)
    descent: Descent = field(init=False)

    def __post_init__(self):
        self.policy = policy_of(self.make())
        settings = Optimisation(lr=self.lr, warmup=2, decay="linear", weight_decay=0.01, micro_batch=self.micro_batch)
        self.descent = Descent(self.policy.parameters(), settings, STEPS)

    def go(self, source, labeller, *, start=0, steps=STEPS, loss="ipo", reference=None, **more):
        reference = reference or policy_of(self.make(), name="start")
        how = {"steps": steps, "start": start, "followers": more.pop("followers", ())}
        goal = objective(loss, beta=0.2, **more)
        return list(train(self.policy, reference, source, labeller, self.descent, goal, **how))

    @property
    def gradient(self):
        """After one step: a share of it, clipped."""
        return torch.cat([self.descent.optimiser.state[p]["exp_avg"].flatten() for p in self.policy.parameters()])

    @property
    def weights(self):
        return torch.cat([p.detach().flatten() for p in self.policy.parameters()])


@every_arm
@pytest.mark.parametrize("micro_batch", [1, 3, 4])
def test_accumulation_does_not_change_the_result(arm, micro_batch):
    whole, cut = Run(), Run(micro_batch)
    # Adam makes whole steps of gradients that are rounding alone, and then a token of a sample may be another
    first, second = (run.go(*ARMS[arm](), steps=1) for run in (whole, cut))
    torch.testing.assert_close(cut.gradient, whole.gradient, rtol=1e-4, atol=1e-6)
    for a, b in zip(first, second, strict=True):
        found, expected = (a.loss, a.margin, a.gradient_norm), (b.loss, b.margin, b.gradient_norm)
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-5)  # the first margin is 0 but for rounding
    assert (whole.weights - Run().weights).abs().max() > 1e-3


OTHERS = [("online", gpt2), ("online", t5), ("offline", t5)]


@pytest.mark.parametrize(("arm", "make"), [*((arm, llama) for arm in ARMS), *OTHERS])
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(arm, make, tmp_path):
    uninterrupted = Run(make=make)
    steps = uninterrupted.go(*ARMS[arm]())
    before = Run(make=make)
    for stop in range(1, STEPS):
        after = Run(make=make)
        before.go(*ARMS[arm](), start=stop - 1, steps=stop)
        before.descent.save(tmp_path / "state.pt", stop)
        start = after.descent.load(tmp_path / "state.pt")
        assert start == stop
        rest = after.go(*ARMS[arm](), start=start)
        assert torch.equal(after.weights, uninterrupted.weights)
        assert [s.loss for s in rest] == [s.loss for s in steps[stop:]]
    assert [p.name for p in tmp_path.iterdir()] == ["state.pt"]


def test_a_run_that_forgets_its_optimiser_is_another_run(tmp_path):
    uninterrupted, before, after = Run(), Run(), Run()
    uninterrupted.go(*ARMS["offline"]())
    before.go(*ARMS["offline"](), steps=2)
    after.policy.model.load_state_dict(before.policy.model.state_dict())
    after.go(*ARMS["offline"](), start=2)
    assert not torch.equal(after.weights, uninterrupted.weights)


@pytest.mark.parametrize("micro_batch", [0, 3])
def test_an_ordered_replay_of_an_online_stream_is_the_online_run_bit_for_bit(micro_batch):
    online, replayed, shuffled = (Run(micro_batch) for _ in range(3))
    steps = online.go(*ARMS["online"]())
    recorded = Batch.joined([step.batch for step in steps])
    again = replayed.go(StreamSource(recorded, 4, 0, window=1), DataLabels())
    assert torch.equal(replayed.weights, online.weights)
    assert [s.loss for s in again] == [s.loss for s in steps]
    other = shuffled.go(StreamSource(recorded, 4, 0, window=2), DataLabels())
    assert not torch.equal(shuffled.weights, online.weights)
    assert {(s.drift, s.drift_spread) for s in (*steps, *again)} == {(0.0, 0.0)}
    assert min(abs(s.drift) for s in other[1:]) > 1e-3


@pytest.mark.parametrize("micro_batch", [0, 3])
def test_the_drift_is_the_distance_from_the_policy_that_sampled(micro_batch):
    start = policy_of(llama())
    source, labeller = ARMS["online"]()
    steps = Run(micro_batch).go(DelayedSource(source, 0), labeller)
    assert (steps[0].drift, steps[0].drift_spread) == (0.0, 0.0)
    now, delayed = Run(micro_batch), DelayedSource(source, 0)
    for count, step in enumerate(steps[1:], 1):
        now.go(delayed, labeller, start=count - 1, steps=count)
        tokens, responses = step.batch.prompt_tokens, step.batch.responses
        with torch.no_grad():
            wrote, has = (p.log_probs(tokens, responses).double().numpy() for p in (start, now.policy))
        np.testing.assert_allclose(step.batch.writer, wrote, rtol=1e-5, atol=1e-5)
        assert step.drift == pytest.approx((has - wrote).mean(), rel=1e-3, abs=1e-4)
        assert step.drift_spread == pytest.approx((has - wrote).std(), rel=1e-3, abs=1e-4)
    assert abs(steps[-1].drift) > 1e-2


def test_a_policy_that_samples_is_renewed_when_its_time_has_come():
    online, always, sometimes, never = (Run() for _ in range(4))
    online.go(*ARMS["online"]())
    runs = {1: always, 2: sometimes, 0: never}
    found = {}
    for refresh, run in runs.items():
        source, labeller = ARMS["online"]()
        found[refresh] = run.go(DelayedSource(source, refresh), labeller)
    assert torch.equal(always.weights, online.weights)
    texts = {refresh: [step.batch.responses for step in steps] for refresh, steps in found.items()}
    start, inner = Run(), ARMS["online"]()[0]
    from_start = [inner.draw(step, start.policy).responses for step in range(STEPS)]
    assert texts[0] == from_start
    assert texts[2][:2] == from_start[:2]
    half = Run()
    source, labeller = ARMS["online"]()
    half.go(DelayedSource(source, 2), labeller, steps=2)
    assert texts[2][2:] == [inner.draw(step, half.policy).responses for step in (2, 3)]
    assert texts[2][2:] != from_start[2:]
    assert texts[1] != texts[2]


@pytest.mark.parametrize("refresh", [0, 2, 3])
def test_a_delayed_run_goes_on_with_the_policy_that_sampled(refresh, tmp_path):
    def arm():
        source, labeller = ARMS["online"]()
        return DelayedSource(source, refresh), labeller

    uninterrupted = Run()
    uninterrupted.go(*arm())
    before = Run()
    held, labeller = arm()
    for stop in range(1, STEPS):
        after = Run()
        before.go(held, labeller, start=stop - 1, steps=stop)
        save_state(tmp_path / "sampler.pt", {"held": held.state()})
        before.descent.save(tmp_path / "state.pt", stop)
        source, labeller = arm()
        start = after.descent.load(tmp_path / "state.pt")
        source.restore(load_state(tmp_path / "sampler.pt")["held"], after.policy)
        after.go(source, labeller, start=start)
        assert torch.equal(after.weights, uninterrupted.weights)


ANYONE = policy_of(llama())


@given(st.integers(1, 4), st.integers(1, 9), st.integers(0, 5), st.integers(0, 3))
def test_a_window_is_shuffled_within_itself(batch, batches, window, seed):
    size = batch * batches
    prompts = [prompt(i, 2) for i in range(size)]
    data = Batch.of_pairs(prompts, [[i] for i in range(size)], [[i] for i in range(size)], np.arange(size) / size)
    source = StreamSource(data, batch, seed, window)
    seen = [[r[0] for r in source.draw(step, ANYONE).first] for step in range(batches)]
    width = (window or batches) * batch
    flat = [i for part in seen for i in part]
    for start in range(0, size, width):
        assert sorted(flat[start : start + width]) == list(range(start, min(start + width, size)))
    if window == 1:
        assert flat == list(range(size))
    if window:
        with pytest.raises(ValueError, match="behind the end"):
            source.draw(batches, ANYONE)
    else:
        assert sorted(i for step in range(batches, 2 * batches) for (i,) in source.draw(step, ANYONE).first) == list(
            range(size)
        )


def test_a_stream_on_disk_forgets_what_came_after_the_checkpoint(tmp_path):
    steps = Run().go(*ARMS["online"]())
    whole = Stream(tmp_path / "whole", 0)
    for step in steps:
        whole.add(step)
    whole.save(STEPS)
    whole.gather(tmp_path / "whole.parquet")
    cut = Stream(tmp_path / "cut", 0)
    for step in steps[:2]:
        cut.add(step)
    cut.save(2)
    cut.add(steps[2])
    cut.save(3)
    (tmp_path / "cut" / "000000004.tmp").write_text("half a file")
    rest = Stream(tmp_path / "cut", 2)
    for step in steps[2:]:
        rest.add(step)
    rest.save(STEPS)
    rest.gather(tmp_path / "cut.parquet")
    tables = [pq.read_table(tmp_path / f"{name}.parquet") for name in ("whole", "cut")]
    assert tables[0].equals(tables[1])
    assert tables[0].num_rows == 4 * STEPS
    assert tables[0].column("label").to_pylist() == [x for s in steps for x in s.batch.label.tolist()]


@pytest.mark.parametrize("batch", [2, 4, 7])
def test_online_and_offline_see_the_same_prompts_at_the_same_step(batch):
    policy = policy_of(llama())
    for step in range(6):
        drawn = [s.draw(step, policy) for s in (PolicySource(PROMPTS, batch, 3), DataSource(DATA, batch, 3))]
        assert [p.id for p in drawn[0].prompts] == [p.id for p in drawn[1].prompts]


def test_known_reference_log_probabilities_are_those_of_the_reference():
    """Offline pairs carry them from their cell; online ones are scored in the step: the result is the same."""
    with torch.no_grad():
        known = policy_of(llama()).log_probs(DATA.prompt_tokens, DATA.responses).double().numpy()
    asked, told = Run(), Run()
    asked.go(DataSource(DATA, 4, 0), DataLabels(), steps=2)
    told.go(DataSource(replace(DATA, logps={"start": known}), 4, 0), DataLabels(), steps=2)
    torch.testing.assert_close(told.weights, asked.weights, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("kept", "asked", "trusted"),
    [
        ("start", "start", True),
        ("start", "round 2", False),
        ("", "start", False),
        ("start", "", False),
        ("", "", False),
    ],
)
def test_only_log_probabilities_of_the_reference_itself_are_trusted(kept, asked, trusted):
    """A reference that has moved, or that nobody can name, is asked again."""
    wrong = np.full((5, 2), -3.0)
    data = replace(DATA, logps={kept: wrong})
    reference = policy_of(llama(seed=1), name=asked)
    (step,) = Run().go(DataSource(data, 5, 0), DataLabels(), steps=1, reference=reference)
    with torch.no_grad():
        exact = reference.log_probs(step.batch.prompt_tokens, step.batch.responses).double().numpy()
    np.testing.assert_array_equal(step.batch.reference, wrong if trusted else exact)
    assert list(step.batch.logps) == [asked]


@pytest.mark.parametrize(("loss", "value"), [("ipo", 0.25), ("dpo", math.log(2))])
def test_the_first_step_starts_at_the_reference_and_the_record_says_what_happened(loss, value):
    run = Run(lr=2e-3)
    first, *_, last = run.go(DataSource(DATA, 5, 0), DataLabels(), loss=loss)
    assert (first.step, last.step) == (1, STEPS)
    assert first.loss == pytest.approx(value, rel=1e-6)
    assert abs(first.margin) < 1e-4
    lengths = [len(r) for pair in DATA.responses for r in pair]
    assert first.tokens == pytest.approx(np.mean(lengths))
    assert set(first.stages) == {"generate", "label", "reference", "train"}
    assert last.loss < value
    assert last.margin > 0.1
    assert last.accuracy > 0.5


def test_a_mean_over_tokens_is_what_the_loss_takes_and_not_what_is_recorded():
    other, found = policy_of(llama(seed=3)), {}
    for reduction in ("sum", "mean"):
        (found[reduction],) = Run().go(
            DataSource(DATA, 5, 0), DataLabels(), steps=1, reference=other, reduction=reduction
        )
    with torch.no_grad():
        pairs = found["mean"].batch
        own, theirs = (p.log_probs(pairs.prompt_tokens, pairs.responses).numpy() for p in (policy_of(llama()), other))
    rho = (own - theirs) / [[len(a), len(b)] for a, b in pairs.responses]
    z = 0.2 * (rho[:, 0] - rho[:, 1])
    assert found["mean"].loss == pytest.approx(
        (pairs.label * (z - 0.5) ** 2 + (1 - pairs.label) * (z + 0.5) ** 2).mean(), rel=1e-5
    )
    assert found["mean"].loss != pytest.approx(found["sum"].loss, rel=1e-2)
    for name in ("margin", "accuracy", "drift", "tokens"):
        assert getattr(found["mean"], name) == getattr(found["sum"], name), f"{name} has two units"


@every_arm
def test_a_loss_that_is_not_a_number_stops_the_run_and_leaves_the_parameters(arm):
    run = Run()
    run.go(*ARMS[arm](), steps=1)
    before = run.weights.clone()
    broken = replace(DATA, logps={"start": np.full((5, 2), [0.0, math.nan])})
    with pytest.raises(GoodhartError, match=r"at step 2 of 4; lower the learning rate \(its peak is 0\.01\)"):
        run.go(DataSource(broken, 4, 0), DataLabels(), start=1)
    assert torch.equal(run.weights, before)


@pytest.mark.parametrize(("gradient", "loss"), [(math.inf, 1.0), (math.nan, 1.0), (1.0, math.inf), (1.0, math.nan)])
def test_no_parameter_moves_on_a_value_that_is_not_finite(gradient, loss):
    parameter = nn.Parameter(torch.tensor([1.0, 2.0]))
    descent = Descent([parameter], Optimisation(), 10)
    parameter.grad = torch.tensor([gradient, 1.0])
    with pytest.raises(GoodhartError, match="not finite"):
        descent.step(0, loss)
    assert parameter.tolist() == [1.0, 2.0]


def test_the_first_steps_are_those_of_adam_with_clipping():
    parameter = nn.Parameter(torch.tensor([1.0, 2.0], dtype=torch.float64))
    settings = Optimisation(lr=0.1, warmup=2, clip=1.0, weight_decay=0.5, beta1=0.8, beta2=0.9)
    descent = Descent([parameter], settings, 10)
    value, first, second = np.array([1.0, 2.0]), np.zeros(2), np.zeros(2)
    for step, gradient in enumerate([np.array([3.0, 4.0]), np.array([0.3, -0.4]), np.array([-6.0, 8.0])]):
        parameter.grad = torch.from_numpy(gradient.copy())
        norm = descent.step(step, 0.0)
        assert norm == pytest.approx(np.linalg.norm(gradient))
        clipped = gradient / max(1.0, norm)
        first, second = 0.8 * first + 0.2 * clipped, 0.9 * second + 0.1 * clipped**2
        rate = 0.1 * min(1.0, (step + 1) / 2)
        direction = first / (1 - 0.8 ** (step + 1)) / (np.sqrt(second / (1 - 0.9 ** (step + 1))) + 1e-8)
        value = value * (1 - rate * 0.5) - rate * direction
        np.testing.assert_allclose(parameter.detach().numpy(), value, rtol=1e-5)
        assert parameter.grad is None


def test_fast_parameters_move_at_a_multiple_of_the_rate():
    slow, fast = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))
    descent = Descent([slow, fast], Optimisation(lr=0.1, warmup=2, clip=1e9), 10, [fast], 20.0)
    for step, rate in enumerate([0.05, 0.1]):  # Adam's steps under a constant gradient are its rate
        before = float(slow.detach()[0]), float(fast.detach()[0])
        slow.grad, fast.grad = torch.full((2,), 3.0), torch.full((1,), -7.0)
        descent.step(step, 0.0)
        assert before[0] - slow.tolist()[0] == pytest.approx(rate, rel=1e-4)
        assert fast.tolist()[0] - before[1] == pytest.approx(20 * rate, rel=1e-4)


def test_parameters_that_are_frozen_are_left_alone():
    free, frozen = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2), requires_grad=False)
    assert Descent([free, frozen], Optimisation(), 1).parameters == [free]


counts = st.integers(1, 60)


@given(st.integers(0, 200), counts, counts)
def test_the_schedule_rises_linearly_and_stays_or_falls_linearly(step, warmup, more):
    total = warmup + more
    rate = {d: learning_rate(step, peak=3.0, warmup=warmup, total=total, decay=d) for d in ("constant", "linear")}
    if step < warmup:
        assert rate["constant"] == rate["linear"] == pytest.approx(3 * (step + 1) / warmup)
    else:
        assert rate["constant"] == 3.0
        assert rate["linear"] == pytest.approx(3 * max(0, total - step) / more)


def test_the_schedule_at_its_corners():
    linear = [learning_rate(s, peak=1.0, warmup=2, total=6, decay="linear") for s in range(8)]
    assert linear == [0.5, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    assert learning_rate(0, peak=1.0, warmup=0, total=4, decay="linear") == 1.0
    assert learning_rate(5, peak=1.0, warmup=5, total=5, decay="linear") == 0.0


@given(st.integers(1, 50), st.integers(0, 60))
def test_cuts_part_a_batch(size, micro_batch):
    parts = [list(range(size))[cut] for cut in cuts(size, micro_batch)]
    assert [i for part in parts for i in part] == list(range(size))
    assert all(1 <= len(part) <= (micro_batch or size) for part in parts)


DEMONSTRATIONS = [[11, 12, END], [13, END], [14, 2, 3, 4, END], [5, END], [6, 7, END]]


def taught(*, micro_batch=0, steps=6, start=0, state=None, save=None):
    policy = policy_of(llama())
    settings = Supervised(steps=steps, batch=3, optimisation=Optimisation(lr=1e-2, warmup=2, micro_batch=micro_batch))
    descent = Descent(policy.parameters(), settings.optimisation, 6)
    begun = descent.load(state) if state else start
    told = list(supervised.fit(policy, PROMPTS, DEMONSTRATIONS, settings, descent, 0, begun))
    if save:
        descent.save(save, steps)
    return policy, told


def test_supervised_training_descends_on_nats_per_token():
    policy, told = taught(steps=0)
    model = policy.model
    with torch.no_grad():
        values = [naive_logp(model, p.tokens, d) for p, d in zip(PROMPTS, DEMONSTRATIONS, strict=True)]
    expected = -float(torch.cat(values).mean())
    assert told == []
    for batch in (1, 2, 64):
        found = supervised.nats_per_token(policy, PROMPTS, DEMONSTRATIONS, batch)
        assert found == pytest.approx(expected, rel=1e-5)
    policy, told = taught()
    assert [step for step, *_ in told] == [1, 2, 3, 4, 5, 6]
    assert supervised.nats_per_token(policy, PROMPTS, DEMONSTRATIONS) < expected - 0.5


@pytest.mark.parametrize("micro_batch", [1, 2])
def test_supervised_accumulation_does_not_change_the_result(micro_batch):
    (whole, told), (cut, also) = taught(steps=2), taught(steps=2, micro_batch=micro_batch)
    for own, other in zip(whole.parameters(), cut.parameters(), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-5)
    assert [loss for _, loss, _ in told] == pytest.approx([loss for _, loss, _ in also], rel=1e-5)


def test_supervised_training_resumes_bit_for_bit(tmp_path):
    whole, told = taught()
    taught(steps=4, save=tmp_path / "state.pt")
    resumed, rest = taught(state=tmp_path / "state.pt")
    assert rest == told[4:]
    for own, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(own, other)
