"""Base models: every batch is a function of settings and step, and a stopped run goes on bit for bit."""

import json

import numpy as np
import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from goodhart.models.presets import CONTEXT
from goodhart.tasks.tokenizer import train_tokenizer
from goodhart.training import pretraining
from goodhart.training.pretraining import KINDS, Pretraining, batch_rows, pack, pretrain, special_ids

SETTINGS = Pretraining(preset="tiny", steps=4, batch=2, warmup=1, summary=0.4, code=0.3, prose=0.2)


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A folder with a text of five rows of each kind and four held-out lines."""
    text = tmp_path / "work" / "text"
    text.mkdir(parents=True)
    tokenizer = train_tokenizer(["one line of text for a tokenizer"], 300)
    tokenizer.save_pretrained(text / "tokenizer")
    draw = np.random.default_rng(0)
    for kind in KINDS:
        np.save(text / f"{kind}.npy", draw.integers(4, 250, (5, CONTEXT)).astype(np.int32))
    begin, respond, end, _ = special_ids(tokenizer)
    held_out = np.full((4, CONTEXT), -1)
    for row in held_out:
        row[:8] = [begin, *draw.integers(4, 250, 3), respond, *draw.integers(4, 250, 2), end]
    np.save(text / "held_out.npy", held_out)
    (text / "DONE").touch()
    monkeypatch.setattr(pretraining, "LOG_EVERY", 2)
    monkeypatch.setattr(pretraining, "SAVE_EVERY", 2)
    return tmp_path / "work"


def quiet(_):
    pass


def test_a_stopped_run_goes_on_bit_for_bit_and_its_result_is_an_ordinary_checkpoint(work, tmp_path):
    pretrain(SETTINGS, tmp_path / "whole", work, quiet)
    state = work / "tiny-seed0.pt"
    state.unlink()
    state.with_suffix(".jsonl").unlink()

    def stop(text):
        if '"step": 2' in text:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain(SETTINGS, tmp_path / "cut", work, stop)
    assert not (tmp_path / "cut").exists()
    said = []
    pretrain(SETTINGS, tmp_path / "cut", work, said.append)
    assert said[0] == "resumed at step 2"
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "cut")]
    assert weights[0] == weights[1]
    record = json.loads((tmp_path / "cut" / "pretraining.json").read_text())
    assert record["tokens"] == 4 * 2 * CONTEXT
    assert [segment["from step"] for segment in record["segments"]] == [0]
    assert set(record["nats per summary token"]) == {"held out", "held out, another prompt"}
    log = [json.loads(line) for line in (tmp_path / "cut" / "pretraining.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == [2, 4]
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "cut")
    assert model.config.eos_token_id == AutoTokenizer.from_pretrained(tmp_path / "cut").eos_token_id


def test_changed_settings_are_a_segment_of_their_own(work, tmp_path):
    pretrain(SETTINGS, tmp_path / "model", work, quiet)
    longer = Pretraining(**{**vars(SETTINGS), "steps": 6, "summary": 0.5, "prose": 0.1})
    pretrain(longer, tmp_path / "model", work, quiet)
    segments = json.loads((tmp_path / "model" / "pretraining.json").read_text())["segments"]
    assert [(s["from step"], s["settings"]["steps"], s["settings"]["summary"]) for s in segments] == [
        (0, 4, 0.4),
        (4, 6, 0.5),
    ]


def test_every_kind_is_walked_epoch_by_epoch_in_its_share():
    packed = {k: np.arange(i * 1000, i * 1000 + 7, dtype=np.int32)[:, None] for i, k in enumerate(KINDS)}
    settings = Pretraining(steps=500, batch=4, summary=0.4, code=0.3, prose=0.2)
    rows = np.concatenate([batch_rows(packed, settings, step)[:, 0] for step in range(500)])
    for i, kind in enumerate(KINDS):
        mine = rows[rows // 1000 == i] % 1000
        assert len(mine) == pytest.approx(2000 * settings.shares[kind], abs=120)
        for start in range(0, len(mine) // 7 * 7, 7):
            assert sorted(mine[start : start + 7]) == list(range(7))
    assert (batch_rows(packed, settings, 3) == rows.reshape(500, 4)[3][:, None]).all()
    longer = Pretraining(**{**vars(settings), "steps": 900})
    assert (batch_rows(packed, longer, 499) == batch_rows(packed, settings, 499)).all()


def test_documents_are_packed_end_to_end():
    rows = [[1] * 200, [2] * 200, [3] * 200]
    packed = pack(rows)
    assert packed.shape == (2, CONTEXT)
    assert packed[0].tolist() == [1] * 200 + [2] * 56
    assert packed[1].tolist() == [2] * 144 + [3] * 112
