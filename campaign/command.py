"""The lab's command line in a process group of its own, to be killed, starved and asked what it said.

A `warm` command is forked from a process that has imported the lab already, and so are its workers: it begins within
tenths of a second and runs the same code. A cold one is `python -m goodhart.cli`, as a user has it.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil


def heat() -> None:
    """Import what a study needs, with one thread, so that a fork of this process need not."""
    import torch

    import goodhart.cells.make
    import goodhart.cli
    import goodhart.commands
    import goodhart.report.report
    import goodhart.report.terminal
    import goodhart.studies.session  # noqa: F401
    from goodhart.compute.quiet import quiet

    torch.set_num_threads(1)
    quiet()


@dataclass(slots=True)
class Command:
    """A command that has begun."""

    pid: int
    out: Path
    err: Path
    code: int | None = None

    def poll(self) -> int | None:
        """The exit code (minus the signal that ended it), or None while it runs."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
        return self.code

    def wait(self, seconds: float) -> int | None:
        """The exit code, or None if it has not ended by then."""
        until = time.monotonic() + seconds
        while self.poll() is None and time.monotonic() < until:
            time.sleep(0.02)
        return self.code

    def workers(self) -> list[psutil.Process]:
        """The processes that make cells."""
        try:
            children = psutil.Process(self.pid).children(recursive=True)
            return [child for child in children if not self._serves(child)]
        except psutil.NoSuchProcess:
            return []

    def _serves(self, child: psutil.Process) -> bool:
        """Whether a process only begins others: a worker has its words, but is the child of one that serves."""
        words = " ".join(child.cmdline())
        return "resource_tracker" in words or ("forkserver" in words and child.ppid() == self.pid)

    def signal_all(self, number: signal.Signals) -> None:
        """To the whole process group, as a terminal's Ctrl-C is."""
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            return

    def end(self) -> None:
        """Kill what is left of it."""
        self.signal_all(signal.SIGKILL)
        self.wait(30)

    @property
    def errors(self) -> str:
        """What it has written on standard error."""
        return self.err.read_text(errors="replace")

    @property
    def output(self) -> str:
        """What it has written on standard output."""
        return self.out.read_text(errors="replace")

    @property
    def last_words(self) -> str:
        """The last line of its errors."""
        return (self.errors.strip().splitlines() or [""])[-1][:300]


def begin(
    arguments: list[str], said: Path, *, cold: bool = False, before: Callable[[], object] = lambda: None
) -> Command:
    """Fork the command; `said` gets its output (.out, .err), `before` is called in it first."""
    out, err = said.with_suffix(".out"), said.with_suffix(".err")
    pid = os.fork()
    if pid:
        return Command(pid, out, err)
    try:
        _redirect(out, err)
        before()
        if cold:
            os.execv(sys.executable, [sys.executable, "-m", "goodhart.cli", *arguments])
        code = _run(arguments)
    except BaseException:
        traceback.print_exc()
        code = 1
    os._exit(code)


def ended(arguments: list[str], said: Path, seconds: float = 300, **how: bool) -> Command:
    """The command once it has ended; killed if it has not by then (its code is then -9)."""
    command = begin(arguments, said, **how)
    if command.wait(seconds) is None:
        command.end()
    return command


def _redirect(out: Path, err: Path) -> None:
    os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    for path, stream in ((Path(os.devnull), 0), (out, 1), (err, 2)):
        handle = os.open(path, os.O_RDWR | (os.O_CREAT | os.O_TRUNC if stream else 0), 0o644)
        os.dup2(handle, stream)
        os.close(handle)


def _run(arguments: list[str]) -> int:
    from goodhart.cells.work import ENVIRONMENT
    from goodhart.cli import main

    # a worker that is forked has imported the lab too; threads of a tokenizer would not survive the fork
    ENVIRONMENT["TOKENIZERS_PARALLELISM"] = "false"
    multiprocessing.get_context = functools.partial(_forking, multiprocessing.get_context)  # type: ignore[assignment]
    code: object = 0
    try:
        main(arguments)
    except SystemExit as end:
        code = end.code
    except KeyboardInterrupt:
        traceback.print_exc()
        code = 130
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code if isinstance(code, int) else int(code is not None)


def _forking(original: Callable[[str | None], object], method: str | None = None) -> object:
    return original("fork" if method == "forkserver" else method)
