"""Columns that say which response is better, beside those that a layout reads: heard, refused or shown."""

import pytest

from goodhart.errors import GoodhartError
from goodhart.tasks.data_description import describe, render_text
from goodhart.tasks.preference_data import load_preferences
from goodhart.tasks.preference_layouts import LAYOUTS, unread_verdicts
from preference_data_cases import CASES, KINDS, write

GOOD = {"prompt": "p", "chosen": "x", "rejected": "y"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", [name for name in CASES if name not in ("battle", "marks")])
def test_a_tie_is_heard_in_every_layout(tmp_path, layout, kind):
    row = CASES[layout][0][0]
    loaded = load_preferences(write(tmp_path / f"d.{kind}", [{**row, "label": "tie"}, {**row, "label": "chosen"}]))
    own = CASES[layout][1][0][3]
    assert [e.label for e in loaded.examples] == [0.5, own], "a tie was taken for a preference"
    assert (loaded.layout, loaded.ties) == (layout, 1)


@pytest.mark.parametrize(
    ("column", "value"),
    [("label", "Tie "), ("winner", "tie (bothbad)"), ("preference", "draw"), ("tie", True), ("label", 0.5)],
)
def test_ways_to_say_a_tie(tmp_path, column, value):
    (example,) = load_preferences(write(tmp_path / "d.jsonl", [{**GOOD, column: value}])).examples
    assert example.label == 0.5


@pytest.mark.parametrize(
    ("column", "value"),
    [("label", 1), ("label", None), ("tie", False), ("winner", "chosen"), ("label", "harmless"), ("label", ["tie"])],
)
def test_what_says_no_tie_changes_nothing(tmp_path, column, value):
    (example,) = load_preferences(write(tmp_path / "d.jsonl", [{**GOOD, column: value}])).examples
    assert example.label == 1.0


def test_a_column_that_contradicts_the_layout_is_an_error(tmp_path):
    path = write(tmp_path / "d.jsonl", [GOOD, {**GOOD, "winner": "rejected"}])
    with pytest.raises(GoodhartError, match=r"line 2 of .*: column 'winner' says 'rejected'.*; exchange"):
        load_preferences(path)


def test_columns_that_sound_like_supervision_are_shown(tmp_path):
    row = {**GOOD, "label": "harmless", "score_chosen": 3.0, "num_labels": 1, "source": "s", "underscore": 1}
    expected = ("label", "score_chosen", "num_labels")
    assert unread_verdicts([*row], LAYOUTS["text"]) == expected
    text = render_text(describe(write(tmp_path / "d.jsonl", [row])))
    assert "not read" in text
    assert all(column in text.partition("not read")[2].splitlines()[0] for column in expected)
    assert "not read" not in render_text(describe(write(tmp_path / "e.jsonl", [GOOD])))
    assert unread_verdicts(["conversation_a", "conversation_b", "winner"], LAYOUTS["battle"]) == ()
