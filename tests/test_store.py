"""Cells are complete or absent, checked when opened, and made by one process at a time."""

import errno
import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from goodhart.cells import digest, work
from goodhart.cells.cell import Cell, closure
from goodhart.cells.make import make
from goodhart.cells.registry import RECIPES
from goodhart.cells.store import Store, write_atomically
from goodhart.errors import GoodhartError


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


class Made:
    """Stands in for a recipe: what it does is done in this process."""

    version = 1

    def __init__(self, function):
        self.function = function

    def load(self):
        return self.function


def recipe(monkeypatch, kind, function):
    monkeypatch.setitem(RECIPES, kind, Made(function))
    monkeypatch.setattr("goodhart.cells.cell.edited", lambda kind: "")


def finished(store, cell="kind-abc", text="hello"):
    folder = store.partial(cell)
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "file.txt").write_text(text)
    (folder / "state").mkdir()
    (folder / "state" / "resume.pt").write_text("x")
    store.finish(cell, {"id": cell, "result": {"n": 1}})
    return store.folder(cell)


def test_a_finished_cell_opens_and_keeps_no_state(store):
    folder = finished(store)
    assert store.has("kind-abc")
    assert store.open("kind-abc") == folder
    assert store.record("kind-abc")["result"] == {"n": 1}
    assert not (folder / "state").exists()
    assert not store.partial("kind-abc").exists()


@pytest.mark.parametrize("name", ["deep/file.txt", "cell.json"])
@pytest.mark.parametrize("damage", [lambda p: p.write_text(p.read_text()[:-1]), lambda p: p.unlink()])
def test_a_truncated_or_missing_file_is_named(store, name, damage):
    folder = finished(store)
    damage(folder / name)
    with pytest.raises(GoodhartError, match=name.split("/")[-1]) as found:
        store.open("kind-abc")
    assert folder.name in found.value.remedy
    assert "--repair" in found.value.remedy


def test_an_edit_of_the_same_length_is_found(store):
    folder = finished(store)
    (folder / "deep" / "file.txt").write_text("jello")
    with pytest.raises(GoodhartError, match=r"file\.txt"):
        store.open("kind-abc")


def test_a_file_is_hashed_once_until_it_changes_however_often_its_cell_is_opened(store, monkeypatch):
    folder = finished(store)
    digest._KNOWN.clear()
    read = []
    original = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda file, kind: read.append(file.name) or original(file, kind))
    for _ in range(3):
        store.open("kind-abc")
        Store(store.root).open("kind-abc")
    assert [Path(name).name for name in read] == ["file.txt"]
    (folder / "deep" / "file.txt").write_text("hello")  # the same bytes, but who knows
    store.open("kind-abc")
    assert len(read) == 2
    (folder / "deep" / "file.txt").write_text("jello")
    os.utime(folder / "deep" / "file.txt", ns=(0, 0))  # an old date hides no change
    with pytest.raises(GoodhartError):
        store.open("kind-abc")


def test_weights_are_hashed_piece_by_piece(tmp_path, monkeypatch):
    from goodhart.models.checkpoint import find

    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"x" * 100)
    before = find(str(tmp_path)).digest

    def whole(path):
        raise AssertionError(f"{path} is read into memory as a whole")

    digest._KNOWN.clear()
    monkeypatch.setattr(Path, "read_bytes", whole)
    assert find(str(tmp_path)).digest == before


def test_status_believes_what_has_not_changed_and_thorough_looks_at_all(store):
    folder = finished(store)
    assert (store.state("kind-abc"), store.state("nothing")) == ("done", "missing")
    store.partial("begun").mkdir(parents=True)
    assert store.state("begun") == "begun"
    record = json.loads((folder / "cell.json").read_text())
    record["files"]["deep/file.txt"][1] = "0" * 64  # as if the disk had changed what it holds, without a write
    text = json.dumps(record, indent=1, sort_keys=True)
    (folder / "cell.json").write_text(text)
    (folder / "DONE").write_text(hashlib.sha256(text.encode()).hexdigest())
    assert store.state("kind-abc") == "done"
    assert store.state("kind-abc", thorough=True) == "damaged"
    assert store.faults("kind-abc") == [folder / "deep" / "file.txt"]


