"""Studies whose judges are rules: what a file may say, which cells there are, and small ones end to end."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from goodhart.alignment.batch import Batch
from goodhart.alignment.judge import ModelJudge
from goodhart.alignment.pair_table import read_pairs, write_pairs
from goodhart.alignment.rule import RuleJudge, prompt_key
from goodhart.cells.cell import closure
from goodhart.cells.workplace import Workplace
from goodhart.config import plain_data
from goodhart.errors import GoodhartError
from goodhart.models.checkpoint import find, load_tokenizer
from goodhart.recipes.labels import to_label
from goodhart.recipes.models import judge
from goodhart.recipes.rule import rule as rule_recipe
from goodhart.report.findings import analyse
from goodhart.report.report import write_report
from goodhart.studies.check import check
from goodhart.studies.check_data import check_pool
from goodhart.studies.check_models import models
from goodhart.studies.estimate import PROBE, Costs
from goodhart.studies.graph import build_graph
from goodhart.studies.spec import read_study
from goodhart.tasks.prompt_table import write_prompts
from goodhart.tasks.prompts import Prompt
from goodhart.tasks.reward import Rule, rewards
from micro_study import make_cells, write_micro_study, write_tables

GOLDEN = {"kind": "rule", "rule": {"reward": "copy", "target": 3}}
NOISY = {"kind": "rule", "rule": {"reward": "copy", "target": 3, "noise": 0.5}}
RULE = Rule("copy", target=3)
OWN = {"beta": [0.1], "lr": [0.01], "steps": 4, "batch": 8, "checkpoints": 1}
ARMS = {
    "online": OWN,
    "offline": {**OWN, "source": "data", "labeller": "data"},
    "written": {**OWN, "source": "samples", "writers": ["sft", "online@4"], "labeller": "data"},
    "learnt": {**OWN, "variant": "learnt"},
}
GAP = {
    "statement": "Online is ahead.",
    "contrasts": [
        {"statistic": "gap at equal KL", "first": "online", "second": "offline"},
        {"statistic": "stream accuracy", "first": "proxy", "second": "online", "stream": "online"},
    ],
}


def write(tmp_path, **changes):
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump({"name": "one", "task": {"kind": "docstrings"}, **changes}))
    return str(path)


def refused(tmp_path, *says, **changes):
    with pytest.raises(GoodhartError) as caught:
        read_study(write(tmp_path, **changes), [])
    for each in says:
        assert each in str(caught.value)


class TestSettings:
    @pytest.mark.parametrize(
        ("changes", "says"),
        [
            ({"golden": {"kind": "rule"}}, ("golden.rule.reward",)),
            ({"golden": {"rule": {"reward": "length"}}}, ("golden.kind is 'pairwise'", "golden.kind=rule")),
            ({"golden": {**GOLDEN, "steps": 9}}, ("golden.steps is not read", "leave golden.steps out")),
            ({"proxy": {**NOISY, "model": "small"}}, ("proxy.model is not read",)),
            ({"golden": NOISY}, ("golden.rule.noise is 0.5", "proxy.rule")),
            ({"golden": {"kind": "rule", "rule": {"reward": "word"}}}, ("golden.rule.words is empty",)),
            ({"golden": {"kind": "rule", "rule": {"reward": "word", "words": ["two words"]}}}, ("'two words'",)),
            ({"golden": {"kind": "rule", "rule": {"reward": "similarity", "target": 3}}}, ("golden.rule.target",)),
            ({"golden": {"kind": "rule", "rule": {"reward": "length", "words": ["a"]}}}, ("golden.rule.words",)),
            ({"golden": {"kind": "rule", "rule": {"reward": "loud"}}}, ("golden.rule.reward", "copy")),
            ({"proxy": NOISY, "variants": {"v": {"proxy": {"steps": 9}}}}, ("variants.v.proxy.steps is not read",)),
            ({"labels": {"of": []}}, ("labels.of is empty",)),
            ({"labels": {"of": ["people"]}}, ("labels.of",)),
        ],
    )
    def test_what_does_not_fit_is_refused_with_a_remedy(self, tmp_path, changes, says):
        refused(tmp_path, *says, **changes)

    def test_data_of_people_have_no_human_line_and_no_kinds_of_pair(self, tmp_path):
        (tmp_path / "data.jsonl").write_text("{}")
        task = {"data": "data.jsonl"}
        refused(tmp_path, "no human line", task=task, golden={"kind": "rule", "rule": {"reward": "similarity"}})
        refused(tmp_path, "labels.of", task=task, labels={"of": ["human"]})

    def test_a_variant_inherits_a_rule_from_a_rule_and_a_model_from_a_model(self, tmp_path):
        variants = {
            "noisier": {"proxy": {"rule": {"noise": 2.0}}},
            "learnt": {"proxy": {"kind": "bradley-terry", "steps": 7}},
        }
        study = read_study(write(tmp_path, golden=GOLDEN, proxy=NOISY, variants=variants), [])
        noisier, learnt = (study.variants[name].proxy for name in variants)
        assert (noisier.kind, noisier.rule) == ("rule", Rule("copy", target=3, noise=2.0))
        assert (learnt.kind, learnt.steps, learnt.rule) == ("bradley-terry", 7, None)

    def test_an_override_reaches_into_a_rule(self, tmp_path):
        path = write(tmp_path, golden=GOLDEN, proxy=NOISY)
        assert read_study(path, ["proxy.rule.noise=0.1"]).proxy.rule.noise == 0.1

    def test_labels_of_more_kinds_have_more_pairs_to_take(self, tmp_path):
        pool = {"pairs": 100, "samples": 0.3, "human": 0.3, "early": 0.1, "mismatched": 0.2, "degenerate": 0.1}
        check_pool(read_study(write(tmp_path, pool=pool, labels={"number": 60, "of": ["samples", "human"]}), []))
        with pytest.raises(GoodhartError, match=r"only the 30 of two samples .* pool.pairs=200"):
            check_pool(read_study(write(tmp_path, pool=pool, labels={"number": 60}), []))


class TestCells:
    def test_a_rule_needs_the_prompts_alone_and_no_model(self, tmp_path):
        study = read_study(write(tmp_path, golden=GOLDEN, proxy=NOISY), [])
        graph = build_graph(study)
        assert [cell.kind for cell in (graph.golden, graph.proxy)] == ["rule", "rule"]
        assert list(graph.golden.inputs) == ["prompts"]
        assert models(study) == {"policy": "tiny"}
        check(study)
        costs = Costs.of(study, PROBE)
        assert costs.seconds(graph.golden) < 3
        learnt = build_graph(read_study(write(tmp_path), []))
        measured = [next(m.cell for m in g.measured if m.step) for g in (graph, learnt)]
        assert costs.seconds(measured[0]) < Costs.of(read_study(write(tmp_path), []), PROBE).seconds(measured[1])

    def test_only_what_a_rule_reads_is_in_its_address(self, tmp_path):
        def address(**changes):
            return build_graph(read_study(write(tmp_path, **changes), [])).golden.id

        first = address(golden=GOLDEN)
        assert address(golden=GOLDEN, pool={"pairs": 500}, sft={"steps": 50}) == first
        assert address(golden={"kind": "rule", "rule": {"reward": "copy", "target": 4}}) != first

    def test_the_recipe_writes_every_human_line(self, tmp_path):
        tokenizer, found = load_tokenizer(find("tiny").path), find("tiny")
        rows = [("open a file", "Open it."), ("open a file", "Open."), ("sum", "Add."), ("none", None)]
        tokens = [tokenizer.encode(text, add_special_tokens=False) for text, _ in rows]
        columns = dict.fromkeys(("rank", "package", "reference_tokens"), [None] * 4)
        columns |= {"prompt": [f"{i:012x}" for i in range(4)], "split": ["train"] * 4, "text": [t for t, _ in rows]}
        (tmp_path / "prompts").mkdir()
        write_prompts(
            tmp_path / "prompts" / "prompts.parquet",
            {**columns, "tokens": tokens, "reference": [line for _, line in rows]},
        )
        settings = {"rule": plain_data(Rule("similarity")), "tokenizer": found.digest, "seed": 0}
        inputs = {"prompts": tmp_path / "prompts"}
        result = rule_recipe(Workplace(settings, inputs, tmp_path, {"tokenizer": "tiny"}))
        made = judge(tmp_path)
        assert isinstance(made, RuleJudge)
        lines = {prompt_key(tokens[0]): ("Open it.", "Open."), prompt_key(tokens[2]): ("Add.",)}
        assert made.lines == lines
        assert result["prompts with several lines"] == 1
        assert "hidden measure" in result["meaning"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A study with a golden rule, a noisy rule for a proxy, and a proxy that learns in a variant."""
    folder = tmp_path_factory.mktemp("rules")
    learnt = {"kind": "bradley-terry", "model": str(folder / "model"), "steps": 6, "batch": 8, "check_every": 3}
    path = write_micro_study(
        folder, golden=GOLDEN, proxy=NOISY, arms=ARMS, variants={"learnt": {"proxy": learnt}}, seeds=[0],
        axes={}, hypotheses={"gap": GAP}, best_of={"samples": 2, "n": [2]}, resamples=20,
    )  # fmt: skip
    study, graph, engine = make_cells(read_study(str(path), []), folder / "runs")
    return study, graph, folder / "runs", write_tables(folder / "runs", study, graph, engine)


