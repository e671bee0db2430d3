"""Results of one study with different seeds: joined they are what one run of all seeds gives."""

import json
from dataclasses import replace

import pytest

import goodhart
from goodhart.analysis.hypotheses import Looks
from goodhart.errors import GoodhartError
from goodhart.joining import join
from goodhart.recipes.settings import Measurement
from goodhart.report.contents import TABLES, read_contents
from goodhart.report.provenance import origin_grids
from micro_study import make_cells, said, write_micro_study, write_tables

OWN = {"beta": [0.1], "lr": [0.01], "steps": 4, "batch": 8, "checkpoints": 1}
ARMS = {"online": OWN, "offline": {**OWN, "source": "data", "labeller": "data"}}
LOOKS = Looks((2, 3), (0.5, 0.5))
NONE = {"variants": {}, "hypotheses": {}, "axes": {}, "best_of": {"samples": 2, "n": [2]}, "resamples": 20}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return write_micro_study(tmp_path_factory.mktemp("joining"), arms=ARMS, seeds=[0, 1, 2], **NONE)


@pytest.fixture(scope="module")
def study(file):
    return goodhart.study(file)


@pytest.fixture(scope="module")
def root(study, tmp_path_factory):
    """The study whole, its parts, and one that is measured otherwise."""
    root = tmp_path_factory.mktemp("runs")
    asked = {"whole": (0, 1, 2), "part": (1, 2), "rest": (0,), "again": (2,)}
    every = [replace(study, name=name, seeds=seeds) for name, seeds in asked.items()]
    every.append(replace(study, name="other", seeds=(0,), measurement=Measurement(1, 8, 1)))
    for each in every:
        write_tables(root, *make_cells(each, root))
    return root / "studies"


def rows(folder, name):
    found = [json.dumps(row, sort_keys=True) for row in getattr(read_contents(folder), name).to_pylist()]
    assert len(set(found)) == len(found)
    return sorted(found)


def test_joined_parts_are_the_whole_study(study, root, tmp_path):
    folder = join(study, [root / "part", root / "rest"], tmp_path)
    for name in TABLES:
        assert rows(folder, name) == rows(root / "whole", name)
    joined, whole = read_contents(folder).record, read_contents(root / "whole").record
    assert joined["study"] == {**whole["study"], "name": "micro"}
    assert {cell["id"] for cell in joined["cells"]} == {cell["id"] for cell in whole["cells"]}
    titles = [grid.title for grid in origin_grids(joined)]
    assert titles == ["Versions and machine: seeds 1, 2", "Versions and machine: seed 0"]


def test_the_command_makes_a_report_of_the_seeds_that_are_there(file, root, tmp_path, capfd):
    there = [str(root / part) for part in ("rest", "again")]
    done = said(capfd, "join", str(file), "name=both", *there, "--root", str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    both = goodhart.open("both", root=tmp_path)
    assert both.record["study"]["seeds"] == [0, 2]
    assert "the study&#39;s 2 parts" in both.report.read_text()


def test_looks_are_those_of_the_whole_study(study, root, tmp_path):
    """A part may have too few seeds for a look; seeds that are still to come keep their places."""
    folder = join(replace(study, looks=LOOKS), [root / "again", root / "rest"], tmp_path)
    contents = read_contents(folder)
    assert contents.record["study"]["seeds"] == [0, 1, 2]
    assert contents.plan.first(0) == (0, 1)


@pytest.mark.parametrize(
    ("parts", "changes", "problem"),
    [
        (["part"], {}, "nothing to join"),
        (["part", "again"], {}, "both have seed 2"),
        (["part", "rest"], {"seeds": (0, 1)}, "has seed 2; study 'micro' has 0, 1"),
        (["part", "other"], {}, "measurement.responses is 1 and 2"),
        (["part", "rest"], {"policy": "nano"}, "policy is .*model' and 'nano'"),
        (["part", "nowhere"], {}, "nowhere lacks rows.parquet"),
    ],
)
def test_what_cannot_be_joined_is_named(study, root, tmp_path, parts, changes, problem):
    with pytest.raises(GoodhartError, match=problem):
        join(replace(study, **changes), [root / part for part in parts], tmp_path)
    assert not any(tmp_path.iterdir())


def copied(part, into, change):
    """A result with something else in its record."""
    into.mkdir()
    for path in part.glob("*.parquet"):
        (into / path.name).write_bytes(path.read_bytes())
    record = json.loads((part / "record.json").read_text())
    change(record)
    (into / "record.json").write_text(json.dumps(record))
    return into


def test_an_unfinished_part_is_refused(study, root, tmp_path):
    part = copied(root / "rest", tmp_path / "part", lambda record: record["unfinished"].update(missing=3))
    with pytest.raises(GoodhartError, match="lacks 3 cells"):
        join(study, [part, root / "again"], tmp_path)


def test_a_name_that_is_taken_is_refused(study, root):
    with pytest.raises(GoodhartError, match="whole is not empty"):
        join(replace(study, name="whole"), [root / "rest", root / "again"], root.parent)
