"""A small study that is stopped, begun twice, run again, asked about, damaged or changed keeps what was done."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from goodhart.cells.cell import closure
from goodhart.cells.store import Store
from goodhart.errors import GoodhartError
from goodhart.report import theme
from goodhart.studies.session import remember
from goodhart.studies.spec import origin_of, read_study
from micro_study import goodhart, make_cells, said, write_small_study, write_tables


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A small study that this process made cell by cell: (its file, its root)."""
    folder = tmp_path_factory.mktemp("small")
    path = write_small_study(folder)
    study = read_study(str(path), [])
    remember(study, folder / "runs", origin_of(str(path)))
    write_tables(folder / "runs", *make_cells(study, folder / "runs"))
    return folder / "study.yaml", folder / "runs"


def begun(path: Path, root: Path) -> subprocess.Popen[str]:
    """The command with one worker, in a process group of its own."""
    command = [sys.executable, "-m", "goodhart.cli", "run", str(path), "--root", str(root), "--workers", "1"]
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def cells_done(root: Path) -> list[str]:
    return sorted(path.parent.name for path in (root / "cells").glob("*/DONE"))


def killed(process: subprocess.Popen[str], root: Path, cells: int, seconds: float) -> int:
    """kill -9 of the command and its worker some time after so many more cells; how many are done."""
    target = len(cells_done(root)) + cells
    while process.poll() is None and len(cells_done(root)) < target:
        time.sleep(0.02)
    time.sleep(seconds)
    assert process.poll() is None
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    return len(cells_done(root))


def test_two_runs_at_once_killed_at_random_points_and_begun_again_make_bit_identical_rows(finished, tmp_path, capfd):
    path, root = finished
    moments = random.Random(7)
    shutil.copytree(root / "engine", tmp_path / "engine")  # a second measurement might choose other kernels
    both = [begun(path, tmp_path) for _ in range(2)]
    # the second goes on alone, also with what the first has left half done
    done = [killed(process, tmp_path, moments.randint(1, 4), moments.random() / 5) for process in both]
    assert 0 < done[0] < done[1] < len(cells_done(root))
    last = said(capfd, "run", str(path), "--root", str(tmp_path), "--workers", "2")
    assert last.returncode == 0, last.stderr
    for name in ("rows", "pairs"):
        tables = [pq.read_table(at / "studies" / "micro" / f"{name}.parquet") for at in (tmp_path, root)]
        assert tables[0].num_rows > 0
        assert tables[0].equals(tables[1])
    assert cells_done(tmp_path) == cells_done(root)
    assert not [*(tmp_path / "cells").glob("*.partial"), *(tmp_path / "cells").glob("*.lock")]


def test_threads_change_no_bit_of_any_cell(finished, tmp_path):
    path, root = finished
    shutil.copytree(root / "engine", tmp_path / "engine")
    _, graph, _ = make_cells(read_study(str(path), []), tmp_path, threads=2)
    cells = closure(graph.targets)
    here, there = ([Store(at).record(cell.id) for cell in cells] for at in (tmp_path, root))
    metrics = "metrics.jsonl"  # they also say how long a step took
    for one, other in zip(here, there, strict=True):
        files = [{name: file for name, file in cell["files"].items() if name != metrics} for cell in (one, other)]
        assert files[0] == files[1], one["id"]
        if metrics in one["files"]:
            said = [(at / "cells" / one["id"] / metrics).read_text().splitlines() for at in (tmp_path, root)]
            kept = [[{**json.loads(line), "stages": None} for line in lines] for lines in said]
            assert kept[0] == kept[1] != []
    assert {cell.kind for cell, record in zip(cells, here, strict=True) if record["threads"] == 2} >= {
        "sft",
        "preference",
        "quality",
    }
    assert {record["threads"] for record in there} == {1}


def test_a_second_run_makes_nothing(finished, capfd, monkeypatch):
    path, root = finished
    monkeypatch.setattr(theme, "png", lambda *_: b"")  # the report is drawn by the tests beside this one
    before = {p: p.stat().st_mtime_ns for p in (root / "cells").rglob("*") if p.is_file()}
    again = said(capfd, "run", str(path), "--root", str(root))
    assert again.returncode == 0, again.stderr
    assert {p: p.stat().st_mtime_ns for p in (root / "cells").rglob("*") if p.is_file()} == before


def test_status_compare_and_report_work_on_a_finished_study(finished, capfd):
    path, root = finished
    shown = said(capfd, "status", str(path), "--root", str(root))
    assert shown.returncode == 0, shown.stderr
    lines = [line for line in shown.stdout.splitlines()[1:-1] if not line.startswith(" ")]  # of wrapped ones the first
    assert [line.split()[0] for line in lines] == ["done"] * len(cells_done(root))
    assert "missing" not in shown.stdout
    compared = said(capfd, "compare", "micro", "online", "offline", "--root", str(root))
    assert compared.returncode == 0, compared.stderr
    assert "KL" in compared.stdout
    for other, fault in (("nobody", "no arm 'nobody'"), ("online", "compared with itself"), ("sft", "no arm 'sft'")):
        refused = said(capfd, "compare", "micro", "online", other, "--root", str(root))
        assert refused.returncode == 1, other
        assert fault in refused.stderr
    page = root / "studies" / "micro" / "report.html"
    page.unlink(missing_ok=True)
    told = said(capfd, "report", "micro", "--root", str(root))
    assert told.returncode == 0, told.stderr
    assert str(page) in told.stdout
    assert "<html" in page.read_text()


