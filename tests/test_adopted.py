"""A policy that somebody else trained is measured as it is, on the frontier of a study."""

import json

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import yaml

from goodhart import interface
from goodhart.cells.store import Store
from goodhart.errors import GoodhartError
from goodhart.studies.graph import build_graph
from goodhart.studies.spec import read_study
from micro_study import preference_lines, write_micro_study, write_model

ONE = {"beta": [0.1], "lr": [0.01], "steps": 4, "batch": 8, "checkpoints": 2}
NAMES = ("arm", "setting", "seed", "step", "beta", "lr")


def written(folder, **arms):
    """The study file with an online arm and others."""
    plain = {"variants": {}, "hypotheses": {}, "axes": {}, "best_of": {"samples": 0}, "seeds": [0, 1], "resamples": 20}
    return write_micro_study(folder, arms={"online": ONE, **arms}, **plain)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A study, and the same with its first run's two checkpoints adopted as an arm."""
    folder = tmp_path_factory.mktemp("adopted")
    first = interface.run(written(folder), folder / "runs", quiet=True)
    study = read_study(str(folder / "study.yaml"), ["precision=float32"])
    run = Store(folder / "runs").folder(build_graph(study).runs["online", "beta=0.1 lr=0.01", 0].id)
    path = written(folder, mine={"checkpoint": [str(run / "step-2"), str(run / "step-4")]})
    path = path.rename(folder / "with.yaml")
    text = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**text, "name": "with"}))
    return first, interface.run(path, folder / "runs", quiet=True), path


def of(rows, arm, step, seed=0):
    chosen = rows.filter((pc.field("arm") == arm) & (pc.field("step") == step) & (pc.field("seed") == seed))
    return chosen.drop_columns(list(NAMES))


def test_a_checkpoint_of_an_arm_is_worth_as_an_adopted_policy_what_it_is_worth_there(results):
    _, result, _ = results
    for number, step in ((1, 2), (2, 4)):
        mine, theirs = of(result.rows, "mine", number), of(result.rows, "online", step)
        assert len(mine) > 0
        assert mine.equals(theirs)


def test_it_has_one_seed_and_its_own_name_and_stands_on_the_frontier(results):
    _, result, _ = results
    rows = result.rows.filter(pc.field("arm") == "mine")
    assert set(rows.column("seed").to_pylist()) == {0}
    assert set(rows.column("setting").to_pylist()) == {"as it is"}
    assert rows.column("beta").null_count == len(rows)
    assert "mine" in result.arms
    assert result.frontier("mine").peak is not None
    assert "mine" in result.report.read_text()


def test_what_it_took_to_train_is_not_made_up(results):
    _, result, _ = results
    budgets = pq.read_table(result.folder / "budgets.parquet")
    assert set(budgets.column("arm").to_pylist()) == {"online"}


def test_the_cells_of_the_study_without_it_are_used_again_and_its_digest_is_recorded(results):
    first, result, path = results
    cells = {cell["id"] for cell in first.record["cells"]}
    more = [cell for cell in result.record["cells"] if cell["id"] not in cells]
    assert sorted(cell["kind"] for cell in more) == ["adopted", "evaluation", "evaluation"]
    (adopted,) = [cell for cell in more if cell["kind"] == "adopted"]
    record = json.loads((path.parent / "runs" / "cells" / adopted["id"] / "cell.json").read_text())
    assert len(record["spec"]["settings"]["models"]) == 2
    assert record["places"]["models.0"].endswith("step-2")


def test_other_files_under_the_same_name_are_another_cell(results, tmp_path):
    folder = tmp_path / "policy"
    _, _, path = results
    text = yaml.safe_load(path.read_text())
    write_model(folder, [" ".join(line.values()) for line in preference_lines(300)])
    addresses = []
    for hidden in (16, 32):
        write_model(folder, [" ".join(line.values()) for line in preference_lines(300)], hidden)
        mine = {**text, "arms": {**text["arms"], "mine": {"checkpoint": str(folder)}}}
        path.with_name("other.yaml").write_text(yaml.safe_dump(mine))
        study = read_study(str(path.with_name("other.yaml")), [])
        assert study.arms["mine"].checkpoint == (str(folder),)
        addresses.append(build_graph(study).runs["mine", "as it is", 0].id)
    assert addresses[0] != addresses[1]


def test_a_path_starts_at_the_study_file(results):
    _, _, path = results
    text = yaml.safe_load(path.read_text())
    near = path.with_name("near.yaml")
    near.write_text(yaml.safe_dump({**text, "arms": {**text["arms"], "mine": {"checkpoint": "model"}}}))
    assert read_study(str(near), []).arms["mine"].checkpoint == (str(path.parent / "model"),)


@pytest.mark.parametrize(
    ("arm", "problem"),
    [
        ({"checkpoint": "average"}, "write average: true"),
        ({"checkpoint": "model", "steps": 3}, "has a checkpoint and steps"),
        ({"checkpoint": "model", "variant": "none"}, "which the study has not"),
        ({"source": "stream", "stream": "mine", "labeller": "data"}, "mine"),
    ],
)
def test_what_an_adopted_arm_cannot_be(results, arm, problem):
    _, _, path = results
    text = yaml.safe_load(path.read_text())
    odd = path.with_name("odd.yaml")
    arms = {"mine": {"checkpoint": "model"}, **text["arms"], "odd": arm}
    odd.write_text(yaml.safe_dump({**text, "arms": arms}))
    with pytest.raises(GoodhartError, match=problem):
        read_study(str(odd), [])


def test_no_arm_reads_the_run_of_an_adopted_one(results):
    _, _, path = results
    text = yaml.safe_load(path.read_text())
    odd = path.with_name("odd.yaml")
    arms = {"mine": {"checkpoint": "model"}, **text["arms"], "odd": {**ONE, "start": "mine@1"}}
    odd.write_text(yaml.safe_dump({**text, "arms": arms}))
    with pytest.raises(GoodhartError, match="which is a checkpoint that the study has not trained"):
        read_study(str(odd), [])


def test_another_tokenizer_is_told_before_the_first_cell(results, tmp_path):
    _, _, path = results
    write_model(tmp_path / "other", ["abc def ghi"] * 30)
    text = yaml.safe_load(path.read_text())
    odd = path.with_name("odd.yaml")
    odd.write_text(yaml.safe_dump({**text, "arms": {**text["arms"], "mine": {"checkpoint": str(tmp_path / "other")}}}))
    with pytest.raises(GoodhartError, match=r"arms.mine.checkpoint\[0\] .* different tokenizers"):
        interface.run(odd, path.parent / "runs", quiet=True)
