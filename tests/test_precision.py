"""bfloat16 below a float32 master, kernels and precision chosen by measurement, and what is kept of the choice."""

import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM

from goodhart import cli, commands
from goodhart.alignment.batch import Batch
from goodhart.alignment.labellers import DataLabels, JudgeLabels
from goodhart.alignment.sources import DataSource, DelayedSource, PolicySource
from goodhart.cells.cell import closure
from goodhart.cells.make import make
from goodhart.cells.store import Store
from goodhart.cells.workplace import Workplace
from goodhart.compute import kernels
from goodhart.compute.choice import Candidate, Choice, choose
from goodhart.errors import GoodhartError
from goodhart.evaluation.kl import divergence
from goodhart.models import precision
from goodhart.models.checkpoint import find, load_tokenizer, read_model
from goodhart.models.logprobs import choose_layout, response_laws
from goodhart.models.precision import in_precision
from goodhart.recipes import run
from goodhart.recipes.models import load_policy, scored
from goodhart.report.provenance import origin_grids
from goodhart.studies import engine, session
from goodhart.studies.graph import build_graph
from goodhart.studies.spec import read_study
from goodhart.tasks.prompt_table import find_prompts
from goodhart.training.alignment import train
from goodhart.training.optimiser import Descent, load_state, save_state
from goodhart.training.settings import Optimisation
from micro_study import write_micro_study, write_tables
from tiny_models import MODELS, gpt2, llama, policy_of, prompt
from tiny_pairs import DATA, PROMPTS, LengthJudge, objective

MEAN, LARGEST = 0.02, 0.25
"""Nats per token: how far log-probabilities of a shipped model in bfloat16 may be from those in float32."""
FOLLOWS = 0.35
"""How far training in bfloat16 may end from training in float32, as a share of the way that the weights went."""
STEPS = 6


ARMS = {
    "online": lambda: (PolicySource(PROMPTS, 4, 0), JudgeLabels(LengthJudge(), "soft", 0)),
    "offline": lambda: (DataSource(DATA, 4, 0), DataLabels()),
}


class Run:
    """A policy on its way, with its master."""

    def __init__(self, dtype="bfloat16", make=llama, lr=1e-2, micro_batch=0):
        self.master, start = policy_of(make()), policy_of(make())
        self.policy, self.reference = self.master.at(dtype), start.at(dtype)
        settings = Optimisation(lr=lr, warmup=2, micro_batch=micro_batch)
        copies = () if self.policy is self.master else self.policy.parameters()
        self.descent = Descent(self.master.parameters(), settings, STEPS, lowered=copies)

    def go(self, arm, *, start=0, steps=STEPS, source=None, beta=0.2):
        own, labeller = ARMS[arm]()
        how = {"steps": steps, "start": start}
        return list(
            train(
                self.policy, self.reference, source or own, labeller, self.descent, objective("ipo", beta=beta), **how
            )
        )

    @property
    def weights(self):
        return flat(self.master)


def flat(policy):
    return torch.cat([p.detach().flatten().float() for p in policy.parameters()])