def test_status_does_not_believe_a_file_of_another_size_however_old_it_is(store):
    folder = finished(store)
    record = json.loads((folder / "cell.json").read_text())
    record["files"]["deep/file.txt"][0] += 1  # as if the disk had lost the file's end, without a write
    text = json.dumps(record, indent=1, sort_keys=True)
    (folder / "cell.json").write_text(text)
    (folder / "DONE").write_text(hashlib.sha256(text.encode()).hexdigest())
    assert store.state("kind-abc") == "damaged"


def test_the_record_of_a_damaged_cell_is_an_error(store):
    folder = finished(store)
    (folder / "cell.json").write_text("{}")
    with pytest.raises(GoodhartError, match=r"cell\.json is missing or is not what was written"):
        store.record("kind-abc")


def test_a_disk_that_fails_is_not_taken_for_a_damaged_cell(store, monkeypatch):
    def fail(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError, match="Input/output error"):
        finished(store)


def test_status_reads_a_file_that_was_written_after_its_cell_was_finished(store):
    folder = finished(store)
    time.sleep(0.05)  # a file system's clock may stand still for some milliseconds
    (folder / "deep" / "file.txt").write_text("hallo")  # of the same size
    assert store.state("kind-abc") == "damaged"
    assert store.faults("kind-abc", thorough=False) == [folder / "deep" / "file.txt"]
    (folder / "deep" / "file.txt").write_text("hello")
    assert store.state("kind-abc") == "done"


def test_a_family_has_its_finished_cells_alone(store):
    assert store.family("kin") == []
    for cell in ("kind-b", "kind-a"):
        finished(store, cell)
        store.join("kin", cell)
    store.join("kin", "kind-unfinished")
    store.join("kin", "kind-a")
    assert store.family("kin") == ["kind-a", "kind-b"]
    assert store.family("other") == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda p: p.unlink(),
        lambda p: p.write_bytes(b"\xff" * 64),
        lambda p: p.write_text(""),
        lambda p: p.write_text(p.read_text()[:-1]),
        lambda p: p.write_text(p.read_text() * 2),
    ],
)
def test_a_cell_without_its_seal_is_damaged_and_not_overwritten(store, damage):
    folder = finished(store)
    damage(folder / "DONE")
    assert store.state("kind-abc") == "damaged"
    with pytest.raises(GoodhartError, match="DONE"):
        store.open("kind-abc")
    store.partial("kind-abc").mkdir()
    with pytest.raises(GoodhartError, match="--repair"):
        store.finish("kind-abc", {"id": "kind-abc"})
    store.discard("kind-abc")
    assert not folder.exists()
    assert [path.name for path in (store.root / "cells").iterdir()] == ["kind-abc.partial"]
    store.finish("kind-abc", {"id": "kind-abc"})
    assert store.open("kind-abc") == folder


def test_what_is_not_there_is_taken_away_without_a_word(store):
    """As when two processes take the same damaged cell away."""
    store.discard("kind-abc")
    finished(store)
    store.discard("kind-abc")
    store.discard("kind-abc")
    assert store.state("kind-abc") == "missing"
    assert list((store.root / "cells").iterdir()) == []


def test_a_finished_cell_lists_its_own_files_alone_and_keeps_no_progress(store):
    partial = store.partial("k")
    partial.mkdir(parents=True)
    for name in ("cell.json", "DONE", "progress.json", "table"):
        (partial / name).write_text("left by a process that was killed")
    store.finish("k", {"id": "k"})
    assert list(store.record("k")["files"]) == ["table"]
    assert sorted(path.name for path in store.folder("k").iterdir()) == ["DONE", "cell.json", "table"]


@pytest.mark.parametrize("written", [b"", b"0" * 20, b"0" * 64])
def test_a_cell_that_the_disk_had_no_room_to_finish_is_none_that_is_done_and_is_made_by_the_next_try(store, written):
    """The disk was full while `DONE` was written, or just before the cell got its name."""
    finished(store)
    partial = store.partial("kind-def")
    partial.mkdir()
    (partial / "cell.json").write_text('{"id": "kind-def", "files": {}}')
    (partial / "DONE").write_bytes(written)
    assert store.finished() == ["kind-abc"]
    assert store.state("kind-def") == "begun"
    store.begin("kind-def")
    store.finish("kind-def", {"id": "kind-def"})
    assert store.finished() == ["kind-abc", "kind-def"]
    assert store.open("kind-def") == store.folder("kind-def")


