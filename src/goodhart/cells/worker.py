"""A process that makes one cell at a time, and the pipe to it; a command has no thread for it, which could fail too."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from multiprocessing.connection import Connection, Pipe, wait
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import psutil

from goodhart.cells.registry import RECIPES
from goodhart.cells.work import ENVIRONMENT, Failure, attempt
from goodhart.compute.memory import MIB, check_room
from goodhart.compute.placement import VISIBLE
from goodhart.errors import GoodhartError, is_out_of_memory

BEGINNINGS = 2
"""How often a process is begun that cannot begin, or is dead when it is given something."""
END_SECONDS = 20.0
"""A process that has nothing to do and has not ended by then is killed."""
_READING_THREADS = 3
"""Those that Arrow begins in a worker, and one more."""
_ROOM = 64 * MIB
"""Bytes that a process takes to begin: the stacks of its threads and Arrow's libraries."""
_REMEDY = "free some, or run again with fewer --workers; the study's log has what the process said"


Groups = Sequence[Sequence[str]]
"""The names of GPUs that belong together (`goodhart.compute.placement`)."""


@dataclass(slots=True, eq=False)
class Worker:
    """A process that does one thing at a time; if it is killed, the next thing gets a new one."""

    kernels: str
    group: Sequence[str] = ()
    """The GPUs that it sees."""
    log: Path | None = None
    """Where what it prints on standard error goes; None leaves it on the terminal."""
    process: BaseProcess | None = None
    connection: Connection[Any, Any] | None = None

    def submit(self, what: str, work: Callable[..., Any], *arguments: object) -> None:
        """Begin what `result` then gives: `work(*arguments)`, in the process, which is begun if there is none.

        `what` is its name for people.

        Raises GoodhartError if no process can be begun.
        """
        fault: Exception | None = None
        for _ in range(BEGINNINGS):
            try:
                self._pipe().send((what, work, arguments))
                return
            except (OSError, EOFError) as error:  # EOFError: what forks the workers has died
                fault = error
                self.close()
        raise GoodhartError(
            f"not enough memory for another process, or too many of them ({type(fault).__name__}: {fault})", _REMEDY
        )

    def result(self) -> Any:
        """What came of the work, a Failure if that raised; waits for it. None if the process was killed."""
        wait(self.events())
        try:
            if self.connection is not None and self.connection.poll():
                return self.connection.recv()
        except (OSError, EOFError):
            pass
        self.close()
        return None

    def close(self) -> None:
        """End the process, which has nothing to do."""
        connection, process = self.connection, self.process
        self.connection = self.process = None
        if connection is not None:
            with suppress(OSError):
                connection.send(None)
            connection.close()
        if process is not None:
            process.join(END_SECONDS)
            if process.is_alive():
                process.kill()
            process.join()
            process.close()

    def stop(self) -> None:
        """End the process, whatever it does."""
        if self.process is not None:
            self.process.terminate()
        self.close()

    def events(self) -> list[Any]:
        """What becomes ready when the work or the process has ended."""
        return [] if self.process is None else [self.connection, self.process.sentinel]

    def _pipe(self) -> Connection[Any, Any]:
        connection = self.connection
        if connection is None:
            connection, self.process = self._begun()
            self.connection = connection
        return connection

    def _begun(self) -> tuple[Any, BaseProcess]:
        here = psutil.Process()
        start = (here.pid, here.create_time(), dict(os.environ), self.kernels, tuple(self.group))
        context = _context()
        ours, its = Pipe()
        with _errors_to(self.log), its:
            try:
                process = context.Process(target=_serve, args=(its, self.log, _start, start))  # type: ignore[attr-defined]
                process.start()
            except BaseException:
                ours.close()
                raise
        return ours, process


@runtime_checkable
class Working(Protocol):
    """A worker, or several that work together."""

    def events(self) -> list[Any]:
        """What becomes ready when the work or a process has ended."""
        ...


Each = TypeVar("Each", bound=Working)


def finished(workers: Iterable[Each], seconds: float) -> list[Each]:
    """The workers whose work or process has ended; waits for one, but not longer than so many seconds."""
    events = {event: worker for worker in workers for event in worker.events()}
    return list(dict.fromkeys(events[event] for event in wait(list(events), seconds)))