def test_log_probabilities_of_a_shipped_model_are_within_the_tolerance():
    path = find("tiny").path
    model, tokenizer = read_model(path), load_tokenizer(path)
    texts = ["Return the sum of two numbers.", "Open a file and read all its lines until the end."]
    prompts = [tokenizer(text)["input_ids"] for text in texts]
    responses = [[tokenizer(text)["input_ids"] for text in ("Add numbers.", "Read lines from a file.")]] * 2
    pad = tokenizer.pad_token_id
    layout = choose_layout(model, pad)
    with torch.no_grad():
        exact, rounded = (
            response_laws(each, prompts, responses, pad=pad, layout=layout).logp()
            for each in (model, in_precision(model, "bfloat16"))
        )
    assert exact.dtype == rounded.dtype == torch.float32
    apart = (exact - rounded).abs()
    assert 1e-4 < apart.mean() < MEAN
    assert apart.max() < LARGEST


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_every_kind_of_model_scores_and_samples_in_bfloat16(make):
    policy = policy_of(make())
    lowered = policy.at("bfloat16")
    assert lowered.layout == policy.layout
    assert {p.dtype for p in lowered.parameters()} == {torch.bfloat16}
    assert [b.dtype for b in lowered.model.buffers()] == [b.dtype for b in policy.model.buffers()]
    tied = [len({p.data_ptr() for p in each.parameters()}) for each in (policy, lowered)]
    assert tied[0] == tied[1]
    with torch.no_grad():
        exact, rounded = (p.log_probs(DATA.prompt_tokens, DATA.responses) for p in (policy, lowered))
    lengths = torch.tensor([[len(a), len(b)] for a, b in DATA.responses])
    assert ((exact - rounded).abs() / lengths).mean() < 0.05  # made with far sharper laws than those of a trained one
    assert lowered.sample(PROMPTS, 2, seed=0, purpose="test") == lowered.sample(PROMPTS, 2, seed=0, purpose="test")


def test_bfloat16_training_follows_float32_training_of_a_shipped_model():
    """A step is hardly larger than the last bit of a bfloat16 weight here, so nothing is left of a smaller lag."""
    path = find("tiny").path
    tokenizer = load_tokenizer(path)
    lines = [
        ("Return the sum of two numbers.", "Add numbers.", "Sum two numbers."),
        ("Open a file and read all lines.", "Read lines from a file.", "Open file."),
        ("Stop the process and keep its exit code.", "Stop a process.", "The exit code of the process."),
        ("Write the table to disk.", "Write a table.", "Save to disk."),
    ]
    texts = [[tokenizer(text)["input_ids"] for text in row] for row in lines]
    asked = [prompt(i, *row[0]) for i, row in enumerate(texts)]
    data = Batch.of_pairs(asked, [row[1] for row in texts], [row[2] for row in texts], np.array([1.0, 0.0, 1.0, 0.0]))

    def trained(dtype):
        run = Run(dtype, make=lambda: read_model(path), lr=2e-4)
        steps = run.go("offline", source=DataSource(data, 4, 0), beta=0.1)
        return run.weights, np.array([step.loss for step in steps])

    (exact, losses), (rounded, others) = trained("float32"), trained("bfloat16")
    moved = (exact - flat(policy_of(read_model(path)))).norm()
    assert (rounded - exact).norm() < FOLLOWS * moved
    assert np.abs(others - losses).mean() < 0.05
    assert losses.min() < 0.05 < losses[0]


def test_in_float32_there_is_one_set_of_parameters():
    run = Run("float32")
    assert run.policy is run.master
    assert run.descent.copies == []
    moved = [p for group in run.descent.optimiser.param_groups for p in group["params"]]
    assert [id(p) for p in moved] == [id(p) for p in run.policy.parameters()]
    assert not any(p._post_accumulate_grad_hooks for p in run.policy.parameters())


def test_updates_below_the_last_bit_are_kept_by_the_master_alone():
    run, without = Run(lr=2e-5), Run(lr=2e-5)
    without.descent = Descent(without.policy.parameters(), Optimisation(lr=2e-5, warmup=2), STEPS)
    start, start_rounded = run.weights, flat(run.policy)
    for each in (run, without):
        each.go("offline")
    assert ((run.weights - start) != 0).float().mean() > 0.9
    assert (flat(without.policy) != start_rounded).float().mean() < 0.1
    assert torch.equal(flat(run.policy), run.weights.bfloat16().float())


def test_micro_batches_add_up_in_float32():
    whole, cut = Run(), Run(micro_batch=1)
    a, b = (run.go("offline", steps=1)[0] for run in (whole, cut))
    assert b.gradient_norm == pytest.approx(a.gradient_norm, rel=0.02)
    assert all(p.grad is None for p in (*cut.policy.parameters(), *cut.master.parameters()))


