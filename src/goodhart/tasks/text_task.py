"""The built-in tasks over the docstring corpus, and what makes each of them one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from goodhart.tasks.docstring_text import FOREIGN_CLOSING, prompt_text
from goodhart.tasks.docstrings import Docstring
from goodhart.tasks.names import name_example


@dataclass(frozen=True, slots=True)
class TextTask:
    """What a policy reads and writes in a task that is made of docstrings."""

    meaning: str
    """For people."""
    example: Callable[[Docstring], tuple[str, str] | str]
    """(text of the prompt, human line), or the reason why an object of the corpus is left out."""
    foreign_closing: str
    """What stands between a prompt's text and the response for models without the built-in tokenizer."""
    fixed_line: str
    """A degenerate response: it looks like a human line and is the same for every prompt."""


def _summary_example(item: Docstring) -> tuple[str, str]:
    return prompt_text(item), item.summary


TEXT_TASKS = {
    "docstrings": TextTask(
        "an object's name and the body of its docstring in, the summary line out",
        _summary_example,
        FOREIGN_CLOSING,
        "Return the value of the object.",
    ),
    "names": TextTask(
        "a docstring's summary line and body in, the object's name in words out",
        name_example,
        "\nIts name in words:",
        "get value",
    ),
}
"""By the name that `task.kind` has for them."""
