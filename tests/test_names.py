"""The `names` task: how a name is cut into words, what is left out, and the prompt table that comes of it."""

import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from goodhart.cells.workplace import Workplace
from goodhart.config import choices, plain_data
from goodhart.models.checkpoint import find, load_tokenizer
from goodhart.recipes.data import corpus, text_prompts
from goodhart.recipes.settings import Task
from goodhart.tasks.docstring_text import RESPOND
from goodhart.tasks.docstrings import Docstring
from goodhart.tasks.names import MOST, mentions, name_example, name_words
from goodhart.tasks.prompt_table import PromptRow, read_held_out, read_train
from goodhart.tasks.similarity import similarity
from goodhart.tasks.text_task import TEXT_TASKS
from micro_study import write_model

BODY = "The body tells more about it in at least eight plain words."
IDENTIFIERS = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,24}", fullmatch=True)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("BaseEventLoop.set_exception_handler", "set exception handler"),
        ("PriorityQueue", "priority queue"),
        ("_private_helper", "private helper"),
        ("__mangled__name_", "mangled name"),
        ("HTTPServer", "http server"),
        ("parseHTTPHeader", "parse http header"),
        ("getURL", "get url"),
        ("log1p", "log1p"),
        ("BatchNorm1d", "batch norm1d"),
        ("Conv2D", "conv2d"),
        ("SHA256Hash", "sha256 hash"),
        ("Model.from_XMLFile2", "from xml file2"),
        ("A", "a"),
        ("_", ""),
    ],
)
def test_a_name_is_cut_at_dots_underscores_and_humps(name, words):
    assert name_words(name) == words.split()


@given(IDENTIFIERS, IDENTIFIERS)
def test_words_keep_every_letter_and_nothing_else(owner, name):
    words = name_words(f"{owner}.{name}")
    assert "".join(words) == name.replace("_", "").lower()
    assert all(words)
    assert name_words("_".join(words)) == words


@given(st.lists(st.from_regex(r"[a-z]{2,8}", fullmatch=True), min_size=1, max_size=6))
def test_snake_and_camel_case_are_the_same_name(words):
    assert name_words("_".join(words)) == words
    assert name_words("".join(word.title() for word in words)) == words


@given(IDENTIFIERS, st.sampled_from(["{}", "{}()", "see `{}` here", "a.{}.b", "non_{}s"]), st.booleans())
def test_an_identifier_is_found_however_it_is_written(name, frame, capital):
    words = name_words(name)
    for written in (name, "_".join(words), "".join(word.title() for word in words)):
        assert mentions(frame.format(written.upper() if capital else written), words)


@pytest.mark.parametrize(
    ("name", "body", "reason"),
    [
        ("A.__init__", BODY, "name is special (two underscores on both sides)"),
        ("A._", BODY, "name without letters or not ASCII"),
        ("A._1", BODY, "name without letters or not ASCII"),
        ("A.größe_messen", BODY, "name without letters or not ASCII"),
        ("A.set", BODY, "name of one word"),
        ("A._set", BODY, "name of one word"),
        ("A.a_b_c_d_e_f_g", BODY, f"name of more than {MOST} words"),
        ("A.find_answer", f"{BODY}\n>>> find_answer(1)", "name stands in the text"),
        ("A.find_answer", f"{BODY} See FindAnswer.", "name stands in the text"),
        ("A.findAnswer", f"{BODY} See _FIND_ANSWER_.", "name stands in the text"),
    ],
)
def test_what_is_left_out_has_a_reason(name, body, reason):
    assert name_example(Docstring("p", name, "Return the answer.", body)) == reason


def test_the_prompt_is_the_text_and_the_words_alone_may_stand_in_it():
    item = Docstring("p", "Sage.find_answer", "Find the answer.", BODY)
    assert name_example(item) == (f"Find the answer.\n{BODY}", "find answer")
    assert name_example(Docstring("p", "a_b_c_d_e_f", "Find the answer.", BODY)) == (
        item.summary + "\n" + BODY,
        "a b c d e f",
    )


def test_similarity_orders_short_names():
    line = "set exception handler"
    texts = [line, "set handler", "get handler", "", "zoo"]
    found = similarity(texts, [line] * len(texts)).tolist()
    assert found[0] == pytest.approx(1)
    assert found[0] > found[1] > found[2] > found[3]
    assert found[3] == 0
    assert found[4] < 0.1
    assert similarity(["is"], ["is"])[0] == pytest.approx(1)
    assert similarity([TEXT_TASKS["names"].fixed_line], [line])[0] < similarity(["set error handler"], [line])[0]


def test_every_kind_of_task_but_peoples_preferences_is_a_text_task():
    assert choices(Task, "kind") == [*TEXT_TASKS, "preferences"]
    assert len({task.fixed_line for task in TEXT_TASKS.values()}) == len(TEXT_TASKS)


def items(side: str, number: int) -> list[Docstring]:
    """One docstring a number, of which every eighth mentions its name and every eighth has a name of one word."""
    found: list[Docstring] = []
    for i in range(number):
        letters = "".join(chr(ord("a") + int(digit)) for digit in f"{i:03}")
        name = f"find_{letters}" if i % 8 else f"{letters}"
        body = f"Look at {side} {i} and tell more about it in plain words" + (
            f" of find_{letters}." if i % 8 == 1 else "."
        )
        found.append(Docstring(side, f"Sage._{name}", f"Find {letters} of it.", body))
    return found


