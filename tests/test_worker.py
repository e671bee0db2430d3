"""A worker's process: what it prints goes to the log, it is replaced if it dies, and it ends when it is told."""

import errno
import multiprocessing
import os
import signal
import sys
import threading
import time
from multiprocessing import forkserver

import pyarrow
import pytest

from goodhart.cells import work, worker
from goodhart.cells.work import Failure
from goodhart.cells.worker import Worker, finished, started
from goodhart.errors import GoodhartError

BEGINNING = worker._start


def light_start(*_):
    """What a worker does first, without PyTorch."""


def light_server(*modules):
    """Processes are forks of one that has imported little."""
    forkserver._forkserver._stop()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*modules])
    return context


@pytest.fixture(scope="module", autouse=True)
def server():
    """The server of these tests alone."""
    yield light_server("goodhart.cells.worker", "pytest")
    forkserver._forkserver._stop()


@pytest.fixture(autouse=True)
def light(monkeypatch, server):
    monkeypatch.setattr(worker, "_start", light_start)
    monkeypatch.setattr(worker, "_context", lambda: server)


def asked(each, work, *arguments):
    each.submit("a question", work, *arguments)
    return each.result()


def wait_for(path):
    while not path.exists():
        time.sleep(0.02)


def stay(seconds):
    threading.Thread(target=time.sleep, args=(seconds,)).start()


def test_what_a_worker_prints_goes_to_its_log_and_the_command_keeps_the_terminal(tmp_path, capfd):
    for name in ("first", "second"):  # one server forks the workers of both
        with started(1, "default", log=tmp_path / name) as (each,):
            assert asked(each, os.write, 2, f"words of the {name}\n".encode()) == 19 + (name == "second")
    os.write(2, b"the command's own\n")
    assert capfd.readouterr().err == "the command's own\n"
    assert (tmp_path / "first").read_text() == "words of the first\n"
    assert (tmp_path / "second").read_text() == "words of the second\n"


def test_without_a_log_the_terminal_has_what_a_worker_prints(capfd):
    light_server("goodhart.cells.worker", "pytest")  # the one that is there has the terminal of the test before
    with started(1, "default") as (each,):
        asked(each, os.write, 2, b"a worker's\n")
    assert "a worker's" in capfd.readouterr().err


def test_a_process_that_is_killed_gives_nothing_and_the_next_question_gets_a_new_one():
    with started(1, "default") as (each,):
        first = asked(each, os.getpid)
        assert asked(each, os.getpid) == first
        assert asked(each, signal.raise_signal, signal.SIGKILL) is None
        second = asked(each, os.getpid)
        assert second != first
        os.kill(second, signal.SIGKILL)
        finished([each], 60.0)
        assert asked(each, os.getpid) not in (first, second)


def test_what_a_question_raises_is_a_failure_that_names_it():
    with started(1, "default") as (each,):
        found = asked(each, divmod, 1, 0)
        assert isinstance(found, Failure)
        assert found.problem.startswith("a question: ZeroDivisionError")
        assert "Traceback" in found.trace
        assert asked(each, abs, -3) == 3


def test_the_first_of_several_that_ends_is_told_and_none_is_waited_for_too_long(tmp_path):
    with started(2, "default") as (slow, quick):
        slow.submit("slow", wait_for, tmp_path / "end")
        quick.submit("quick", abs, -1)
        assert finished([slow, quick], 60.0) == [quick]
        assert quick.result() == 1
        assert finished([slow], 0.01) == []
        (tmp_path / "end").touch()
        assert finished([slow], 60.0) == [slow]


def test_a_process_that_does_not_end_when_it_is_told_is_killed(monkeypatch):
    monkeypatch.setattr(worker, "END_SECONDS", 0.2)
    each = Worker("default")
    asked(each, stay, 60)
    process = each.process.pid
    began = time.monotonic()
    each.close()
    assert time.monotonic() - began < 30
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_a_command_that_is_stopped_leaves_no_process_and_its_environment_as_it_was():
    before, processes = dict(os.environ), []

    def interrupted():
        with started(1, "default") as (each,):
            each.submit("long", time.sleep, 60)
            processes.append(each.process.pid)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with pytest.raises(ProcessLookupError):
        os.kill(processes[0], 0)
    assert dict(os.environ) == before


def test_threads_are_checked_together_and_those_that_began_are_ended(monkeypatch):
    original, begun = threading.Thread.start, []

    def start(thread):
        if len(begun) == 2:
            raise RuntimeError("can't start new thread")
        original(thread)
        begun.append(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        worker._check_threads(3)
    assert len(begun) == 2
    assert not any(thread.is_alive() for thread in begun)


def test_a_process_without_memory_to_begin_says_so_and_begins_no_thread(monkeypatch):
    """A thread that gets its stack and no more ends before it says that it has begun, and is waited for for ever."""

    def refuse(size):
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(worker, "check_room", refuse)
    monkeypatch.setattr(threading.Thread, "start", lambda thread: pytest.fail("a thread was begun"))
    monkeypatch.setattr(signal, "signal", lambda number, action: None)
    found = worker._fault_of(BEGINNING, (os.getpid(), 0.0, dict(os.environ), "default", ()))
    assert found.everywhere
    assert found.problem.startswith("not enough memory for a process that makes cells (OSError: [Errno 12]")


def test_without_memory_for_the_library_of_filters_a_process_says_so(monkeypatch):
    """Arrow would say that it does not support filters."""

    class Unmapped:
        def find_spec(self, name, path=None, target=None):
            if name == "pyarrow._dataset":
                raise ImportError("libarrow_dataset.so: failed to map segment from shared object")

    for name in [name for name in sys.modules if name in ("pyarrow.dataset", "pyarrow._dataset")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(pyarrow, "dataset", raising=False)
    monkeypatch.delattr(pyarrow, "_dataset", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Unmapped(), *sys.meta_path])
    found = worker._fault_of(worker._begin_reading_threads, ())
    assert found.problem.startswith("not enough memory for a process that makes cells")
    assert "failed to map segment" in found.problem


def test_a_process_that_makes_cells_reads_a_model_without_threads(monkeypatch, tmp_path):
    """The library would wait for ever for one that has no memory to begin."""
    from goodhart.models.checkpoint import load_model  # the processes of other tests import this file
    from tiny_models import llama

    llama(layers=1).save_pretrained(tmp_path)
    begun, original = [], threading.Thread.start
    monkeypatch.setattr(threading.Thread, "start", lambda thread: begun.append(thread) or original(thread))
    monkeypatch.delenv("HF_DEACTIVATE_ASYNC_LOAD", raising=False)
    load_model(tmp_path)
    assert begun, "the library reads without threads of itself: the setting can go"
    begun.clear()
    for name, value in work.ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    load_model(tmp_path)
    assert not begun


def test_a_server_that_dies_at_its_beginning_is_one_error_and_its_traceback_is_in_the_log(tmp_path, monkeypatch, capfd):
    (tmp_path / "no_memory_to_begin.py").write_text("raise MemoryError('while importing')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    broken = light_server("no_memory_to_begin")
    monkeypatch.setattr(worker, "_context", lambda: broken)
    with (
        pytest.raises(GoodhartError, match=r"not enough memory for another process.*--workers"),
        started(1, "default", log=tmp_path / "log.txt") as (each,),
    ):
        each.submit("a question", os.getpid)
    assert "MemoryError: while importing" in (tmp_path / "log.txt").read_text()
    assert capfd.readouterr().err == ""
