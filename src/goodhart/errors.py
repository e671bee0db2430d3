"""The one exception that a person is meant to read."""

from __future__ import annotations

import re


class GoodhartError(Exception):
    """A fault that the user can mend: the message names the thing and the remedy in one line."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f"{problem}; {remedy}")
        self.problem = problem
        self.remedy = remedy

    def __reduce__(self) -> tuple[type[GoodhartError], tuple[str, str]]:
        return type(self), (self.problem, self.remedy)  # errors cross process boundaries


_NO_MEMORY = re.compile(
    r"out of memory|allocate memory|not enough memory|ALLOC_FAILED|bad_alloc|start new thread", re.IGNORECASE
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, PyTorch on the CPU or PyTorch on a GPU had no memory left; allocators have no class for it."""
    said = isinstance(error, RuntimeError | OSError) and _NO_MEMORY.search(str(error))
    return isinstance(error, MemoryError) or bool(said)
