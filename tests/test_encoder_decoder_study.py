"""A whole study with a T5 as policy, as proxy and as judge."""

import pyarrow.parquet as pq
import pytest
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from goodhart.cli import main
from goodhart.models.checkpoint import load_model
from goodhart.models.preference import PreferenceModel
from goodhart.recipes.models import load_policy
from goodhart.studies.spec import read_study
from micro_study import make_cells, write_small_study, write_t5


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("micro")
    path = write_small_study(folder, write_t5)
    make_cells(read_study(str(path), []), folder / "runs")
    main(["run", str(path), "--root", str(folder / "runs")])
    return folder / "runs"


def rows(root, arm):
    return [r for r in pq.read_table(root / "studies" / "micro" / "rows.parquet").to_pylist() if r["arm"] == arm]


def test_online_and_offline_move_and_the_reference_does_not(root):
    kl = {arm: [r["kl"] for r in rows(root, arm)] for arm in ("sft", "online", "offline")}
    assert max(map(abs, kl["sft"])) < 1e-6
    assert min(kl["online"]) >= 0
    assert min(sum(kl[arm]) / len(kl[arm]) for arm in ("online", "offline")) > 1e-3
    assert kl["online"] != kl["offline"]
    assert (root / "studies" / "micro" / "report.html").is_file()


def test_a_text_is_its_response_without_the_tokens_that_begin_and_end_it(root):
    tokenizer = AutoTokenizer.from_pretrained(next((root / "cells").glob("sft-*/final")))
    written = rows(root, "sft")
    for r in written:
        assert r["text"] == tokenizer.decode(r["response"], skip_special_tokens=True)
        assert tokenizer.eos_token_id not in r["response"][:-1]
        assert r["ended"] == (r["response"][-1] == tokenizer.eos_token_id)
        assert not {"<pad>", "</s>"} & set(r["text"].split())
    assert len({r["text"] for r in written if r["text"]}) > len(written) / 2


def test_an_ordered_replay_is_the_online_run_though_the_model_has_dropout(root):
    def measured(arm):
        return [(r["prompt"], r["text"], r["kl"], r["logp"], r["golden_vs_policy"]) for r in rows(root, arm)]

    assert load_model(next((root / "cells").glob("sft-*/final"))).config.dropout_rate > 0
    assert measured("replay") == measured("online")


def test_policies_are_ordinary_checkpoints_and_judges_are_of_the_same_kind(root):
    folder = next((root / "cells").glob("run-*/step-4"))
    model = AutoModelForSeq2SeqLM.from_pretrained(folder)
    assert AutoTokenizer.from_pretrained(folder).eos_token_id == model.config.eos_token_id == 1
    assert load_policy(folder, 4)[0].layout == "encoder-decoder"
    judges = [PreferenceModel.load(path) for path in (root / "cells").glob("preference-*/model")]
    assert {judge.kind for judge in judges} == {"pairwise", "bradley-terry"}
    assert {type(judge.language_model).__name__ for judge in judges} == {"T5ForConditionalGeneration"}
