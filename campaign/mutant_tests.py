"""The tests of a file with a mutant in its place, in a process forked from one that has imported the libraries."""

from __future__ import annotations

import gc
import importlib
import importlib.machinery
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
_MEMORY = 6 * 2**30
"""Bytes that a mutant may take beyond what its process begins with."""

_MODELS = ("bart", "gemma2", "gpt2", "llama", "mistral", "t5")
_LIBRARIES = (
    *("torch", "beartype", "hypothesis.strategies", "matplotlib.pyplot", "pyarrow.parquet", "scipy.optimize"),
    *("scipy.stats", "transformers", "datasets", *(f"transformers.models.{name}.modeling_{name}" for name in _MODELS)),
)


def heat() -> None:
    """Import what tests need but for the package itself, with one thread, so that a fork of this process need not."""
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    os.environ |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(REPOSITORY / "src")}
    sys.path.insert(0, str(REPOSITORY / "src"))
    for name in _LIBRARIES:
        importlib.import_module(name)
    import torch

    torch.set_num_threads(1)
    gc.freeze()


@dataclass(slots=True)
class Seen:
    """What one test did."""

    outcome: str = "passed"
    seconds: float = 0.0
    """Of the processor, so that others' work does not count."""
    lines: dict[str, list[int]] = field(default_factory=dict[str, list[int]])
    """Those that ran, of each file that is mutated."""


@dataclass(slots=True)
class Watch:
    """A plugin of pytest: runs the chosen tests in their order and writes down how each ended."""

    targets: frozenset[str]
    """The files whose lines are of interest."""
    chosen: Sequence[str] | None
    """The names of the tests that run, in this order; None for all."""
    seen: dict[str, Seen] = field(default_factory=dict[str, Seen])
    shared: set[tuple[str, int]] = field(default_factory=set[tuple[str, int]])
    """Files and lines that ran while some test was set up: what was made then may be used by any test."""

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Leave the chosen ones."""
        if self.chosen is not None:
            place = {name: i for i, name in enumerate(self.chosen)}
            items[:] = sorted((each for each in items if each.nodeid in place), key=lambda each: place[each.nodeid])

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """Note what runs before a test."""
        before = time.process_time()
        try:
            with _Lines(self.targets, self.shared):
                return (yield)
        finally:
            self.seen.setdefault(item.nodeid, Seen()).seconds += time.process_time() - before

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """Note what a test runs."""
        ran: set[tuple[str, int]] = set()
        before = time.process_time()
        try:
            with _Lines(self.targets, ran):
                return (yield)
        finally:
            seen = self.seen.setdefault(item.nodeid, Seen())
            seen.seconds += time.process_time() - before
            for target, line in ran:
                seen.lines.setdefault(target, []).append(line)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note how it ended."""
        if report.outcome != "passed":
            self.seen.setdefault(report.nodeid, Seen()).outcome = report.outcome


class _Lines:
    """The lines of some files that run, by Python's trace function."""

    def __init__(self, targets: frozenset[str], ran: set[tuple[str, int]]) -> None:
        self.targets, self.ran = targets, ran

    def _local(self, frame: FrameType, event: str, _: Any) -> Any:
        if event == "line":
            self.ran.add((frame.f_code.co_filename, frame.f_lineno))
        return self._local

    def _global(self, frame: FrameType, event: str, _: Any) -> Any:  # noqa: ARG002 - the interpreter's signature
        if frame.f_code.co_filename not in self.targets:
            return None
        self.ran.add((frame.f_code.co_filename, frame.f_lineno))
        return self._local

    def __enter__(self) -> None:
        if self.targets:
            threading.settrace(self._global)
            sys.settrace(self._global)

    def __exit__(self, *_: object) -> None:
        if self.targets:
            sys.settrace(None)
            threading.settrace(None)  # type: ignore[arg-type]