def write_part(folder: Path, found: list[Docstring]) -> Path:
    folder.mkdir()
    columns = ("package", "name", "summary", "body")
    pq.write_table(pa.table({c: [getattr(item, c) for item in found] for c in columns}), folder / "docstrings.parquet")
    (folder / "cell.json").write_text(json.dumps({"result": {"left out": {"no body": 3}}}))
    return folder


@pytest.fixture(scope="module")
def made_corpus(tmp_path_factory):
    """A corpus of 16 training and 160 held-out docstrings; one more of each side is a duplicate."""
    folder = tmp_path_factory.mktemp("names")
    held_out, train = items("held", 160), items("train", 16)
    copied = Docstring("train", "other_name", held_out[3].summary.upper(), held_out[3].body)
    parts = {
        "held_out 2": write_part(folder / "held", [*held_out, held_out[0]]),
        "train 1": write_part(folder / "train", [copied, *train]),
    }
    (folder / "corpus").mkdir()
    result = corpus(Workplace({}, parts, folder / "corpus"))
    return folder, result["counts"]


def prompts(folder: Path, name: str, model: str | Path, kind: str, **changes):
    task, places = Task(kind=kind, **changes), {"tokenizer": str(model)}
    (folder / name).mkdir()
    settings = {"task": plain_data(task), "tokenizer": find(str(model)).digest}
    work = Workplace(settings, {"corpus": folder / "corpus"}, folder / name, places)
    counts = text_prompts(work)["counts"]
    return every_row(folder / name / "prompts.parquet"), counts


def every_row(table: Path) -> list[PromptRow]:
    return [*read_train(table), *read_held_out(table, range(10**6))]


def is_train(row: PromptRow, folder: Path, name: str) -> bool:
    return row.prompt.id in {train.prompt.id for train in read_train(folder / name / "prompts.parquet")}


def test_the_corpus_has_each_text_once_and_no_held_out_text_in_training(made_corpus):
    folder, counts = made_corpus
    rows = pq.read_table(folder / "corpus" / "corpus.parquet").to_pylist()
    assert Counter(row["side"] for row in rows) == {"held_out": 160, "train": 16}
    assert {row["side"]: row["package"] for row in rows} == {"held_out": "held", "train": "train"}
    assert "other_name" not in {row["name"] for row in rows}
    assert [counts[side]["left out"] for side in ("held_out", "train")] == [{"no body": 3, "duplicate": 1}] * 2


def test_prompts_hold_no_name_and_every_loss_is_counted(made_corpus):
    rows, counts = prompts(made_corpus[0], "names", "tiny", "names", max_response=12)
    assert counts["left out"] == {
        "name of one word": 22,
        "name stands in the text": 22,
        "prompt cut to its beginning (kept)": 0,
    }
    assert counts["splits"] == {"train": 12, "held_out": 120}
    tokenizer = load_tokenizer(find("tiny").path)
    for row in rows:
        assert row.reference is not None
        assert row.reference.startswith("find ")
        assert not mentions(row.text, row.reference.split())
        assert "Sage" not in row.text
        assert row.prompt.tokens[-1] == tokenizer.get_vocab()[RESPOND]
        assert tokenizer.decode(list(row.demonstration), skip_special_tokens=True) == row.reference
        assert row.demonstration[-1] == tokenizer.eos_token_id
        assert (" train " in row.text) == is_train(row, made_corpus[0], "names")
    assert len({row.prompt.id for row in rows}) == len(rows)


def test_both_tasks_read_one_corpus_and_hold_out_the_same_packages(made_corpus):
    rows, counts = prompts(made_corpus[0], "docstrings", "tiny", "docstrings")
    assert len(rows) == 176
    assert counts["left out"] == {"prompt cut to its beginning (kept)": 0}
    for row in rows:
        assert row.text.startswith("Sage._")
        assert row.reference is not None
        assert row.reference not in row.text
        assert (" train " in row.text) == is_train(row, made_corpus[0], "docstrings")


def test_names_too_long_in_tokens_are_counted_and_long_prompts_are_cut(made_corpus):
    rows, counts = prompts(made_corpus[0], "short", "tiny", "names", max_prompt=8, max_response=4)
    assert counts["left out"]["prompt cut to its beginning (kept)"] == len(rows)
    assert counts["left out"]["human line longer than 4 tokens"] == 132 - len(rows) > 0
    assert {len(row.prompt.tokens) for row in rows} == {8}
    assert max(len(row.demonstration) for row in rows) == 4


def test_a_foreign_tokenizer_is_asked_in_words(made_corpus, tmp_path):
    write_model(tmp_path / "model", [BODY])
    trained = Tokenizer(models.BPE(unk_token=None))
    trained.pre_tokenizer, trained.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trained.train_from_iterator([BODY], trainers.BpeTrainer(initial_alphabet=alphabet, special_tokens=["<s>", "</s>"]))
    foreign = PreTrainedTokenizerFast(tokenizer_object=trained, bos_token="<s>", eos_token="</s>", pad_token="</s>")
    for file in (tmp_path / "model").glob("*token*"):
        file.unlink()
    foreign.save_pretrained(tmp_path / "model")
    rows, _ = prompts(made_corpus[0], "foreign", tmp_path / "model", "names", max_prompt=128)
    for row in rows:
        assert row.text.endswith("\nIts name in words:")
        assert row.prompt.tokens[0] == foreign.bos_token_id
        assert foreign.decode(row.demonstration, skip_special_tokens=True) == row.reference
        assert row.demonstration[-1] == foreign.eos_token_id