@pytest.mark.parametrize(("arm", "make"), [("online", llama), ("offline", gpt2)])
def test_a_resumed_bfloat16_run_is_the_uninterrupted_one_bit_for_bit(arm, make, tmp_path):
    uninterrupted, before, after = (Run(make=make) for _ in range(3))
    steps = uninterrupted.go(arm)
    before.go(arm, steps=3)
    before.descent.save(tmp_path / "state.pt", 3)
    rest = after.go(arm, start=after.descent.load(tmp_path / "state.pt"))
    assert torch.equal(after.weights, uninterrupted.weights)
    assert [step.loss for step in rest] == [step.loss for step in steps[3:]]


def test_a_policy_that_samples_with_delay_resumes_in_bfloat16(tmp_path):
    uninterrupted, before, after = Run(), Run(), Run()
    uninterrupted.go("online", source=DelayedSource(PolicySource(PROMPTS, 4, 0), 4))
    held = DelayedSource(PolicySource(PROMPTS, 4, 0), 4)
    before.go("online", steps=3, source=held)
    before.descent.save(tmp_path / "state.pt", 3)
    save_state(tmp_path / "sampler.pt", {"held": held.state()})
    after.descent.load(tmp_path / "state.pt")
    again = DelayedSource(PolicySource(PROMPTS, 4, 0), 4)
    again.restore(load_state(tmp_path / "sampler.pt")["held"], after.policy)
    after.go("online", start=3, source=again)
    assert {p.dtype for p in again.held.parameters()} == {torch.bfloat16}
    assert torch.equal(after.weights, uninterrupted.weights)


@pytest.mark.parametrize(
    ("seconds", "refused", "chosen"),
    [(0.9, "", "a"), (0.5, "", "b"), (0.5, "it is wrong", "a"), (1.5, "", "a")],
)
def test_the_choice_is_by_time_among_those_that_are_not_refused(seconds, refused, chosen):
    found = choose([Candidate("a", 1.0), Candidate("b", seconds, refused=refused)], 1.3)
    assert found.chosen == chosen
    assert (refused or f"{1 / seconds:.2f} times as fast") in found.reason


def test_kernels_that_round_are_refused_and_faster_ones_are_taken():
    def rounding(a, b):
        return (a.bfloat16() @ b.bfloat16()).float()

    def slow(a, b):
        return (a @ b + a @ b + a @ b) / 3

    shapes = {(32, 16): 3, (16, 16): 4}
    refused = kernels.measure(shapes, {"default": slow, "rounding": rounding})
    assert (refused.chosen, refused.candidates[1].refused != "") == ("default", True)
    assert refused.candidates[1].error > 1e-4 > kernels.TOLERANCE > refused.candidates[0].error
    assert "rounding is refused" in refused.reason
    faster = kernels.measure({(256, 256): 1}, {"default": slow, "plain": torch.matmul})
    assert faster.chosen == "plain"


def test_kernels_in_use_are_those_asked_for_and_exact_if_chosen():
    assert kernels.in_use() == "default"
    for name, product in kernels.products().items():
        with kernels.using(name):
            assert kernels.in_use() == name
        found = kernels.measure({(48, 32): 1}, {"default": torch.matmul, name: product})
        assert found.chosen == "default" or found.candidates[-1].error < kernels.TOLERANCE
    assert kernels.in_use() == "default"


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return read_study(str(write_micro_study(tmp_path_factory.mktemp("precision"), precision="auto")), [])


def test_only_runs_in_bfloat16_and_what_reads_them_have_other_addresses(study):
    graphs = {p: build_graph(replace(study, precision=p)) for p in ("auto", "float32", "bfloat16")}
    ids = {name: {cell.id for cell in closure(graph.targets)} for name, graph in graphs.items()}
    assert ids["auto"] == ids["float32"]
    assert all("precision" not in cell.settings for cell in closure(graphs["float32"].targets))
    new = [cell for cell in closure(graphs["bfloat16"].targets) if cell.id not in ids["float32"]]
    assert {cell.kind for cell in new if "precision" in cell.settings} == {"run", "stream"}
    assert all(cell.settings["precision"] == "bfloat16" for cell in new if cell.kind == "run")
    kept = {cell.kind for cell in closure(graphs["bfloat16"].targets)} - {cell.kind for cell in new}
    assert {"preferences", "sft", "preference", "labels", "quality"} <= kept


