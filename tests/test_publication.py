"""A checkpoint goes out as a plain model whose card says what was measured of it, with intervals, and no path."""

import re
from typing import ClassVar

import huggingface_hub
import pytest
import yaml
from huggingface_hub.errors import HFValidationError

from goodhart import interface, publication
from goodhart.errors import GoodhartError
from goodhart.models.checkpoint import load_model
from goodhart.studies.checkpoints import place_of
from goodhart.studies.spec import read_study
from micro_study import write_micro_study

ONE = {"beta": [0.1], "lr": [0.01], "steps": 4, "batch": 8, "checkpoints": 2}
HOSTILE = "<b>`online`</b> | x"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A study's result, the place of its last checkpoint, and its root."""
    folder = tmp_path_factory.mktemp("published")
    arms = {HOSTILE: ONE, "with adapter": {**ONE, "adapter": {"rank": 2}}}
    more = {"variants": {}, "hypotheses": {}, "axes": {}, "best_of": {"samples": 0}, "seeds": [0], "resamples": 20}
    path = write_micro_study(folder, arms=arms, **more)
    root = folder / "runs"
    return interface.run(path, root, quiet=True), read_study(str(path), []), root


def of(made, arm=HOSTILE, step=0):
    _, study, root = made
    return place_of(study, root, arm, step=step)


def test_a_card_has_every_measure_of_that_checkpoint_with_its_interval(made):
    result, _, _ = made
    text = publication.card(result, of(made, step=2))
    rows = result.frontier(HOSTILE).checkpoints.to_pylist()
    (row,) = [row for row in rows if row["step"] == 2]
    assert f"| {row['value']:.3f} [{row['value_low']:.3f}, {row['value_high']:.3f}] |" in text
    assert f"| KL from the SFT policy, nats | {row['kl']:.2f} [{row['kl_low']:.2f}, {row['kl_high']:.2f}] |" in text
    assert "golden win rate against SFT" in text
    assert "step 2" in text


def test_a_card_has_no_path_and_no_markup_of_names(made):
    result, _, root = made
    text = publication.card(result, of(made))
    assert str(root.parent) not in text
    prose = re.sub(r"`[^`]*`", "", text.split("```json")[0])
    assert "<b>" not in prose, "in code it is no markup"
    assert prose.count("`") == 0
    front = yaml.safe_load(text.split("---")[1])
    assert front["license"] == "other"
    assert publication.card(result, of(made), "mit").count("license: mit") == 1


@pytest.mark.parametrize("arm", [HOSTILE, "with adapter"])
def test_what_is_written_loads_as_a_plain_model(made, tmp_path, arm):
    result, _, root = made
    files = publication.prepare(result, of(made, arm), tmp_path / "out", root)
    names = {path.name for path in files}
    assert {"README.md", "config.json", "model.safetensors", "tokenizer.json"} <= names
    assert not any(name.startswith("adapter") for name in names)
    assert sum(p.numel() for p in load_model(tmp_path / "out").parameters()) > 0
    with pytest.raises(GoodhartError, match="there and not empty"):
        publication.prepare(result, of(made, arm), tmp_path / "out", root)


class Hub:
    """What stands in for the Hub."""

    said: ClassVar[list[tuple]] = []

    def create_repo(self, to, *, private, exist_ok):
        if "/" not in to:
            raise HFValidationError("no name before the model")
        self.said.append(("create", to, private))
        return f"https://hub/{to}"

    def upload_folder(self, *, repo_id, folder_path, commit_message):
        self.said.append(("upload", repo_id, sorted(path.name for path in folder_path.iterdir()), commit_message))


def test_the_hub_gets_the_model_and_its_card(made, monkeypatch):
    result, _, root = made
    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    Hub.said.clear()
    address = publication.push(result, of(made), "me/mine", root, private=True)
    assert address == "https://hub/me/mine"
    (created, uploaded) = Hub.said
    assert created == ("create", "me/mine", True)
    assert {"README.md", "model.safetensors"} <= set(uploaded[2])
    with pytest.raises(GoodhartError, match=r"the Hub does not take 'mine' .no name before the model."):
        publication.push(result, of(made), "mine", root)


def test_one_of_hub_and_folder_is_asked_for(made, capsys):
    from goodhart.cli import main

    _, study, root = made
    for words in ([], ["--to", "a/b", "--out", "c"]):
        with pytest.raises(SystemExit):
            main(["push", study.name, HOSTILE, "--root", str(root), *words])
        assert "push needs one of --to and --out" in capsys.readouterr().err
