"""Every layout of people's preferences becomes prompts and pairs of token ids that a study can train on."""

import pytest

from goodhart.alignment.pair_table import read_pairs
from goodhart.config import plain_data
from goodhart.errors import GoodhartError
from goodhart.models.checkpoint import find, load_tokenizer
from goodhart.study.data_recipes import preference_prompts
from goodhart.study.spec import Task
from goodhart.study.workplace import Workplace
from goodhart.tasks.preference_tokens import PLAIN_TEMPLATE
from goodhart.tasks.prompt_table import read_held_out, read_train
from micro_study import write_model
from preference_data_cases import answer, battle, hh, tldr, user, write

COUNT = 220
LAYOUTS = {
    "text": lambda i: {"prompt": f"say {i}", "chosen": f"good {i}", "rejected": "bad"},
    "chat": lambda i: {
        "prompt": [user(f"say {i}")],
        "chosen": [answer(f"good {i}")],
        "rejected": [answer("bad")],
    },
    "implicit-chat": lambda i: {
        "chosen": [user(f"say {i}"), answer(f"good {i}")],
        "rejected": [user(f"say {i}"), answer("bad")],
    },
    "dialogue": lambda i: {"chosen": hh(f"say {i}", f"good {i}"), "rejected": hh(f"say {i}", "bad")},
    "tldr": lambda i: tldr(0, f" good {i}", " bad", id=f"t3_{i}", post=f"say {i}", title="t", subreddit="s"),
    "battle": lambda i: battle(
        "model_a", [user(f"say {i}"), answer(f"good {i}")], [user(f"say {i}"), answer("bad")], f"q{i}"
    ),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    write_model(folder, ["say good bad Human: Assistant: SUBREDDIT: r/ TITLE: POST: TL;DR: 0123456789"] * 3)
    tokenizer = load_tokenizer(folder)
    tokenizer.chat_template = PLAIN_TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


def run(folder, model, data, **changes):
    task = Task(
        kind="preferences", data=str(data), held_out=0.5, max_prompt=120, max_response=20, evaluation=8, validation=8
    )
    settings = {"task": {**plain_data(task), **changes}, "tokenizer": find(str(model)).digest}
    (folder / "out").mkdir()
    places = {"tokenizer": str(model), "data": task.data}
    return preference_prompts(Workplace(settings, {}, folder / "out", places))


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
@pytest.mark.parametrize("ending", ["jsonl", "json.gz", "parquet"])
def test_every_layout_gives_prompts_and_pairs(layout, ending, model, tmp_path):
    data = write(tmp_path / f"data.{ending}", [LAYOUTS[layout](i) for i in range(COUNT)])
    result = run(tmp_path, model, data)
    assert result["counts"]["layout"] == layout
    assert result["counts"]["pairs"] == COUNT
    tokenizer = load_tokenizer(model)
    table = tmp_path / "out" / "prompts.parquet"
    train, held_out = read_train(table), read_held_out(table, range(COUNT))
    rows = [*train, *held_out]
    assert len(rows) == COUNT
    assert min(len(train), len(held_out)) > 0
    assert all("say" in row.text for row in rows)
    pairs, _, _ = read_pairs(tmp_path / "out" / "pairs.parquet", "train", table)
    assert pairs.label is not None
    for (first, second), label in zip(pairs.responses, pairs.label, strict=True):
        winner, loser = (first, second) if label == 1 else (second, first)
        assert tokenizer.decode(winner, skip_special_tokens=True).strip().startswith("good")
        assert tokenizer.decode(loser, skip_special_tokens=True).strip() == "bad"
        assert winner[-1] == loser[-1] == tokenizer.eos_token_id


def test_no_prompt_stands_on_both_sides(model, tmp_path):
    lines = [LAYOUTS["text"](i // 2) | {"chosen": f"good {i}"} for i in range(2 * COUNT)]
    run(tmp_path, model, write(tmp_path / "data.jsonl", lines))
    table = tmp_path / "out" / "prompts.parquet"
    sides = {}
    for split in ("train", "held_out"):
        pairs, _, _ = read_pairs(tmp_path / "out" / "pairs.parquet", split, table)
        for prompt in pairs.prompts:
            sides.setdefault(prompt.tokens, set()).add("train" if split == "train" else "held out")
    assert len(sides) == COUNT
    assert all(len(side) == 1 for side in sides.values())


def test_a_data_set_of_which_nothing_is_left_says_why(model, tmp_path):
    data = write(tmp_path / "data.jsonl", [LAYOUTS["text"](i) for i in range(COUNT)])
    with pytest.raises(GoodhartError, match="no training pair") as found:
        run(tmp_path, model, data, max_prompt=2)
    assert "longer than 2 tokens" in str(found.value)