def test_auto_measures_once_and_keeps_it(study, tmp_path, monkeypatch):
    first, found = engine.settle(study, tmp_path, keep=False)
    assert first.precision == found.precision.choice.chosen != "auto"
    assert [c.name for c in found.precision.choice.candidates] == ["float32", "bfloat16"]
    assert min(c.seconds for c in found.precision.choice.candidates) > 0
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(precision, "measure", lambda *_: Choice("bfloat16", "it is faster"))
    assert engine.settle(study, tmp_path, keep=True)[0].precision == "bfloat16"
    monkeypatch.setattr(precision, "measure", lambda *_: Choice("float32", "it is faster"))
    second, again = engine.settle(study, tmp_path, keep=True)
    assert (second.precision, again.precision.choice.reason) == ("bfloat16", "it is faster")
    assert again.sentences() == [f"trains in bfloat16 with {again.kernels.choice.chosen} kernels"]
    assert engine.settle(replace(study, precision="float32"), tmp_path, keep=True)[0].precision == "float32"


def test_another_machine_keeps_the_precision_says_so_and_measures_its_own_kernels(study, tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "measure", lambda *_: Choice("bfloat16", "it is faster"))
    engine.settle(study, tmp_path, keep=True)
    monkeypatch.setattr(engine, "here", lambda: ("Another Processor", "9.9"))
    monkeypatch.setattr(kernels, "measure", lambda *_: Choice("onednn", "it is faster here"))
    monkeypatch.setattr(precision, "measure", lambda *_: pytest.fail("measured again"))
    found = engine.settle(study, tmp_path, keep=True)[1]
    assert (found.precision.choice.chosen, found.kernels.choice.chosen) == ("bfloat16", "onednn")
    assert "--precision" in found.sentences()[1]
    assert len(list((tmp_path / "engine").iterdir())) == 3


def test_a_processor_without_bfloat16_is_told_so_and_auto_does_without(study, tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "bfloat16_fault", lambda: "it has no such arithmetic")
    with pytest.raises(GoodhartError, match="no such arithmetic; use --precision float32"):
        engine.settle(replace(study, precision="bfloat16"), tmp_path, keep=False)
    found, made = engine.settle(study, tmp_path, keep=False)
    assert found.precision == "float32"
    assert "no such arithmetic" in made.precision.choice.reason


