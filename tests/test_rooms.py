"""A room imports from rooms above it and never from one below."""

import ast
from pathlib import Path

import goodhart

PACKAGE = Path(goodhart.__file__).parent
ROOMS = [
    *("compute", "cells", "tracking", "tasks", "models", "sampling", "alignment", "training", "evaluation", "analysis"),
    *("recipes", "studies", "paper", "report"),
]
"""From the one that imports none to the one that may import all."""
SMALL = {"config", "errors", "functions", "randomness", "printable", "output", "special"}
"""Files beside the rooms that all may import."""
ALLOWED = {
    ("tasks", "models"),  # tasks count in tokens, and token ids need no model: a tokenizer's file is a model's file
    ("training", "alignment"),
}


def imported(file):
    """The rooms that a file imports from."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            head, *rest = node.module.split(".")
            if head == "goodhart":
                yield rest[0] if rest else ""
                if not rest:
                    yield from (name.name for name in node.names)


def test_rooms_import_upwards():
    found = set()
    for place, room in enumerate(ROOMS):
        for file in (PACKAGE / room).rglob("*.py"):
            for other in set(imported(file)) - SMALL - {room, ""}:
                if other not in ROOMS[:place] and (room, other) not in ALLOWED:
                    found.add(f"{file.relative_to(PACKAGE)} imports {other}")
    assert not found, "\n".join(sorted(found))


def test_every_folder_is_a_room():
    folders = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}
    assert folders == {*ROOMS, "commands"}, "the command line stands on all of them, and none on it"
