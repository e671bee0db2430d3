"""Settings that a deciding contrast leaves out, said before the run."""

import pytest
from rich.console import Console

from goodhart import rounds
from goodhart.cli import main
from goodhart.compared import SHOWN, left_out, left_out_in_short
from goodhart.errors import GoodhartError
from goodhart.studies.engine import Engine
from goodhart.studies.session import Workers
from goodhart.studies.spec import builtin_studies, read_study
from micro_study import write_micro_study

CONTRAST = {"statistic": "gap at equal KL", "first": "online", "second": "offline"}
OWN = {"beta": [0.1], "steps": 4, "batch": 8, "checkpoints": 1}


def study_of(folder, online, offline, contrasts=(CONTRAST,)):
    arms = {
        "online": {**OWN, **online},
        "offline": {**OWN, "source": "data", "labeller": "data", **offline},
    }
    hypotheses = {"gap": {"statement": "So it is.", "contrasts": list(contrasts)}} if contrasts else {}
    return str(write_micro_study(folder, arms=arms, hypotheses=hypotheses, axes={}, variants={}))


def test_a_rate_that_one_arm_alone_has_is_named(tmp_path):
    study = read_study(study_of(tmp_path, {"lr": [0.01]}, {"lr": [0.01, 0.02]}), [])
    assert left_out(study) == [
        "'online' and 'offline' are compared at the settings that they share, without beta=0.1 lr=0.02 of 'offline'"
    ]


def test_so_are_those_of_both_arms(tmp_path):
    study = read_study(study_of(tmp_path, {"lr": [0.01, 0.04]}, {"lr": [0.01, 0.02], "beta": [0.1, 0.2]}), [])
    (line,) = left_out(study)
    assert line.endswith(
        "without beta=0.1 lr=0.04 of 'online' and beta=0.1 lr=0.02, beta=0.2 lr=0.01 and beta=0.2 lr=0.02 of 'offline'"
    )


@pytest.mark.parametrize(
    ("online", "offline"), [([0.01], [0.01]), ([0.01, 0.02], [0.02, 0.01]), ([0.01], [0.02]), ([0.01, 0.02], [0.03])]
)
def test_nothing_is_said_where_all_are_shared_or_none(tmp_path, online, offline):
    assert left_out(read_study(study_of(tmp_path, {"lr": online}, {"lr": offline}), [])) == []


def test_only_what_decides_is_looked_at_and_a_study_without_hypotheses_has_its_own(tmp_path):
    unlike = {"lr": [0.01]}, {"lr": [0.01, 0.02]}
    same = {"statistic": "gap at equal KL", "first": "online", "second": "online", "predicted": "near", "than": 0.1}
    beside = [same, {**CONTRAST, "decides": False}]
    (tmp_path / "beside").mkdir()
    assert left_out(read_study(study_of(tmp_path / "beside", *unlike, beside), [])) == []
    (tmp_path / "implied").mkdir()
    assert len(left_out(read_study(study_of(tmp_path / "implied", *unlike, ()), []))) == 1


def test_of_many_some_are_named(tmp_path):
    one, others = {**OWN, "lr": [0.01]}, {**OWN, "lr": [0.01, 0.02]}
    arms = {"online": one, **{f"arm {i}": others for i in range(SHOWN + 2)}}
    contrasts = [{**CONTRAST, "second": name} for name in arms if name != "online"]
    hypotheses = {"gap": {"statement": "So it is.", "contrasts": contrasts}}
    study = read_study(str(write_micro_study(tmp_path, arms=arms, hypotheses=hypotheses, axes={}, variants={})), [])
    assert len(left_out(study)) == SHOWN + 2
    assert left_out_in_short(study) == [*left_out(study)[:SHOWN], "and 2 more contrasts leave settings out"]


def test_a_dry_run_and_power_say_it(tmp_path, capfd):
    name = study_of(tmp_path, {"lr": [0.01]}, {"lr": [0.01, 0.02]})
    for command in (["run", name, "--dry-run", "--workers", "1"], ["power", name, "--workers", "1"]):
        main([*command, "--root", str(tmp_path / "runs")])
        assert "without beta=0.1 lr=0.02 of 'offline'" in " ".join(capfd.readouterr().out.split())


def test_a_run_says_it_before_its_first_cell(tmp_path, monkeypatch):
    study = read_study(study_of(tmp_path, {"lr": [0.01]}, {"lr": [0.01, 0.02]}), [])
    said = []

    def planned(job, asked):
        raise GoodhartError("no cell was made", "look at what was said")

    monkeypatch.setattr(rounds, "_round", planned)
    job = rounds.Job(study, Engine.__new__(Engine), tmp_path, Workers(1), Console(), said.append)
    with pytest.raises(GoodhartError, match="no cell was made"):
        rounds.run(job, until_decided=False, limit=None)
    assert said == left_out(study) != []


@pytest.mark.parametrize("name", builtin_studies())
def test_studies_that_ship_leave_nothing_out(name):
    assert left_out(read_study(name, [])) == []
