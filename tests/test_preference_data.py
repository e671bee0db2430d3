"""Any user's preference data becomes the same records, and nothing goes missing unsaid."""

import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from goodhart.errors import GoodhartError
from goodhart.tasks.preference import Message, content_id
from goodhart.tasks.preference_data import load_preferences
from goodhart.tasks.preference_layouts import LAYOUTS
from preference_data_cases import CASES, KINDS, answer, battle, content, hh, tldr, turns, user, write


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", CASES)
def test_every_layout_in_every_kind_of_file(tmp_path, layout, kind):
    rows, expected = CASES[layout]
    loaded = load_preferences(write(tmp_path / f"train.{kind}", rows))
    assert [content(e) for e in loaded.examples] == expected
    assert (loaded.layout, loaded.split, loaded.rows, dict(loaded.filtered)) == (layout, "train", len(rows), {})
    assert loaded.pairs == len(expected)
    assert set(loaded.columns) == set(rows[0])
    assert loaded.ties == sum(e[3] == 0.5 for e in expected)


@pytest.mark.parametrize("layout", CASES)
def test_a_layout_can_be_named(tmp_path, layout):
    path = write(tmp_path / "d.jsonl", CASES[layout][0])
    named, found = load_preferences(path, layout=layout), load_preferences(path)
    assert named == found


def test_all_kinds_of_file_give_the_same_digest(tmp_path):
    rows = CASES["text"][0]
    assert len({load_preferences(write(tmp_path / f"a.{kind}", rows)).digest for kind in KINDS}) == 1


def test_every_layout_has_a_case():
    assert set(CASES) == set(LAYOUTS)


def test_a_text_prompt_beside_conversations_is_a_copy_or_the_user_turn(tmp_path):
    whole = {"prompt": "p", "chosen": [user("p"), answer("x")], "rejected": [user("p"), answer("y")]}
    bare = {"prompt": "p", "chosen": [answer("x")], "rejected": [answer("y")]}
    system = [{"role": "system", "content": "s"}, user("p")]
    longer = {"prompt": "p", "chosen": [*system, answer("x")], "rejected": [*system, answer("y")]}
    loaded = load_preferences(write(tmp_path / "d.jsonl", [whole, bare, longer]))
    assert loaded.layout == "implicit-chat"
    assert [e.prompt for e in loaded.examples] == [turns("p")] * 2 + [(Message("system", "s"), *turns("p"))]


def test_records_as_columns_of_lists(tmp_path):
    row = {side: {"role": ["user", "assistant"], "content": ["p", side]} for side in ("chosen", "rejected")}
    (example,) = load_preferences(write(tmp_path / "d.parquet", [row])).examples
    assert content(example) == (turns("p"), "chosen", "rejected", 1.0)


def test_content_in_typed_parts(tmp_path):
    def parts(text):
        return [{"type": "text", "text": text}]

    rows = [
        battle("both_bad", [user(parts("p")), answer(parts("x"))], [user(parts("p")), answer(parts("y"))]),
        battle("tie", [user([{"type": "image", "image": "…"}]), answer("x")], [user("p"), answer("y")]),
        battle("tie", [user(None), answer("x")], [user(None), answer("y")]),
    ]
    loaded = load_preferences(write(tmp_path / "d.jsonl", rows))
    assert content(loaded.examples[0]) == (turns("p"), "x", "y", 0.5)
    assert loaded.filtered == {"a message with a part that is not text": 1, "a message without text": 1}


def test_dates_stay_text(tmp_path):
    row = {"prompt": "When?", "chosen": "2012-01-01", "rejected": "2013-01-01"}
    (example,) = load_preferences(write(tmp_path / "d.jsonl", [row])).examples
    assert content(example) == ("When?", "2012-01-01", "2013-01-01", 1.0)


