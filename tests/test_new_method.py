"""Methods from outside the package: the page's own code, what is refused, and what an edit moves."""

import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from goodhart.alignment import extensions
from goodhart.alignment.method import KINDS
from goodhart.alignment.methods import METHODS
from goodhart.analysis.frontier import points
from goodhart.analysis.table import read
from goodhart.cells.cell import closure
from goodhart.cells.make import make
from goodhart.cells.store import Store
from goodhart.errors import GoodhartError
from goodhart.studies.graph import build_graph
from goodhart.studies.spec import read_study
from micro_study import make_cells, write_micro_study, write_tables

PAGE = (Path(__file__).parent.parent / "docs" / "new-method.md").read_text(encoding="utf-8")
CODE, *_ = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
_, SAID, _ = (yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL))


@pytest.fixture(autouse=True)
def _as_it_was():
    yield
    extensions.forget()
    assert "priced" not in KINDS
    assert "priced-dpo" not in METHODS


@pytest.fixture
def path(tmp_path):
    (tmp_path / "mine.py").write_text(CODE)
    short = {"steps": 2, "batch": 4, "checkpoints": 1}
    arms = {name: {**arm, **short} for name, arm in SAID["arms"].items()}
    return write_micro_study(
        tmp_path, arms=arms, methods=SAID["methods"], variants={}, hypotheses={}, axes={}, seeds=[0], resamples=20
    )


def test_the_page_adds_a_method_in_fewer_than_forty_lines_up_to_its_dot_on_the_frontier(path, tmp_path):
    assert len(CODE.splitlines()) < 40
    study, graph, engine = make_cells(read_study(str(path), []), tmp_path / "runs")
    folder = write_tables(tmp_path / "runs", study, graph, engine)
    rows = pq.read_table(folder / "rows.parquet").to_pylist()
    settings = {(row["arm"], row["setting"]) for row in rows if row["arm"] in SAID["arms"]}
    assert settings == {
        ("priced", "beta=0.1 lr=0.0001 price=0"),
        ("priced", "beta=0.1 lr=0.0001 price=0.05"),
        ("online", "beta=0.1 lr=0.0001"),
    }
    matrix = read(pq.read_table(folder / "rows.parquet"), "held_out")
    dots = {(arm, dot.point.setting) for arm in SAID["arms"] for dot in points(matrix, arm, "golden_vs_policy")}
    assert dots == settings


def test_an_edit_of_the_file_moves_the_runs_that_use_it(path):
    before = build_graph(read_study(str(path), []))
    (path.parent / "mine.py").write_text(CODE + "\n# another thought\n")
    after = build_graph(read_study(str(path), []))
    assert {run.id for run in before.runs.values()} & {run.id for run in after.runs.values()} == set()
    assert (before.labels.id, before.golden_policy.id) == (after.labels.id, after.golden_policy.id)


def test_a_run_refuses_a_file_that_changed_behind_its_study(path, tmp_path):
    graph = build_graph(read_study(str(path), []))
    (path.parent / "mine.py").write_text(CODE + "\n# another thought\n")
    with pytest.raises(GoodhartError, match="has changed since"):
        run_one(graph, tmp_path / "runs")


def run_one(graph, root):
    """One run of the graph with what it reads."""
    run = next(run for (arm, _, _), run in graph.runs.items() if arm == "priced")
    for cell in closure([run]):
        make(Store(root), cell)


@pytest.mark.parametrize(
    ("code", "says"),
    [
        (None, "cannot be read"),
        ("1 / 0", "ZeroDivisionError"),
        ("x = 1", "has no METHODS"),
        ("METHODS = {'a': 1}", "has no METHODS"),
        ("METHODS = {}\nLOSSES = {'mine': (lambda s: s, 'labels')}", "learns from 'labels'"),
        ("METHODS = {}\nLOSSES = {'dpo': (lambda s: s, 'label')}", "'dpo', which is there already"),
        (
            "from goodhart.alignment.methods import METHODS as all\nMETHODS = {'dpo': all['dpo']}",
            "which is there already",
        ),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path, code, says):
    file = tmp_path / "mine.py"
    if code is not None:
        file.write_text(code)
    with pytest.raises(GoodhartError) as caught:
        extensions.load(str(file))
    assert says in str(caught.value)
    assert str(file) in str(caught.value)


def test_an_installed_package_announces_its_methods(tmp_path, monkeypatch):
    package = tmp_path / "priced_methods"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "rows.py").write_text(CODE)
    dist = tmp_path / "priced_methods-1.dist-info"
    dist.mkdir()
    (dist / "METADATA").write_text("Metadata-Version: 2.1\nName: priced-methods\nVersion: 1\n")
    (dist / "entry_points.txt").write_text("[goodhart.methods]\npriced = priced_methods.rows\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    path = write_micro_study(tmp_path, arms={"mine": {"method": "priced-dpo"}}, variants={}, hypotheses={}, axes={})
    assert read_study(str(path), []).arms["mine"].method.loss == "priced"
