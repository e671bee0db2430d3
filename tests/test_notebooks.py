"""The notebooks of the site: their cells run as they stand, on a study and with a model that take seconds."""

import os
import shlex
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import nbformat
import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

import goodhart
from goodhart.cli import main
from goodhart.studies import estimate
from micro_study import make_cells_here, preference_lines, write_qwen2
from synthetic_study import Made, make_study

mpl.use("Agg")
FOLDER = Path(__file__).parent.parent / "docs" / "notebooks"


@pytest.fixture(autouse=True)
def _here(monkeypatch, tmp_path):
    """Cells are made in this process, which has waited for torch once, and in a folder of their own."""

    make_cells_here(monkeypatch)
    monkeypatch.setattr(estimate, "probe", lambda: estimate.PROBE)
    for name in ("PATH", "TERM"):
        monkeypatch.setenv(name, os.environ.get(name, ""))  # which a notebook may set
    monkeypatch.chdir(tmp_path)
    yield
    plt.close("all")


def cells_of(name):
    return [cell for cell in nbformat.read(FOLDER / name, as_version=4).cells if cell.cell_type == "code"]


def run(name, parameters):
    """What its cells define, and the shell's commands that it gave; its first cell is replaced by `parameters`."""
    shell = InteractiveShell(config=Config({"HistoryManager": {"enabled": False}}))
    commands = []

    def command(line):
        words = shlex.split(shell.var_expand(line, depth=1))
        commands.append(words)
        assert words[0] == "goodhart"
        main(words[1:])

    shell.system = command
    first, *others = cells_of(name)
    assert set(names_of(first.source)) == set(names_of(parameters)), "the cell of parameters"
    for source in (parameters, *(cell.source for cell in others)):
        shell.run_cell(source).raise_error()
    return shell.user_ns, commands


def names_of(source):
    return compile(source, "parameters", "exec").co_names


def test_ten_minutes(tmp_path, monkeypatch):
    """On made-up rows, because a study of the built-in task takes minutes at any size."""
    folder = tmp_path / "runs" / "studies" / "made"
    folder.mkdir(parents=True)
    make_study(folder, Made(steps=(30, 60), prompts=12))
    asked = []

    def opened(study, root, quiet):
        asked.append(study)
        return goodhart.open("made", root=root)

    monkeypatch.setattr(goodhart, "run", opened)
    names, _ = run("ten-minutes.ipynb", 'STUDY, ROOT = "smoke", "runs"')
    assert asked == ["smoke"]
    assert names["gap"].common.high > names["gap"].common.low
    assert names["more"].labels.number == 4 * 32


def test_your_own_data(tmp_path, capfd):
    texts = [" ".join(line.values()) for line in preference_lines(40)]
    write_qwen2(tmp_path / "model", texts)
    names, commands = run("your-own-data.ipynb", 'POLICY, TIME, PAIRS, CHARACTERS = "model", "40s", 20, 1')
    assert [words[1] for words in commands] == ["data", "init", "power"]
    assert names["result"].folder == Path("runs/studies/mine")
    assert len(names["pairs"]) == 20
    assert "layout      text" in capfd.readouterr().out


@pytest.mark.parametrize("name", [path.name for path in FOLDER.glob("*.ipynb")])
def test_what_it_shows_is_of_its_cells_run_in_order(name):
    """Every cell ran, in order, and none ended in an error; what it says of its results is there to be read."""
    cells = cells_of(name)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not [each for cell in cells for each in cell.outputs if each.output_type == "error"]
    assert any(cell.outputs for cell in cells)


def test_the_quick_study_shown_is_that_of_the_readme():
    """The table of the README and the notebook's numbers are of one run."""
    told = "".join(each.get("text", "") for cell in cells_of("ten-minutes.ipynb") for each in cell.outputs)
    readme = (FOLDER.parent.parent / "README.md").read_text(encoding="utf-8")
    (line,) = [each for each in readme.splitlines() if each.startswith("online − offline at matched KL")]
    assert line in told
