"""Studies whose policies and judges train adapters: cells, kill and resume, sharing, warm starts, merging, refusals."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from goodhart import arguments
from goodhart.cells.cell import closure
from goodhart.cells.make import make
from goodhart.cells.store import Store
from goodhart.cells.workplace import Workplace
from goodhart.commands import results
from goodhart.compute.threads import use_threads
from goodhart.config import essential
from goodhart.errors import GoodhartError
from goodhart.models.adapter import is_adapter
from goodhart.models.checkpoint import read_model, read_whole
from goodhart.models.logprobs import sequence_logps
from goodhart.recipes import measure, run
from goodhart.recipes.models import load_beside, load_policy
from goodhart.studies.graph import build_graph
from goodhart.studies.spec import read_study
from micro_study import write_micro_study

ADAPTER = {"rank": 2, "alpha": 4}
SHORT = {"lr": [0.02], "batch": 6, "steps": 4, "checkpoints": 2}
ARMS = {
    "online": {**SHORT, "beta": [0.1], "adapter": ADAPTER},
    "whole": {**SHORT, "beta": [0.1]},
    "offline": {**SHORT, "method": "dpo", "adapter": ADAPTER},
    "replay": {**SHORT, "source": "stream", "stream": "online", "labeller": "data", "beta": [0.1], "adapter": ADAPTER},
    "delayed": {**SHORT, "beta": [0.1], "refresh": 3, "adapter": ADAPTER},
    "hard reference": {**SHORT, "method": "tr-dpo", "parameters": {"reference_every": 1, "reference_rate": 1},
                       "adapter": ADAPTER},
    "mixture": {**SHORT, "method": "nash-md", "adapter": ADAPTER},
    "critic": {**SHORT, "method": "ppo", "adapter": ADAPTER},
    "further": {**SHORT, "beta": [0.1], "start": "online@2", "adapter": {"rank": 3}},
    "further, whole": {**SHORT, "beta": [0.1], "start": "online@2"},
    "written": {**SHORT, "source": "samples", "writers": ["sft", "online@2"], "labeller": "data", "beta": [0.1],
                "adapter": ADAPTER},
    "merged": {**SHORT, "merge": "linear", "runs": 2, "rounds": 2, "parameters": {"keep": 0.5}, "beta": [0.1],
               "checkpoints": 1, "adapter": ADAPTER},
}  # fmt: skip


class KilledError(Exception):
    """As if the process had been killed."""


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study all of whose stages train adapters, with the cells that come before its runs, and some runs."""
    folder = tmp_path_factory.mktemp("adapters")
    path = write_micro_study(folder, arms=ARMS, variants={}, hypotheses={}, axes={}, seeds=[0])
    sections = [f"{name}.adapter={json.dumps(ADAPTER)}" for name in ("sft", "golden", "proxy", "golden_policy")]
    asked = read_study(str(path), [*sections, "name=adapters"])
    graph, store = build_graph(asked), Store(folder / "runs")
    use_threads(1)
    return asked, graph, store


def made(store, cell):
    for each in closure([cell]):
        assert make(store, each)
    return store.open(cell.id)


def cell_of(study, arm):
    return next(cell for (name, _, _), cell in study[1].runs.items() if name == arm)


def in_folder(study, arm, folder):
    """A run in a folder beside the others, as the store lays it out; its log and the last checkpoint."""
    _, _, store = study
    cell = cell_of(study, arm)
    for needed in cell.inputs.values():
        made(store, needed)
    folder.mkdir(exist_ok=True)
    inputs = {key: store.open(needed.id) for key, needed in cell.inputs.items()}
    run.alignment_run(Workplace(cell.spec["settings"], inputs, folder, dict(cell.places)))
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    logged = [{key: value for key, value in line.items() if key != "stages"} for line in lines]
    return logged, next((folder / "step-4").glob("*.safetensors")).read_bytes()


def test_settings_at_their_defaults_move_no_address(study):
    from goodhart.models.adapter_settings import Adapter
    from goodhart.recipes.arm import Arm
    from goodhart.training.settings import Preference, Supervised

    for section in (Arm(), Preference(), Supervised()):
        assert "adapter" not in essential(section)
    assert essential(Arm(adapter=Adapter()))["adapter"] == {}
    assert essential(Arm(adapter=Adapter(rank=2)))["adapter"] == {"rank": 2}


