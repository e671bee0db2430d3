"""Goodhart: a laboratory for preference alignment of language models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from goodhart.interface import join, open, run, study
    from goodhart.result import Result
    from goodhart.studies.spec import Study

__all__ = ["Result", "Study", "join", "open", "run", "study"]

_WHERE = {
    **dict.fromkeys(("join", "open", "run", "study"), "interface"),
    "Result": "result",
    "Study": "studies.spec",
}


def __getattr__(name: str) -> Any:
    """What the package offers, imported when it is first asked for: `import goodhart` waits for no library."""
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
