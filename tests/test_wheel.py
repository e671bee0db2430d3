"""The package as a wheel, in a folder that is no checkout: all its data are there, and it makes the same cells."""

import json
import sys
from pathlib import Path

import pytest
import yaml

import goodhart
from goodhart.cells.cell import closure
from goodhart.studies.graph import build_graph
from goodhart.studies.spec import read_study

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from campaign import wheel

PACKAGE = Path(goodhart.__file__).parent
WORLD = {
    "name": "small",
    "world": {"kind": "transitive", "prompts": 2, "responses": 3},
    "arms": {
        "one": {"method": "online-ipo", "mode": "soft", "beta": [0.3], "lr": [0.1], "steps": 4, "checkpoints": 1},
        "two": {"method": "ipo", "beta": [0.3], "lr": [0.1], "steps": 4, "checkpoints": 1},
    },
    "resamples": 20,
}

pytest.importorskip("setuptools", minversion="80", reason="NO setuptools: the wheel was NOT built")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """What an installation puts below site-packages."""
    folder = tmp_path_factory.mktemp("wheel")
    return wheel.installed(wheel.build(folder), folder / "site")


def files_of(package):
    return {
        path.relative_to(package).as_posix()
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_every_file_of_the_package_is_in_it(site):
    assert files_of(site / "goodhart") == files_of(PACKAGE)
    assert {"py.typed", "cells/sources.json", "studies/presets/quick.yaml"} <= files_of(site / "goodhart")


def test_it_says_what_it_is_and_brings_the_command(site):
    (about,) = site.glob("goodhart-*.dist-info")
    assert "goodhart = goodhart.cli:main" in (about / "entry_points.txt").read_text().splitlines()
    metadata = (about / "METADATA").read_text()
    assert "License-Expression: Apache-2.0" in metadata
    assert "Requires-Python: >=3.11" in metadata


def test_from_an_empty_folder_it_makes_the_cells_that_the_checkout_makes(site, tmp_path):
    """The declared sources ship: without them every address would have the digest of its code in it."""
    done = wheel.goodhart(site, tmp_path, "status", "smoke", "precision=float32", "--json")
    assert done.returncode == 0, done.stderr
    ids = [cell["id"] for cell in json.loads(done.stdout)["cells"]]
    assert ids == [cell.id for cell in closure(build_graph(read_study("smoke", ["precision=float32"])).targets)]
    assert list(tmp_path.iterdir()) == []


def test_from_an_empty_folder_a_study_runs_to_its_report(site, tmp_path):
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(WORLD))
    done = wheel.goodhart(site, tmp_path, "run", "small.yaml", "--workers", "1")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / "studies" / "small" / "report.html").is_file()
    assert str(PACKAGE) not in done.stdout