def test_what_only_looks_imports_no_pytorch(finished):
    """Seconds before the first word: a root that knows its engine is asked without PyTorch and Transformers."""
    path, root = finished
    asked = [
        ["status", str(path), "--root", str(root)],
        ["run", str(path), "--root", str(root), "--dry-run"],
        ["why", "run-", str(path), "--root", str(root)],
        ["compare", "micro", "online", "offline", "--root", str(root)],
        ["list"],
        ["--version"],
    ]
    code = (
        "import contextlib, io, sys\nfrom goodhart.cli import main\n"
        f"for command in {asked!r}:\n"
        "    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):\n"
        "        main(command)\n"
        "    heavy = {'torch', 'transformers', 'datasets'} & set(sys.modules)\n"
        "    assert not heavy, (command[0], heavy)\n"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr


def test_a_damaged_cell_is_named(finished, tmp_path, capfd):
    path, root = finished
    shutil.copytree(root, tmp_path / "runs")
    victim = next((tmp_path / "runs" / "cells").glob("evaluation-*/rows.parquet"))
    victim.write_bytes(victim.read_bytes()[:-10])
    found = said(capfd, "run", str(path), "--root", str(tmp_path / "runs"))
    assert found.returncode == 1
    assert str(victim) in found.stderr
    assert "--repair" in found.stderr
    assert found.stderr.count("\n") == 1


def test_a_changed_seed_reuses_everything_else(finished, capfd):
    path, root = finished
    shown = said(capfd, "run", str(path), "seeds=[0,2]", "--root", str(root), "--dry-run").stdout.splitlines()
    missing = [line for line in shown if line.startswith("missing")]
    assert len(missing) == 3 + 3 + 1  # runs, their checkpoints, best of n
    assert all("seed 2" in line for line in missing)
    assert sum(line.startswith("done ") for line in shown) == len(cells_done(root))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"lables": {"number": 3}}, "labels"),
        ({"seeds": []}, "seeds"),
        ({"golden": {"steps": "many"}}, "golden.steps"),
        ({"policy": "no/such-model"}, "no/such-model"),
        ({"arms": {"a": {"source": "stream", "labeller": "data"}}}, "stream"),
        ({"arms": {"a": {"source": "stream", "stream": "b", "labeller": "data"}}}, "'b'"),
        ({"arms": {"a": {"refresh": -1}}}, "refresh"),
        ({"arms": {"on": {}, "a": {"source": "stream", "stream": "on", "labeller": "data", "steps": 61}}}, "61"),
        ({"arms": {"on": {}, "a": {"source": "stream", "stream": "on", "labeller": "data", "beta": [1]}}}, "beta"),
    ],
)
def test_bad_settings_are_one_line_and_lose_nothing(finished, tmp_path, capfd, changes, named):
    path, root = finished
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **changes}))
    before = cells_done(root)
    found = said(capfd, "run", str(tmp_path / "bad.yaml"), "--root", str(root))
    assert found.returncode == 1
    assert named in found.stderr
    assert found.stderr.count("\n") == 1
    assert cells_done(root) == before


def test_a_fault_that_a_worker_finds_is_one_line_and_loses_nothing(finished, capfd):
    path, root = finished
    before = cells_done(root)
    found = said(capfd, "run", str(path), "labels.number=100000", "--root", str(root), "--workers", "1")
    assert found.returncode == 1
    assert "labels.number" in found.stderr
    assert found.stderr.count("\n") == 1
    assert cells_done(root) == before


def test_a_fault_ends_the_command_with_code_1_and_one_line():
    found = goodhart("run", "no-such-study")
    assert (found.returncode, found.stdout) == (1, "")
    assert "no-such-study" in found.stderr
    assert found.stderr.count("\n") == 1


def made_until_it_fails(finished, override: str, match: str) -> str:
    """What is said when the cells of a changed study are made."""
    path, root = finished
    with pytest.raises(GoodhartError, match=match) as found:
        make_cells(read_study(str(path), [override]), root)
    return str(found.value)


def test_a_prompt_longer_than_the_context_is_an_error(finished):
    assert "task.max_response" in made_until_it_fails(finished, "task.max_response=60", "context has 64")


def test_a_diverging_run_is_an_error_that_names_the_rate(finished):
    assert "learning rate" in made_until_it_fails(finished, "arms.offline.beta=[1e30]", "not finite")