ARM = {"beta": [0.1], "lr": [0.01], "steps": 6, "batch": 8, "checkpoints": 2}
SMALL = {
    "arms": {
        "online": ARM,
        "offline": {**ARM, "checkpoints": 1, "source": "data", "labeller": "data"},
        "replay": {**ARM, "checkpoints": 1, "source": "stream", "stream": "online", "labeller": "data"},
    },
    "variants": {},
    "best_of": {"samples": 0},
    "axes": {},
    "seeds": [0],
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(root, record) of a micro study in bfloat16."""
    folder = tmp_path_factory.mktemp("bfloat16")
    root = folder / "runs"
    asked = read_study(str(write_micro_study(folder, **SMALL)), ["precision=bfloat16", "name=micro"])
    study, chosen = engine.settle(asked, root, keep=True)
    graph = build_graph(study)
    assert all(make(Store(root), cell) for cell in closure(graph.targets))
    found = write_tables(root, study, graph, chosen)
    return root, json.loads((found / "record.json").read_text())


def run_cell(root, source):
    """(folder, record) of the run of an arm."""
    cells = [(cell.parent, json.loads(cell.read_text())) for cell in (root / "cells").glob("run-*/cell.json")]
    chosen = [c for c in cells if c[1]["spec"]["settings"]["arm"].get("source", "policy") == source]
    return next(c for c in chosen if c[1]["spec"]["settings"]["arm"].get("labeller", "proxy") != "golden")


def test_a_study_in_bfloat16_ends_and_its_record_says_so(finished):
    root, record = finished
    assert record["engine"]["precision"]["choice"]["chosen"] == record["study"]["precision"] == "bfloat16"
    assert record["engine"]["kernels"]["choice"]["candidates"][0]["name"] == "default"
    rows = dict(origin_grids(record)[0].rows)
    assert rows["training precision"].startswith("bfloat16: ")
    assert rows["float32 kernels"].startswith(record["engine"]["kernels"]["choice"]["chosen"])
    cell = run_cell(root, "policy")[1]
    assert cell["spec"]["settings"]["precision"] == "bfloat16"
    assert cell["machine"]["float32 kernels"] == record["engine"]["kernels"]["choice"]["chosen"]


def test_an_ordered_replay_in_bfloat16_is_the_online_run(finished):
    folders = [run_cell(finished[0], source)[0] for source in ("policy", "stream")]
    one, two = (AutoModelForCausalLM.from_pretrained(folder / "step-6").state_dict() for folder in folders)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_checkpoints_are_the_masters_and_are_measured_in_float32(finished):
    root, _ = finished
    folder, cell = run_cell(root, "policy")
    policy, _ = load_policy(folder / "step-6", 12)
    sft, _ = load_policy(root / "cells" / cell["spec"]["inputs"]["sft"] / "final", 12)
    assert {p.dtype for p in policy.parameters()} == {torch.float32}
    weights = flat(policy)
    assert (weights != weights.bfloat16().float()).float().mean() > 0.5
    rows = pq.read_table(root / "studies" / "micro" / "rows.parquet").to_pylist()
    rows = [r for r in rows if (r["arm"], r["step"]) == ("online", 6)]
    prompts = find_prompts(next((root / "cells").glob("preferences-*/prompts.parquet")), [r["prompt"] for r in rows])
    given, responses = [prompts[r["prompt"]].prompt.tokens for r in rows], [[r["response"]] for r in rows]
    exact = divergence(policy, sft, given, responses)
    assert exact.kl == pytest.approx([r["kl"] for r in rows], abs=1e-5)
    rounded = divergence(policy.at("bfloat16"), sft.at("bfloat16"), given, responses)
    assert np.abs(rounded.kl - exact.kl).max() > 1e-5


def test_policy_reference_and_known_log_probabilities_have_one_precision(finished, tmp_path, monkeypatch):
    root, _ = finished
    seen = {}

    class StopError(Exception):
        """Nothing needs to be trained."""

    def spy(policy, reference, source, *_, **__):
        seen.update(policy=policy, reference=reference, source=source)
        raise StopError

    monkeypatch.setattr(run, "train", spy)
    _, cell = run_cell(root, "data")
    inputs = {name: Store(root).folder(needed) for name, needed in cell["spec"]["inputs"].items()}
    lowered = cell["spec"]["settings"]
    plain = {name: value for name, value in lowered.items() if name != "precision"}
    for settings, dtype in ((lowered, torch.bfloat16), (plain, torch.float32)):
        with pytest.raises(StopError):
            run.alignment_run(Workplace(settings, inputs, tmp_path))
        for each in (seen["policy"], seen["reference"]):
            assert {p.dtype for p in each.parameters()} == {dtype}
        known = seen["source"].data
        np.testing.assert_allclose(known.under(seen["reference"].name), scored(seen["reference"], known), atol=1e-4)


def test_the_command_line_overrides_the_study_file(monkeypatch):
    asked = []
    monkeypatch.setattr(session, "check_before", lambda study, _: asked.append(study.precision))
    monkeypatch.setattr(commands.study, "_dry_run", lambda *_: None)
    cli.main(["run", "quick", "--dry-run", "precision=float32", "--precision", "bfloat16"])
    cli.main(["run", "quick", "--dry-run"])
    assert asked == ["bfloat16", "auto"]
