"""A whole study through the command line, on people's preferences and a model made on the spot."""

import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from goodhart.evaluation import schema
from micro_study import goodhart, write_micro_study


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished micro study: (folder of the study file, its root, what the command printed)."""
    folder = tmp_path_factory.mktemp("micro")
    path = write_micro_study(folder)
    done = goodhart("run", str(path), "--root", str(folder / "runs"), "--workers", "2")
    assert done.returncode == 0, done.stderr
    return path, folder / "runs", done.stdout


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
    assert rows.num_rows == len(checkpoints) * (16 + 8)


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
    from goodhart.study.model_recipes import judge

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
    runs = [(s, f) for s, f in cells_of(finished[1], "run") if s["arm"]["source"] == "data"]
    assert len(runs) == 4
    for _, folder in runs:
        drift = [json.loads(line)["drift"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert abs(drift[0]) < 1e-4
        assert max(map(abs, drift[1:])) > 1e-3


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


def test_second_run_makes_nothing_and_dry_run_says_so(finished):
    path, root, _ = finished
    before = {p: p.stat().st_mtime_ns for p in (root / "cells").rglob("*") if p.is_file()}
    shown = goodhart("run", str(path), "--root", str(root), "--dry-run")
    assert "missing" not in shown.stdout
    again = goodhart("run", str(path), "--root", str(root))
    assert again.returncode == 0, again.stderr
    assert {p: p.stat().st_mtime_ns for p in (root / "cells").rglob("*") if p.is_file()} == before


def test_a_changed_seed_reuses_everything_else(finished):
    path, root, _ = finished
    shown = goodhart("run", str(path), "seeds=[0,1,2]", "--root", str(root), "--dry-run").stdout.splitlines()
    missing = [line for line in shown if line.startswith("missing")]
    assert missing
    assert all("seed 2" in line for line in missing)


def kill_tree(process: subprocess.Popen) -> None:
    """kill -9 of the command and, through its process group, of its workers."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_killed_at_random_points_the_rows_are_bit_identical(finished, tmp_path):
    path, root, _ = finished
    command = [sys.executable, "-m", "goodhart.cli", "run", str(path), "--root", str(tmp_path / "runs")]
    moments = random.Random(7)
    for _ in range(3):
        process = subprocess.Popen(
            [*command, "--workers", "2"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        cells = tmp_path / "runs" / "cells"
        target = len(list(cells.glob("*/DONE"))) + moments.randint(1, 5)
        while process.poll() is None and len(list(cells.glob("*/DONE"))) < target:
            time.sleep(0.02)
        time.sleep(moments.random())
        if process.poll() is None:
            kill_tree(process)
    done = subprocess.run([*command, "--workers", "2"], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    for name in ("rows", "pairs"):
        assert rows_of(tmp_path / "runs", name).equals(rows_of(root, name))
    assert not list((tmp_path / "runs" / "cells").glob("*.partial"))


def test_two_runs_at_once_do_not_corrupt_each_other(finished, tmp_path):
    path, root, _ = finished
    command = [
        sys.executable,
        "-m",
        "goodhart.cli",
        "run",
        str(path),
        "--root",
        str(tmp_path / "runs"),
        "--workers",
        "1",
    ]
    both = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    errors = [process.communicate(timeout=400)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], errors
    assert rows_of(tmp_path / "runs").equals(rows_of(root))


def test_a_damaged_cell_is_named(finished, tmp_path):
    import shutil

    path, root, _ = finished
    shutil.copytree(root, tmp_path / "runs")
    victim = next((tmp_path / "runs" / "cells").glob("evaluation-*/rows.parquet"))
    victim.write_bytes(victim.read_bytes()[:-10])
    found = goodhart("run", str(path), "--root", str(tmp_path / "runs"))
    assert found.returncode == 1
    assert str(victim) in found.stderr
    assert "delete" in found.stderr
    assert found.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"lables": {"number": 3}}, "labels"),
        ({"seeds": []}, "seeds"),
        ({"golden": {"steps": "many"}}, "golden.steps"),
        ({"labels": {"number": 100000}}, "labels.number"),
        ({"policy": "no/such-model"}, "no/such-model"),
        ({"arms": {"a": {"source": "stream", "labeller": "data"}}}, "stream"),
        ({"arms": {"a": {"source": "stream", "stream": "b", "labeller": "data"}}}, "'b'"),
        ({"arms": {"a": {"refresh": -1}}}, "refresh"),
        ({"arms": {"on": {}, "a": {"source": "stream", "stream": "on", "labeller": "data", "steps": 61}}}, "61"),
        ({"arms": {"on": {}, "a": {"source": "stream", "stream": "on", "labeller": "data", "beta": [1]}}}, "beta"),
    ],
)
def test_bad_settings_are_one_line_and_lose_nothing(finished, tmp_path, changes, named):
    path, root, _ = finished
    data = {**yaml.safe_load(path.read_text()), **changes}
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump(data))
    before = sorted(p.name for p in (root / "cells").glob("*/DONE"))
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    found = goodhart("run", str(tmp_path / "bad.yaml"), "--root", str(root), env=environment)
    assert found.returncode == 1
    assert named in found.stderr
    assert found.stderr.count("\n") == 1
    assert sorted(p.name for p in (root / "cells").glob("*/DONE")) == before


def test_a_prompt_longer_than_the_context_is_an_error(finished, tmp_path):
    path, root, _ = finished
    found = goodhart("run", str(path), "task.max_response=60", "--root", str(root))
    assert found.returncode == 1
    assert "context" in found.stderr


def test_a_diverging_run_is_an_error_that_names_the_rate(finished):
    path, root, _ = finished
    found = goodhart("run", str(path), "arms.offline.lr=[1e30]", "--root", str(root))
    assert found.returncode == 1
    assert "not finite" in found.stderr
    assert "learning rate" in found.stderr


def test_status_compare_and_report_work_on_the_finished_study(finished):
    path, root, _ = finished
    assert "missing" not in goodhart("status", str(path), "--root", str(root)).stdout
    compared = goodhart("compare", "micro", "online", "offline", "--root", str(root))
    assert compared.returncode == 0, compared.stderr
    assert "KL" in compared.stdout
    assert goodhart("compare", "micro", "online", "nobody", "--root", str(root)).returncode == 1
    assert goodhart("report", "micro", "--root", str(root)).returncode == 0
    record = json.loads((root / "studies" / "micro" / "record.json").read_text())
    assert {"study", "versions", "machine", "cells", "golden", "proxy"} <= set(record)


def test_help_is_quick_and_complete():
    began = time.perf_counter()
    shown = goodhart("--help")
    assert time.perf_counter() - began < 10  # a second on an idle machine; tests run beside others
    for verb in ("run", "status", "report", "compare", "list", "data", "pretrain"):
        assert verb in shown.stdout
    listed = [line.split() for line in goodhart("list").stdout.splitlines()]
    assert [words[3] for words in listed if "task.kind" in words] == ["docstrings", "names", "preferences"]


def test_data_describes_a_file(finished):
    shown = goodhart("data", str(finished[0].parent / "preferences.jsonl"))
    assert shown.returncode == 0, shown.stderr
    assert "300" in shown.stdout
