"""Goodhart, a laboratory for preference alignment of language models: online against offline at equal KL."""

from __future__ import annotations

import difflib
import errno
import os
import shutil
import signal
import sys
import textwrap
import threading
from collections.abc import Generator
from contextlib import contextmanager
from importlib.metadata import version
from typing import NoReturn

import tyro

from goodhart.arguments import (
    COMMANDS,
    Command,
    Compare,
    Data,
    Export,
    Init,
    Join,
    Make,
    Pairs,
    Power,
    Pretrain,
    Push,
    Report,
    Run,
    described,
)
from goodhart.compute.memory import MIB, check_import, check_room
from goodhart.errors import GoodhartError, is_out_of_memory
from goodhart.output import paragraphs
from goodhart.printable import printable


def main(arguments: list[str] | None = None) -> None:
    """Entry point; a fault that the user can mend is one line on standard error and exit code 1."""
    given = sys.argv[1:] if arguments is None else arguments
    if given == ["--version"]:
        sys.stdout.write(f"goodhart {version('goodhart')}\n")
        return
    os.environ["RUST_BACKTRACE"] = "0"  # to print one a tokenizer needs memory, and waits for ever where there is none
    try:
        with _ended_by_termination():
            code = _dispatch(_understood(given))
    except GoodhartError as error:
        what = _NO_MEMORY if is_out_of_memory(error) else f"error: {error}"
        print(printable(what).replace("\n", "\\n"), file=sys.stderr)  # a name may hold line ends; an error is one line
        sys.exit(1)
    except _Terminated:
        print("stopped; the same command goes on from here", file=sys.stderr)
        sys.exit(143)
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(0)
    except BaseException as error:
        if is_out_of_memory(error):
            print(_NO_MEMORY, file=sys.stderr)
            sys.exit(1)
        if not isinstance(error, OSError) or error.errno not in _OF_THE_DISK:
            raise
        where = f" ({error.filename})" if error.filename else ""
        reason = f"{error.strerror}{where}; nothing that was finished is lost: mend it and run the same command again"
        print(printable(f"error: {reason}"), file=sys.stderr)
        sys.exit(1)
    if code:
        sys.exit(code)


def _understood(given: list[str]) -> Command:
    """The command in words; prints what is asked for, or what is wrong with them, and exits where they are none."""
    kind = COMMANDS.get(given[0]) if given else None
    if given and given[0].startswith("--tyro-"):  # a shell's completion of all commands
        tyro.cli(Command, prog="goodhart", args=given, config=(tyro.conf.FlagCreatePairsOff,))  # type: ignore[arg-type]
    if kind is None:
        _not_understood(given)
    boxes, colours = sys.stdout.isatty() and sys.stderr.isatty(), not os.environ.get("NO_COLOR")
    tyro._experimental_options.update(utf8_boxes=boxes, ansi_codes=boxes and colours)  # pyright: ignore[reportPrivateUsage]
    look = (tyro.conf.PositionalMetavarFromFieldName, tyro.conf.FlagCreatePairsOff)
    sentence, examples = described(kind)
    about = textwrap.fill(sentence, _width(), subsequent_indent=" ")  # tyro joins lines that begin with a letter
    about += "\n".join(["", "", "examples:", *(f"  {line}" for line in examples)])
    return tyro.cli(kind, prog=f"goodhart {given[0]}", description=about, args=given[1:], config=look)


def _not_understood(given: list[str]) -> NoReturn:
    if given and given[0] in ("-h", "--help"):
        print(_page())
        sys.exit(0)
    if not given:
        print(_page(), file=sys.stderr)
    else:
        near = difflib.get_close_matches(given[0], COMMANDS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"the commands are {', '.join(COMMANDS)}"
        print(printable(f"error: there is no command {given[0]!r}; {hint}"), file=sys.stderr)
    sys.exit(2)


def _page() -> str:
    """What `goodhart --help` says."""
    sentences = {name: described(kind)[0] for name, kind in COMMANDS.items()}
    more = "'goodhart COMMAND --help' says more of each, 'goodhart --version' which Goodhart this is."
    return "\n".join(
        [
            "usage: goodhart COMMAND ...",
            "",
            *textwrap.wrap(__doc__ or "", _width()),
            "",
            "commands:",
            *paragraphs(sentences, _width(), indent=2),
            "",
            "examples:",
            *(f"  {described(COMMANDS[name])[1][0]}" for name in ("run", "data", "init", "compare")),
            "",
            *textwrap.wrap(more, _width()),
        ]
    )


def _width() -> int:
    return shutil.get_terminal_size().columns


_NO_MEMORY = "error: not enough memory for this command; lower --workers, or free some"
_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)
"""Faults that lie in what the command was given to write on."""


class _Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a command as Ctrl-C does."""


@contextmanager
def _ended_by_termination() -> Generator[None]:
    def stop(number: int, frame: object) -> None:  # noqa: ARG001
        raise _Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


_LEAST = 64 * MIB
"""Bytes that every command takes beside what it has when its words are read."""
_STATISTICS = 192 * MIB
"""Bytes that SciPy and Arrow take in a command, with their threads on two cores."""
_MODELS = 448 * MIB
"""Bytes that these, PyTorch and Transformers take in a command."""


def _check_memory(command: Command) -> None:
    """Raises OSError (ENOMEM) if a command has no memory for its libraries, some of which would abort or wait."""
    check_room(_LEAST)
    if isinstance(command, Power):
        check_import("scipy", _STATISTICS)
    elif isinstance(command, Run | Make | Report | Join | Compare | Push | Export | Init | Pairs | Pretrain) or (
        isinstance(command, Data) and command.model
    ):
        check_import("torch", _MODELS)


def _dispatch(command: Command) -> int | None:
    _check_memory(command)
    from goodhart.commands import HANDLERS

    return HANDLERS[type(command)](command)


if __name__ == "__main__":
    main()
