"""Studies on a Ray cluster of two nodes and on a Slurm of one, whose nodes are killed and whose jobs are told to go."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import psutil

from campaign.command import Command, begin
from campaign.outcome import Outcome, Tally
from campaign.slurm_host import Host, missing, slurm_host
from campaign.study import Undisturbed, cells_done, plain_fault, undisturbed

LONGEST = 900.0
"""Seconds in which a study must end."""
RAY_PORT = 6399
"""Below those that Ray gives its workers."""
_ASKED = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
"""The token that a Ray cluster asks all who come to it for; what else a node finds may differ from node to node."""
_SAME = "ended with the undisturbed tables and cells"


def run(work: Path, quick: bool) -> Outcome:
    """The part."""
    began = time.monotonic()
    folder, tally = work / "clusters", Tally()
    made = undisturbed(folder)
    os.environ.update(_ASKED)
    for number in range(1 if quick else 3):
        _ray(made, folder / f"ray-{number}", tally, killed=number != 0 or quick)
    lacking = missing()
    if lacking:
        tally.add("Slurm", f"NOT TRIED: {lacking}")
    else:
        with slurm_host(folder / "slurm-host") as host:
            for number, (what, disturb) in enumerate(_disturbances(host, quick)):
                _slurm(made, folder / f"slurm-{number}", tally, what, disturb)
    tried = (
        "The tests' small study with its cells made by a Ray cluster (two `ray start` on one machine, a core each) and "
        "by a Slurm cluster (Debian's controller, node and accounting daemons on one machine). One of Ray's nodes gets "
        "SIGKILL with all its processes once cells are being made; jobs of Slurm get the signal of a preemption, or "
        "are killed, and so is Slurm's node with its jobs. Tables and cells are compared, bit for bit, with those of a "
        "run by processes of this machine."
    )
    return Outcome("clusters", tried, tally.lines, tuple(tally.faults), time.monotonic() - began, quick)


def _ray(made: Undisturbed, root: Path, tally: Tally, *, killed: bool) -> None:
    what = "Ray, one of two nodes killed" if killed else "Ray, undisturbed"
    with _ray_node("--head", f"--port={RAY_PORT}"), _ray_node(f"--address=127.0.0.1:{RAY_PORT}") as second:
        command = _begun(made, root, "executor.kind=ray", f"executor.address=127.0.0.1:{RAY_PORT}")
        if killed:
            _until_cells(command, made, root)
            _kill_tree(second)
        _compared(made, root, command, tally, what)


@contextmanager
def _ray_node(*arguments: str) -> Generator[subprocess.Popen[bytes]]:
    words = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--num-cpus=1", *arguments]
    quiet = ["--disable-usage-stats", "--object-store-memory=100000000"]
    quiet += ["--include-dashboard=false"] if "--head" in arguments else []
    environment = {**os.environ, "RAY_worker_niceness": "0"}
    node = subprocess.Popen(
        [*words, *quiet], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    until = time.monotonic() + 120
    try:
        while _ray_nodes() < (1 if "--head" in arguments else 2):
            if node.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"'{' '.join(words)}' does not join a cluster")
            time.sleep(1)
        yield node
    finally:
        _kill_tree(node)


def _ray_nodes() -> int:
    """How many nodes the cluster has; 0 where there is none."""
    asked = [str(Path(sys.executable).with_name("ray")), "status", f"--address=127.0.0.1:{RAY_PORT}"]
    try:
        said = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=20).stdout
    except subprocess.TimeoutExpired:
        return 0
    active = said.partition("Active:")[2].partition("Pending:")[0]
    return active.count("node_")


def _kill_tree(process: subprocess.Popen[bytes]) -> None:
    try:
        children = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return
    for each in (*children, process):
        try:
            os.kill(each.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait()


def _slurm(
    made: Undisturbed, root: Path, tally: Tally, what: str, disturb: Callable[[Command, Undisturbed, Path], None]
) -> None:
    command = _begun(made, root, "executor.kind=slurm")
    disturb(command, made, root)
    _compared(made, root, command, tally, what)


def _disturbances(host: Host, quick: bool) -> list[tuple[str, Callable[[Command, Undisturbed, Path], None]]]:
    def nothing(command: Command, made: Undisturbed, root: Path) -> None:
        pass

    def make_room(command: Command, made: Undisturbed, root: Path) -> None:
        _until_cells(command, made, root)
        for _ in range(3):
            _until_jobs(command, host)
            for job in host.says("squeue", "-h", "-t", "R", "-o", "%A").split():
                host.says("scancel", "--signal=USR2", job)
            time.sleep(5)

    def kill_jobs(command: Command, made: Undisturbed, root: Path) -> None:
        _until_cells(command, made, root)
        _until_jobs(command, host)
        for process in psutil.process_iter(["cmdline"]):
            if "submitit.core._submit" in " ".join(process.info["cmdline"] or ()):
                process.kill()

    def kill_node(command: Command, made: Undisturbed, root: Path) -> None:
        _until_cells(command, made, root)
        _until_jobs(command, host)
        host.kill_node()
        time.sleep(25)  # until the controller has missed it
        host.begin_node()

    alone = [("Slurm, jobs told to make room", make_room)]
    if quick:
        return alone
    return [
        ("Slurm, undisturbed", nothing),
        *alone,
        ("Slurm, jobs killed", kill_jobs),
        ("Slurm, the node killed", kill_node),
    ]


def _begun(made: Undisturbed, root: Path, *executor: str) -> Command:
    shutil.rmtree(root, ignore_errors=True)
    return begin(made.run(made.new_root(root), *executor), root.parent / root.name, cold=True)


def _until_cells(command: Command, made: Undisturbed, root: Path) -> None:
    """Wait for the first cells, and for a third of them."""
    while command.poll() is None and 3 * len(cells_done(root)) < len(cells_done(made.root)):
        time.sleep(0.2)


def _until_jobs(command: Command, host: Host) -> None:
    while command.poll() is None and not host.says("squeue", "-h", "-t", "R").strip():
        time.sleep(0.2)


def _compared(made: Undisturbed, root: Path, command: Command, tally: Tally, what: str) -> None:
    if command.wait(LONGEST) is None:
        command.end()
        tally.add(what, "did not end", f"it had not ended after {LONGEST:.0f} s")
        return
    fault = made.differences(root) if command.code == 0 else plain_fault(command) or command.last_words
    tally.add(what, "ended otherwise" if fault else _SAME, fault)
