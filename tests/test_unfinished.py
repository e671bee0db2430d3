"""A study of which some cells fail, or are not there yet, or are damaged: what is left of it, and what is said."""

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from goodhart.cells.cell import closure
from goodhart.cells.store import Store
from goodhart.report import theme
from goodhart.studies.graph import build_graph
from goodhart.studies.spec import read_study
from micro_study import make_cells, said, write_micro_study

OWN = {"beta": [0.1], "lr": [0.01], "steps": 4, "batch": 8, "checkpoints": 1}
DATA = {"source": "data", "labeller": "data"}
ARMS = {
    "online": OWN,
    "offline": {**OWN, **DATA},
    "diverging": {**OWN, **DATA, "beta": [1.0e30]},
    "of the diverging": {**OWN, "source": "samples", "writers": ["sft", "diverging@4"], "labeller": "data"},
}
HYPOTHESIS = {
    "statement": "It diverges.",
    "contrasts": [
        {"statistic": "gap at equal KL", "first": "online", "second": "diverging"},
        {"statistic": "gap at equal KL", "first": "online", "second": "offline"},
    ],
}


@pytest.fixture(autouse=True)
def undrawn(monkeypatch):
    """Figures are drawn by the tests of the report."""
    monkeypatch.setattr(theme, "png", lambda *_: b"")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """(File, root) of a study with an arm that diverges and one that reads it; all before the arms is made."""
    folder = tmp_path_factory.mktemp("unfinished")
    path = write_micro_study(
        folder, arms={name: ARMS[name] for name in ("online", "offline")}, variants={}, hypotheses={}, axes={},
        best_of={"samples": 2, "n": [2]}, seeds=[0, 1], resamples=20,
    )  # fmt: skip
    make_cells(read_study(str(path), []), folder / "runs")
    whole = {**yaml.safe_load(path.read_text()), "arms": ARMS, "hypotheses": {"H": HYPOTHESIS}}
    path.with_name("diverging.yaml").write_text(yaml.safe_dump({**whole, "name": "diverging"}))
    return path, folder / "runs"


def cells_done(root: Path) -> set[str]:
    return {path.parent.name for path in (root / "cells").glob("*/DONE")}


@pytest.fixture(scope="module")
def failed(study, tmp_path_factory):
    """The root after the study with the diverging arm was run."""
    path, made = study
    root = tmp_path_factory.mktemp("failed") / "runs"
    shutil.copytree(made, root)
    return path.with_name("diverging.yaml"), root


def test_a_run_that_diverges_fails_alone_and_is_named_first(failed, capfd):
    path, root = failed
    found = said(capfd, "run", str(path), "--root", str(root), "--workers", "2")
    assert found.returncode == 1
    for seed in (0, 1):
        assert f"FAILED diverging beta=1e+30 lr=0.01 seed {seed}: " in found.stdout
    assert "not finite" in found.stdout
    assert found.stderr.startswith("error: 2 of ")
    assert "cells could not be made: diverging beta=1e+30 lr=0.01 seed 0: loss" in found.stderr
    assert found.stderr.count("\n") == 1
    assert "Traceback" not in found.stdout + found.stderr
    folder = root / "studies" / "diverging"
    arms = set(pq.read_table(folder / "rows.parquet").column("arm").to_pylist())
    assert {"online", "offline", "sft", "golden policy"} <= arms
    assert not {"diverging", "of the diverging"} & arms
    page = (folder / "report.html").read_text()
    first_screen = page[page.index("<h1>") : page.index("Golden win rate")]
    assert "Unfinished: " in first_screen
    assert "diverging and of the diverging" in first_screen
    assert "diverging beta=1e+30 lr=0.01 seed 0: loss" in first_screen
    assert "lower the learning rate" in first_screen
    log = (folder / "log.txt").read_text()
    assert "begun diverging beta=1e+30 lr=0.01 seed 1" in log
    assert log.count("FAILED") == 2
    record = json.loads((folder / "record.json").read_text())
    assert record["unfinished"]["without"] == ["diverging", "of the diverging"]
    assert len(record["unfinished"]["failed"]) == 2
    # both seeds of the run and of what reads it, with their checkpoints and written pairs
    assert record["unfinished"]["missing"] == 2 * 2 + 2 * 3


def test_the_report_can_be_made_again_and_still_says_so(failed, capfd):
    path, root = failed
    again = said(capfd, "report", "diverging", "--root", str(root))
    assert again.returncode == 0, again.stderr
    assert "Unfinished: 10 of " in again.stdout
    assert again.stdout.count("Failed: diverging beta=1e+30 lr=0.01 seed") == 2
    shown = said(capfd, "status", str(path), "--root", str(root))
    assert "2 failed" in shown.stdout
    by_file = said(capfd, "report", str(path), "--root", str(root))
    assert by_file.returncode == 0, by_file.stderr