class TestFiltering:
    def filtered(self, path, rows):
        loaded = load_preferences(write(path / "d.jsonl", rows))
        assert loaded.rows == loaded.pairs == len(loaded.examples) + sum(loaded.filtered.values())
        return dict(loaded.filtered)

    def test_text(self, tmp_path):
        good = {"prompt": "p", "chosen": "x", "rejected": "y"}
        rows = [
            good,
            good | {"chosen": " \n"},
            good | {"rejected": ""},
            good | {"rejected": "x"},
            good | {"chosen": None},
            {"prompt": "p", "chosen": "x"},
            good | {"prompt": " "},
        ]
        assert self.filtered(tmp_path, rows) == {
            "empty response": 2,
            "identical responses": 1,
            "no value in column 'chosen'": 1,
            "no value in column 'rejected'": 1,
            "empty prompt": 1,
        }

    def test_a_lone_surrogate(self, tmp_path):
        path = tmp_path / "d.jsonl"
        path.write_text(
            '{"prompt": "p", "chosen": "\\ud83d", "rejected": "y"}\n{"prompt": "p", "chosen": "x", "rejected": "y"}'
        )
        loaded = load_preferences(path)
        assert loaded.filtered == {"text that is not valid Unicode (a lone surrogate)": 1}

    def test_dialogues(self, tmp_path):
        rows = [
            {"chosen": hh("q", "x"), "rejected": hh("q", "y")},
            {"chosen": hh("q", "x", "r", "s"), "rejected": hh("q", "y", "r", "s")},
            {"chosen": hh("q", "x"), "rejected": hh("other", "y")},
            {"chosen": hh("q", "x"), "rejected": hh("q", "x")},
            {"chosen": "The sky is blue", "rejected": "The sky is red"},
        ]
        assert self.filtered(tmp_path, rows) == {
            "no common prompt: the dialogues share no Assistant turn": 2,
            "no common prompt: the dialogues part before the last answer": 1,
            "identical responses": 1,
        }

    def test_conversations(self, tmp_path):
        good = [user("p"), answer("x")], [user("p"), answer("y")]
        long_a = [user("p"), answer("x"), user("q"), answer("z")]
        long_b = [user("p"), answer("y"), user("q"), answer("z")]
        rows = [
            battle("model_a", *good),
            battle("model_a", long_a, long_b),
            battle("model_a", [user("p")], [user("p")]),
            battle("tie", [], []),
            battle("tie", [answer("x")], [answer("y")]),
        ]
        assert self.filtered(tmp_path, rows) == {
            "a conversation that does not end with an assistant message": 2,
            "no common prompt: the conversations part before the last answer": 1,
            "empty prompt": 1,
        }

    def test_tldr(self, tmp_path):
        rows = [tldr(0, post="p"), tldr(0, "a", " a ", post="p"), tldr(0, "", post="p"), tldr(0)]
        assert self.filtered(tmp_path, rows) == {
            "identical responses": 1,
            "empty response": 1,
            "no post and no article in column 'info'": 1,
        }

    def test_nothing_left(self, tmp_path):
        path = write(tmp_path / "d.jsonl", [{"prompt": "p", "chosen": "x", "rejected": "x"}])
        with pytest.raises(GoodhartError, match=r"none of the 1 rows in split 'd' .*identical responses: 1"):
            load_preferences(path)


WEIRD = st.text(st.one_of(st.characters(codec="utf-8"), st.sampled_from("\n\r\t\u2028\x00<>&\"'{}\\")), max_size=12)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(WEIRD, WEIRD, WEIRD), min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_weird_text_survives_and_ids_do_not_depend_on_the_order(tmp_path_factory, texts, shuffler):
    folder = tmp_path_factory.mktemp("weird")
    rows = [{"prompt": "p" + a, "chosen": "c" + b, "rejected": "r" + c} for a, b, c in texts]
    forwards = load_preferences(write(folder / "a.jsonl", rows))
    assert [content(e)[:3] for e in forwards.examples] == [tuple(r.values()) for r in rows]
    shuffled = shuffler.sample(rows, len(rows))
    again = load_preferences(write(folder / "b.json", shuffled))
    assert sorted((e.id, content(e)) for e in again.examples) == sorted((e.id, content(e)) for e in forwards.examples)
    assert again.digest == forwards.digest
    assert len({e.id for e in forwards.examples}) == len(rows)


def test_duplicates_are_kept_counted_and_told_apart(tmp_path):
    row = {"prompt": "p", "chosen": "x", "rejected": "y"}
    loaded = load_preferences(write(tmp_path / "d.jsonl", [row, row, row | {"chosen": "z"}, row]))
    base = loaded.examples[0].id
    assert loaded.duplicates == 2
    assert [e.id for e in loaded.examples if e.first == "x"] == [base, f"{base}-2", f"{base}-3"]


def test_an_id_depends_on_everything_that_it_stands_for():
    variants = [("p", "x", "y", 1.0), ("p", "x", "y", 0.5), ("p", "y", "x", 1.0), ("px", "", "y", 1.0)]
    variants += [(turns("p"), "x", "y", 1.0), ((Message("system", "p"),), "x", "y", 1.0)]
    assert len({content_id(*v) for v in variants}) == len(variants)


def test_import_is_light():
    code = (
        "import sys; import goodhart.tasks.preference_data, goodhart.tasks.data_description as d;"
        "sys.exit(len({'torch', 'transformers', 'datasets', 'pyarrow', 'pandas'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