@contextmanager
def started(number: int, kernels: str, groups: Groups = (), log: Path | None = None) -> Generator[list[Worker]]:
    """So many workers, which are ended with the context; their processes begin when they are first needed."""
    before = dict(os.environ)
    os.environ.update(ENVIRONMENT)
    workers = [Worker(kernels, groups[turn % len(groups)] if groups else (), log) for turn in range(number)]
    try:
        yield workers
    except BaseException:
        for worker in workers:
            worker.stop()
        raise
    finally:
        for worker in workers:
            worker.close()
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _errors_to(log: Path | None) -> Generator[None]:
    """Processes that are begun now write their errors into the log; the terminal keeps to the command's own words."""
    if log is None:
        yield
        return
    sys.stderr.flush()
    terminal = os.dup(2)
    try:
        _redirect(log)
        yield
    finally:
        sys.stderr.flush()
        os.dup2(terminal, 2)
        os.close(terminal)


def _redirect(log: Path) -> None:
    with log.open("ab") as file:
        os.dup2(file.fileno(), 2)


def _context() -> BaseContext:
    """How processes begin: as forks of one that has imported the libraries, which takes seconds, and done nothing."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["goodhart.cells.make", *sorted({recipe.module for recipe in RECIPES.values()})])
    return context


def _serve(connection: Connection[Any, Any], log: Path | None, start: Callable[..., object], given: Any) -> None:
    """What the process does: begin, then one thing after another until it is told None or nobody is left to tell."""
    with suppress(EOFError, OSError):
        if log is not None:
            _redirect(log)  # what it is a fork of may write into the log of an earlier study
        problem = _fault_of(start, given)
        while (told := connection.recv()) is not None:
            connection.send(problem or attempt(*told))


def _fault_of(start: Callable[..., object], given: Any) -> Failure | None:
    try:
        start(*given)
    except Exception as error:
        words = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        what = "not enough memory for a process" if is_out_of_memory(error) else "a process cannot begin"
        return Failure(f"{what} that makes cells ({words})", _REMEDY, traceback.format_exc(), everywhere=True)
    return None


def _start(parent: int, began: float, environment: dict[str, str], kernels: str, group: Sequence[str]) -> None:
    """No operation has threads of its own: two processes of two such threads on two cores spin against one another."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C reaches all; the one that asked ends the others
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    check_room(_ROOM)  # a thread that is given its stack and not what Python takes beside it is waited for for ever
    threading.Thread(target=_die_with, args=(parent, began), daemon=True).start()
    os.environ.clear()
    os.environ.update(environment)  # a fork has the environment of the first call
    if group:  # CUDA looks once, when it is first used
        os.environ[VISIBLE] = ",".join(group)
    import torch

    from goodhart.compute.kernels import use
    from goodhart.compute.quiet import quiet

    torch.set_num_threads(1)
    _begin_reading_threads()
    use(kernels)
    quiet()


def _begin_reading_threads() -> None:
    """One thread of each of Arrow's two pools, now: a read waits for ever once it cannot begin one."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    import_module("pyarrow.dataset")  # a read whose library of filters cannot be loaded says that there are none

    _check_threads(_READING_THREADS)
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    written = pa.BufferOutputStream()
    pq.write_table(pa.table({"one": [1]}), written)
    pq.read_table(pa.BufferReader(written.getvalue()), filters=[("one", "=", 1)])


def _check_threads(number: int) -> None:
    """Begin some threads at once and end them: those that begin next get the memory of these."""
    end = threading.Event()
    begun: list[threading.Thread] = []
    try:
        for _ in range(number):
            thread = threading.Thread(target=end.wait, daemon=True)
            thread.start()
            begun.append(thread)
    finally:
        end.set()
        for thread in begun:
            thread.join()


def _die_with(parent: int, began: float) -> None:
    """End with the process that asked for the work, and with the one that this is a fork of."""
    origin = os.getppid()
    while os.getppid() == origin and _lives(parent, began):
        time.sleep(1)
    os._exit(1)


def _lives(process: int, began: float) -> bool:
    try:
        return abs(psutil.Process(process).create_time() - began) < 1
    except psutil.NoSuchProcess:
        return False
