"""`goodhart --help` and reading a study file must not wait for torch."""

import subprocess
import sys

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
