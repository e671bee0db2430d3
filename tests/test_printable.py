"""Names and labels of strangers: shown as they are, never obeyed, by everything that writes to a terminal."""

import io
import resource
import sys
from types import SimpleNamespace

import pytest
from rich.console import Console

from goodhart import arguments, cli, commands
from goodhart.cells.cell import Cell
from goodhart.cells.executor import Progress
from goodhart.cells.record import peak_bytes
from goodhart.cells.screen import Screen
from goodhart.cells.store import Store
from goodhart.errors import GoodhartError
from goodhart.models.presets import PRESETS
from goodhart.printable import printable
from goodhart.report import terminal
from goodhart.report.findings import analyse
from goodhart.studies import session, spec
from synthetic_study import Made, make_study

HOSTILE = "[red]arm[/red] [/nothing] :smile: \x1b[2J\x1b]0;title\x07\x9b31m"
SHOWN = r"[red]arm[/red] [/nothing] :smile: \x1b[2J\x1b]0;title\x07\x9b31m"


def test_what_a_terminal_obeys_or_cannot_show_is_spelled_out():
    assert printable(HOSTILE) == SHOWN
    assert printable("β=0.1 – Größe\n日本") == "β=0.1 – Größe\n日本"
    assert printable("a\rb\tc\u202ed\ud800") == r"a\rb\tc\u202ed\ud800"
    printable("\ud800").encode()


def test_status_and_the_list_of_a_dry_run_show_labels_as_they_are(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "160")
    cell = Cell("corpus", {}, {}, HOSTILE)
    monkeypatch.setattr(session, "planned", lambda study, *_: (study, None, [(cell, False)]))
    monkeypatch.setattr(session, "check_before", lambda *_: None)
    for room in (session, spec):
        monkeypatch.setattr(room, "read_study", lambda *_: spec.Study("s"))
    monkeypatch.setattr(session, "prospect", lambda *_, **__: session.Prospect(1, lambda _: 1.0, 1.0))
    commands.status(arguments.Status("s", root=tmp_path))
    commands.run(arguments.Run("s", root=tmp_path, workers=1, dry_run=True))
    said = capsys.readouterr().out
    assert said.count(SHOWN) == 2
    assert "\x1b[2J" not in said


@pytest.mark.parametrize("live", [False, True], ids=["lines", "screen"])
def test_the_screen_shows_labels_as_they_are(tmp_path, live):
    store, out = Store(tmp_path), io.StringIO()
    first, second = (Cell("run", {"n": n}, {}, HOSTILE) for n in range(2))
    folder = store.partial(first.id)
    folder.mkdir(parents=True)
    store.finish(first.id, {"seconds": 1.0, "threads": 1, "result": {}, "spec": {}})
    store.partial(second.id).mkdir(parents=True)
    (store.partial(second.id) / "progress.json").write_text('{"done": 1, "total": 2, "note": "\\u001b[2Jnote"}')
    console = Console(file=out, force_terminal=live, width=200, markup=False, emoji=False, color_system=None)
    with Screen(store, [first, second], 1, console, lambda _: 1.0) as screen:
        screen(Progress(2, {second.id: (second, 0.0)}, [first]), first)
    said = out.getvalue()
    assert SHOWN in said
    assert r"\x1b[2Jnote" in said or not live
    assert "\x1b[2J" not in said


def test_the_table_at_the_end_shows_names_as_they_are(tmp_path):
    folder = make_study(tmp_path / "study", Made(arms=(HOSTILE, "offline")))
    out = io.StringIO()
    Console(file=out, width=300, color_system=None).print(terminal.terminal_table(analyse(folder)))
    assert SHOWN in out.getvalue()
    assert "\x1b" not in out.getvalue()


def test_an_error_shows_names_as_they_are(monkeypatch, capsys):
    def fail(*_, **__):
        raise GoodhartError(f"there is no arm {HOSTILE}", "name another")

    monkeypatch.setitem(commands.HANDLERS, arguments.List, fail)
    with pytest.raises(SystemExit):
        cli.main(["list"])
    assert capsys.readouterr().err == f"error: there is no arm {SHOWN}; name another\n"


@pytest.mark.parametrize(
    "fault", [MemoryError(), RuntimeError("can't start new thread"), OSError(12, "Cannot allocate memory")]
)
def test_no_memory_left_for_a_command_is_one_line(monkeypatch, capsys, fault):
    def fail(*_, **__):
        raise fault

    monkeypatch.setitem(commands.HANDLERS, arguments.List, fail)
    with pytest.raises(SystemExit) as end:
        cli.main(["list"])
    assert end.value.code == 1
    assert capsys.readouterr().err == "error: not enough memory for this command; lower --workers, or free some\n"


def test_the_help_of_pretrain_names_every_preset(capsys):
    with pytest.raises(SystemExit):
        cli.main(["pretrain", "--help"])
    said = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert ", ".join(PRESETS) in said
    assert "nano" in PRESETS


@pytest.mark.parametrize(("system", "unit"), [("linux", 2**10), ("darwin", 1)])
def test_peak_memory_is_in_the_unit_of_the_system(monkeypatch, system, unit):
    """`ru_maxrss` is KiB on Linux and bytes on macOS (getrusage(2) of both)."""
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(resource, "getrusage", lambda _: SimpleNamespace(ru_maxrss=3 * 2**30 // unit))
    assert peak_bytes() == 3 * 2**30
