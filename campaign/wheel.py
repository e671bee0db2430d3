"""The package as a wheel, installed beside nothing, makes a study in an empty folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from campaign import REPOSITORY
from campaign.outcome import Outcome, Tally

STUDIES = ("tabular", "smoke")


def build(folder: Path) -> Path:
    """The wheel of this checkout, made of a copy of it below the folder."""
    tree, out = folder / "tree", folder / "wheel"
    shutil.rmtree(tree, ignore_errors=True)
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(REPOSITORY / "src" / "goodhart", tree / "src" / "goodhart", ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, tree)
    out.mkdir(exist_ok=True)
    code = f"from setuptools.build_meta import build_wheel; build_wheel({str(out)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=tree, check=True, capture_output=True, timeout=300)
    return max(out.glob("goodhart-*.whl"), key=lambda path: path.stat().st_mtime)


def installed(wheel: Path, site: Path) -> Path:
    """The wheel as pip installs it, without what it depends on; returns the folder."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(site)]
    subprocess.run([*command, str(wheel)], check=True, capture_output=True, timeout=300)
    return site


def goodhart(site: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The command in a process that has the wheel, and runs in a folder of its own."""
    code = "import sys; from goodhart.cli import main; sys.exit(main())"
    environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=3600,
    )


def run(work: Path, quick: bool) -> Outcome:
    """Build, install, and run studies from an empty folder."""
    began, tally, folder = time.monotonic(), Tally(), work / "wheel"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    site = installed(build(folder), folder / "site")
    for name in STUDIES[:1] if quick else STUDIES:
        empty = folder / f"empty {name}"
        empty.mkdir()
        done = goodhart(site, empty, "run", name)
        page = empty / "runs" / "studies" / name / "report.html"
        whole = done.returncode == 0 and page.is_file()
        fault = "" if whole else f"exit code {done.returncode}: {done.stderr[-300:]}"
        tally.add(f"goodhart run {name}", "a report" if whole else "no report", fault)
    tried = (
        "The package was built as a wheel, installed without its dependencies into a folder of its own, and studies "
        "were run with it from an empty folder, whose name has a space in it."
    )
    return Outcome("wheel", tried, tally.lines, tuple(tally.faults), time.monotonic() - began, quick)
