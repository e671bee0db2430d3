"""The campaign's scripts work on a few trials each, and find what is there to be found."""

import json
import os
import random
import shutil
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from campaign import REPOSITORY, damage, disk, flips, locks, memory, page
from campaign.command import Command
from campaign.input_cases import Sandbox, arguments_of, fault_of, obey
from campaign.outcome import Outcome, Tally, load
from campaign.spiced_study import payloads, rotations, write_spiced

from goodhart.cells.store import Store
from micro_study import preference_lines, write_model


@pytest.fixture
def finished(tmp_path):
    """A root with three finished cells, as the store writes them."""
    store = Store(tmp_path / "root")
    for number in range(3):
        folder = store.partial(f"kind-{number}")
        (folder / "deep").mkdir(parents=True)
        (folder / "deep" / "file.txt").write_text(f"hello {number}")
        store.finish(f"kind-{number}", {"id": f"kind-{number}"})
    return store.root


def test_every_damage_is_found_by_the_store_and_taken_back(finished):
    before, draw = damage.digests(finished), random.Random(1)
    files = flips.cell_files(finished)
    assert len(files) == 9
    kinds = set()
    for _ in range(30):
        one = damage.drawn(files, draw)
        kinds.add(one.kind)
        assert flips.used(finished, one) == "", one.words
        assert damage.digests(finished) == before, one.words
    assert kinds == {"flip", "flip with its old time", "cut", "delete"}


def test_what_a_full_disk_leaves_of_a_cell_is_no_broken_one(finished):
    """`DONE` is there before the cell has its name, and a full disk leaves it empty."""
    store = Store(finished)
    store.folder("kind-1").rename(store.partial("kind-1"))
    (store.partial("kind-1") / "DONE").write_text("")
    assert disk.broken_cells(finished) == ""
    (store.folder("kind-2") / "DONE").write_text("")
    assert "kind-2/DONE" in disk.broken_cells(finished)


def test_a_store_that_believes_damage_is_found_out(finished, monkeypatch):
    monkeypatch.setattr(Store, "open", Store.folder)
    one = damage.drawn(flips.cell_files(finished), random.Random(2))
    assert flips.used(finished, one) == "believed by a new process; believed by a process that had opened it"


def test_a_lock_that_two_can_hold_is_found_out(tmp_path, monkeypatch):
    @contextmanager
    def nobody_waits(store, cell):
        yield True

    monkeypatch.setattr(Store, "lock", nobody_waits)
    monkeypatch.setattr(locks, "QUICK", (6, 0.5))
    outcome = locks.run(tmp_path, quick=True)
    assert outcome.faults
    assert " and " in outcome.faults[0]


