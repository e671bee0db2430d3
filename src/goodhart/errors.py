"""The one exception that a person is meant to read."""

from __future__ import annotations


class GoodhartError(Exception):
    """A fault that the user can mend: the message names the thing and the remedy in one line."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f"{problem}; {remedy}")
        self.problem = problem
        self.remedy = remedy

    def __reduce__(self) -> tuple[type[GoodhartError], tuple[str, str]]:
        return type(self), (self.problem, self.remedy)  # errors cross process boundaries