@dataclass(slots=True)
class Child:
    """A forked process that runs tests, and writes what it saw to a file."""

    pid: int
    folder: Path
    until: float

    def ended(self) -> dict[str, Any] | None:
        """What it saw, once it has ended; it is killed when its time is over."""
        pid, _ = os.waitpid(self.pid, os.WNOHANG)
        late = not pid and time.monotonic() > self.until
        if not pid and not late:
            return None
        if late:
            os.killpg(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        file = self.folder / "seen.json"
        found: dict[str, Any] = {"end": "time"} if late else {"end": "crash"}
        if file.is_file() and not late:
            found = json.loads(file.read_text())
        found["said"] = (self.folder / "said").read_text(errors="replace")[-3000:] if file.parent.is_dir() else ""
        shutil.rmtree(self.folder, ignore_errors=True)
        return found


def measure(targets: Sequence[Path], file: str) -> Child:
    """All tests of a file on the code as it is, with the lines of the targets that each runs."""
    watch = Watch(frozenset(map(str, targets)), None)
    return _forked(lambda folder: _run(watch, [file], folder), 900)


def attempt(target: Path, source: str, tests: Sequence[str], seconds: float) -> Child:
    """The tests in that order, until the first that fails, with another source in the target's place.

    They take so many seconds without it; with three times as many and 20 more they have not ended and never may.
    """

    def run(folder: Path) -> dict[str, Any]:
        limit = int(time.process_time() + 3 * seconds + 20)
        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
        resource.setrlimit(resource.RLIMIT_AS, (_used() + _MEMORY, resource.RLIM_INFINITY))
        _replace(target, source)
        return _run(Watch(frozenset(), tests), list(dict.fromkeys(name.partition("::")[0] for name in tests)), folder)

    return _forked(run, 20 * seconds + 120)


def _used() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def _forked(run: Callable[[Path], dict[str, Any]], seconds: float) -> Child:
    folder = Path(tempfile.mkdtemp(prefix="mutant-"))
    pid = os.fork()
    if pid:
        return Child(pid, folder, time.monotonic() + seconds)
    try:
        os.setsid()
        said = os.open(folder / "said", os.O_WRONLY | os.O_CREAT)
        os.dup2(said, 1)
        os.dup2(said, 2)
        found = run(folder)
        temporary = folder / "seen.tmp"
        temporary.write_text(json.dumps(found))
        temporary.replace(folder / "seen.json")
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def _run(watch: Watch, files: Sequence[str], folder: Path) -> dict[str, Any]:
    arguments = ["-q", "--assert=plain", "-o", "addopts=", f"--rootdir={REPOSITORY}", f"--basetemp={folder / 'work'}"]
    for plugin in ("no:cacheprovider", "no:unraisableexception", "no:faulthandler", "jaxtyping._pytest_plugin"):
        arguments += ["-p", plugin]
    arguments += ["--jaxtyping-packages=goodhart,beartype.beartype", *(["-x"] if watch.chosen is not None else [])]
    os.chdir(REPOSITORY)
    code = pytest.main([*arguments, *files], plugins=[watch])
    seen = {name: asdict(each) for name, each in watch.seen.items()}
    for each in seen.values():
        for target, line in watch.shared:
            each["lines"].setdefault(target, []).append(line)
    failed = next((name for name, each in seen.items() if each["outcome"] == "failed"), None)
    end = "failed" if failed else "passed" if code in (pytest.ExitCode.OK,) else "collection"
    return {"end": end, "by": failed, "tests": seen if watch.chosen is None else {}}


def _replace(target: Path, source: str) -> None:
    """Let imports of the target read another source, past the cache of its compiled code."""
    loader = importlib.machinery.SourceFileLoader
    data, stats = loader.get_data, loader.path_stats

    def get_data(self: Any, path: str) -> bytes:
        return source.encode() if path == str(target) else data(self, path)

    def path_stats(self: Any, path: str) -> Any:
        if path == str(target):
            raise OSError
        return stats(self, path)

    loader.get_data, loader.path_stats = get_data, path_stats  # type: ignore[method-assign]
