"""Initial pairs: who writes them, which side is preferred, and that everything is keyed by the prompt."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from goodhart.alignment.pair_table import read_pairs
from goodhart.cells.workplace import Workplace
from goodhart.config import plain_data
from goodhart.errors import GoodhartError
from goodhart.models.checkpoint import load_tokenizer
from goodhart.recipes.pool import initial_pairs
from goodhart.recipes.pool import test_pairs as measuring_pairs
from goodhart.recipes.pool_kinds import kinds
from goodhart.recipes.settings import Pool, Task
from goodhart.tasks.prompt_table import HeldOut, ranks, write_prompts
from goodhart.tasks.similarity import similarity
from goodhart.tasks.text_task import TEXT_TASKS
from micro_study import write_model

WORDS = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta"]
FIXED_LINES = {kind: task.fixed_line for kind, task in TEXT_TASKS.items()}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished pool over 60 prompts: (its folder, the prompt table, the tokenizer)."""
    folder = tmp_path_factory.mktemp("pool")
    lines = [f"Return {WORDS[i % 8]} of {WORDS[i // 8]}." for i in range(60)]
    write_model(folder / "sft" / "final", [*lines, *FIXED_LINES.values()])
    write_model(folder / "sft" / "early", [*lines, *FIXED_LINES.values()])
    tokenizer = load_tokenizer(folder / "sft" / "final")
    encode = [tokenizer.encode(line, add_special_tokens=False) for line in lines]
    (folder / "prompts").mkdir()
    write_prompts(
        folder / "prompts" / "prompts.parquet",
        {
            "prompt": [f"{i:016x}" for i in range(60)],
            "split": ["train"] * 40 + ["held_out"] * 20,
            "rank": [None] * 40 + [*range(20)],
            "package": ["p"] * 60,
            "text": lines,
            "tokens": [ids[:5] for ids in encode],
            "reference": lines,
            "reference_tokens": [[*ids, tokenizer.eos_token_id] for ids in encode],
        },
    )
    return folder, tokenizer


def run(folder: Path, name: str, kind: str = "docstrings", **changes):
    pool = replace(Pool(pairs=30, samples=0.3, early=0.1, human=0.2, mismatched=0.2, degenerate=0.2), **changes)
    settings = {"task": plain_data(Task(kind=kind, max_response=16)), "pool": plain_data(pool), "validation": 10}
    (folder / name / "test").mkdir(parents=True)
    inputs = {"sft": folder / "sft", "prompts": folder / "prompts"}
    measuring_pairs(Workplace({**settings, "test": 10}, inputs, folder / name / "test"))
    return initial_pairs(Workplace(settings, inputs, folder / name)), pool


def test_pairs_are_labelled_by_similarity_and_keyed(made):
    folder, tokenizer = made
    result, _ = run(folder, "one")
    run(folder, "two")
    for name in ("pairs.parquet", "test/pairs.parquet", "test/probes.parquet"):
        assert pq.read_table(folder / "one" / name).equals(pq.read_table(folder / "two" / name))
    counts = {"train": 30, "validation": 10, "test": 10}
    for split, count in counts.items():
        name = "one/test" if split == "test" else "one"
        pairs, _, _ = read_pairs(folder / name / "pairs.parquet", split, folder / "prompts" / "prompts.parquet")
        assert len(pairs) == count
        texts = [[tokenizer.decode(r, skip_special_tokens=True) for r in side] for side in (pairs.first, pairs.second)]
        lines = pq.read_table(folder / "prompts" / "prompts.parquet").to_pylist()
        reference = {row["prompt"]: row["reference"] for row in lines}
        wanted = [reference[p.id] for p in pairs.prompts]
        a, b = (similarity(side, wanted) for side in texts)
        decided = a != b
        np.testing.assert_array_equal(pairs.label[decided], (a > b)[decided].astype(float))
        assert set(pairs.label) <= {0.0, 1.0}
    assert result["kinds"]


def test_a_prompts_pair_does_not_depend_on_how_many_there_are(made):
    folder, _ = made
    run(folder, "few", pairs=10)
    run(folder, "many", pairs=40)
    table = folder / "prompts" / "prompts.parquet"
    few, _, kinds = read_pairs(folder / "few" / "pairs.parquet", "train", table)
    many, _, _ = read_pairs(folder / "many" / "pairs.parquet", "train", table)
    by_prompt = {p.id: pair for p, pair in zip(many.prompts, many.responses, strict=True)}
    own = [i for i, kind in enumerate(kinds) if kind != "mismatched"]
    assert own
    assert all(by_prompt[few.prompts[i].id] == few.responses[i] for i in own)


@pytest.mark.parametrize("kind", FIXED_LINES)
def test_probes_put_the_side_that_should_win_first(made, kind):
    folder, tokenizer = made
    name = f"probes of {kind}"
    run(folder, name, kind)
    probes, _, kinds = read_pairs(
        folder / name / "test" / "probes.parquet", "test", folder / "prompts" / "prompts.parquet"
    )
    assert set(probes.label) == {1.0}
    assert len(set(kinds)) == 6
    assert [kinds.count(kind) for kind in sorted(set(kinds))] == [10] * 6
    junk = {kind: probes.second[kinds.index(f"sample over {kind}")] for kind in ("empty", "fixed line", "repetition")}
    assert junk["empty"] == [tokenizer.eos_token_id]
    assert tokenizer.decode(junk["fixed line"], skip_special_tokens=True) == FIXED_LINES[kind]
    assert junk["repetition"][:2] * 4 == junk["repetition"][:8]


def test_similarity_is_one_for_the_line_itself_and_zero_for_nothing():
    found = similarity(["Return the value.", "", "xyz"], ["Return the value."] * 3)
    assert found[0] == pytest.approx(1)
    assert found[1] == 0
    assert 0 <= found[2] < 0.2


def test_every_kind_has_its_share_of_any_number_of_pairs_and_fewer_pairs_are_the_first_of_more():
    pool = Pool(samples=0.3, early=0.05, human=0.22, mismatched=0.25, degenerate=0.18)
    whole = kinds(pool, 1000)
    for number in (1, 7, 10, 100, 999):
        some = kinds(pool, number)
        assert some == whole[:number]
        for kind in ("samples", "early", "human", "mismatched", "degenerate"):
            assert abs(some.count(kind) - getattr(pool, kind) * number) <= 1, (kind, number)
    assert whole.count("samples") == 300


def test_more_prompts_to_evaluate_or_to_test_leave_the_others_where_they_are():
    few, more = HeldOut(5, 10, 20), HeldOut(5, 30, 40)
    assert more.to_validate == few.to_validate == range(5)
    assert set(few.to_evaluate) < set(more.to_evaluate)
    assert set(few.to_test(100)) < set(more.to_test(100))
    for uses in (few, more):
        parts = [uses.to_validate, uses.to_evaluate, uses.to_test(100)]
        assert sum(map(len, parts)) == len(set().union(*parts))
    assert HeldOut(5, 10, 5).to_test(20) == range(15, 20)
    with pytest.raises(GoodhartError, match=r"19 held-out prompts do not suffice for task.validation 5"):
        HeldOut(5, 10, 5).to_test(19)


def test_a_rank_is_the_place_in_the_keyed_order():
    assert ranks([2, 0, 1]) == [1, 2, 0]
