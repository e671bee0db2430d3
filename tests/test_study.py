"""A whole study through the command line, on people's preferences and a model made on the spot."""

import contextlib
import io
import json
import math
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from goodhart.cells.make import make
from goodhart.cells.store import Store
from goodhart.cells.workplace import Workplace
from goodhart.cli import main
from goodhart.compute.kernels import using
from goodhart.evaluation import schema
from goodhart.studies.engine import settle
from goodhart.studies.graph import build_graph
from goodhart.studies.spec import read_study
from micro_study import goodhart, said, write_micro_study


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished micro study: (folder of the study file, its root, what the command printed)."""
    folder = tmp_path_factory.mktemp("micro")
    path = write_micro_study(folder)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        main(["run", str(path), "--root", str(folder / "runs"), "--workers", "2"])
    return path, folder / "runs", printed.getvalue()


def rows_of(root: Path, name: str = "rows"):
    return pq.read_table(root / "studies" / "micro" / f"{name}.parquet")


def test_rows_have_the_schema_and_every_checkpoint(finished):
    _, root, _ = finished
    rows = rows_of(root)
    assert rows.schema.equals(schema.ROWS)
    assert rows_of(root, "pairs").schema.equals(schema.PAIR_ROWS)
    checkpoints = {tuple(row[c] for c in ("arm", "seed", "step")) for row in rows.to_pylist()}
    arms = {(arm, seed, step) for arm in ("online", "offline", "delayed") for seed in (0, 1) for step in (3, 6)}
    arms |= {("replay", seed, 6) for seed in (0, 1)}
    arms |= {(arm, seed, 4) for arm in ("written", "mixed", "winners", "wide", "noisy") for seed in (0, 1)}
    arms |= {(f"best of n by {judge}", seed, n) for judge in ("proxy", "golden") for seed in (0, 1) for n in (2, 4)}
    assert checkpoints == arms | {("sft", 0, 0), ("sft (wide)", 0, 0), ("golden policy", 0, 4)}
    best = sum(at[0].startswith("best of n") for at in checkpoints)
    assert rows.num_rows == (2 * len(checkpoints) - best) * (16 + 8)


def test_the_study_is_not_vacuous(finished):
    """Golden labels decide, online and offline policies move, and they move differently."""
    labels = rows_of(finished[1], "pairs").column("label").to_pylist()
    assert {0.0, 1.0} <= set(labels)
    last = [r for r in rows_of(finished[1]).to_pylist() if r["step"] == 6]
    kl = {arm: [r["kl"] for r in last if r["arm"] == arm] for arm in ("online", "offline")}
    assert min(sum(values) / len(values) for values in kl.values()) > 1e-3
    assert kl["online"] != kl["offline"]


def test_an_ordered_replay_is_the_online_run_and_a_delayed_one_is_not(finished):
    def measured(arm):
        rows = [r for r in rows_of(finished[1]).to_pylist() if (r["arm"], r["step"]) == (arm, 6)]
        return [(r["seed"], r["prompt"], r["text"], r["kl"], r["logp"], r["golden_vs_policy"]) for r in rows]

    assert measured("replay") == measured("online")
    assert measured("delayed") != measured("online")


def test_sft_has_no_divergence_from_itself(finished):
    rows = [r for r in rows_of(finished[1]).to_pylist() if r["arm"] in ("sft", "sft (wide)")]
    assert len({r["arm"] for r in rows}) == 2
    assert max(abs(r["kl"]) for r in rows) < 1e-6
    assert max(abs(r["logp"] - r["ref_logp"]) for r in rows) < 1e-5
    trained = [r for r in rows_of(finished[1]).to_pylist() if r["arm"] == "online"]
    assert min(r["kl"] for r in trained) >= 0
    assert max(r["kl"] for r in trained) > 1e-4


def cells_of(root: Path, kind: str):
    """(settings, folder) of every cell of a kind."""
    folders = sorted((root / "cells").glob(f"{kind}-*"))
    return [(json.loads((folder / "cell.json").read_text())["spec"]["settings"], folder) for folder in folders]


def test_every_arm_says_how_far_its_data_were_from_it_and_what_they_took(finished):
    root = finished[1]
    budgets = rows_of(root, "budgets")
    assert budgets.schema.equals(schema.BUDGETS)
    found = {(r["arm"], r["seed"], r["step"]): r for r in budgets.to_pylist()}
    trained = {(r["arm"], r["seed"], r["step"]) for r in rows_of(root).to_pylist() if r["lr"] is not None}
    assert set(found) == {at for at in trained if at[0] != "golden policy"}
    for seed in (0, 1):
        own = {arm: found[arm, seed, step] for arm, s, step in found if s == seed and step in (4, 6)}
        for arm in ("online", "wide", "winners"):
            assert (own[arm]["drift"], own[arm]["drift_spread"]) == (0.0, 0.0)
        assert max(abs(own["replay"]["drift"]), own["replay"]["drift_spread"]) < 1e-4
        for arm in ("offline", "noisy", "written", "delayed", "mixed"):
            assert own[arm]["drift_spread"] > 1e-3
        assert {arm: own[arm]["pairs"] for arm in ("online", "mixed")} == {"online": 48, "mixed": 32}
        assert {arm: own[arm]["labels"] for arm in ("online", "noisy")} == {"online": 32, "noisy": 24}
        online = own["online"]["operations"]
        assert found["online", seed, 3]["operations"] < online
        # What the run of a stream or of a writer took is part of the price, once.
        for arm in ("replay", "written", "mixed"):
            assert online < own[arm]["operations"] < 2.5 * online
        assert own["offline"]["operations"] < online


def test_the_log_says_of_a_checkpoint_what_the_tables_say(finished):
    """Means over held-out prompts alone, though training prompts are measured beside them."""
    names = ("kl", "golden_vs_policy", "golden_vs_sft")
    differ = False
    for _, folder in cells_of(finished[1], "evaluation"):
        rows = pq.read_table(folder / "rows.parquet").to_pylist()
        own = [r for r in rows if r["split"] == "held_out"]
        said = json.loads((folder / "cell.json").read_text())["result"]["means"]
        assert 0 < len(own) < len(rows)
        for name in names:
            assert said[name] == pytest.approx(np.mean([r[name] for r in own])), f"{name} is not of held-out prompts"
            differ |= abs(said[name] - np.mean([r[name] for r in rows])) > 1e-3
    assert differ, "both splits have the same means, so nothing is tested"


def test_best_of_n_has_the_kl_of_its_formula_and_nothing_that_it_cannot_know(finished):
    rows = [r for r in rows_of(finished[1]).to_pylist() if r["arm"].startswith("best of n")]
    assert {(r["step"], r["kl"]) for r in rows} == {(n, math.log(n) - (n - 1) / n) for n in (2, 4)}
    assert {(r["setting"], r["beta"], r["lr"], r["entropy"], r["logp"]) for r in rows} == {
        ("best of n", None, None, None, None)
    }
    proxy = {}
    for r in rows:
        proxy.setdefault((r["arm"], r["step"]), []).append(r["proxy_vs_sft"])
    mean = {at: sum(values) / len(values) for at, values in proxy.items()}
    assert mean["best of n by proxy", 4] >= mean["best of n by proxy", 2]  # what is picked by rises with n
    assert mean["best of n by proxy", 4] > 0.5
    assert not any(r["arm"].startswith("best of n") for r in rows_of(finished[1], "pairs").to_pylist())


def test_written_pairs_have_golden_labels_and_their_writers_log_probabilities(finished):
    from goodhart.alignment.labellers import JudgeLabels
    from goodhart.alignment.pair_table import read_pairs
    from goodhart.recipes.models import judge

    root = finished[1]
    prompts = next((root / "cells").glob("preferences-*")) / "prompts.parquet"
    spec = cells_of(root, "written")
    assert len(spec) == 2
    for settings, folder in spec:
        assert settings["steps"] == [0, 3]
        pairs, ids, kinds = read_pairs(folder / "pairs.parquet", "train", prompts)
        inputs = json.loads((folder / "cell.json").read_text())["spec"]["inputs"]
        golden = judge(root / "cells" / inputs["golden"])
        assert pairs.label.tolist() == JudgeLabels(golden, "hard", 0).label(pairs, 0).label.tolist()
        assert len(set(pairs.label.tolist())) > 1
        data, own, _ = read_pairs(root / "cells" / inputs["labels"] / "pairs.parquet", "train", prompts)
        assert [p.id for p in pairs.prompts] == [p.id for p in data.prompts]
        assert (ids, set(kinds)) == (own, {"written"})
        # the first side is the SFT policy's own, the second another policy's
        assert abs(pairs.writer[:, 0] - pairs.reference[:, 0]).max() < 1e-4
        assert abs(pairs.writer[:, 1] - pairs.reference[:, 1]).max() > 1e-3


def test_an_unknown_writer_is_not_the_policy_itself(finished):
    """Golden labels have no writer on record; the SFT policy stands in, so an offline run's first step has no drift."""
    runs = [(s, f) for s, f in cells_of(finished[1], "run") if s["arm"].get("source") == "data"]
    assert len(runs) == 4
    for _, folder in runs:
        drift = [json.loads(line)["drift"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert abs(drift[0]) < 1e-4
        assert max(map(abs, drift[1:])) > 1e-3


@pytest.mark.parametrize("arm", ["sft", "online", "delayed"])
def test_a_run_that_stops_behind_a_checkpoint_goes_on_from_it(finished, arm, tmp_path, monkeypatch):
    path, root, _ = finished
    study, engine = settle(read_study(str(path), []), root, keep=False)
    graph, store, said_at = build_graph(study), Store(tmp_path), []
    cell = graph.sft if arm == "sft" else graph.runs[arm, "beta=0.1 lr=0.01", 1]
    store.root.joinpath("cells").mkdir()
    for needed in cell.inputs.values():
        store.folder(needed.id).symlink_to(root / "cells" / needed.id)

    def say(work, done, total, note=""):
        said_at.append(done)
        if len(said_at) == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(Workplace, "say", say)
    with pytest.raises(KeyboardInterrupt), using(engine.kernels.choice.chosen):
        make(store, cell)
    assert not store.has(cell.id)
    with using(engine.kernels.choice.chosen):
        assert make(store, cell)
    assert said_at == [1, 2, 3, 4, 5, 4, 5, 6]  # there is a checkpoint at step 3
    whole = root / "cells" / cell.id
    files = [file.relative_to(whole) for file in whole.rglob("*") if file.suffix in (".safetensors", ".parquet")]
    assert len(files) == (2 if arm == "sft" else 3)  # two checkpoints, and the stream of pairs
    for file in files:
        assert (store.folder(cell.id) / file).read_bytes() == (whole / file).read_bytes()


def test_report_and_table_are_there(finished):
    _, root, printed = finished
    report = root / "studies" / "micro" / "report.html"
    assert str(report) in printed
    assert "online" in printed
    assert "<html" in report.read_text()


def test_policies_are_ordinary_checkpoints(finished):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = next((finished[1] / "cells").glob("run-*")) / "step-6"
    folder = folder if folder.exists() else next((finished[1] / "cells").glob("run-*/step-*"))
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert AutoTokenizer.from_pretrained(folder).eos_token_id == model.config.eos_token_id
    assert (folder / "README.md").read_text().startswith("---")


def test_a_finished_study_has_its_record_and_lacks_no_cell(finished, capfd):
    path, root, _ = finished
    shown = said(capfd, "run", str(path), "--root", str(root), "--dry-run")
    assert shown.stdout.count("done ") == len(list((root / "cells").glob("*/DONE")))
    assert "missing" not in shown.stdout
    record = json.loads((root / "studies" / "micro" / "record.json").read_text())
    assert {"study", "versions", "machine", "cells", "golden", "proxy"} <= set(record)


def test_help_is_quick_and_complete(capfd):
    began = time.perf_counter()
    shown = goodhart("--help")
    assert time.perf_counter() - began < 10  # a second on an idle machine; tests run beside others
    for verb in ("run", "status", "report", "compare", "list", "data", "pretrain"):
        assert verb in shown.stdout
    _, _, tasks = said(capfd, "list").stdout.partition("tasks (task.kind)\n")
    lines = tasks.partition("\n\n")[0].splitlines()
    named = [line.split()[0] for line in lines if not line.startswith("   ")]
    assert named == ["docstrings", "names", "preferences"]


def test_data_describes_a_file(finished):
    shown = goodhart("data", str(finished[0].parent / "preferences.jsonl"))
    assert shown.returncode == 0, shown.stderr
    assert "300" in shown.stdout
