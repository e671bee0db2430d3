"""The recipe for best-of-n of the SFT policy: every judge and n from the same samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float

from goodhart.cells.workplace import Workplace
from goodhart.evaluation.best_of import best_of_n, kl_of_best
from goodhart.evaluation.checkpoint import Answers, judged, verdicts
from goodhart.evaluation.verdicts import Opponents
from goodhart.models.logprobs import Layout
from goodhart.models.packing import Tokens
from goodhart.recipes.measure import hidden_measure
from goodhart.recipes.models import judge, load_policy
from goodhart.recipes.opponents import JUDGES, read_opponents
from goodhart.recipes.panel import Panel
from goodhart.recipes.settings import BestOf
from goodhart.tasks.prompts import Prompt


def best_of(work: Workplace) -> dict[str, Any]:
    """`JUDGE-N.parquet`, rows of best-of-n for every judge and n.

    A judge's score of a sample is its mean soft preference over the SFT policy's fixed responses to the same prompt.
    Win rates and the hidden measure are expectations over all subsets of n samples; response and text are the best of
    the first n, and what depends on a policy's own probabilities is null.
    """
    settings = work.setting(BestOf, "best_of")
    panel = Panel.read(work)
    prompts = [row.prompt for row in panel.rows]
    drawn, tokenizer, layout = _drawn(work, prompts, settings.samples)
    work.watch.start()
    values, scores = _judge_all(work, panel, drawn, tokenizer)
    work.watch.lap("label")
    for name in settings.judges:
        for n in settings.n:
            best = [row[int(np.argmax(score[:n]))] for row, score in zip(drawn, scores[name], strict=True)]
            columns: dict[str, list[Any]] = {
                "prompt": [p.id for p in prompts],
                "split": ["held_out"] * len(panel.held_out) + ["train"] * len(panel.train),
                "sample": [0] * len(prompts),
                "response": best,
                "text": [tokenizer.decode(r, skip_special_tokens=True) for r in best],
                "tokens": [len(r) for r in best],
                "ended": [r[-1] == tokenizer.eos_token_id for r in best],
                "kl": [kl_of_best(n)] * len(prompts),
                **{column: [None] * len(prompts) for column in ("entropy", "logp", "ref_logp", "hidden")},
                **{column: best_of_n(scores[name], each, n).tolist() for column, each in values.items()},
            }
            pq.write_table(pa.table(columns), work.folder / f"{name}-{n}.parquet")
    return {"samples": settings.samples * len(prompts), "layout": layout}


def _drawn(work: Workplace, prompts: Sequence[Prompt], samples: int) -> tuple[list[list[list[int]]], Any, Layout]:
    """Samples of the SFT policy, its tokenizer and its layout; it is held for no longer than that."""
    policy, tokenizer = load_policy(work.inputs["sft"] / "final", work.settings["max_response"])
    work.watch.start()
    drawn = policy.sample(prompts, samples, seed=int(work.settings["seed"]), purpose="best of n")
    work.watch.lap("generate")
    return drawn, tokenizer, policy.layout


Table = dict[str, Float[np.ndarray, "prompt sample"]]


def _judge_all(work: Workplace, panel: Panel, drawn: list[list[list[int]]], tokenizer: Any) -> tuple[Table, Table]:
    """Every sample's win rates (and hidden measure), by column, and every judge's score of it, by judge."""
    theirs = read_opponents(work, panel)
    answers = {name: _answers(work, name, panel, drawn, theirs[name]) for name in JUDGES}
    hidden = hidden_measure([row.reference for row in panel.rows])
    values: list[dict[str, Float[np.ndarray, " prompt"]]] = []
    scores: list[dict[str, Float[np.ndarray, " prompt"]]] = []
    for number in range(len(drawn[0])):
        by_judge = {name: by_sample[number] for name, by_sample in answers.items()}
        wins = {column: np.array(each) for column, each in verdicts(by_judge).items()}
        if hidden is not None:
            wins["hidden"] = hidden([tokenizer.decode(row[number], skip_special_tokens=True) for row in drawn])
        values.append(wins)
        scores.append({name: wins[f"{name}_p_vs_sft"] for name in JUDGES})
    return _stacked(values), _stacked(scores)


def _answers(
    work: Workplace, name: str, panel: Panel, drawn: list[list[list[int]]], opponents: Opponents
) -> list[Answers]:
    """One judge's margins of every sample; it is held for no longer than that."""
    model, prompts = judge(work.inputs[name]), [row.prompt.tokens for row in panel.rows]
    answers: list[Answers] = []
    for number in range(len(drawn[0])):
        work.say(number, len(drawn[0]), f"judgements by {name}")
        responses: list[Tokens] = [row[number] for row in drawn]
        answers.append(judged(model, prompts, responses, opponents))
    return answers


def _stacked(parts: list[dict[str, Float[np.ndarray, " prompt"]]]) -> Table:
    return {name: np.stack([part[name] for part in parts], axis=1) for name in parts[0]}
