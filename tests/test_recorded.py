"""What arms did before the method became a value: the same bits, and the same addresses."""

import json

import pytest

from record_arms import LOGGED, RECORDED, SHIPPED, found_here, here, settings

THEN = json.loads(RECORDED.read_text())
OF_ONE_SIZE = [LOGGED.index(name) for name in ("loss", "gradient_norm", "tokens")]
"""What of a first step rounding cannot turn round: its margins are 0 but for rounding."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return found_here(tmp_path_factory.mktemp("recorded"))["runs"]


@pytest.mark.parametrize("name", THEN["runs"])
def test_every_arm_does_what_it_did(runs, name):
    """To the last bit on the kind of machine that recorded it; elsewhere kernels round otherwise."""
    found, then = runs[name], THEN["runs"][name]
    if here() == THEN["here"]:
        assert found == then
    ours, theirs = ([each["steps"][0][place] for place in OF_ONE_SIZE] for each in (found, then))
    assert ours == pytest.approx(theirs, rel=1e-2)


def test_no_arm_is_lost(runs):
    assert set(runs) == set(THEN["runs"])


def test_the_runs_of_shipped_studies_have_the_addresses_that_they_had():
    now = settings()
    assert {study: now[study] for study in SHIPPED} == THEN["settings"]
