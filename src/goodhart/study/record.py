"""What is recorded about where a result came from: versions, machine, git state."""

from __future__ import annotations

import functools
import os
import platform
import resource
import subprocess
from collections import Counter
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

_LIBRARIES = ("goodhart", "torch", "transformers", "tokenizers", "numpy", "scipy", "pyarrow", "sacrebleu")


@functools.cache
def versions() -> dict[str, str]:
    """Python and the libraries that numbers depend on."""
    found = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


@functools.cache
def machine() -> dict[str, Any]:
    """Processor, cores, memory, and the GPUs that this process sees."""
    import torch

    gpus = Counter(torch.cuda.get_device_name(gpu) for gpu in range(torch.cuda.device_count()))
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        **({"GPUs": ", ".join(f"{number} x {name}" for name, number in gpus.items())} if gpus else {}),
        "memory GiB": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
    }


def largest_worker() -> float:
    """What the largest of the processes that this one has waited for held at its peak, GiB."""
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return peak / (2**30 if platform.system() == "Darwin" else 2**20)  # bytes there, KiB elsewhere


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def git_state() -> str:
    """Commit of the source tree, with `+changes` if it is not clean; `not a git checkout` elsewhere."""
    folder = Path(__file__).parent
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "--short=12", "HEAD"], cwd=folder, capture_output=True, text=True, check=True
        ).stdout.strip()
        changes = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "not a git checkout"
    return commit + ("+changes" if changes else "")
