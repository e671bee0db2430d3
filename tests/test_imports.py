"""`goodhart --help` and reading a study file must not wait for torch."""

import subprocess
import sys
from pathlib import Path

import pytest

LIGHT = ["goodhart.cli", "goodhart.config", "goodhart.study.spec"]
HEAVY = ("torch", "transformers", "datasets", "scipy", "matplotlib", "pyarrow", "duckdb")


def loaded_by(*modules):
    """Which of the heavy libraries are loaded once the modules are imported in a fresh interpreter."""
    code = f"import sys, {', '.join(modules)}; print(*(name for name in {HEAVY!r} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    return done.stdout.split()


def test_light_modules_load_no_heavy_library():
    assert loaded_by(*LIGHT) == []


def test_the_check_sees_a_heavy_library():
    assert "torch" in loaded_by("goodhart.training.optimiser")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="NO /proc: an import without memory was NOT tested")
def test_special_functions_without_memory_are_an_error_and_no_wait():
    """SciPy's own import asks for ever for a buffer of 32 MiB."""
    code = (
        "import numpy, resource; from pathlib import Path; status = Path('/proc/self/status').read_text()\n"
        "ceiling = 1024 * int(status.split('VmData:')[1].split()[0]) + 2**24\n"
        "resource.setrlimit(resource.RLIMIT_DATA, (ceiling, ceiling))\n"
        "import goodhart.special"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 1
    assert "OSError: [Errno 12]" in done.stderr