def test_a_cell_that_is_being_taken_away_is_not_done(store, monkeypatch):
    finished(store)
    monkeypatch.setattr("shutil.rmtree", lambda *_, **__: None)
    store.discard("kind-abc")
    assert list((store.root / "cells").glob("*/DONE"))
    assert store.finished() == []


def test_everything_is_on_the_disk_before_the_cell_has_its_name(store, monkeypatch):
    done = []
    original = os.fsync
    paths = {}
    monkeypatch.setattr(
        os, "fsync", lambda handle: done.append(Path(f"/proc/self/fd/{handle}").readlink()) or original(handle)
    )
    rename = Path.rename
    monkeypatch.setattr(Path, "rename", lambda self, to: paths.setdefault(self.name, list(done)) and rename(self, to))
    finished(store)
    assert {path.name for path in paths["kind-abc.partial"]} == {"file.txt", "cell.json", "DONE"}


@pytest.mark.parametrize("error", [OSError(errno.ENOSYS, "Function not implemented"), NotImplementedError()])
def test_a_file_system_without_locks_is_told(error, store, monkeypatch):
    import filelock

    def refuse(*_):
        raise error

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    with pytest.raises(GoodhartError, match="no file locks") as found, store.lock("c"):
        pass
    assert "--root" in found.value.remedy


