"""The recipes: strict study files, marked line by line, that run on data of the real data sets' columns."""

import re
import runpy
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from goodhart.alignment.pair_table import read_pairs
from goodhart.cells.cell import closure
from goodhart.cells.make import make
from goodhart.cells.store import Store
from goodhart.models.checkpoint import load_model
from goodhart.studies.graph import build_graph
from goodhart.studies.spec import read_study
from goodhart.tasks.prompt_table import held_out_number, read_train
from micro_study import write_qwen2, write_t5
from preference_data_cases import answer, battle, hh, tldr, user, write

FOLDER = Path(__file__).parent.parent / "recipes"
NAMES = ["arena", "hh_harmless", "hh_helpful", "tldr"]
COMMANDS = [
    [word for word in shlex.split(line)[3:] if "=" in word]
    for line in (FOLDER / "README.md").read_text().splitlines()
    if line.startswith("goodhart run recipes/")
]
T5, QWEN = COMMANDS
PAPER = {
    "task.max_prompt": 1024,
    "task.max_response": 128,
    "sft.steps": 4000,
    "sft.batch": 128,
    "sft.optimisation.lr": 3e-5,
    "golden.batch": 16,
    "golden.optimisation.lr": 1e-4,
    "golden.optimisation.warmup": 1000,
    "proxy.batch": 32,
    "proxy.optimisation.lr": 1e-4,
    "proxy.optimisation.warmup": 1000,
    "golden_policy.steps": 4000,
    "golden_policy.batch": 32,
    "golden_policy.beta": (0.1,),
    "golden_policy.lr": (1e-5,),
    "labels.mode": "hard",
}
"""The protocol of arXiv 2405.08448, as far as a study file can say it (section 4.1, appendices A and C)."""


def test_the_four_tasks_are_there():
    assert sorted(path.stem for path in FOLDER.glob("*.yaml")) == NAMES
    assert T5 == []
    assert {word.partition("=")[0] for word in QWEN} == {"name", "policy", "golden.model", "proxy.model"}


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_is_a_study_with_the_papers_values(name):
    study = read_study(str(FOLDER / f"{name}.yaml"), [])
    for key, value in PAPER.items():
        found = study
        for part in key.split("."):
            found = getattr(found, part)
        assert found == value, key
    online, offline, shuffled = (study.arms[arm] for arm in ("online", "offline", "shuffled"))
    assert (online.steps, online.batch, online.beta, online.lr) == (4000, 32, (0.1,), (1e-5,))
    assert online.checkpoint_steps() == list(range(400, 4001, 400))
    assert (offline.beta, offline.lr) == ((0.1, 0.5, 1.0), (3e-6, 1e-5, 3e-5))
    assert {arm.steps for arm in study.arms.values() if arm.method.source == "data"} == {4000, 20000}
    assert (shuffled.stream, shuffled.window, shuffled.steps) == ("online", 0, 4000)
    assert {(arm.method.loss, arm.method.reduction) for arm in (*study.arms.values(), study.golden_policy)} == {
        ("ipo", "sum")
    }
    small = read_study(str(FOLDER / f"{name}.yaml"), QWEN)
    assert small.policy == small.proxy.model != study.policy
    assert (small.golden, small.arms) != (study.golden, {})


@pytest.mark.parametrize("name", NAMES)
def test_every_value_says_where_it_comes_from(name):
    lines = (FOLDER / f"{name}.yaml").read_text().splitlines()
    values = [line for line in lines if re.match(r"\s*[\w-]+: \S", line)]
    assert len(values) > 80
    named = [line for line in values if not re.search(r"  # (paper: (section \d|appendi)|ours)", line)]
    assert [line.split(":")[0].strip() for line in named] == ["name", "question", "kind"]


WORDS = ["red", "blue", "green", "small", "large", "round", "flat", "cat", "dog", "bird", "runs", "sleeps", "sings"]


def sentence(i, length, purpose):
    return " ".join(WORDS[j] for j in np.random.default_rng([purpose, i]).integers(len(WORDS), size=length))


def tldr_row(i):
    row = tldr(i % 2, f" {sentence(i, 3, 0)}.", f"{sentence(i, 4, 1)}", id=f"t3_{i}", post=f"{sentence(i, 9, 2)} {i}\n",
               title=sentence(i, 2, 3), subreddit="pets")  # fmt: skip
    return {**row, "extra": {"confidence": None if i % 3 else 7}}


def hh_row(i):
    asked = (sentence(i, 3, 0), sentence(i, 3, 1), f"{sentence(i, 3, 2)} {i}")
    return {"chosen": hh(*asked, sentence(i, 4, 3)), "rejected": hh(*asked, f"{sentence(i, 3, 4)}!")}


def arena_row(i):
    said = user(f"{sentence(i, 4, 0)} {i}?")
    winner = ("model_a", "model_b", "tie", "tie (bothbad)")[i % 4]
    row = battle(winner, [said, answer(sentence(i, 4, 1))], [said, answer(f"{sentence(i, 3, 2)}.")], f"{i:032x}")
    moderation = {"categories": {"hate": False}, "category_scores": {"hate": 1e-5}, "flagged": False}
    tag = {"roberta-large": {"flagged": False, "probability": 0.01}, "t5-large": {"flagged": False, "score": -1.0}}
    return {**row, "judge": f"arena_user_{i}", "turn": 1, "anony": True, "language": "English", "tstamp": 1.68e9 + i,
            "openai_moderation": moderation, "toxic_chat_tag": tag}  # fmt: skip


