"""`goodhart --help` and reading a study file must not wait for torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import goodhart

LIGHT = ["goodhart.cli", "goodhart.config", "goodhart.studies.spec"]
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


def starved(room, before, code, *more):
    """What comes of code in a process that is given so many MiB of data beyond what it has after other code."""
    text = (
        f"{before}\nimport resource; from pathlib import Path; status = Path('/proc/self/status').read_text()\n"
        f"ceiling = 1024 * int(status.split('VmData:')[1].split()[0]) + {room} * 2**20\n"
        f"resource.setrlimit(resource.RLIMIT_DATA, (ceiling, ceiling))\n{code}"
    )
    return subprocess.run([sys.executable, "-c", text, *more], capture_output=True, text=True, check=False, timeout=120)


with_ceilings = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="NO /proc: what comes of too little memory was NOT tested"
)


@with_ceilings
def test_special_functions_without_memory_are_an_error_and_no_wait():
    """SciPy's own import asks for ever for a buffer of 32 MiB."""
    done = starved(16, "import numpy", "import goodhart.special")
    assert done.returncode == 1
    assert "OSError: [Errno 12]" in done.stderr


@with_ceilings
@pytest.mark.parametrize("room", [8, 40, 150, 400])
@pytest.mark.parametrize("command", [("run", "quick", "--dry-run"), ("report", "quick"), ("compare", "a", "b", "c")])
def test_a_command_without_memory_for_its_libraries_is_one_line_and_no_abort(room, command, tmp_path):
    """PyTorch, Arrow and OpenBLAS abort, wait or fail in words of their own, at one level or another."""
    done = starved(room, "import goodhart.cli", "goodhart.cli.main()", *command, "--root", str(tmp_path))
    assert done.returncode == 1
    assert done.stderr == "error: not enough memory for this command; lower --workers, or free some\n"


@with_ceilings
@pytest.mark.parametrize("room", [8, 40])
@pytest.mark.parametrize("command", ["list", "status", "power"])
def test_a_small_command_without_memory_is_one_line_too(room, command):
    done = starved(room, "import goodhart.cli", "goodhart.cli.main()", command)
    assert done.returncode == 1
    assert done.stderr == "error: not enough memory for this command; lower --workers, or free some\n"


@with_ceilings
def test_a_small_command_needs_no_memory_for_pytorch():
    assert starved(300, "import goodhart.cli", "goodhart.cli.main()", "list").returncode == 0


def test_scipy_is_imported_behind_the_look_for_memory_alone():
    """At the top of a module it would come before `goodhart.special`."""
    package = Path(goodhart.__file__).parent
    for file in package.rglob("*.py"):
        found = [
            name
            for node in ast.parse(file.read_text()).body
            for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else imports(node))
        ]
        if file != package / "special.py":
            assert not any(name.split(".")[0] == "scipy" for name in found), file


def imports(node):
    return [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
