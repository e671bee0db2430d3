"""The recipe of a judge that is a rule: nothing is trained, and all that its verdicts need is written down."""

from __future__ import annotations

from typing import Any

import pyarrow.parquet as pq

from goodhart import functions
from goodhart.alignment.rule import RuleJudge, by_prompt, prompt_key
from goodhart.cells.workplace import Workplace
from goodhart.config import plain_data
from goodhart.models.checkpoint import load_tokenizer
from goodhart.recipes.located import model_folder
from goodhart.tasks.reward import Rule


def rule(work: Workplace) -> dict[str, Any]:
    """`model/`: the rule, the policy's tokenizer and, for `similarity`, every prompt's human line."""
    functions.learn_from(work.places)
    settings = work.setting(Rule, "rule")
    lines: dict[bytes, tuple[str, ...]] = {}
    if settings.reward == "similarity":
        table = pq.read_table(work.inputs["prompts"] / "prompts.parquet", columns=["tokens", "reference"])
        rows = zip(table.column("tokens").to_pylist(), table.column("reference").to_pylist(), strict=True)
        lines = by_prompt((prompt_key(tokens), line) for tokens, line in rows if line is not None)
    judge = RuleJudge(settings, load_tokenizer(model_folder(work, "tokenizer")), lines, int(work.settings["seed"]))
    (work.folder / "model").mkdir(exist_ok=True)
    judge.save(work.folder / "model")
    several = sum(len(each) > 1 for each in lines.values())
    return {"rule": plain_data(settings), "meaning": settings.meaning, "prompts with several lines": several}
