"""Data of real size: seconds and memory of every step that reads a preference data set, by its number of rows.

Run: python benchmarks/million.py [--rows 10000 100000 1000000] [--kinds parquet jsonl] [--folder FOLDER], or
python benchmarks/million.py --recipes [NAME ...].
Files are made once, of common words, and nothing comes from the network; a million rows take 0.7 GB as JSON lines.
Every step is a process of its own, and the operating system counts: processor seconds of all its threads, which other
work on the machine hardly changes, and the most memory that was resident at once. `--recipes` makes the data sets of
the recipes with the columns, files and numbers of rows that the real ones have, instead.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

MIB = 2**20
MODEL = "tiny"
PROMPT, RESPONSE = 512, 256
COMMON = (
    "the of and a to in is you that it he was for on are as with his they I at be this have from or one had by word "
    "but not what all were we when your can said there use an each which she do how their if will up other about out "
    "many then them these so some her would make like him into time has look two more write go see number no way could "
    "people my than first water been call who oil its now find long down day did get come made may part"
)
WORDS = COMMON.split()
RECIPES = {
    "hh-helpful": {
        "helpful-base/train": 43_835, "helpful-base/test": 2_354,
        "helpful-online/train": 22_007, "helpful-online/test": 1_137,
        "helpful-rejection-sampled/train": 52_421, "helpful-rejection-sampled/test": 2_749,
    },
    "hh-harmless": {"harmless-base/train": 42_537, "harmless-base/test": 2_312},
    "tldr": {"comparisons/train/0000": 92_858, "comparisons/validation/0000": 86_086},
    "arena": {"data/train-00000-of-00001": 33_000},
}  # fmt: skip
"""Rows of each file, as the Hub has them."""


class Writer:
    """Text of common words, the same for the same seed."""

    def __init__(self) -> None:
        self.draw = random.Random(0)
        self.sentences = [" ".join(self.draw.choices(WORDS, k=self.draw.randint(6, 14))) for _ in range(4096)]

    def text(self, fewest: int, most: int) -> str:
        """Some sentences."""
        return ". ".join(self.draw.choices(self.sentences, k=self.draw.randint(fewest, most)))

    def pairs(self, rows: int) -> Iterator[dict[str, Any]]:
        """Rows of layout `text`; every tenth has the prompt of an earlier one."""
        for n in range(rows):
            number = n // 2 if n % 10 == 9 else n
            yield {
                "prompt": f"{number}: {self.sentences[number % 4096]}. {self.sentences[number // 7 % 4096]}. " * 3,
                "chosen": self.text(2, 6),
                "rejected": self.text(2, 6),
            }

    def dialogue(self) -> dict[str, Any]:
        """A row of Anthropic HH."""
        turns = "".join(f"\n\nHuman: {self.text(1, 4)}\n\nAssistant: {self.text(2, 6)}" for _ in range(2))
        asked = f"{turns}\n\nHuman: {self.text(1, 3)}\n\nAssistant: "
        return {"chosen": asked + self.text(1, 8), "rejected": asked + self.text(1, 8)}

    def comparison(self) -> dict[str, Any]:
        """A row of OpenAI's TL;DR comparisons."""
        post = {"id": f"t3_{self.draw.getrandbits(32):x}", "post": self.text(10, 40), "title": self.text(1, 1),
                "subreddit": "relationships", "site": None, "article": None}  # fmt: skip
        both = [{"text": " " + self.text(1, 4), "policy": "sup2", "note": None} for _ in range(2)]
        return {"info": post, "summaries": both, "choice": self.draw.randint(0, 1), "worker": "w", "batch": "batch3",
                "split": "train", "extra": {"confidence": None}}  # fmt: skip

    def battle(self) -> dict[str, Any]:
        """A row of Chatbot Arena."""

        def turn(role: str, text: str) -> dict[str, str]:
            return {"content": text, "role": role}

        asked = turn("user", self.text(1, 8))
        both = [[asked, turn("assistant", self.text(2, 24))] for _ in range(2)]
        return {"question_id": f"{self.draw.getrandbits(64):x}", "model_a": "m", "model_b": "n", "judge": "arena_user",
                "winner": self.draw.choice(["model_a", "model_b", "tie", "tie (bothbad)"]), "conversation_a": both[0],
                "conversation_b": both[1], "turn": 1, "language": "English"}  # fmt: skip


def save(file: Path, rows: Iterator[dict[str, Any]]) -> None:
    """Write rows as Parquet, JSON lines or packed JSON lines."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".parquet":
        save_parquet(file, rows)
        return
    with gzip.open(file, "wt") if file.suffix == ".gz" else file.open("w") as out:
        out.writelines(json.dumps(row) + "\n" for row in rows)


def save_parquet(file: Path, rows: Iterator[dict[str, Any]]) -> None:
    """Write rows in groups of 250,000, as large as any of the Hub's."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    writer = None
    parts: list[pa.Table] = []
    while part := [row for _, row in zip(range(10_000), rows, strict=False)]:
        parts.append(pa.Table.from_pylist(part, schema=parts[0].schema if parts else writer and writer.schema))
        writer = writer or pq.ParquetWriter(file, parts[0].schema)
        if len(parts) == 25:
            writer.write_table(pa.concat_tables(parts), row_group_size=250_000)
            parts = []
    if writer and parts:
        writer.write_table(pa.concat_tables(parts))
    if writer:
        writer.close()


