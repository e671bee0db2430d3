"""What is recorded about where a result came from: versions, machine, git state."""

from __future__ import annotations

import functools
import os
import platform
import resource
import subprocess
import sys
from collections import Counter
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from goodhart.compute.placement import gpu_name, may_have_gpus

_LIBRARIES = ("goodhart", "torch", "transformers", "tokenizers", "numpy", "scipy", "pyarrow", "sacrebleu")


@functools.cache
def versions() -> dict[str, str]:
    """Python and the libraries that numbers depend on."""
    result = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            result[name] = version(name)
        except PackageNotFoundError:
            result[name] = "not installed"
    return result


@functools.cache
def machine() -> dict[str, Any]:
    """Processor, cores, memory, and the GPUs that this process sees."""
    gpus = Counter[str]()
    if may_have_gpus():
        import torch

        gpus.update(torch.cuda.get_device_name(gpu) for gpu in range(torch.cuda.device_count()))
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        **({"GPUs": ", ".join(f"{number} x {name}" for name, number in gpus.items())} if gpus else {}),
        "memory GiB": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
    }


def here() -> tuple[str, str]:
    """What decides how this machine computes: the GPU's or the processor's name, and the version of PyTorch."""
    return gpu_name() or processor(), versions()["torch"]


def processor() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def peak_bytes() -> int:
    """The largest resident size that this process has had: counted in kilobytes on Linux, in bytes on macOS."""
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else 1024 * size


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
