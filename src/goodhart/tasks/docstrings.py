"""The raw material of the built-in tasks: summary lines and bodies of the docstrings in installed packages.

By PEP 257 the first line of a docstring is a summary of the rest, written by a person. Sources are
parsed, never imported.
"""

from __future__ import annotations

import ast
import gc
import importlib.util
import inspect
import sys
import sysconfig
import warnings
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from goodhart.errors import GoodhartError

THIRD_PARTY_TRAIN = [
    "torch",
    "transformers",
    "scipy",
    "sympy",
    "numpy",
    "matplotlib",
    "pyarrow",
    "datasets",
    "accelerate",
    "huggingface_hub",
    "jinja2",
    "rich",
    "fsspec",
    "mpmath",
    "pygments",
    "safetensors",
    "tqdm",
    "packaging",
    "regex",
    "pillow:PIL",
    "contourpy",
    "fontTools",
    "dateutil",
]
"""Packages (import names, or distribution:import) whose docstrings are for training."""
THIRD_PARTY_TEST = ["pandas", "networkx"]
"""Packages whose docstrings are for testing only; nothing of theirs is ever trained on."""
STDLIB_TEST = [
    "asyncio",
    "email",
    "unittest",
    "logging",
    "http",
    "urllib",
    "concurrent",
    "xml",
    "statistics",
    "tkinter",
]
"""Standard-library packages held out with them."""
_SKIPPED_PARTS = {"tests", "test", "testing", "_vendor", "vendor", "vendored", "site-packages", "__pycache__"}
_REPETITIVE = ("transformers/models/",)
"""Folders of near-copies: the model files of transformers repeat each other's docstrings."""


@dataclass(frozen=True, slots=True)
class Docstring:
    """One documented object: where it stands, and its docstring cut at the summary line."""

    package: str
    name: str
    summary: str
    body: str

    @property
    def identity(self) -> str:
        """What counts as the same text when duplicates are removed: case and spacing do not."""
        return " ".join(f"{self.summary} {self.body}".lower().split())


def stdlib_folder() -> Path:
    """The folder of the running interpreter's standard library."""
    return Path(sysconfig.get_paths()["stdlib"])


def package_files(package: str) -> list[Path]:
    """The package's Python files in a stable order, without tests and vendored copies of other packages.

    Raises GoodhartError if the package is not installed.
    """
    name = package.split(":")[-1]
    folder = stdlib_folder()
    if name in sys.stdlib_module_names:
        root = folder / name if (folder / name).is_dir() else folder / f"{name}.py"
    else:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            raise GoodhartError(
                f"package {name!r} of the docstring corpus is not installed", "run 'pip install goodhart' again"
            )
        root = Path(spec.origin).parent if spec.submodule_search_locations else Path(spec.origin)
    files = sorted(root.rglob("*.py")) if root.is_dir() else [root]
    return [f for f in files if f.is_file() and not _is_skipped(f.relative_to(root.parent))]


def _is_skipped(path: Path) -> bool:
    return (
        bool(_SKIPPED_PARTS & set(path.parts))
        or path.name.startswith(("test_", "conftest"))
        or path.as_posix().startswith(_REPETITIVE)
    )


def read_source(path: Path) -> str | None:
    """The file's text, or None if it is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except (UnicodeDecodeError, OSError):
        return None


def documented_nodes(tree: ast.AST) -> Iterator[tuple[str, ast.AST, str]]:
    """(qualified name, node, raw docstring) of the classes and functions of a module, in source order.

    Only definitions that stand directly in a module, class or function count, not those inside `if` or `try`.
    """
    stack: list[tuple[str, ast.AST]] = [("", tree)]
    while stack:
        prefix, node = stack.pop()
        for child in reversed(getattr(node, "body", [])):
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                stack.append((f"{prefix}{child.name}.", child))
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node, clean=False)
            if text:
                yield prefix[:-1], node, text


def parse(source: str) -> ast.Module | None:
    """The syntax tree, or None if this Python cannot parse the text."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in other people's code are not our user's concern
        try:
            return ast.parse(source)
        except (SyntaxError, ValueError, RecursionError):
            return None


def split_docstring(text: str) -> tuple[str, str] | str:
    """(summary, body) of a PEP 257 docstring, or the reason why it is not one."""
    paragraph, _, rest = text.partition("\n\n")
    body = "\n".join(line.rstrip() for line in rest.split("\n")).strip()
    if not body:
        return "no body"
    if paragraph.count("\n") > 1:
        return "summary of more than two lines"
    summary = " ".join(paragraph.split())
    words = summary.split()
    if not 3 <= len(words) <= 18 or len(summary) > 120:
        return "summary not of 3 to 18 words"
    if not summary.isascii() or sum(c.isalpha() or c.isspace() for c in summary) < 0.8 * len(summary):
        return "summary not plain English"
    if not body.isascii() or len(body.split()) < 8:
        return "body shorter than 8 words or not ASCII"
    return summary, body


def collect(packages: list[str]) -> tuple[list[Docstring], Counter[str]]:
    """Every usable docstring of the packages in a stable order, and the count of each reason for leaving one out."""
    docstrings: list[Docstring] = []
    reasons: Counter[str] = Counter()
    with _no_collection():
        for package in packages:
            for path in package_files(package):
                _collect_file(package.split(":")[-1], path, docstrings, reasons)
    return docstrings, reasons


def _collect_file(package: str, path: Path, docstrings: list[Docstring], reasons: Counter[str]) -> None:
    source = read_source(path)
    if source is None:
        reasons["file not UTF-8"] += 1
        return
    tree = parse(source)
    if tree is None:
        reasons["file does not parse"] += 1
        return
    for name, _, text in documented_nodes(tree):
        parts = split_docstring(inspect.cleandoc(text))
        if isinstance(parts, str):
            reasons[parts] += 1
        else:
            docstrings.append(Docstring(package, name, *parts))


@contextmanager
def _no_collection() -> Generator[None]:
    """Without Python's cyclic collector: it walks syntax trees, which have no cycles, for a quarter of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def train_packages() -> list[str]:
    """The training packages: the standard library without its held-out part, then the third-party ones."""
    held_out = set(STDLIB_TEST) | {"antigravity", "this", "test", "idlelib", "lib2to3", "turtledemo"}
    return sorted(name for name in sys.stdlib_module_names if name not in held_out) + THIRD_PARTY_TRAIN


def parts() -> list[tuple[str, list[str]]]:
    """(side, packages) in pieces of similar size, so that several processes can read them."""
    large = [["torch"], ["sympy", "numpy", "transformers"], ["scipy", "matplotlib", "datasets", "fontTools"]]
    taken = {package for piece in large for package in piece}
    rest = [package for package in train_packages() if package not in taken]
    return [*(("train", piece) for piece in large), ("train", rest), ("held_out", test_packages())]


def test_packages() -> list[str]:
    """The held-out packages."""
    return STDLIB_TEST + THIRD_PARTY_TEST
