"""Every layout of people's preferences becomes prompts and pairs of token ids that a study can train on."""

import pytest

from goodhart.alignment.pair_table import read_pairs
from goodhart.cells.workplace import Workplace
from goodhart.config import plain_data
from goodhart.errors import GoodhartError
from goodhart.models.checkpoint import find, load_tokenizer
from goodhart.recipes.data import preference_prompts
from goodhart.recipes.settings import Task
from goodhart.tasks.data_digest import data_digest
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


def run(folder, model, data, planned=None, **changes):
    task = Task(
        kind="preferences", data=str(data), held_out=0.5, max_prompt=120, max_response=20, evaluation=8, validation=8
    )
    digest = planned or data_digest(str(data))
    places = {"tokenizer": str(model), "data": digest["name"]}
    own = {key: value for key, value in digest.items() if key != "name"}
    settings = {"task": {**plain_data(task), **changes}, "tokenizer": find(str(model)).digest, "data": own}
    (folder / "out").mkdir()
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
    framed = "Human:\n" in rows[0].text
    assert framed == (layout not in ("dialogue", "tldr")), "a prompt without the model's template, or in it twice"
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


ROWS = [LAYOUTS["text"](i) for i in range(COUNT)]


class TestDataAreWhatTheirAddressSays:
    def test_a_file_that_changed_after_planning_is_an_error(self, model, tmp_path):
        data = write(tmp_path / "data.jsonl", ROWS)
        planned = data_digest(str(data))
        write(data, [{**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in ROWS])
        with pytest.raises(GoodhartError, match=r"data\.jsonl have changed since the study began; run it again"):
            run(tmp_path, model, data, planned)

    def test_a_renamed_split_is_other_data(self, tmp_path):
        write(tmp_path / "d" / "train.jsonl", ROWS)
        write(tmp_path / "d" / "test.jsonl", ROWS[:9])
        before = data_digest(str(tmp_path / "d"))["sha256"]
        (tmp_path / "d" / "sub").mkdir()
        (tmp_path / "d" / "test.jsonl").rename(tmp_path / "d" / "sub" / "test.jsonl")
        moved = data_digest(str(tmp_path / "d"))["sha256"]
        (tmp_path / "d" / "train.jsonl").rename(tmp_path / "d" / "other.jsonl")
        renamed = data_digest(str(tmp_path / "d"))["sha256"]
        assert len({before, moved, renamed}) == 3

    def test_notes_beside_the_data_and_the_name_of_a_single_file_change_nothing(self, tmp_path):
        data = write(tmp_path / "d" / "train.jsonl", ROWS)
        before = [data_digest(str(each))["sha256"] for each in (tmp_path / "d", data)]
        (tmp_path / "d" / "README.md").write_text("x")
        other = write(tmp_path / "other.jsonl", ROWS)
        assert [data_digest(str(each))["sha256"] for each in (tmp_path / "d", other)] == before

    def test_hub_data_are_read_at_the_commit_that_was_planned(self, model, tmp_path, monkeypatch):
        import datasets
        import huggingface_hub

        commits = ["c0ffee"]

        def load_dataset(name, subset, *, split, cache_dir, revision):
            assert revision == "c0ffee", f"the rows are those of {revision or 'whatever is newest'}"
            return datasets.Dataset.from_list(ROWS)

        monkeypatch.setattr(huggingface_hub, "dataset_info", lambda name: type("Info", (), {"sha": commits[-1]}))
        monkeypatch.setattr(datasets, "get_dataset_split_names", lambda *_, **__: ["train"])
        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
        planned = data_digest("someone/prefs")
        commits.append("newer")
        assert run(tmp_path, model, "someone/prefs", planned)["counts"]["pairs"] == COUNT
