"""Rows with several responses become pairs by a rule that is chosen, counted, and blind to every order."""

import itertools
import re

import pytest

from goodhart.errors import GoodhartError
from goodhart.tasks.data_description import describe, render_text
from goodhart.tasks.preference_data import load_preferences
from preference_data_cases import content, user, write

RATED = {"prompt": "p", "responses": ["a", "b", "c", "d"], "ratings": [1, 3, 3, 2]}


def loaded(folder, rows, **options):
    return load_preferences(write(folder / "d.jsonl", rows), **options)


def pairs(found):
    return [(e.first, e.second, e.label) for e in found.examples]


def test_best_and_worst_makes_one_pair(tmp_path):
    found = loaded(tmp_path, [RATED])
    ((first, second, label),) = pairs(found)
    assert first in "bc"
    assert (second, label, found.rule) == ("a", 1.0, "best and worst")
    assert dict(found.left_out) == {"pairs of responses that the rule does not make": 5}


def test_the_other_one_is_drawn_from_those_that_are_worse(tmp_path):
    rows = [{**RATED, "prompt": f"p{n}"} for n in range(40)]
    found = loaded(tmp_path, rows, rule="best and other")
    assert {e.second for e in found.examples} == {"a", "d"}
    assert {e.first for e in found.examples} == {"b", "c"}


def test_all_pairs_begin_with_the_best_and_hold_ties(tmp_path):
    found = loaded(tmp_path, [RATED], rule="all")
    assert len(pairs(found)) == 6
    assert {pair[:2] for pair in pairs(found)[:1]} <= {("b", "c"), ("c", "b")}
    assert [label for *_, label in pairs(found)] == [0.5, 1.0, 1.0, 1.0, 1.0, 1.0]
    assert found.ties == 1
    assert not found.left_out


@pytest.mark.parametrize("rule", ["best and worst", "best and other", "all"])
def test_no_order_decides(tmp_path, rule):
    every = set()
    for order in itertools.permutations(range(4)):
        row = {"prompt": "p", **{name: [RATED[name][i] for i in order] for name in ("responses", "ratings")}}
        every.add(frozenset(pairs(loaded(tmp_path, [row], rule=rule))))
    assert len(every) == 1


def test_what_cannot_be_paired_is_counted(tmp_path):
    rows = [
        RATED,
        {"prompt": "q", "responses": ["a", "b"], "ratings": [2, 2]},
        {"prompt": "r", "responses": ["a", "b"], "ratings": [2, None]},
        {"prompt": "s", "responses": ["a", "b", "c"], "ratings": ["5", "N/A", 4]},
        {"prompt": "t", "responses": ["a", "a"], "ratings": [2, 1]},
        {"prompt": "u", "responses": None, "ratings": [2, 1]},
    ]
    found = loaded(tmp_path, rows)
    assert dict(found.filtered) == {
        "all responses graded alike": 1,
        "fewer than two responses with a grade": 1,
        "identical responses": 1,
        "no value in column 'responses'": 1,
    }
    assert found.left_out["responses that nobody has graded"] == 1
    assert found.pairs == len(found.examples) + sum(found.filtered.values()) == 6
    text = render_text(describe(tmp_path / "d.jsonl"))
    assert "pairs       6 by the rule 'best and worst'" in text
    assert "responses that nobody has graded" in text


def test_marks_of_one_prompt_are_paired(tmp_path):
    rows = [
        {"prompt": "p", "completion": "good", "label": True},
        {"prompt": "q", "completion": "alone", "label": True},
        {"prompt": "p", "completion": "bad", "label": "false"},
        {"prompt": [user("c")], "completion": "x", "label": 1},
        {"prompt": [user("c")], "completion": "y", "label": 0},
        {"prompt": "p", "completion": None, "label": True},
    ]
    found = loaded(tmp_path, rows)
    assert found.layout == "marks"
    assert pairs(found) == [("good", "bad", 1.0), ("x", "y", 1.0)]
    assert dict(found.filtered) == {"fewer than two responses with a grade": 1, "no value in column 'completion'": 1}
    assert found.rows == 6


