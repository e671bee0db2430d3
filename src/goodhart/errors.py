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
    "out of memory|allocate memory|not enough memory|ALLOC_FAILED|bad_alloc|start new thread"
    # the second half of a matrix product's preparation is code that is written into new memory
    "|could not create a (primitive|memory)$"
    "|failed to map segment|ThreadPoolBuildError",
    re.IGNORECASE,
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, the loader, a tokenizer, or PyTorch on CPU or GPU had no memory left; they share no class.

    An error that was raised because of such a one is one too, whatever it says: that a file is not valid, for example.
    """
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return _says_no_memory(error) or (cause is not None and is_out_of_memory(cause))


def _says_no_memory(error: BaseException) -> bool:
    kind = isinstance(error, RuntimeError | OSError | ImportError) or type(error).__name__ == "PanicException"
    return isinstance(error, MemoryError) or bool(kind and _NO_MEMORY.search(str(error)))