@pytest.fixture(scope="module")
def box(tmp_path_factory):
    """A place for inputs beside good data, a good model and a study file that names them."""
    folder = tmp_path_factory.mktemp("box")
    lines = preference_lines(6)
    (folder / "preferences.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_model(folder / "model", [" ".join(line.values()) for line in lines])
    study = {"name": "micro", "task": {"kind": "preferences", "data": str(folder / "preferences.jsonl")}, "seeds": [0]}
    (folder / "study.yaml").write_text(json.dumps(study))
    (folder / "box").mkdir()
    return Sandbox(folder / "box", folder / "study.yaml", folder / "box" / "root")


def written(box):
    files = {p: p.read_bytes() for p in box.given.rglob("*") if p.is_file() and not p.is_symlink()}
    shutil.rmtree(box.given)
    return files


def test_an_input_is_a_function_of_its_number(box):
    kinds = set()
    for number in (*range(12), 13, 14, 16, 17, 18, 19, 33, 58):
        once = arguments_of(number, box), written(box)
        again = arguments_of(number, box), written(box)
        assert once == again, number
        kinds.add(once[0][0])
    assert kinds == {"data", "study", "override", "model"}


def test_good_data_are_read_and_bad_ones_refused_in_one_line(box):
    good = obey(["data", str(box.good)], box)
    assert (good.code, fault_of(good)) == (0, "")
    assert "6" in good.out
    bad = obey(["data", str(box.good.with_name("nothing.jsonl"))], box)
    assert (bad.code, fault_of(bad)) == (1, "")


def test_a_traceback_an_escape_and_two_lines_are_faults(box, monkeypatch):
    from goodhart import arguments, commands

    def ends(error):
        def show(*_, **__):
            if isinstance(error, Exception):
                raise error
            print(error)

        monkeypatch.setitem(commands.HANDLERS, arguments.Data, show)
        return fault_of(obey(["data", "x"], box))

    assert ends("plain") == ""
    assert ends(ValueError("no")).startswith("ValueError: no in test_campaign.py")
    assert "control character" in ends("\x1b[31m")


def test_hostile_texts_take_every_place_in_turn(tmp_path):
    texts = payloads(1)
    (order,) = rotations(1, 1)
    record = (write_spiced(tmp_path / "study", order) / "record.json").read_text()
    spoken = json.dumps(json.loads(record), ensure_ascii=False)
    for text in texts:
        assert json.dumps(text, ensure_ascii=False)[1:-1] in spoken, text


def test_the_page_shows_what_the_parts_left(tmp_path):
    tally = Tally()
    tally.add("a kill", "went on")
    tally.add("a kill", "ended otherwise", "<b>no</b> | table")
    saved = Outcome("kills", "Killed.", tally.lines, tuple(tally.faults), 60.0, False, "abc123").save(tmp_path)
    assert load(saved).lines == tally.lines
    text = page.write(tmp_path, tmp_path / "reliability.md").read_text()
    assert "| a kill | 2 | 1 | went on (1); ended otherwise (1) |" in text
    assert "- a kill: &lt;b>no&lt;/b> \\| table" in text
    assert "| [kills](#kills) | 2 | 1 | 1.0 | abc123 |" in text


def test_the_page_keeps_what_it_says_of_parts_that_left_nothing(tmp_path):
    copied = Path(shutil.copy(REPOSITORY / "docs" / "reliability.md", tmp_path))
    written = page.write(tmp_path / "nothing", copied)
    assert written.read_text() == (REPOSITORY / "docs" / "reliability.md").read_text()
    tally = Tally()
    tally.add("a lock", "held")
    Outcome("locks", "Locked.", tally.lines, (), 60.0, True, "abc123").save(tmp_path)
    before, after = written.read_text(), page.write(tmp_path, written).read_text()
    assert "| [locks](#locks) | 1 | 0 | 1.0 | abc123 (quick) |" in after
    assert after[after.index("## kills") :] == before[before.index("## kills") :]
    assert after.count("## locks") == 1


@pytest.mark.parametrize(
    ("does", "for_ever"),
    [("import time; time.sleep(60)", True), ("import time\nwhile time.process_time() < 1: pass", False)],
    ids=["waits", "works"],
)
def test_a_command_that_only_waits_goes_on_for_ever_and_one_that_is_slow_does_not(
    tmp_path, monkeypatch, does, for_ever
):
    monkeypatch.setattr(memory, "IDLE", 0.6)
    monkeypatch.setattr(memory, "LOOK", 0.02)
    process = os.posix_spawn(sys.executable, [sys.executable, "-ISc", does], os.environ, setsid=True)
    command = Command(process, tmp_path / "out", tmp_path / "err")
    assert memory.goes_on_for_ever(command) == for_ever
    command.end()


def test_more_than_one_line_and_a_line_about_something_else_are_no_word_of_memory(tmp_path):
    def other_words(said):
        (tmp_path / "err").write_text(said)
        return memory._other_words(Command(0, tmp_path / "out", tmp_path / "err"))

    assert other_words("error: not enough memory; free some\n") == ""
    assert "2 lines" in other_words("thread panicked\nerror: not enough memory\n")
    assert "no such file" in other_words("error: no such file\n")
    assert "0 lines" in other_words("")