LONE = [
    {"prompt": "p", "completion": "a", "label": True},
    {"prompt": "p", "completion": "b", "label": True},
    {"prompt": "q", "completion": "c", "label": False},
    {"prompt": "r", "completion": "d", "label": True},
]


def test_lone_marks_are_counted(tmp_path):
    pair = [{"prompt": "s", "completion": text, "label": good} for text, good in (("e", True), ("f", False))]
    found = loaded(tmp_path, [*LONE, *pair], rule="best and worst")
    assert pairs(found) == [("e", "f", 1.0)]
    lone = {"good responses to prompts without a bad one": 3, "bad responses to prompts without a good one": 1}
    assert found.left_out == lone
    assert sum(lone.values()) + 2 == found.rows
    text = render_text(describe(tmp_path / "d.jsonl", rule="best and worst"))
    assert re.search(r"^ +3  good responses to prompts without a bad one$", text, re.MULTILINE)


def test_lone_marks_that_a_rule_makes_ties_of_are_not_left_out(tmp_path):
    found = loaded(tmp_path, LONE, rule="all")
    ((first, second, label),) = pairs(found)
    assert ({first, second}, label) == ({"a", "b"}, 0.5)
    assert found.left_out["good responses to prompts without a bad one"] == 1, "the one of prompt r"


def test_marks_without_any_pair_are_refused_with_what_helps(tmp_path):
    refused = (
        r"none of the 4 rows .* is usable \(fewer than two .*: 2; .* alike: 1\); with task.pairs=none .--pairs none"
    )
    with pytest.raises(GoodhartError, match=refused):
        loaded(tmp_path, LONE, rule="best and worst")


def test_nectar_has_ranks_in_its_records(tmp_path):
    row = {"prompt": "p", "answers": [{"answer": "b", "rank": 2.0}, {"answer": "a", "rank": 1.0}]}
    found = loaded(tmp_path, [row], columns={"instruction": "prompt", "completions": "answers"})
    assert [content(e) for e in found.examples] == [("p", "a", "b", 1.0)]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (
            {"responses": "ab", "ratings": [1, 2]},
            r"line 1 of .*: column 'responses' holds str 'ab', not a list of resp",
        ),
        ({"responses": ["a", "b"], "ratings": [1]}, r"not a list of numbers, one for each of the 2 responses"),
        ({"responses": ["a", "b"], "ratings": [1, "x"]}, r"column 'ratings' holds str 'x', not a number"),
        ({"responses": ["a", 5], "ratings": [1, 2]}, r"holds int 5, not a response \(a record with response, text"),
        ({"responses": ["a", "b"], "ranking": [1, 2]}, r"not the places 0 to 1 of .* is the column 'ranks'\)"),
        ({"responses": [{"text": "a"}, {"text": 3}], "ranks": [1, 2]}, r"column 'responses' holds int 3, not text"),
    ],
)
def test_a_wrong_type_in_a_row(tmp_path, row, says):
    with pytest.raises(GoodhartError, match=says):
        loaded(tmp_path, [{"prompt": "p", **row}])


def test_a_completion_without_a_grade_of_any_name(tmp_path):
    row = {"instruction": "p", "completions": [{"response": "a", "stars": 1}, {"response": "b", "stars": 2}]}
    with pytest.raises(
        GoodhartError, match=r"not a record with a rating \(overall_score, rating, score, reward\) or a"
    ):
        loaded(tmp_path, [row])


def test_a_mark_that_is_none(tmp_path):
    row = {"prompt": "p", "completion": "x", "label": 1}
    with pytest.raises(GoodhartError, match=r"column 'label' holds str 'perhaps', not true or false"):
        loaded(tmp_path, [row, {**row, "label": "perhaps"}])


def test_a_rule_for_rows_that_are_pairs_is_refused(tmp_path):
    row = {"prompt": "p", "chosen": "x", "rejected": "y"}
    with pytest.raises(GoodhartError, match=r"pairs is 'all', and layout 'text' of .* has one pair in each row; leave"):
        loaded(tmp_path, [row], rule="all")
