"""`goodhart --help` and reading a study file must not wait for torch."""

import subprocess
import sys

import pytest

LIGHT = ["goodhart.cli", "goodhart.config", "goodhart.study.spec"]
HEAVY = ("torch", "transformers", "datasets", "scipy", "matplotlib", "pyarrow", "duckdb")


def loaded_by(module):
    """Which of the heavy libraries are loaded once `module` is imported in a fresh interpreter."""
    code = f"import sys, {module}; print(*(name for name in {HEAVY!r} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    return done.stdout.split()


@pytest.mark.parametrize("module", LIGHT)
def test_light_modules_load_no_heavy_library(module):
    assert loaded_by(module) == []


def test_the_check_sees_a_heavy_library():
    assert "pyarrow" in loaded_by("goodhart.evaluation.schema")
    assert "torch" in loaded_by("goodhart.alignment.losses")