FILES = {
    "tldr": (tldr_row, ["data/tldr/comparisons/train/0000.parquet", "data/tldr/comparisons/validation/0000.parquet"]),
    "hh_helpful": (hh_row, [f"data/hh-helpful/helpful-{part}/{split}.jsonl.gz" for split in ("train", "test")
                            for part in ("base", "online", "rejection-sampled")]),
    "hh_harmless": (hh_row, [f"data/hh-harmless/harmless-base/{split}.jsonl.gz" for split in ("train", "test")]),
    "arena": (arena_row, ["lmsys/chatbot_arena_conversations/data/train-00000-of-00001-cced8514c7ed782a.parquet"]),
}  # fmt: skip
"""Rows with the columns of the data sets, and the files in which the recipes find them."""
ROWS = 120
SMALL = [
    *(f"task.{key}=8" for key in ("evaluation", "train_evaluation", "validation", "test")),
    "task.held_out=0.8",
    "task.max_response=32",
    *(f"{stage}.{key}" for stage in ("sft", "golden", "proxy") for key in ("steps=2", "batch=4")),
    *(f"{stage}.check_every=1" for stage in ("golden", "proxy")),
    *(f"golden_policy.{key}" for key in ("steps=2", "batch=4")),
    "sft.early=1",
    "labels.number=8",
    "arms={online: {beta: [0.1], lr: [1.0e-3], steps: 2, batch: 4, checkpoints: 1}}",
    "seeds=[0]",
]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder with small models and data under the very names that the recipes have."""
    folder = tmp_path_factory.mktemp("recipes")
    for make_row, files in FILES.values():
        for n, file in enumerate(files):
            write(folder / file, [make_row(ROWS * n + i) for i in range(ROWS)])
    texts = [" ".join(WORDS), "SUBREDDIT: r/pets TITLE: POST: TL;DR:", "Human: Assistant: 0123456789?!."] * 4
    texts += [sentence(i, 9, 2) for i in range(40)]
    write_t5(folder / "hub", texts)
    model = AutoModelForSeq2SeqLM.from_pretrained(folder / "hub")
    (folder / "hub" / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "hub" / "pytorch_model.bin")
    for name in ("large", "xl"):
        runpy.run_path(str(FOLDER / "prepare_model.py"))["prepare"](
            str(folder / "hub"), folder / f"models/t5-v1_1-{name}"
        )
    for name in ("0.5B", "1.5B"):
        write_qwen2(folder / f"Qwen/Qwen2.5-{name}", texts)
    return folder


def test_a_prepared_model_is_the_same_model_with_a_template(workplace):
    prepared = load_model(workplace / "models/t5-v1_1-large")
    raw = torch.load(workplace / "hub/pytorch_model.bin", weights_only=True)
    assert all(torch.equal(value, raw[name]) for name, value in prepared.state_dict().items())
    tokenizer = AutoTokenizer.from_pretrained(workplace / "models/t5-v1_1-large")
    turns = [{"role": "user", "content": "red cat"}]
    assert tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True) == (
        "Human:\nred cat\n\nAssistant:\n"
    )


def made(workplace, monkeypatch, name, overrides):
    """The study's cells up to its online run, and the store that has them."""
    monkeypatch.chdir(workplace)
    graph = build_graph(read_study(str(FOLDER / f"{name}.yaml"), [*overrides, *SMALL]))
    store = Store(workplace / "runs")
    online = next(run for (arm, _, _), run in graph.runs.items() if arm == "online")
    for cell in closure([online, graph.golden_policy]):
        assert make(store, cell)
    return graph, store, online


@pytest.mark.parametrize(("family", "layout"), [("T5", "encoder-decoder"), ("Qwen2.5", "shared prompt")])
@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_runs_from_the_data_to_an_online_policy(name, family, layout, workplace, monkeypatch):
    graph, store, online = made(workplace, monkeypatch, name, T5 if family == "T5" else QWEN)
    expected = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())["task"]["layout"]
    files = [file for file in FILES[name][1] if "train" in file]
    counts = store.record(graph.prompts.id)["result"]["counts"]
    assert (counts["layout"], counts["pairs"], counts["left out"]) == (expected, ROWS * len(files), {})
    table = store.open(graph.prompts.id) / "prompts.parquet"
    assert len(read_train(table)) >= 8
    assert held_out_number(table) >= 24
    labels, _, _ = read_pairs(store.open(graph.labels.id) / "pairs.parquet", "train", table)
    assert len(labels) == 8
    assert store.record(graph.sft.id)["result"]["layout"] == layout
    run = store.record(online.id)["result"]
    assert (run["layout"], run["last"]["step"]) == (layout, 2)
    before = load_model(store.open(graph.sft.id) / "final").state_dict()
    after = load_model(store.open(online.id) / "step-2").state_dict()
    assert any(not torch.equal(after[key], value) for key, value in before.items())
