"""Recipes for data: the docstring corpus, the study's prompts, people's preferences and marks."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from goodhart.cells.digest import sha256
from goodhart.cells.workplace import Workplace
from goodhart.errors import GoodhartError
from goodhart.models.checkpoint import load_tokenizer
from goodhart.randomness import permutation
from goodhart.recipes.located import model_folder
from goodhart.recipes.people import load_people
from goodhart.recipes.people_tables import HELD_OUT, PeopleTables
from goodhart.recipes.settings import Task
from goodhart.tasks import docstrings
from goodhart.tasks.data_digest import check_digest
from goodhart.tasks.data_source import told
from goodhart.tasks.docstring_text import prompt_frame
from goodhart.tasks.examples import Examples, batched
from goodhart.tasks.pair_rules import ALONE
from goodhart.tasks.preference import Places, Preference, prompt_draws, split_by_prompt
from goodhart.tasks.preference_tokens import Framing, encode_examples
from goodhart.tasks.prompt_table import ranks, write_prompts
from goodhart.tasks.text_task import TEXT_TASKS, TextTask

CHARACTERS_PER_TOKEN = 8
"""Of a text, so many characters for each token that a prompt may have are tokenized first: twice the usual number."""
MARGIN = 8
"""Tokens before a cut that might be others in the whole text, and are not used."""
_PART = 1024
"""Comparisons that are written at once."""
_WHOLE_WORDS = re.compile(r".*[A-Za-z0-9](?= )", re.DOTALL)
"""Up to a space behind a letter or a digit: tokenizers begin a new piece there, so what stands before is the same."""


def docstring_part(work: Workplace) -> dict[str, Any]:
    """`docstrings.parquet`: the usable docstrings of some packages, as they stand there."""
    packages = work.settings["packages"]
    rows: list[dict[str, str]] = []
    reasons: Counter[str] = Counter()
    for number, package in enumerate(packages):
        work.say(number, len(packages), package)
        usable, left_out = docstrings.collect([package])
        reasons.update(left_out)
        rows.extend(asdict(item) for item in usable)
    columns = ("package", "name", "summary", "body")
    pq.write_table(pa.table({c: [row[c] for row in rows] for c in columns}), work.folder / "docstrings.parquet")
    return {"left out": dict(reasons)}


def corpus(work: Workplace) -> dict[str, Any]:
    """`corpus.parquet`: the docstrings of both sides, each text once, held-out texts out of training."""
    rows: list[dict[str, str]] = []
    seen: set[str] = set()
    counts: dict[str, Any] = {}
    for side in ("held_out", "train"):
        reasons: Counter[str] = Counter()
        for name in sorted(name for name in work.inputs if name.startswith(side)):
            reasons.update(json.loads((work.inputs[name] / "cell.json").read_text())["result"]["left out"])
            for row in pq.read_table(work.inputs[name] / "docstrings.parquet").to_pylist():
                item = docstrings.Docstring(**row)
                if item.identity in seen:
                    reasons["duplicate"] += 1
                    continue
                seen.add(item.identity)
                rows.append({"side": side, **row})
        kept = Counter(row["package"] for row in rows if row["side"] == side)
        counts[side] = {"kept": sum(kept.values()), "packages": dict(kept.most_common()), "left out": dict(reasons)}
    pq.write_table(pa.Table.from_pylist(rows), work.folder / "corpus.parquet")
    return {"counts": counts, "sha256": sha256(work.folder / "corpus.parquet")}


def text_prompts(work: Workplace) -> dict[str, Any]:
    """`prompts.parquet` of a built-in task: token ids, splits, human lines."""
    task = work.setting(Task, "task")
    tokenizer = load_tokenizer(model_folder(work, "tokenizer"))
    text_task, reasons = TEXT_TASKS[task.kind], Counter[str]()
    examples = _examples(work.inputs["corpus"] / "corpus.parquet", text_task, reasons)
    kept = _encoded(examples, tokenizer, text_task.foreign_closing, task, reasons)
    held_out = [row for row in kept if row["side"] == "held_out"]
    order = permutation(len(held_out), 0, "held-out split").tolist()
    for row, rank in zip(held_out, ranks(order), strict=True):
        row["rank"] = rank
    texts = tokenizer.backend_tokenizer.decode_batch([r["tokens"] for r in kept], skip_special_tokens=True)
    write_prompts(
        work.folder / "prompts.parquet",
        {
            "prompt": [r["id"] for r in kept],
            "split": [r["side"] for r in kept],
            "rank": [r.get("rank") for r in kept],
            "package": [r["package"] for r in kept],
            "text": texts,
            "tokens": [r["tokens"] for r in kept],
            "reference": [r["reference"] for r in kept],
            "reference_tokens": [r["line"] for r in kept],
        },
    )
    return {"counts": _describe(kept, reasons)}


def _examples(corpus: Path, text_task: TextTask, reasons: Counter[str]) -> list[dict[str, Any]]:
    """What the task makes of the corpus, in its order; what it leaves out is counted."""
    examples: list[dict[str, Any]] = []
    for row in pq.read_table(corpus).to_pylist():
        side = row.pop("side")
        example = text_task.example(docstrings.Docstring(**row))
        if isinstance(example, str):
            reasons[example] += 1
            continue
        text, line = example
        digest = hashlib.sha256(f"{text}\0{line}".encode()).hexdigest()[:16]
        examples.append({"id": digest, "side": side, "package": row["package"], "text": text, "reference": line})
    return examples


def _encoded(
    examples: list[dict[str, Any]], tokenizer: Any, foreign_closing: str, task: Task, reasons: Counter[str]
) -> list[dict[str, Any]]:
    """The examples with `tokens` of the framed prompt and of the human `line`, without those of a line too long."""
    backend = tokenizer.backend_tokenizer
    human = [row["reference"] for row in examples]
    lines = [encoding.ids for encoding in backend.encode_batch_fast(human, add_special_tokens=False)]
    opening, closing = prompt_frame(tokenizer, foreign_closing)
    room = task.max_prompt - len(opening) - len(closing)
    if room < 1:
        raise GoodhartError(f"task.max_prompt is {task.max_prompt}: no token is left for the prompt's text", "raise it")
    bodies = beginnings(backend, [row["text"] for row in examples], room)
    kept: list[dict[str, Any]] = []
    for row, body, line in zip(examples, bodies, lines, strict=True):
        if len(line) + 1 > task.max_response:
            reasons[f"human line longer than {task.max_response} tokens"] += 1
            continue
        reasons["prompt cut to its beginning (kept)"] += len(body) > room
        tokens = [*opening, *body[:room], *closing]
        kept.append({**row, "tokens": tokens, "line": [*line, tokenizer.eos_token_id]})
    return kept


def beginnings(backend: Any, texts: Sequence[str], room: int) -> list[list[int]]:
    """The tokens of each text, or the first of them and more than `room`; long texts are not tokenized to their end."""
    result: list[list[int]] = [[] for _ in texts]
    waiting, characters = list(range(len(texts))), CHARACTERS_PER_TOKEN * room
    while waiting:
        parts = [_beginning(texts[i], characters) for i in waiting]
        cut = [len(part) < len(texts[i]) for i, part in zip(waiting, parts, strict=True)]
        encoded = backend.encode_batch_fast(parts, add_special_tokens=False)
        for i, each, shortened in zip(waiting, encoded, cut, strict=True):
            result[i] = each.ids[:-MARGIN] if shortened else each.ids
        waiting = [i for i, shortened in zip(waiting, cut, strict=True) if shortened and len(result[i]) <= room]
        characters *= 4
    return result


def _beginning(text: str, characters: int) -> str:
    """Some whole words of at most this many characters; the whole text where it is short or has no such words."""
    words = _WHOLE_WORDS.match(text, 0, characters) if len(text) > characters else None
    return words.group() if words else text


def _describe(kept: list[dict[str, Any]], reasons: Counter[str]) -> dict[str, Any]:
    return {
        "splits": dict(Counter(row["side"] for row in kept)),
        "left out": dict(reasons),
        "prompt tokens, mean": round(float(np.mean([len(row["tokens"]) for row in kept])), 1),
        "response tokens, mean": round(float(np.mean([len(row["line"]) for row in kept])), 1),
    }


def preference_prompts(work: Workplace) -> dict[str, Any]:
    """`prompts.parquet` and `pairs.parquet` of a preference data set of people, or `marks.parquet` of marks."""
    task = work.setting(Task, "task")
    tokenizer = load_tokenizer(model_folder(work, "tokenizer"))
    planned = {"name": work.places["data"], **work.settings["data"]}
    say = partial(_heard, work)
    loaded = load_people(task, planned["name"], planned.get("commit"), say=say)
    check_digest(planned)
    framing = Framing.of(task.template, tokenizer, loaded.layout)
    reasons: Counter[str] = Counter({**loaded.filtered, **loaded.left_out})
    alone = loaded.rule == ALONE
    sides = zip(("train", HELD_OUT), split_by_prompt(prompt_draws(loaded.examples, 0), task.held_out), strict=True)
    with PeopleTables(work.folder, work.state, tokenizer, alone=alone) as written:
        for side, places in sides:
            examples = _good_first(loaded.examples, places) if alone else loaded.examples.at(places)
            examples = told(examples, f"tokenised, {side}", len(places), say)
            encoded = encode_examples(examples, tokenizer, framing, task.max_prompt, task.max_response)
            for part in batched(encoded, _PART):
                reasons.update(each for each in part if isinstance(each, str))
                written.add(side, [each for each in part if not isinstance(each, str)])
        if not written.pairs["train"]:
            raise GoodhartError(
                f"no training {loaded.unit[:-1]} of {work.places['data']} is left after filtering ({dict(reasons)})",
                "raise task.max_prompt and task.max_response, or check the data with 'goodhart data'",
            )
    counts = {**written.counts, "left out": dict(reasons), loaded.unit: written.pairs.total()}
    return {"counts": {**counts, "layout": loaded.layout, "template": framing.words}}


def _good_first(examples: Examples, places: Places) -> Iterator[Preference]:
    """Marks so that a prompt's first one is good where it has a good one, which is then its demonstration."""
    for label in (1.0, 0.0):
        yield from (example for example in examples.at(places) if example.label == label)


def _heard(work: Workplace, what: str, done: int, total: int | None) -> None:
    work.say(done, total, what)
