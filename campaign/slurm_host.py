"""A Slurm of one machine: Debian's daemons (slurm-wlm, slurmdbd, mariadb-server), begun by hand without systemd."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "slurmdbd", "munged", "mariadbd", "mariadb-install-db")
PORT = 16817
DAEMON = "slurmd"

_DATABASE = """create database if not exists slurm_acct_db;
create or replace user 'slurm'@'%' identified by 'slurm';
grant all on slurm_acct_db.* to 'slurm'@'%';"""

_SLURMDBD = """AuthType=auth/munge
DbdHost={host}
DbdPort={dbd}
SlurmUser=root
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={sql}
StorageLoc=slurm_acct_db
StorageUser=slurm
StoragePass=slurm
PidFile={folder}/slurmdbd.pid
"""

_SLURM = """ClusterName=goodhart
SlurmctldHost={host}
SlurmUser=root
AuthType=auth/munge
SlurmctldPort={ctl}
SlurmdPort={node}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost={host}
AccountingStoragePort={dbd}
SchedulerParameters=sched_interval=2
MailProg=/bin/true
KillWait=5
SlurmdTimeout=20
NodeName={host} CPUs={cpus} RealMemory=1000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str:
    """What is not here that this needs; empty if nothing is."""
    if os.geteuid() != 0:
        return "the daemons have to be begun by root"
    lacking = [name for name in PROGRAMS if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") is None]
    return f"no {', '.join(lacking)}: apt-get install slurm-wlm slurmdbd mariadb-server" if lacking else ""


@contextmanager
def slurm_host(folder: Path) -> Generator[Host]:
    """A cluster of this machine alone, with accounting, which ends with the context."""
    shutil.rmtree(folder, ignore_errors=True)
    for name in ("state", "spool", "sql"):
        (folder / name).mkdir(parents=True)
    host = Host(folder, os.uname().nodename.split(".")[0])
    before = os.environ.get("SLURM_CONF")
    try:
        host.begin()
        os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
        yield host
    finally:
        host.end()
        os.environ.pop("SLURM_CONF", None)
        if before is not None:
            os.environ["SLURM_CONF"] = before


class Host:
    """The daemons of one machine."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.name = name
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}

    def begin(self) -> None:
        """Begin all daemons, each when the one before it answers. Raises RuntimeError for one that does not."""
        values = {"host": self.name, "folder": self.folder, "cpus": os.cpu_count()}
        ports = {"ctl": PORT, "node": PORT + 1, "dbd": PORT + 2, "sql": PORT + 3}
        for name, text in (("slurm.conf", _SLURM), ("slurmdbd.conf", _SLURMDBD)):
            (self.folder / name).write_text(text.format(**values, **ports))
            (self.folder / name).chmod(0o600)
        self._munge()
        sql = self.folder / "sql"
        shutil.chown(sql, "mysql")
        _quietly("mariadb-install-db", "--user=mysql", f"--datadir={sql}", "--skip-test-db")
        address = ("--bind-address=127.0.0.1", f"--port={ports['sql']}")
        self._daemon("mariadbd", "--no-defaults", "--user=mysql", f"--datadir={sql}", f"--socket={sql}/s", *address)
        database = ("mariadb", "--no-defaults", "-S", f"{sql}/s", "-e", _DATABASE)
        _until("the database", lambda: _quietly(*database))
        self._daemon("slurmdbd", "-D")
        _until("slurmdbd", lambda: self._said("sacctmgr", "-n", "-i", "show", "cluster"))
        self._daemon("slurmctld", "-D")
        self.begin_node()

    def begin_node(self) -> None:
        """Begin the node's daemon, which runs the jobs, and wait until it may."""
        self._daemon(DAEMON, "-D", "-N", self.name)
        _until("the node", lambda: "idle" in self.says("sinfo", "-h"))

    def kill_node(self) -> None:
        """SIGKILL the node's daemon, and every process of its jobs."""
        job = "submitit.core._submit"
        self.daemons.pop(DAEMON).kill()
        for name in ("slurmstepd", job):
            _quietly("pkill", "-KILL", "-f", name)

    def says(self, *command: str) -> str:
        """What a command of Slurm prints."""
        return subprocess.run(command, env=self._environment(), capture_output=True, text=True, check=False).stdout

    def end(self) -> None:
        """End all daemons."""
        for daemon in reversed(self.daemons.values()):
            daemon.send_signal(signal.SIGTERM)
        for daemon in self.daemons.values():
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()

    def _daemon(self, name: str, *arguments: str) -> None:
        out = (self.folder / f"{name}.log").open("ab")
        self.daemons[name] = subprocess.Popen(
            (name, *arguments), env=self._environment(), stdout=out, stderr=out, start_new_session=True
        )

    def _environment(self) -> dict[str, str]:
        path = f"{os.environ['PATH']}:/usr/sbin:/usr/bin"
        return {**os.environ, "SLURM_CONF": str(self.folder / "slurm.conf"), "PATH": path}

    def _said(self, *command: str) -> bool:
        return subprocess.run(command, env=self._environment(), capture_output=True, check=False).returncode == 0

    def _munge(self) -> None:
        """The daemon that says who is who; one that runs already serves as well."""
        key, user = Path("/etc/munge/munge.key"), pwd.getpwnam("munge")
        if not key.exists():
            key.write_bytes(os.urandom(1024))
            os.chown(key, user.pw_uid, user.pw_gid)
            key.chmod(0o400)
        run = Path("/run/munge")
        run.mkdir(exist_ok=True)
        os.chown(run, user.pw_uid, user.pw_gid)
        if not _quietly("pgrep", "munged"):
            subprocess.run(["munged"], user="munge", check=True, env=self._environment())


def _quietly(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _until(what: str, ready: Callable[[], bool], seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > until:
            raise RuntimeError(f"{what} does not answer within {seconds:.0f} s; its log lies beside slurm.conf")
        time.sleep(0.5)
