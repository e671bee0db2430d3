"""A world of the user's own: what the CSV says, and where it is wrong."""

from pathlib import Path

import numpy as np
import pytest
import yaml

from goodhart.cli import main
from goodhart.errors import GoodhartError
from goodhart.studies.graph import build_graph
from goodhart.studies.session import check_before
from goodhart.studies.spec import read_study
from goodhart.tasks.world import World
from goodhart.tasks.world_tables import tables

GOOD = """prompt,response,reference,reward,rock,paper,scissors
one,rock,0.5,1,,0.2,0.9
one,paper,0.25,0,0.8,,0.3
one,scissors,0.25,-1,0.1,0.7,0.5
two,scissors,0.2,0,0.6,0.5,
two,rock,0.4,0,0.5,0.5,0.4
two,paper,0.4,0,0.5,0.5,0.5
"""


def world(folder, text, **keys):
    path = folder / "world.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return World(kind="csv", file=str(path), **keys)


def test_a_file_is_read_as_it_stands(tmp_path):
    found = tables(world(tmp_path, GOOD, reference="column", reward="given"))
    assert found.prompts == ("one", "two")
    assert found.responses == ("rock", "paper", "scissors")
    np.testing.assert_allclose(found.wins[0], [[0.5, 0.2, 0.9], [0.8, 0.5, 0.3], [0.1, 0.7, 0.5]])
    np.testing.assert_allclose(found.wins[1], [[0.5, 0.5, 0.4], [0.5, 0.5, 0.5], [0.6, 0.5, 0.5]])
    np.testing.assert_allclose(found.reference, [[0.5, 0.25, 0.25], [0.4, 0.4, 0.2]])
    np.testing.assert_allclose(found.reward, [[1, 0, -1], [0, 0, 0]])
    assert found.condorcet == [None, None]


def test_one_matrix_needs_no_prompt_and_may_have_a_byte_order_mark(tmp_path):
    found = tables(world(tmp_path, "\ufeffresponse,a,b\na,,0.75\nb,0.25,\n"))
    assert found.wins.tolist() == [[[0.5, 0.75], [0.25, 0.5]]]
    assert found.reference.tolist() == [[0.5, 0.5]]


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ("0.2,0.9", "0.3,0.9", "line 3, column 'rock': p(rock > paper) = 0.3 and p(paper > rock) = 0.8 (line 2)"),
        ("0.2,0.9", "1.2,0.9", "line 2, column 'paper': 1.2 is no probability"),
        ("0.2,0.9", "x,0.9", "line 2, column 'paper': 'x' is no number"),
        ("0.2,0.9", "nan,0.9", "line 2, column 'paper': 'nan' is no number"),
        ("0.2,0.9", ",0.9", "line 2, column 'paper': '' is no number"),
        ("0.1,0.7,0.5", "0.1,0.7,0.6", "line 4, column 'scissors': 'scissors' against itself is 0.6"),
        ("0.1,0.7,0.5", "0.1,0.7", "line 4: 6 fields where the header has 7"),
        ("one,paper", "one,lizard", "line 3, column 'response': 'lizard' is no column"),
        ("one,paper", "one,rock", "line 3, column 'response': 'rock' stands twice for 'one'"),
        ("two,paper,0.4,0,0.5,0.5,0.5\n", "", "line 6, column 'response': 'two' has no line for 'paper'"),
        ("rock,0.5", "rock,0.6", "line 4, column 'reference': the prompt's references add up to 1.1"),
        ("rock,0.5", "rock,0", "line 2, column 'reference': 0 is no probability above 0"),
        ("response,reference", "answer,reference", "line 1: the header is"),
        ("paper,scissors\n", "paper,rock\n", "line 1: the header names 'rock' twice"),
        ("one,rock", '"one,rock', "line"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(tmp_path, before, after, says):
    assert before in GOOD
    with pytest.raises(GoodhartError) as caught:
        tables(world(tmp_path, GOOD.replace(before, after, 1), reference="column"))
    assert says in caught.value.problem
    assert "world.csv" in caught.value.problem
    assert caught.value.remedy


def test_files_that_are_none_are_said_to_be(tmp_path):
    for text, says in (
        (b"\xff\xfe", "UTF-8"),
        ("", "the header is empty"),
        ("response,a,b\n", "no line below"),
        ("response,a\na,\n", "names 1 responses"),
    ):
        with pytest.raises(GoodhartError, match=says):
            tables(world(tmp_path, text))
    with pytest.raises(GoodhartError, match="cannot read"):
        tables(World(kind="csv", file=str(tmp_path / "none.csv")))
    for column, value in (("reference", "column"), ("reward", "given")):
        with pytest.raises(GoodhartError, match=f"no column '{column}'"):
            tables(world(tmp_path, "response,a,b\na,,0.5\nb,0.5,\n", **{column: value}))


def study(folder, **keys):
    own = {"method": "ipo", "beta": [0.3], "lr": [0.1], "steps": 8, "checkpoints": 2, "spacing": "log"}
    plain = {"name": "own", "world": {"kind": "csv", "file": "world.csv", **keys}, "arms": {"one": own}}
    (folder / "own.yaml").write_text(yaml.safe_dump({**plain, "seeds": [0], "resamples": 20}))
    return str(folder / "own.yaml")


def test_a_study_finds_the_file_beside_it_and_names_it_by_content(tmp_path):
    world(tmp_path, GOOD)
    first = build_graph(read_study(study(tmp_path), [])).golden
    other = tmp_path / "elsewhere"
    other.mkdir()
    world(other, GOOD)
    assert build_graph(read_study(study(other), [])).golden.id == first.id
    world(other, GOOD.replace("0.2,0.9", "0.25,0.9").replace("0.8,,", "0.75,,"))
    assert build_graph(read_study(study(other), [])).golden.id != first.id


def test_a_fault_is_told_before_the_first_cell(tmp_path):
    world(tmp_path, GOOD.replace("0.2,0.9", "0.3,0.9"))
    with pytest.raises(GoodhartError, match=r"world\.csv, line 3"):
        check_before(read_study(study(tmp_path), []), tmp_path / "runs")


def test_a_study_of_ones_own_preferences_runs(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    world(tmp_path, GOOD)
    main(["run", study(tmp_path, reference="column"), "--root", str(tmp_path / "runs"), "--workers", "1"])
    assert "tilted by p(y > data)" in capsys.readouterr().out


def test_the_example_of_the_documentation_is_a_world(tmp_path):
    page = (Path(__file__).parent.parent / "docs" / "tabular.md").read_text()
    text = page.split("```csv\n")[1].split("```")[0]
    found = tables(world(tmp_path, text, reference="column", reward="given"))
    assert found.prompts == ("refund", "greeting")
    assert found.condorcet == [0, 0]