@pytest.mark.parametrize("arm", ["online", "offline", "delayed", "hard reference", "mixture", "critic", "further"])
def test_a_run_begins_at_its_base_moves_and_goes_on_bit_for_bit_after_a_kill(study, arm, tmp_path, monkeypatch):
    store = study[2]
    cells = store.root / "cells"
    whole = in_folder(study, arm, cells / f"whole-{arm.replace(' ', '-')}.test")
    train = run.train

    def killed(*given, **how):
        for step in train(*given, **how):
            if step.step == 4:
                raise KilledError
            yield step

    again = cells / f"again-{arm.replace(' ', '-')}.test"
    with monkeypatch.context() as patched:
        patched.setattr(run, "train", killed)
        with pytest.raises(KilledError):
            in_folder(study, arm, again)
    assert in_folder(study, arm, again) == whole
    first, last = (cells / f"whole-{arm.replace(' ', '-')}.test" / f"step-{step}" for step in (2, 4))
    assert is_adapter(last)
    assert not (last / "model.safetensors").exists()
    a, b = (load_file(folder / "adapter_model.safetensors") for folder in (first, last))
    assert any(not torch.equal(a[name], b[name]) for name in a)


def test_at_its_start_a_policy_is_its_reference_to_the_last_bit(study, monkeypatch):
    """No step has moved it: the log-ratios of the first step are exactly 0, and so is KL."""
    seen = []
    train = run.train

    def watched(policy, reference, source, *rest, **how):
        seen.append((policy, reference))
        return train(policy, reference, source, *rest, **how)

    monkeypatch.setattr(run, "train", watched)
    logged, _ = in_folder(study, "online", study[2].root / "cells" / "exact.test")
    policy, reference = seen[0]
    assert logged[0]["margin"] == 0.0
    shared = {p.data_ptr() for p in reference.model.parameters()}
    assert shared <= {p.data_ptr() for p in policy.model.parameters()}


def test_ordered_replay_of_an_adapters_stream_gives_the_run_itself(study):
    store = study[2]
    online, replay = (made(store, cell_of(study, name)) for name in ("online", "replay"))
    ours, theirs = (f / "step-4" / "adapter_model.safetensors" for f in (online, replay))
    assert ours.read_bytes() == theirs.read_bytes()


def test_the_sft_policy_is_merged_and_arms_are_adapters_over_it(study):
    _, graph, store = study
    sft = made(store, graph.sft) / "final"
    assert not is_adapter(sft)
    AutoModelForCausalLM.from_pretrained(sft)
    online = made(store, cell_of(study, "online")) / "step-4"
    base, _ = load_policy(sft, 8)
    policy = load_beside(base, sft, online)
    ids = [[[5, 6, 7]], [[[8, 9], [4, 1]]]]
    with torch.no_grad():
        own = sequence_logps(read_model(online), *ids, pad=0, layout="plain")
        assert torch.equal(sequence_logps(policy.model, *ids, pad=0, layout="plain"), own)
        assert torch.allclose(sequence_logps(read_whole(online), *ids, pad=0, layout="plain"), own, atol=1e-4)
    assert {p.data_ptr() for p in base.model.parameters()} <= {p.data_ptr() for p in policy.model.parameters()}
    judge = made(store, graph.golden) / "model"
    assert is_adapter(judge)
    assert (judge / "head.safetensors").is_file()