def make(folder: Path, name: str) -> None:
    """Make one data set: `1000.parquet`, or one of the recipes'."""
    writer = Writer()
    if name not in RECIPES:
        save(folder / name, writer.pairs(int(name.split(".")[0])))
        return
    kinds: dict[str, tuple[str, Callable[[], dict[str, Any]]]] = {
        "tldr": (".parquet", writer.comparison), "arena": (".parquet", writer.battle)
    }  # fmt: skip
    ending, row = kinds.get(name, (".jsonl.gz", writer.dialogue))
    for file, number in RECIPES[name].items():
        save(folder / name / f"{file}{ending}", (row() for _ in range(number)))


def cells(data: Path, place: Path) -> None:
    """What a study makes of the data: its prompts and pairs, and the pairs that train and test its golden model."""
    from goodhart.cells.workplace import Workplace
    from goodhart.config import plain_data
    from goodhart.models.checkpoint import find
    from goodhart.recipes.data import preference_prompts
    from goodhart.recipes.people_parts import peoples_pairs, peoples_test_pairs
    from goodhart.recipes.settings import Task
    from goodhart.tasks.data_digest import data_digest

    task = Task("preferences", str(data), template="plain", max_prompt=PROMPT, max_response=RESPONSE)
    own = data_digest(str(data))
    model = find(MODEL)
    places = {"tokenizer": str(model.path), "data": own.pop("name")}
    settings = {"task": plain_data(task), "tokenizer": model.digest, "data": own}
    (place / "prompts").mkdir(parents=True)
    counts = preference_prompts(Workplace(settings, {}, place / "prompts", places))["counts"]
    inputs, sizes = {"prompts": place / "prompts"}, {"validation": 256, "test": 256}
    for name, recipe in {"people": peoples_pairs, "tests": peoples_test_pairs}.items():
        (place / name).mkdir()
        recipe(Workplace(sizes, inputs, place / name))
    print(f"{counts['pairs']:,} pairs, {sum(counts['left out'].values()):,} left out", file=sys.stderr)


def spent(command: list[str]) -> tuple[float, float, float]:
    """(processor seconds, seconds, MiB at most) of a process. Raises SystemExit with what it says if it fails."""
    began = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: {said}")
    size = usage.ru_maxrss if sys.platform == "darwin" else 1024 * usage.ru_maxrss
    return usage.ru_utime + usage.ru_stime, time.monotonic() - began, size / MIB


def steps(data: Path, place: Path) -> dict[str, list[str]]:
    """The commands that read a data set."""
    own = [sys.executable, __file__]
    goodhart = [sys.executable, "-c", "import sys; from goodhart.cli import main; sys.exit(main())"]
    study = str(place / "mine.yaml")
    return {
        "goodhart data": [*goodhart, "data", str(data)],
        "goodhart data --model": [*goodhart, "data", str(data), "--model", MODEL, "--template", "plain"],
        "goodhart init": [*goodhart, "init", str(data), "--policy", MODEL, "--out", study, "--force"],
        "goodhart run --dry-run": [*goodhart, "run", study, "--root", str(place / "root"), "--dry-run"],
        "data cells": [*own, "--cells", str(data), str(place / "cells")],
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--kinds", nargs="+", default=["parquet", "jsonl"])
    parser.add_argument("--recipes", nargs="*", choices=RECIPES, help="all of them if none is named")
    parser.add_argument("--folder", type=Path, default=Path("million"))
    parser.add_argument("--steps", nargs="+", help="those of these names alone")
    parser.add_argument("--make", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--cells", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.make:
        make(Path(asked.make[0]), asked.make[1])
    elif asked.cells:
        cells(Path(asked.cells[0]), Path(asked.cells[1]))
    else:
        measure(asked)


def measure(asked: argparse.Namespace) -> None:
    """Make what is not there, take every step, print the table."""
    recipes = asked.recipes is not None
    names = (asked.recipes or list(RECIPES)) if recipes else [f"{n}.{kind}" for n in asked.rows for kind in asked.kinds]
    print("| data | rows | step | processor, s | clock, s | memory, MiB |\n|---|---|---|---|---|---|", flush=True)
    for name in names:
        data = asked.folder / name
        if not data.exists():
            spent([sys.executable, __file__, "--make", str(asked.folder), name])
        number = sum(RECIPES[name].values()) if recipes else int(name.split(".")[0])
        place = asked.folder / f"{name}.{os.getpid()}"
        place.mkdir()
        for step, command in steps(data, place).items():
            if asked.steps and step not in asked.steps:
                continue
            own, clock, memory = spent(command)
            print(f"| {name} | {number:,} | {step} | {own:,.0f} | {clock:,.0f} | {memory:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
