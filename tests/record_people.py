"""Writes down what a study makes of people's pairs, layout by layout; `recorded/people.json` has what it was.

Run: python tests/record_people.py.
"""

import hashlib
import json
import tempfile
from pathlib import Path

import pyarrow.parquet as pq

from goodhart.cells.workplace import Workplace
from goodhart.config import plain_data
from goodhart.models.checkpoint import find
from goodhart.recipes.data import preference_prompts
from goodhart.recipes.people_parts import peoples_pairs, peoples_test_pairs
from goodhart.recipes.settings import Task
from goodhart.tasks.data_digest import data_digest
from micro_study import write_model
from preference_data_cases import HTML, answer, battle, hh, tldr, user, write
from test_preference_data_tokens import byte_tokenizer

RECORDED = Path(__file__).parent / "recorded" / "people.json"


def rows(layout, number=60):
    """Rows of a layout: prompts that repeat, ties, long ones, and some that are left out."""
    for n in range(number):
        prompt, good, bad = f"Say {n // 2 * 2} {HTML * (n % 7 == 3)}", f"good {n}" * (1 + 9 * (n % 11 == 5)), "bad"
        bad = good if n % 13 == 4 else bad
        both, tie = {"prompt": prompt, "responses": [bad, good, f"so {n}"]}, n % 9 == 2
        yield from {
            "text": [{"prompt": prompt, "chosen": good, "rejected": bad, "label": "tie" if tie else "chosen"}],
            "chat": [{"prompt": [user(prompt)], "chosen": [answer(good)], "rejected": [answer(bad)]}],
            "implicit-chat": [
                {"chosen": [user(prompt), answer(good)], "rejected": [user(prompt), answer(bad)]},
            ],
            "dialogue": [{"chosen": hh(prompt, good), "rejected": hh(prompt, bad)}],
            "tldr": [tldr(n % 2, good, bad, post=prompt)],
            "battle": [
                battle("tie" if tie else "model_b", [user(prompt), answer(good)], [user(prompt), answer(bad)]),
            ],
            "sharegpt": [
                {
                    "conversations": [{"from": "human", "value": prompt}],
                    "chosen": {"from": "gpt", "value": good},
                    "rejected": {"from": "gpt", "value": bad},
                }
            ],
            "ranks": [{**both, "ranks": [2, 1, 3]}],
            "ranking": [{**both, "ranking": [1, 0, 2]}],
            "ratings": [{**both, "ratings": [1, 4.5, None if tie else 4.5]}],
            "ultrafeedback": [
                {
                    "instruction": prompt,
                    "completions": [{"response": r, "overall_score": s} for r, s in ((bad, 2), (good, 9), ("x", 9))],
                }
            ],
            "marks": [
                {"prompt": prompt, "completion": good, "label": True},
                {"prompt": prompt, "completion": bad, "label": tie},
            ],
        }[layout]


LAYOUTS = (
    "text", "chat", "implicit-chat", "dialogue", "tldr", "battle", "sharegpt", "ranks", "ranking", "ratings",
    "ultrafeedback", "marks",
)  # fmt: skip


def found_here(layout, kind, folder):
    """Digests of the tables that the data cells write, and what is counted."""
    write_model(folder / "model", ["a"])
    byte_tokenizer().save_pretrained(folder / "model")
    data = write(folder / f"d.{kind}", list(rows(layout)))
    task = Task("preferences", str(data), template="plain", held_out=0.4, max_prompt=120, max_response=40)
    digest = data_digest(str(data))
    places = {"tokenizer": str(folder / "model"), "data": digest.pop("name")}
    settings = {"task": plain_data(task), "tokenizer": find(str(folder / "model")).digest, "data": digest}
    for cell in ("prompts", "people", "tests"):
        (folder / cell).mkdir()
    counts = preference_prompts(Workplace(settings, {}, folder / "prompts", places))["counts"]
    inputs, sizes = {"prompts": folder / "prompts"}, {"validation": 4, "test": 3}
    pairs = peoples_pairs(Workplace(sizes, inputs, folder / "people"))
    tests = peoples_test_pairs(Workplace(sizes, inputs, folder / "tests"))
    tables = ("prompts/prompts", "prompts/pairs", "people/pairs", "tests/pairs")
    counts = {name: value for name, value in counts.items() if name != "template"}
    return {
        "counts": counts,
        **pairs,
        "tests": tests,
        **{name: digest_of(folder / f"{name}.parquet") for name in tables},
    }


def digest_of(table):
    """Of a table's values, whatever file they stand in."""
    return hashlib.sha256(json.dumps(pq.read_table(table).to_pylist()).encode()).hexdigest()[:16]


if __name__ == "__main__":
    found = {}
    for layout in LAYOUTS:
        with tempfile.TemporaryDirectory() as folder:
            found[layout] = found_here(layout, "jsonl", Path(folder))
    RECORDED.write_text(json.dumps(found, indent=1) + "\n")