def test_a_warm_start_is_the_checkpoint_with_its_adapter_merged(study):
    store = study[2]
    further, plain = (made(store, cell_of(study, name)) for name in ("further", "further, whole"))
    online = cell_of(study, "online").id
    settings = json.loads((further / "step-4" / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == f"../../{online}/step-2"
    read_model(further / "step-4")
    assert (plain / "step-4" / "model.safetensors").is_file()


def test_merged_runs_are_merged_weight_by_weight(study):
    store = study[2]
    cell = cell_of(study, "merged")
    folder = made(store, cell)
    ends = [
        read_whole(store.open(each.id) / "step-4").state_dict() for n, each in cell.inputs.items() if n[:3] == "run"
    ]
    theirs = read_model(folder / "step-1").state_dict()
    for name, value in theirs.items():
        assert torch.allclose(value, (ends[0][name] + ends[1][name]) / 2, atol=1e-6), name


def test_a_study_of_adapters_is_measured_with_one_judge_at_a_time(study, monkeypatch):
    _, graph, store = study
    cells = [item.cell for item in graph.measured if item.arm in ("online", "sft", "written")]
    judges, beside = [], []
    load = measure.judge

    def counted(folder):
        import gc

        gc.collect()
        alive = [each for each in gc.get_objects() if isinstance(each, torch.nn.Module) and hasattr(each, "generate")]
        beside.append(len(alive))
        judges.append(folder)
        return load(folder)

    for cell in cells:
        for needed in cell.inputs.values():
            made(store, needed)
    monkeypatch.setattr(measure, "judge", counted)
    before = sum(isinstance(each, torch.nn.Module) and hasattr(each, "generate") for each in _objects())
    for cell in cells:
        made(store, cell)
    assert len(judges) == 2 * len(cells)
    assert set(beside) == {before}
    rows = {item.arm: pq.read_table(store.open(item.cell.id) / "rows.parquet") for item in graph.measured
            if item.cell in cells}  # fmt: skip
    assert np.all(rows["sft"].column("kl").to_numpy() == 0.0)
    assert np.all(np.isfinite(rows["online"].column("kl").to_numpy()))
    assert rows["online"].column("kl").to_numpy().mean() > 0


def _objects():
    import gc

    gc.collect()
    return gc.get_objects()


def test_a_merged_export_is_a_plain_checkpoint(study, tmp_path, capsys):
    asked, _, store = study
    checkpoint = made(store, cell_of(study, "online")) / "step-4"
    from goodhart.studies import session

    session.remember(asked, store.root, "test")
    results.where(arguments.Where("adapters", "online", root=store.root, merged=tmp_path / "out"))
    assert capsys.readouterr().out.strip() == str(tmp_path / "out")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    ids = torch.tensor([[5, 6, 7, 8, 4]])
    with torch.no_grad():
        assert torch.allclose(plain(ids).logits, read_model(checkpoint)(ids).logits, atol=1e-5)
    assert "library_name: transformers" in (tmp_path / "out" / "README.md").read_text()
    with pytest.raises(GoodhartError, match="not empty"):
        results.where(arguments.Where("adapters", "online", root=store.root, merged=tmp_path / "out"))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"arms": {"a": {**ARMS["hard reference"], "parameters": {"reference_every": 1, "reference_rate": 0.1}}}},
         "'a' trains an adapter, and its reference follows the policy at reference_rate 0.1"),
        ({"arms": {"a": {**ARMS["online"], "average": True, "parameters": {"average_rate": 0.3}}}},
         "'a' trains an adapter and keeps the average"),
        ({"arms": {"a": {**SHORT, "method": "warp", "adapter": ADAPTER}}},
         "'a' trains an adapter, and its reference follows"),
        ({"arms": {"a": {**ARMS["online"], "adapter": {"dropout": 0.1}}}}, "dropout"),
        ({"arms": {"a": {**ARMS["online"], "adapter": {"rank": 0}}}}, "arms.a.adapter.rank"),
        ({"arms": {"a": {**ARMS["online"], "adapter": {"ranks": 4}}}}, "unknown key 'arms.a.adapter.ranks'"),
    ],
)  # fmt: skip
def test_what_an_adapter_cannot_do_is_refused_by_name_before_the_start(changes, problem, tmp_path):
    path = write_micro_study(tmp_path, **{"variants": {}, "hypotheses": {}, "axes": {}, **changes})
    with pytest.raises(GoodhartError, match=problem):
        read_study(str(path), [])


def test_a_rank_or_target_that_a_model_has_not_is_refused_with_the_section_before_the_start(tmp_path):
    from goodhart.studies.check import check

    path = write_micro_study(tmp_path, arms={"online": ARMS["online"]}, variants={}, hypotheses={}, axes={})
    for setting, problem in {
        "arms.online.adapter.rank=40": r"arms\.online: adapter\.rank is 40",
        "golden.adapter={targets: [query]}": r"golden: adapter\.targets names 'query'",
        "sft.adapter={rank: 17}": r"sft: adapter\.rank is 17",
    }.items():
        with pytest.raises(GoodhartError, match=problem):
            check(read_study(str(path), [setting]))