class TestStudy:
    def test_golden_labels_are_the_sign_of_the_rewards_difference(self, made):
        _, graph, root, _ = made
        index = root / "cells" / graph.prompts.id / "prompts.parquet"
        tokenizer = load_tokenizer(root / "cells" / graph.sft.id / "final")
        for cell, split in ((graph.labels, "train"), (graph.trunks[""].tests, "test")):
            pairs, _, _ = read_pairs(root / "cells" / cell.id / "pairs.parquet", split, index)
            texts = [
                [tokenizer.decode(list(t), skip_special_tokens=True) for t in side]
                for side in (pairs.prompt_tokens, pairs.first, pairs.second)
            ]
            values = [rewards(RULE, texts[0], side, []) for side in texts[1:]]
            np.testing.assert_array_equal(pairs.label, (np.sign(values[0] - values[1]) + 1) / 2)
            assert {0.5, 1} <= set(pairs.label)

    def test_golden_win_rates_are_those_of_the_reward(self, made):
        _, graph, root, folder = made
        theirs = pq.read_table(root / "cells" / graph.opponents.id / "responses.parquet").to_pylist()
        decode = load_tokenizer(root / "cells" / graph.sft.id / "final").decode
        sft: dict[str, list[str]] = {}
        for row in theirs:
            sft.setdefault(row["prompt"], []).append(decode(row["sft"], skip_special_tokens=True))
        rows = [row for row in pq.read_table(folder / "rows.parquet").to_pylist() if row["arm"] in ARMS]
        table = pq.read_table(root / "cells" / graph.opponents.id / "prompts.parquet").to_pylist()
        prompts = {row["prompt"]: row["text"] for row in table}
        for row in rows:
            texts = [row["text"], *sft[row["prompt"]]]
            own, *others = rewards(RULE, [prompts[row["prompt"]]] * len(texts), texts, [])
            assert row["golden_vs_sft"] == np.mean([(np.sign(own - other) + 1) / 2 for other in others])
        assert len({row["golden_vs_sft"] for row in rows}) > 1

    def test_a_model_learns_from_a_rule_as_from_a_model(self, made):
        _, graph, root, _ = made
        assert isinstance(judge(root / "cells" / graph.trunks["learnt"].proxy.id), ModelJudge)
        assert isinstance(judge(root / "cells" / graph.proxy.id), RuleJudge)

    def test_the_report_says_what_the_rules_are(self, made):
        folder = made[3]
        page = write_report(folder, analyse(folder), resolution=30).read_text(encoding="utf-8")
        assert page.count("judge is a rule and was not trained") == 2
        assert "it rewards the prompt’s own words in a line of 3 words" in page.replace("&#39;", "’")
        assert "standard deviation 0.5" in page
        assert "its own training pairs" not in page
        assert "Training of the preference models" not in page
        assert "golden.steps" not in page
        assert "the golden model: its agreement" not in page
        record = json.loads((folder / "record.json").read_text())
        assert (record["golden"]["train"]["flips"], record["proxy"]["test"]["flips"]) == (0, 0)
        assert 0.5 < record["proxy"]["test"]["accuracy"] < 1

    def test_every_cell_is_made_once_for_all_judges(self, made):
        _, graph, root, _ = made
        cells = closure(graph.targets)
        assert sum(cell.kind == "rule" for cell in cells) == 2
        assert all((root / "cells" / cell.id / "DONE").exists() for cell in cells)


def test_pairs_of_the_named_kinds_are_labelled_in_their_order_and_no_others(tmp_path):
    prompt = Prompt("0" * 12, (5, 6))
    table = {"prompt": [prompt.id], "split": ["train"], "tokens": [list(prompt.tokens)], "text": ["t"]}
    absent = {name: [None] for name in ("rank", "package", "reference", "reference_tokens")}
    write_prompts(tmp_path / "prompts.parquet", {**table, **absent})
    kinds = ["human", "samples", "early", "samples", "human", "people"]
    pairs = Batch.of_pairs([prompt] * 6, [[7, 1]] * 6, [[8, 1]] * 6, np.ones(6))
    write_pairs(tmp_path / "pairs.parquet", pairs, list("abcdef"), ["train"] * 6, kinds)
    work = Workplace({}, {"prompts": tmp_path}, tmp_path)

    def labelled(number, *of):
        return "".join(to_label(work, tmp_path, "train", number, of)[1])

    assert labelled(9, "samples") == "bdf"
    assert labelled(9, "samples", "human") == labelled(9, "human", "samples") == "abdef"
    assert labelled(2, "human", "samples") == "ab"
