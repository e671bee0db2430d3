"""A cell that fails fails alone; a killed process is replaced; what no cell can do ends the command."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from goodhart import cli
from goodhart.cells import work, worker
from goodhart.cells.cell import Cell
from goodhart.cells.executor import Progress, execute
from goodhart.cells.local import local
from goodhart.cells.store import Store
from goodhart.cells.work import Failure
from goodhart.errors import GoodhartError, is_out_of_memory


def light_start(*_):
    """What a worker does first, without PyTorch."""


def scripted(root: str, cell: Cell, _: int) -> bool | Failure:
    """Stands in for the making of a cell, in a process of its own."""
    store, what = Store(Path(root)), cell.settings["do"]
    marker = Path(root) / f"begun {cell.id}"
    again = marker.exists()
    marker.touch()
    time.sleep(0.2)
    if what == "die" or (what == "die once" and not again):
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "fail":
        return Failure("it broke", "mend it")
    if what == "full":
        return Failure("the disk is full", "free space", everywhere=True)
    if what == "no memory":
        raise RuntimeError("could not create a primitive")
    if what == "raise":
        raise ZeroDivisionError("by nothing")
    store.partial(cell.id).mkdir(parents=True)
    store.finish(cell.id, {"id": cell.id, "spec": cell.spec, "result": {"process": os.getpid()}})
    return True


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Execute cells with two light workers; gives the progress and what was watched."""
    monkeypatch.setattr(work, "work", scripted)
    monkeypatch.setattr(worker, "_start", light_start)

    def go(*cells: Cell, workers: int = 2) -> tuple[Progress, list[str]]:
        seen: list[str] = []
        with local(tmp_path, workers, "default") as executor:
            progress = execute(
                Store(tmp_path), list(cells), executor, lambda _, cell: seen.append(cell.label) if cell else None
            )
        return progress, seen

    return go


def cell(label: str, do: str = "make", **inputs: Cell) -> Cell:
    return Cell("corpus", {"do": do, "label": label}, inputs, label)


def test_what_does_not_read_a_failed_cell_goes_on_and_what_reads_it_is_left_out(run, tmp_path):
    bad, good = cell("bad", "fail"), cell("good")
    reader = cell("reader", bad=bad, good=good)
    last = cell("last", reader=reader)
    other = cell("other", good=good)
    progress, seen = run(bad, good, reader, last, other)
    assert {each.label for each in progress.done} == {"good", "other"}
    assert [(each.label, str(failure)) for each, failure in progress.failed.values()] == [("bad", "it broke; mend it")]
    assert {each.label for each in progress.blocked.values()} == {"reader", "last"}
    store = Store(tmp_path)
    assert store.failure(bad.id) == {"problem": "it broke", "remedy": "mend it"}
    assert store.failure(reader.id) is None
    store.begin(bad.id)
    assert store.failure(bad.id) is None, "a new try has not failed yet"
    assert sorted(seen) == ["bad", "good", "other"]


def test_the_next_call_tries_what_failed_again_and_makes_nothing_else(run, tmp_path):
    good = cell("good")
    run(good, cell("bad", "fail", good=good))
    before = (tmp_path / "cells" / good.id / "DONE").stat().st_mtime_ns
    progress, _ = run(good, cell("bad", "fail", good=good))
    assert (progress.cached, len(progress.done), len(progress.failed)) == (1, 0, 1)
    assert (tmp_path / "cells" / good.id / "DONE").stat().st_mtime_ns == before


def test_a_process_that_is_killed_once_is_replaced_and_its_siblings_live(run, tmp_path):
    sibling = cell("sibling")
    after = [cell(f"after {n}", sibling=sibling) for n in range(3)]
    progress, _ = run(cell("victim", "die once"), sibling, *after)
    assert not progress.failed
    assert len(progress.done) == 5