def test_a_lock_that_may_not_be_written_is_not_taken_for_a_file_system_without_locks(store, monkeypatch):
    import filelock

    def refuse(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    with pytest.raises(PermissionError), store.lock("c"):
        pass


def test_where_the_system_has_no_locks_a_file_that_stands_for_one_is_none(store, monkeypatch):
    """Such a file would outlive the process that made it."""
    import fcntl

    def refuse(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(GoodhartError, match="no file locks"), store.lock("c"):
        pass


def test_a_lock_is_held_once_and_given_back(store):
    with store.lock("c") as mine:
        assert mine
        with store.lock("c") as other:
            assert not other
    with store.lock("c") as again:
        assert again


def test_for_a_lock_that_another_has_nothing_waits(store, monkeypatch):
    def wait(seconds):
        raise AssertionError(f"it waits for {seconds} s")

    with store.lock("c"):
        monkeypatch.setattr(time, "sleep", wait)
        with store.lock("c") as other:
            assert not other


def test_a_lock_is_given_back_at_the_end_of_its_block_though_something_still_holds_it(store, monkeypatch):
    """As a traceback or a debugger may."""
    import filelock

    kept = []

    class Kept(filelock.FileLock):
        def __init__(self, *args, **settings):
            super().__init__(*args, **settings)
            kept.append(self)

    monkeypatch.setattr(filelock, "FileLock", Kept)
    for _ in range(2):
        with store.lock("c") as mine:
            assert mine
    assert [lock.is_locked for lock in kept] == [False, False]


def test_a_lock_whose_owners_name_is_gone_is_given_back_without_a_word(store):
    with store.lock("c") as mine:
        assert mine
        (store.root / "locks" / "c.json").unlink()
    with store.lock("c") as again:
        assert again


def test_a_lock_whose_owner_cannot_be_written_says_why_and_is_given_back(store, monkeypatch):
    def full(path, text):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("goodhart.cells.store.write_atomically", full)
        with pytest.raises(OSError, match="No space left"), store.lock("c"):
            pass
    with store.lock("c") as mine:
        assert mine


HOLD = (
    "import os,sys\nfrom pathlib import Path\nfrom goodhart.cells.store import Store\n"
    "lock = Store(Path(sys.argv[1])).lock('c')\nprint(lock.__enter__(), flush=True)\nsys.stdin.read()\n"
)
"""Takes the lock and keeps it until it is killed."""


def test_a_lock_lives_as_long_as_its_process_and_no_longer(store):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(store.root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "True\n"
        assert store.holder("c").startswith(f"process {other.pid} on ")
        for file in (store.root / "locks").iterdir():
            os.utime(file, (0, 0))  # no age makes a lock stale
        with store.lock("c") as mine:
            assert not mine
        other.kill()
        other.wait()
        with store.lock("c") as mine:
            assert mine


def test_of_two_that_find_a_dead_process_lock_only_one_gets_it(store):
    """What went wrong with locks that were judged stale: the second renamed the first's living lock away."""
    (store.root / "locks").mkdir(parents=True)
    (store.root / "locks" / "c.lock").write_text("")
    (store.root / "locks" / "c.json").write_text(json.dumps({"host": "elsewhere", "pid": 1}))
    with store.lock("c") as first, store.lock("c") as second:
        assert (first, second) == (True, False)


def test_studies_lie_beside_the_cells(store):
    assert store.study("mine") == store.root / "studies" / "mine"


def test_writing_atomically_leaves_one_file(tmp_path):
    write_atomically(tmp_path / "a.json", "1")
    write_atomically(tmp_path / "a.json", "2")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a.json", "2")]


def test_an_address_depends_on_kind_settings_and_inputs_but_not_on_labels():
    base = Cell("a", {"x": 1})
    cells = [
        Cell("b", {"x": 1}, {"in": base}),
        Cell("b", {"x": 2}, {"in": base}),
        Cell("b", {"x": 1}, {"in": Cell("a", {"x": 2})}),
        Cell("c", {"x": 1}, {"in": base}),
        Cell("b", {"x": 1}, {"other": base}),
    ]
    assert len({cell.id for cell in cells}) == len(cells)
    assert Cell("b", {"x": 1}, {"in": Cell("a", {"x": 1}, label="z")}, "name").id == cells[0].id


def test_the_closure_has_each_cell_once_and_inputs_first():
    a = Cell("a", {})
    b, c = Cell("b", {}, {"a": a}), Cell("c", {}, {"a": Cell("a", {})})
    order = [cell.id for cell in closure([Cell("d", {}, {"b": b, "c": c}), c])]
    assert len(order) == 4
    assert order.index(a.id) < min(order.index(b.id), order.index(c.id))


def test_a_full_disk_is_one_line_and_loses_nothing(store, monkeypatch):
    kept = finished(store, "kept-1")

    def full(work):
        raise OSError(errno.ENOSPC, "No space left on device")

    recipe(monkeypatch, "full", full)
    found = work.work(str(store.root), Cell("full", {}, label="the big one"), 1)
    assert isinstance(found, work.Failure)
    assert found.everywhere
    assert "disk is full while making the big one" in str(found)
    assert "\n" not in str(found)
    assert store.open("kept-1") == kept


def test_a_recipe_that_fails_leaves_no_finished_cell_and_frees_its_lock(store, monkeypatch):
    def broken(work):
        (work.folder / "half.txt").write_text("half")
        raise GoodhartError("it broke", "mend it")

    recipe(monkeypatch, "broken", broken)
    cell = Cell("broken", {})
    with pytest.raises(GoodhartError, match="it broke"):
        make(store, cell)
    assert not store.has(cell.id)
    recipe(monkeypatch, "broken", lambda work: {"done": True})
    assert make(store, cell)
    assert store.record(cell.id)["result"] == {"done": True}


def test_errors_survive_the_way_between_processes():
    import pickle

    error = pickle.loads(pickle.dumps(GoodhartError("problem", "remedy")))
    assert str(error) == "problem; remedy"


def test_why_a_cell_failed_is_kept_until_it_is_begun_again(store):
    assert store.failure("k") is None
    for reason in ("first", "second"):
        store.fail("k", reason, "mend it")
        assert store.failure("k") == {"problem": reason, "remedy": "mend it"}
    assert store.begin("k") == store.partial("k")
    assert store.failure("k") is None
    store.finish("k", {"id": "k"})
    assert store.record("k")["files"] == {}


def test_who_held_a_lock_is_forgotten_with_it_and_a_new_root_has_locks(tmp_path):
    store = Store(tmp_path / "new" / "root")
    with store.lock("c") as mine:
        assert mine
        assert store.holder("c").startswith(f"process {os.getpid()} on ")
    assert store.holder("c") == ""


def test_what_cannot_be_written_is_an_error_and_leaves_nothing(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "no such folder" / "a.json", "1")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="directory"):
        write_atomically(tmp_path / "folder", "1")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
