"""The recipe of a judge that is a rule: nothing is trained, and all that its verdicts need is written down."""

from __future__ import annotations

from typing import Any

import pyarrow.dataset as ds

from goodhart import functions
from goodhart.alignment.rule import RuleJudge, by_prompt, prompt_key
from goodhart.cells.workplace import Workplace
from goodhart.config import plain_data
from goodhart.models.checkpoint import load_tokenizer
from goodhart.recipes.located import model_folder
from goodhart.tasks.prompt_table import SCHEMA
from goodhart.tasks.reward import Rule
from goodhart.tasks.row_groups import tables


def rule(work: Workplace) -> dict[str, Any]:
    """`model/`: the rule, the policy's tokenizer and, for `similarity`, every prompt's human line."""
    functions.learn_from(work.places)
    settings = work.setting(Rule, "rule")
    lines: dict[bytes, tuple[str, ...]] = {}
    if settings.reward == "similarity":
        path, known = work.inputs["prompts"] / "prompts.parquet", ds.field("reference").is_valid()
        rows = (row for part in tables(path, SCHEMA, known, ["tokens", "reference"]) for row in part.to_pylist())
        lines = by_prompt((prompt_key(row["tokens"]), row["reference"]) for row in rows)
    judge = RuleJudge(settings, load_tokenizer(model_folder(work, "tokenizer")), lines, int(work.settings["seed"]))
    (work.folder / "model").mkdir(exist_ok=True)
    judge.save(work.folder / "model")
    several = sum(len(each) > 1 for each in lines.values())
    return {"rule": plain_data(settings), "meaning": settings.meaning, "prompts with several lines": several}