def test_an_unfinished_study_has_a_report_of_what_is_there(study, tmp_path, capfd):
    path, made = study
    shutil.copytree(made, tmp_path / "runs")
    root, graph = tmp_path / "runs", build_graph(read_study(str(path), ["precision=float32"]))
    offline = [item.cell.id for item in graph.measured if item.arm == "offline" and item.seed == 1]
    for cell in offline:
        shutil.rmtree(root / "cells" / cell)
    (root / "studies" / "micro").mkdir(parents=True, exist_ok=True)
    found = said(capfd, "report", str(path), "--root", str(root))
    assert found.returncode == 0, found.stderr
    assert f"Unfinished: {len(offline)} of " in found.stdout
    seeds = {(r["arm"], r["seed"]) for r in pq.read_table(root / "studies" / "micro" / "rows.parquet").to_pylist()}
    assert ("offline", 0) in seeds
    assert ("offline", 1) not in seeds


def test_too_little_for_a_report_says_what_is_missing(study, tmp_path, capfd):
    path, made = study
    shutil.copytree(made, tmp_path / "runs")
    for cell in (tmp_path / "runs" / "cells").glob("opponents-*"):
        shutil.rmtree(cell)
    found = said(capfd, "report", str(path), "--root", str(tmp_path / "runs"))
    assert found.returncode == 1
    assert "too little of the study" in found.stderr
    assert "opponents" in found.stderr


def damage(root: Path) -> list[Path]:
    """Four damaged cells: two truncated tables, a lost DONE, a lost file; returns the files."""
    table = next((root / "cells").glob("evaluation-*/rows.parquet"))
    table.write_bytes(table.read_bytes()[:-10])
    done = next((root / "cells").glob("labels-*")) / "DONE"
    done.unlink()
    lost = next((root / "cells").glob("sft-*")) / "final" / "config.json"
    lost.unlink()
    data = next((root / "cells").glob("preferences-*/prompts.parquet"))
    data.write_bytes(data.read_bytes()[:-10])
    return [table, done, lost, data]


def test_all_damaged_cells_are_named_at_once_and_repaired_with_the_same_bits(study, tmp_path, capfd):
    path, made = study
    root = tmp_path / "runs"
    shutil.copytree(made, root)
    files = damage(root)
    listed = said(capfd, "status", str(path), "--root", str(root))
    assert listed.returncode == 1
    assert "4 damaged" in listed.stdout
    refused = said(capfd, "run", str(path), "--root", str(root))
    assert refused.returncode == 1
    assert refused.stderr.count("\n") == 1
    for file in files:
        assert str(file) in refused.stderr
    assert "--repair" in refused.stderr
    repaired = said(capfd, "run", str(path), "--root", str(root), "--repair", "--workers", "2")
    assert repaired.returncode == 0, repaired.stderr
    assert repaired.stdout.count("damaged, to be made anew") == 4
    cells = closure(build_graph(read_study(str(path), ["precision=float32"])).targets)
    for cell in cells:
        ours, theirs = (Store(at).record(cell.id)["files"] for at in (root, made))
        assert ours == theirs, cell.label
    assert said(capfd, "status", str(path), "--root", str(root), "--verify").returncode == 0


def test_a_silent_flip_is_found_by_verify_and_by_the_next_reader(study, tmp_path, capfd):
    path, made = study
    root = tmp_path / "runs"
    shutil.copytree(made, root, copy_function=shutil.copy2)
    table = next((root / "cells").glob("labels-*/pairs.parquet"))
    data = bytearray(table.read_bytes())
    data[len(data) // 2] ^= 1
    table.write_bytes(data)
    shown = said(capfd, "status", str(path), "--root", str(root), "--verify")
    assert shown.returncode == 1
    assert "1 damaged" in shown.stdout
    assert "pairs.parquet" in shown.stdout


def test_settings_on_the_command_line_have_results_of_their_own(study, capfd):
    path, root = study
    before = cells_done(root)
    shown = said(capfd, "status", str(path), "resamples=21", "--root", str(root))
    assert shown.returncode == 0, shown.stderr
    own = read_study(str(path), ["resamples=21"])
    assert own.name == "micro-resamples-21"
    assert read_study(str(path), ["resamples=20"]).name == "micro", "nothing is changed, so it is the same study"
    assert read_study(str(path), ["resamples=21", "name=mine"]).name == "mine"
    assert cells_done(root) == before


def test_another_file_of_the_same_name_does_not_take_the_results(study, tmp_path, capfd):
    path, made = study
    shutil.copytree(made, tmp_path / "runs")
    (tmp_path / "other").mkdir()
    other = tmp_path / "other" / "study.yaml"
    other.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "question": "Another?"}))
    first = said(capfd, "run", str(path), "--root", str(tmp_path / "runs"))
    assert first.returncode == 0, first.stderr
    page = tmp_path / "runs" / "studies" / "micro" / "report.html"
    before = page.read_bytes()
    found = said(capfd, "run", str(other), "--root", str(tmp_path / "runs"))
    assert found.returncode == 1
    assert "name=" in found.stderr
    assert page.read_bytes() == before
