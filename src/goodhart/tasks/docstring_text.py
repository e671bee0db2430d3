"""Texts made of the docstring corpus: prompts, and the documents that base models are pretrained on."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from goodhart.randomness import permutation
from goodhart.tasks import docstrings
from goodhart.tasks.docstrings import Docstring

BEGIN, RESPOND, END, PAD = "<|begin|>", "<|respond|>", "<|end|>", "<|pad|>"
"""The special tokens of the built-in tokenizer: before a prompt, before a response, after a text, padding."""

FOREIGN_CLOSING = "\nIn one line:"
"""What asks a model without the built-in tokenizer for a summary line: it stands behind the prompt's text."""

Kind = Literal["summary", "code", "prose", "source"]


@dataclass(frozen=True, slots=True)
class Document:
    """One pretraining text: `head` is what comes before a response, and `tail` the rest."""

    kind: Kind
    head: str
    tail: str


def prompt_frame(tokenizer: Any, foreign_closing: str = FOREIGN_CLOSING) -> tuple[list[int], list[int]]:
    """The ids before and behind a prompt's text: special tokens of the built-in tokenizer, or words for any other."""
    vocabulary = tokenizer.get_vocab()
    if BEGIN in vocabulary and RESPOND in vocabulary:
        return [vocabulary[BEGIN]], [vocabulary[RESPOND]]
    opening = [] if tokenizer.bos_token_id is None else [int(tokenizer.bos_token_id)]
    return opening, list(tokenizer.encode(foreign_closing, add_special_tokens=False))


def prompt_text(item: Docstring) -> str:
    """What a policy reads: the object's name and the docstring's body, without the summary line."""
    return f"{item.name}\n{item.body}"


def documents(packages: list[str], seed: int) -> Iterator[Document]:
    """The pretraining documents of the packages, one kind after another, shuffled within each kind.

    `summary` is the task itself (name and body, then the summary); `code` asks for the first docstring
    line of an object from its code; `prose` is a whole docstring; `source` is a file as it stands.
    """
    by_kind: dict[Kind, list[Document]] = {"summary": [], "code": [], "prose": [], "source": []}
    seen: set[str] = set()
    for package in packages:
        for path in docstrings.package_files(package):
            source = docstrings.read_source(path)
            if source is None:
                continue
            by_kind["source"].append(Document("source", "", source))
            for document in _object_documents(source):
                identity = " ".join(f"{document.kind} {document.head} {document.tail}".lower().split())
                if identity not in seen:
                    seen.add(identity)
                    by_kind[document.kind].append(document)
    for kind, group in by_kind.items():
        for i in permutation(len(group), seed, "pretraining order", kind):
            yield group[int(i)]


def _object_documents(source: str) -> Iterator[Document]:
    tree = docstrings.parse(source)
    if tree is None:
        return
    lines = source.split("\n")
    for name, node, raw in docstrings.documented_nodes(tree):
        text = inspect.cleandoc(raw)
        yield Document("prose", "", f"{name}\n{text}")
        parts = docstrings.split_docstring(text)
        if not isinstance(parts, str):
            yield Document("summary", f"{name}\n{parts[1]}", parts[0])
        first = " ".join(text.partition("\n\n")[0].split())
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and 3 <= len(first.split()) <= 18:
            after_docstring = node.body[1:]
            if after_docstring:
                code = "\n".join(lines[after_docstring[0].lineno - 1 : node.end_lineno])
                yield Document("code", f"{name}({ast.unparse(node.args)})\n{inspect.cleandoc(code)}", first)