def test_a_process_that_is_killed_every_time_fails_its_cell_alone(run):
    progress, _ = run(cell("victim", "die"), cell("good"))
    assert [each.label for each in progress.done] == ["good"]
    ((_, failure),) = progress.failed.values()
    assert "victim: the process that made it was killed, perhaps for want of memory (2 times)" in str(failure)
    assert "--workers" in failure.remedy


def test_an_unexpected_fault_is_one_line_and_keeps_its_traceback(run):
    progress, _ = run(cell("odd", "raise"), cell("good"))
    ((_, failure),) = progress.failed.values()
    assert str(failure).startswith("odd: ZeroDivisionError: by nothing")
    assert "\n" not in str(failure)
    assert "in scripted" in failure.trace


def test_a_full_disk_begins_nothing_more_and_ends_in_its_own_error(run, tmp_path):
    slow = [cell(f"slow {n}") for n in range(4)]
    with pytest.raises(GoodhartError, match="the disk is full; free space"):
        run(cell("full", "full"), *slow)
    done = list((tmp_path / "cells").glob("*/DONE"))
    assert len(done) < 4


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("can't start new thread"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory"),
        OSError(12, "Cannot allocate memory"),
        RuntimeError("could not create a primitive"),
        ImportError("libscipy_openblas.so: failed to map segment from shared object"),
        type("PanicException", (BaseException,), {})("ThreadPoolBuildError { kind: IOError(Os { code: 11 }) }"),
    ],
)
def test_no_memory_left_is_told_from_other_faults(error):
    assert is_out_of_memory(error)
    assert not is_out_of_memory(ValueError("out of memory of old times"))
    assert not is_out_of_memory(RuntimeError("shapes do not match"))
    assert not is_out_of_memory(RuntimeError("could not create a primitive descriptor for the matmul primitive."))
    assert not is_out_of_memory(ImportError("No module named 'memory'"))


def test_an_error_that_was_raised_because_of_missing_memory_is_known():
    def raised(cause):
        try:
            try:
                raise MemoryError
            except MemoryError as error:
                raise GoodhartError("rows.parquet is not valid", "run again") from (error if cause else None)
        except GoodhartError as error:
            return error

    assert is_out_of_memory(raised(cause=True))
    assert not is_out_of_memory(raised(cause=False))


def test_no_memory_for_a_cell_is_said_and_keeps_what_the_library_said(run):
    progress, _ = run(cell("big", "no memory"), cell("good"))
    ((_, failure),) = progress.failed.values()
    assert failure.problem == "not enough memory for big (RuntimeError: could not create a primitive)"
    assert "lower batch sizes" in failure.remedy
    assert [each.label for each in progress.done] == ["good"]


def no_start(*_):
    raise MemoryError("no room")


def test_processes_that_cannot_begin_end_the_command_in_one_line(run, monkeypatch, tmp_path):
    monkeypatch.setattr(worker, "_start", no_start)
    with pytest.raises(GoodhartError, match=r"not enough memory for a process that makes cells .MemoryError: no room"):
        run(*[cell(f"good {n}") for n in range(6)])
    assert not list((tmp_path / "cells").glob("*/DONE"))


def test_a_command_needs_no_thread_to_make_cells(run, monkeypatch):
    def start(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    progress, _ = run(cell("good"), cell("other"))
    assert len(progress.done) == 2


@pytest.mark.parametrize("error", [ImportError("lib.so: failed to map segment from shared object"), MemoryError()])
def test_a_command_without_memory_ends_in_one_line(monkeypatch, capfd, error):
    def dispatch(_):
        raise error

    monkeypatch.setattr(cli, "_dispatch", dispatch)
    with pytest.raises(SystemExit) as end:
        cli.main(["list"])
    assert end.value.code == 1
    assert capfd.readouterr().err.startswith("error: not enough memory for this command; ")


def test_a_module_that_is_missing_is_no_want_of_memory(monkeypatch):
    def dispatch(_):
        raise ModuleNotFoundError("No module named 'somewhere'")

    monkeypatch.setattr(cli, "_dispatch", dispatch)
    with pytest.raises(ModuleNotFoundError):
        cli.main(["list"])
