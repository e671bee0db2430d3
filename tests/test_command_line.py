"""What the commands print: JSON that says what the lines say, lines of a width, no escapes where nobody reads them."""

import json
import re
import shlex
from dataclasses import replace
from types import SimpleNamespace

import pytest
import tyro
from rich.console import Console

from goodhart import cli, output
from goodhart.arguments import COMMANDS, described
from goodhart.cells.cell import Cell
from goodhart.cells.store import Store
from goodhart.output import json_data, paragraphs
from goodhart.report.grid import Grid, number
from goodhart.report.terminal_grid import TerminalGrid
from goodhart.studies import checkpoints, session
from goodhart.studies.spec import Study
from micro_study import said
from preference_data_cases import write
from synthetic_study import Made, make_study

NAMES = sorted(COMMANDS)
BOXES = re.compile("[\u2500-\u257f]")


def document(capfd, *command):
    """What a command prints with --json: one document, and nothing beside it."""
    done = said(capfd, *command, "--json")
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii()
    return json.loads(done.stdout, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A root with a made-up study of two arms."""
    folder = tmp_path_factory.mktemp("command_line")
    (folder / "studies" / "made").mkdir(parents=True)
    make_study(folder / "studies" / "made", Made(prompts=8, steps=(30, 60)))
    return folder


@pytest.fixture
def pairs(tmp_path):
    path = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"say {n}", "chosen": "good \u009b31m", "rejected": "bad"} for n in range(5)]
    write(path, [*rows, {"prompt": "", "chosen": "x", "rejected": "y"}])
    return path


@pytest.fixture
def cells(tmp_path, monkeypatch):
    """A store with a cell in every state."""
    store = Store(tmp_path / "runs")
    every = {
        state: Cell("run", {"n": state}, {}, f"label of {state}") for state in ("done", "begun", "failed", "missing")
    }
    for state in ("done", "begun", "failed"):
        store.partial(every[state].id).mkdir(parents=True)
    (store.partial(every["begun"].id) / "progress.json").write_text('{"done": 3, "total": 7, "note": "steps"}')
    store.fail(every["failed"].id, "it is not finite", "lower the rate")
    store.finish(every["done"].id, {"seconds": 12.34, "spec": {}})
    monkeypatch.setattr(session, "asked", lambda *_: Study("s"))
    monkeypatch.setattr(session, "planned", lambda study, *_: (study, None, [(c, False) for c in every.values()]))
    return store.root, every


class TestJson:
    def test_status_has_every_cell_as_the_table_has_it(self, cells, capfd):
        root, every = cells
        found = document(capfd, "status", "s", "--root", str(root))
        shown = said(capfd, "status", "s", "--root", str(root)).stdout
        assert found["states"] == dict.fromkeys(every, 1)
        assert [(c["state"], c["id"]) for c in found["cells"]] == [(state, cell.id) for state, cell in every.items()]
        by_state = {c["state"]: c for c in found["cells"]}
        assert (by_state["done"]["seconds"], by_state["missing"]["seconds"]) == (12.34, None)
        assert (by_state["begun"]["progress"], by_state["failed"]["problem"]) == ("3 of 7 steps", "it is not finite")
        for line, cell in zip(shown.splitlines()[1:5], found["cells"], strict=True):
            for part in (cell["state"], cell["id"], cell["label"], cell["progress"], cell["problem"]):
                assert part in line
        assert "12.3" in shown

    def test_a_damaged_cell_is_an_exit_code_beside_the_document(self, cells, capfd):
        root, every = cells
        (Store(root).folder(every["done"].id) / "cell.json").write_text("{")
        done = said(capfd, "status", "s", "--root", str(root), "--json")
        assert done.returncode == 1
        (damaged,) = [c for c in json.loads(done.stdout)["cells"] if c["state"] == "damaged"]
        assert damaged["files"] == ["cell.json"]

    def test_compare_has_the_numbers_of_the_lines(self, root, capfd):
        found = document(capfd, "compare", "made", "online", "offline", "--root", str(root))
        lines = said(capfd, "compare", "made", "online", "offline", "--root", str(root)).stdout.splitlines()
        assert (found["first"], found["second"]) == ("online", "offline")
        assert len(found["measures"]) == len(lines) == 5
        for measure, line in zip(found["measures"], lines, strict=True):
            assert line.startswith(f"{measure['title']}: ")
            for value in measure["gap"].values():
                assert number(value, 3, sign=True) in line
            assert f"KL {measure['common_kl']['low']:.1f} to {measure['common_kl']['high']:.1f}" in line
            assert (f"{measure['ahead']} is ahead" in line) if measure["ahead"] else ("undecided" in line)
        assert found["measures"][0]["sees"] > 0

    def test_power_has_the_numbers_of_the_tables(self, tmp_path, capfd):
        command = ("power", "quick", "--root", str(tmp_path), "--workers", "2")
        found, shown = document(capfd, *command), said(capfd, *command).stdout
        assert not BOXES.search(shown)
        assert f"{found['study']}: {found['seeds']} seeds, {found['prompts']} held-out prompts" in shown
        (contrast,) = found["contrasts"]
        row = next(line for line in shown.splitlines() if line.startswith(contrast["contrast"]))
        assert row.split()[-2:] == [number(contrast["alone"]), number(contrast["as_one_of_all"])]
        (own,) = [size for size in found["sizes"]["rows"] if size["as_written"]]
        assert number(own["alone"]) in next(line for line in shown.splitlines() if "as written" in line)
        assert found["league"] is None
        assert found["against_found"] == []

    def test_data_has_the_counts_of_the_lines(self, pairs, capfd):
        (split,) = document(capfd, "data", str(pairs))["splits"]
        shown = said(capfd, "data", str(pairs)).stdout
        assert (split["rows"], split["usable"], split["prompts"]) == (6, 5, 5)
        for key in ("layout", "rows", "usable", "prompts", "ties"):
            assert re.search(rf"^  {key} +{split[key]}\b", shown, re.MULTILINE), key
        (reason, number_of), *_ = split["filtered"].items()
        assert re.search(rf"{number_of}  {reason}", shown)
        assert split["examples"][0]["first"] == "good \u009b31m"
        assert split["needs"] in shown

    def test_lists_have_what_the_lines_have(self, capfd):
        found, methods = document(capfd, "list"), document(capfd, "list", "methods")["methods"]
        shown = " ".join(said(capfd, "list").stdout.split())
        assert ", ".join(found["values"]["arm method"]) in shown
        assert all(f"{name} {meaning}" in shown for name, meaning in found["studies"].items())
        assert [row["name"] for row in methods] == found["values"]["arm method"]
        kto = next(row for row in methods if row["name"] == "kto")
        assert document(capfd, "list", "methods", "kto")["minimises"] == kto["formula"]

    def test_where_has_the_folder_of_the_line(self, tmp_path, capfd, monkeypatch):
        cell, store = Cell("run", {}, {}, ""), Store(tmp_path)
        arm = Study("s").arms["online"]
        study = replace(Study("s"), arms={"online": arm})
        store.partial(cell.id).mkdir(parents=True)
        store.finish(cell.id, {"seconds": 1.0, "spec": {}})
        graph = SimpleNamespace(runs={("online", "beta=0.1", 3): cell})
        monkeypatch.setattr(session, "asked", lambda *_: study)
        monkeypatch.setattr(checkpoints, "planned", lambda study, *_: (study, graph, []))
        found = document(capfd, "where", "s", "online", "--root", str(tmp_path))
        assert said(capfd, "where", "s", "online", "--root", str(tmp_path)).stdout.strip() == found["folder"]
        assert (found["setting"], found["seed"], found["step"]) == ("beta=0.1", 3, arm.kept[-1])

    def test_an_error_leaves_standard_output_empty(self, root, capfd):
        done = said(capfd, "compare", "made", "online", "nobody", "--json", "--root", str(root))
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("error: study 'made' has no arm 'nobody'; its arms are: ")

    def test_what_json_has_not_is_null(self):
        values = {"a": float("nan"), "b": (float("inf"), 1, True, None), ("x", "y"): 0.5}
        assert json_data(values) == {"a": None, "b": [None, 1, True, None], "x/y": 0.5}


class TestHelp:
    @pytest.mark.parametrize("name", NAMES)
    def test_every_command_has_examples_that_are_read_as_it(self, name):
        sentence, examples = described(COMMANDS[name])
        assert sentence.endswith(".")
        assert examples
        for line in examples:
            program, word, *rest = shlex.split(line)
            assert (program, word) == ("goodhart", name)
            assert isinstance(tyro.cli(COMMANDS[name], args=rest), COMMANDS[name])

    @pytest.mark.parametrize("width", [40, 60, 80])
    @pytest.mark.parametrize("name", [*NAMES, ""])
    def test_help_shows_them_within_the_width(self, name, width, capsys, monkeypatch):
        monkeypatch.setenv("COLUMNS", str(width))
        with pytest.raises(SystemExit) as end:
            cli.main([*([name] if name else []), "--help"])
        shown = capsys.readouterr().out
        assert end.value.code == 0
        lines = shown.splitlines()
        examples = described(COMMANDS[name or "run"])[1]
        assert all(f"  {line}" in lines for line in (examples if name else examples[:1]))
        whole = [line for line in lines if line.strip() not in examples and "goodhart " not in line]
        assert max(map(len, whole)) <= width
        assert width < 80 or max(map(len, lines)) <= 110, "an example is a line, to be copied"
        assert not BOXES.search(shown)
        assert "\x1b" not in shown

    def test_a_word_that_is_no_command_is_told_what_is_near(self, capsys):
        with pytest.raises(SystemExit) as end:
            cli.main(["staus"])
        assert end.value.code == 2
        assert capsys.readouterr().err == "error: there is no command 'staus'; did you mean 'status'?\n"


class TestTerminal:
    """Without one there are no escape sequences and no boxes, and a row is a line."""

    def commands(self, root, pairs):
        return {
            "list": ("list",),
            "methods": ("list", "methods"),
            "method": ("list", "methods", "nash-md"),
            "data": ("data", str(pairs)),
            "status": ("status", "smoke", "precision=float32", "--root", str(root / "none")),
        }

    @pytest.mark.parametrize("name", ["list", "methods", "method", "data", "status"])
    def test_pipes_and_no_color_are_plain(self, name, root, pairs, capfd, monkeypatch):
        command = self.commands(root, pairs)[name]
        piped = said(capfd, *command)
        assert piped.returncode == 0, piped.stderr
        assert not BOXES.search(piped.stdout)
        assert "\x1b" not in piped.stdout
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("NO_COLOR", "1")
        assert "\x1b" not in said(capfd, *command).stdout

    def test_the_check_sees_bold_letters(self, capfd, monkeypatch):
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.delenv("NO_COLOR", raising=False)
        assert "\x1b[1m" in said(capfd, "list").stdout

    @pytest.mark.parametrize("what", [(), ("methods",), ("methods", "nash-md")])
    @pytest.mark.parametrize("width", [None, 80, 60, 40])
    def test_lists_fit(self, what, width, capfd, monkeypatch):
        if width:
            monkeypatch.setenv("COLUMNS", str(width))
        shown = said(capfd, "list", *what).stdout
        assert max(map(len, shown.splitlines())) <= (width or 80)

    def test_a_row_is_a_line_in_a_pipe_and_folds_in_a_narrow_terminal(self, cells, capfd, monkeypatch):
        root, every = cells
        wide = said(capfd, "status", "s", "--root", str(root)).stdout.splitlines()
        assert [line.split()[:2] for line in wide[1:5]] == [[state, cell.id] for state, cell in every.items()]
        for width in (60, 40):
            monkeypatch.setenv("COLUMNS", str(width))
            shown = said(capfd, "status", "s", "--root", str(root)).stdout
            assert max(len(line.rstrip()) for line in shown.splitlines()) <= width
            assert all(cell.id in shown for cell in every.values()), "an id is copied"


def printed(grid, width, whole=frozenset()):
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(TerminalGrid(grid, whole))
    return capture.get()


class TestGrid:
    GRID = Grid("title", ("arm", "win rate", "note"), (("on", "0.5 [0.4, 0.6]", "a b c"), ("off", "0.4", "–")))

    def test_it_is_columns_where_the_words_have_room(self):
        assert printed(self.GRID, 40).splitlines()[2].rstrip() == "on   0.5 [0.4, 0.6]  a b c"

    def test_else_each_row_is_a_block_and_no_number_is_cut(self):
        shown = " ".join(printed(self.GRID, 16).split())
        assert shown == "title on win rate 0.5 [0.4, 0.6] note a b c off win rate 0.4"

    def test_names_are_no_markup_and_no_escapes(self):
        shown = printed(Grid("", ("a",), (("[red]x[/red] \x1b[2J",),)), 80)
        assert r"[red]x[/red] \x1b[2J" in shown


def test_paragraphs_put_a_meaning_below_its_name_where_there_is_no_room():
    assert paragraphs({"name": "one two"}, 80) == ["name  one two"]
    assert paragraphs({"name": "one two " * 4}, 34, indent=2)[:2] == ["  name", "      one two one two one two one"]
    assert paragraphs({"a long name of many letters": "one two"}, 40) == ["a long name of many letters", "    one two"]


def test_text_is_as_wide_as_the_terminal_or_a_page(monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    assert output.page_width(output.console()) == 80
    monkeypatch.setenv("COLUMNS", "50")
    assert output.page_width(output.console()) == 50
