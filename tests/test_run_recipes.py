"""The recipes of the arms on cells made by hand: a prompt of several pairs, units, and whose log-probabilities."""

import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from goodhart.alignment.batch import Batch
from goodhart.alignment.pair_table import read_pairs, write_pairs
from goodhart.cells.workplace import Workplace
from goodhart.config import plain_data
from goodhart.models.checkpoint import load_tokenizer
from goodhart.models.preference import PreferenceModel
from goodhart.recipes import run_parts
from goodhart.recipes.models import load_policy, scored, with_reference
from goodhart.recipes.run import alignment_run, written_pairs
from goodhart.recipes.run_state import STREAM
from goodhart.tasks.prompt_table import write_prompts
from goodhart.tasks.prompts import Prompt
from micro_study import WORDS, write_model
from tiny_arms import arm, changed

PROMPTS = [Prompt(f"{i:012x}", (5 + i, 6)) for i in range(3)]
PAIRS = [0, 1, 0, 2, 0, 1]
"""The prompt of each pair."""
LABEL = np.array([1.0, 0.0, 1.0, 0.0, 1.0, 1.0])
OFFLINE = arm(source="data", labeller="data", steps=2, batch=6, checkpoints=1, beta=(0.1,), lr=(1e-3,))
ONLINE = changed(OFFLINE, source="policy", labeller="proxy")


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    """Folders of cells by the name of the input."""
    folder = tmp_path_factory.mktemp("cells")
    found = {name: folder / f"{name}-0123" for name in ("prompts", "sft", "labels", "judge")}
    for path in found.values():
        path.mkdir()
    write_model(found["sft"] / "final", [" ".join(WORDS), "say"])
    tokenizer = load_tokenizer(found["sft"] / "final")
    table = {
        "prompt": [p.id for p in PROMPTS],
        "split": ["train"] * 3,
        "rank": [None] * 3,
        "tokens": [list(p.tokens) for p in PROMPTS],
    }
    absent = dict.fromkeys(("rank", "package", "reference", "reference_tokens"), [None] * 3)
    write_prompts(found["prompts"] / "prompts.parquet", {**table, "text": ["t"] * 3, **absent})
    end = tokenizer.eos_token_id
    first, second = ([[7 + i, *extra, end] for i in range(6)] for extra in ([9, 8, 7], []))
    sft, _ = load_policy(found["sft"] / "final", 8)
    pairs = Batch.of_pairs([PROMPTS[i] for i in PAIRS], first, second, LABEL)
    write_labels(found["labels"], with_reference(replace(sft, name="sft-0123"), pairs))
    judge = PreferenceModel.from_language_model(
        found["sft"] / "final", "pairwise", end, tokenizer.pad_token_id, sft.layout
    )
    (found["judge"] / "model").mkdir()
    judge.save(found["judge"] / "model")
    return found


def write_labels(folder, pairs):
    folder.mkdir(exist_ok=True)
    write_pairs(folder / "pairs.parquet", pairs, list("abcdef"), ["train"] * 6, ["golden"] * 6)


def logged(cells, folder, arm, **more):
    """The log of a run, one record for each step."""
    folder.mkdir()
    alignment_run(Workplace({"arm": plain_data(arm), "seed": 0, "max_response": 8, **more}, cells, folder))
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_an_online_run_learns_from_other_responses_to_each_pair_of_a_prompt(cells, tmp_path):
    logged(cells, tmp_path / "run", ONLINE)
    recorded = pq.read_table(tmp_path / "run" / "stream.parquet").to_pylist()
    for batch in (recorded[:6], recorded[6:]):
        seen = [(row["prompt"], tuple(row["first"]), tuple(row["second"])) for row in batch]
        assert len(set(seen)) == 6, "two pairs of one prompt in one batch have the same responses"


def test_written_pairs_of_one_prompt_differ(cells, tmp_path):
    settings = {"seed": 0, "max_response": 8, "mode": "hard", "flip": 0.0, "steps": [0, 0]}
    written_pairs(Workplace(settings, {**cells, "golden": cells["judge"]}, tmp_path))
    pairs, ids, _ = read_pairs(tmp_path / "pairs.parquet", "train", cells["prompts"] / "prompts.parquet")
    assert ids == list("abcdef")
    responses = [(p.id, tuple(r)) for p, both in zip(pairs.prompts, pairs.responses, strict=True) for r in both]
    assert len(set(responses)) == 12, "a writer gave two pairs of a prompt the same response"


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_the_drift_that_is_logged_is_in_nats_per_response_whatever_the_loss_takes(cells, tmp_path, reduction):
    labels, _, _ = read_pairs(cells["labels"] / "pairs.parquet", "train", cells["prompts"] / "prompts.parquet")
    write_labels(tmp_path / "labels", replace(labels, writer=labels.reference - [5.0, 3.0]))
    first, _ = logged({**cells, "labels": tmp_path / "labels"}, tmp_path / "run", changed(OFFLINE, reduction=reduction))
    assert (first["drift"], first["drift_spread"]) == pytest.approx((4.0, 1.0), abs=1e-4)


def test_what_is_kept_with_fixed_data_is_used_if_it_is_of_the_runs_own_reference(cells, tmp_path, monkeypatch):
    """The labels of another SFT policy's cell are scored again; its own are not."""
    kept, scorings = tmp_path / "labels", []
    labels, _, _ = read_pairs(cells["labels"] / "pairs.parquet", "train", cells["prompts"] / "prompts.parquet")
    monkeypatch.setattr(run_parts, "with_reference", lambda *given: scorings.append(given) or with_reference(*given))
    for name, known in (("sft-0123", True), ("sft-4567", False), ("", False)):
        write_labels(kept, replace(labels, logps={name: labels.reference - 1.0}))
        first, _ = logged({**cells, "labels": kept}, tmp_path / f"run {name}", OFFLINE)
        assert bool(scorings) != known, f"pairs of {name!r}"
        # the margin of the first step is 0 against the policy's own start, and so it is less 1 on both sides
        assert first["loss"] == pytest.approx(0.25, abs=1e-4)
        assert first["drift"] == pytest.approx(1.0 if known else 0.0, abs=1e-4), f"pairs of {name!r}"
        scorings.clear()


def test_recorded_pairs_keep_the_references_name(cells, tmp_path):
    logged(cells, tmp_path / "run", ONLINE)
    index = cells["prompts"] / "prompts.parquet"
    recorded, _, _ = read_pairs(tmp_path / "run" / "stream.parquet", STREAM, index)
    sft, _ = load_policy(cells["sft"] / "final", 8)
    assert list(recorded.logps) == ["sft-0123"]
    np.testing.assert_allclose(recorded.under("sft-0123"), scored(sft, recorded), atol=1e-4)
