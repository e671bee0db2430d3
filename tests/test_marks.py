"""Marks of responses that stand alone: read by line, split evenly, learnt from one by one, measured by their AUC."""

import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from scipy.stats import mannwhitneyu

from goodhart.alignment.batch import Batch
from goodhart.alignment.judge import ModelJudge
from goodhart.alignment.mark_table import SCHEMA, read_marked, read_marks
from goodhart.config import plain_data
from goodhart.errors import GoodhartError
from goodhart.models.preference import PreferenceModel
from goodhart.recipes.mark_quality import has_both, marks_quality
from goodhart.recipes.people_tables import spread_evenly
from goodhart.studies.graph import build_graph
from goodhart.studies.spec import read_study
from goodhart.tasks.data_description import describe, render_text
from goodhart.tasks.preference_data import load_preferences
from goodhart.tasks.prompt_table import write_prompts
from goodhart.tasks.prompts import Prompt
from goodhart.training.marks import auc, auc_interval
from goodhart.training.preference import fit, quality_of_marks
from goodhart.training.settings import Optimisation, Preference
from micro_study import write_micro_study
from preference_data_cases import answer, user, write
from tiny_models import llama

SEPARATOR, PAD = 15, 0
GOOD_TOKEN = 9


def judge(kind="bradley-terry"):
    return PreferenceModel(llama(), kind, SEPARATOR, PAD, "shared prompt")


def marks(number, seed=0):
    """Marked responses: good are those that hold one certain token."""
    draw = np.random.default_rng(seed)
    prompts = [Prompt(f"{i:016x}", tuple(draw.integers(2, 8, 3).tolist())) for i in range(number)]
    good = draw.permutation(np.arange(number) % 3 != 0).astype(float)
    texts = [[*draw.integers(2, 8, 2).tolist(), GOOD_TOKEN if mark else 8, 1] for mark in good]
    return Batch(prompts, [[text] for text in texts], mark=good[:, None])


def shuffled(batch):
    mixed = np.random.default_rng(9).permutation(len(batch))
    return Batch(batch.prompts, batch.responses, mark=batch.mark[mixed])


def fitted(data):
    """A judge that has learnt from marks."""
    model, quick = judge(), Optimisation(lr=1e-2, warmup=2)
    settings = Preference(kind="bradley-terry", steps=24, check_every=24, head_factor=1.0, optimisation=quick)
    fit(model, data, data, settings, 0, lambda _: None)
    return ModelJudge(model)


ROWS = [
    {"prompt": "p", "completion": "a", "label": True},
    {"prompt": "q", "completion": "b", "label": "no"},
    {"prompt": [user("c")], "completion": [answer("d")], "label": 1},
]


class TestReading:
    @pytest.mark.parametrize("ending", ["jsonl", "csv"])
    def test_marks_without_partners_stay_marks(self, tmp_path, ending):
        found = load_preferences(write(tmp_path / f"d.{ending}", ROWS[: 3 if ending == "jsonl" else 2]))
        assert (found.layout, found.rule, found.unit) == ("marks", "none", "marks")
        seen = [(e.first, e.second, e.label) for e in found.examples]
        assert seen == [("a", None, 1.0), ("b", None, 0.0), ("d", None, 1.0)][: len(seen)]
        assert [e.responses for e in found.examples][:2] == [("a",), ("b",)]

    def test_marks_with_partners_are_paired_unless_said(self, tmp_path):
        rows = [{"prompt": "p", "completion": text, "label": good} for text, good in (("a", True), ("b", False))]
        path = write(tmp_path / "d.jsonl", rows)
        assert load_preferences(path).rule == "best and worst"
        assert load_preferences(path, rule="none").rule == "none"
        assert "1 good and 1 bad, learnt from one by one" in render_text(describe(path, rule="none"))

    @pytest.mark.parametrize("rule", ["none", "best and worst"])
    def test_a_wrong_mark_is_named_by_its_line(self, tmp_path, rule):
        path = write(tmp_path / "d.jsonl", [*ROWS, {**ROWS[0], "label": "perhaps"}])
        with pytest.raises(GoodhartError, match=r"line 4 of .*: column 'label' holds str 'perhaps', not true or false"):
            load_preferences(path, rule=rule)

    def test_what_is_no_mark_is_counted(self, tmp_path):
        more = [
            {"prompt": "r", "completion": " ", "label": True},
            {"prompt": "s", "completion": "x", "label": None},
            {"prompt": "t", "completion": [user("u")], "label": True},
        ]
        found = load_preferences(write(tmp_path / "d.jsonl", [*ROWS, *more]))
        assert len(found.examples) == 3
        assert dict(found.filtered) == {
            "empty response": 1,
            "no value in column 'label'": 1,
            "a completion that is not one assistant message": 1,
        }

    @pytest.mark.parametrize(
        ("label", "words"), [(True, "say 'good'; .* add responses that are bad"), (False, "'bad'")]
    )
    def test_marks_of_one_kind_are_refused(self, tmp_path, label, words):
        path = write(tmp_path / "d.jsonl", [{**row, "label": label} for row in ROWS])
        with pytest.raises(GoodhartError, match=rf"all 3 usable marks in split 'd' of .* {words}"):
            load_preferences(path)

    def test_only_marks_are_read_one_by_one(self, tmp_path):
        path = write(tmp_path / "d.jsonl", [{"prompt": "p", "chosen": "x", "rejected": "y"}])
        with pytest.raises(GoodhartError, match=r"pairs is 'none', and layout 'text' of .* has no marks"):
            load_preferences(path, rule="none")


def test_the_table_gives_back_what_was_written(tmp_path):
    batch = marks(5)
    empty = [None] * 5
    columns = {"split": ["train"] * 5, "rank": empty, "package": empty, "text": [""] * 5, "reference": empty}
    columns |= {"prompt": [p.id for p in batch.prompts], "tokens": [list(p.tokens) for p in batch.prompts]}
    write_prompts(tmp_path / "prompts.parquet", {**columns, "reference_tokens": [[]] * 5})
    said = {"mark": list("abcde"), "split": ["train"] * 3 + ["test"] * 2, "prompt": columns["prompt"]}
    said |= {"response": [list(row[0]) for row in batch.responses], "good": batch.mark[:, 0]}
    pq.write_table(pa.table(said, schema=SCHEMA), tmp_path / "marks.parquet")
    place = tmp_path / "marks.parquet", "train", tmp_path / "prompts.parquet"
    found, ids = read_marks(*place)
    assert ids == ["a", "b", "c"]
    assert read_marks(*place, 2)[1] == ["a", "b"]
    used = read_marked(*place, lambda number: np.arange(1, number))
    assert (len(used), used.mark.tolist()) == (3, batch.mark[:3].tolist())
    assert [list(row[0]) for row in used.take([2, 1]).responses] == [list(batch.responses[i][0]) for i in (2, 1)]
    assert [list(row[0]) for row in found.responses] == [list(row[0]) for row in batch.responses[:3]]
    np.testing.assert_array_equal(found.mark, batch.mark[:3])
    assert has_both(found)


def test_no_part_of_an_order_is_without_the_rarer_kind():
    draw = np.random.default_rng(0)
    order, good = draw.permutation(200), draw.random(200) < 0.9
    found = spread_evenly(order, good).tolist()
    assert sorted(found) == list(range(200))
    for kind in (True, False):
        assert [p for p in found if good[p] == kind] == [p for p in order.tolist() if good[p] == kind]
    rare = 200 - int(good.sum())
    window = 2 * math.ceil(200 / rare)
    assert all(not all(good[p] for p in found[start : start + window]) for start in range(200 - window))
    np.testing.assert_array_equal(spread_evenly(order, np.zeros(200, dtype=bool)), order)


class TestArea:
    @pytest.mark.parametrize("size", [(1, 1), (7, 3), (40, 160)])
    def test_it_is_mann_and_whitneys(self, size):
        draw = np.random.default_rng(size[0])
        scores, good = draw.integers(0, 9, sum(size)).astype(float), np.repeat([1.0, 0.0], size)
        expected = mannwhitneyu(scores[good == 1], scores[good == 0]).statistic / math.prod(size)
        assert auc(scores, good) == pytest.approx(expected, abs=1e-12)
        assert auc(np.exp(scores), good) == auc(scores, good), "a monotone function changes nothing"
        assert auc(-scores, good) == pytest.approx(1 - expected)

    def test_who_knows_nothing_has_one_half_whatever_the_share(self):
        assert auc(np.zeros(10), np.array([1.0] * 9 + [0.0])) == 0.5

    @pytest.mark.parametrize("area", [0.0, 0.1, 0.5, 0.83, 1.0])
    def test_the_interval_holds_it_and_solves_its_equation(self, area):
        good, bad = 30, 12
        low, high = auc_interval(area, good, bad)
        assert 0 <= low <= area <= high <= 1
        assert high - low > 0.05, "no point, not even where all are told apart"
        for edge in {low, high} - {0.0, 1.0, area}:
            more = ((good + bad) / 2 - 1) * ((1 - edge) / (2 - edge) + edge / (1 + edge))
            spread = math.sqrt(edge * (1 - edge) * (1 + more) / (good * bad))
            assert abs(edge - area) == pytest.approx(1.96 * spread, rel=1e-3)
        np.testing.assert_allclose(auc_interval(1 - area, bad, good), (1 - high, 1 - low), atol=1e-9)

    def test_it_covers_in_nineteen_of_twenty_samples(self):
        draw, inside = np.random.default_rng(1), 0
        truth = 0.5 * math.erfc(-0.5)  # P(N(1, 1) > N(0, 1))
        for _ in range(200):
            scores, good = (
                np.concatenate([draw.normal(1, 1, 25), draw.normal(0, 1, 40)]),
                np.repeat([1.0, 0.0], (25, 40)),
            )
            low, high = auc_interval(auc(scores, good), 25, 40)
            inside += low <= truth <= high
        assert 0.91 < inside / 200 < 0.99


class TestLearning:
    def test_the_loss_is_that_of_its_closed_form(self):
        batch, model = marks(6), judge().eval()
        with torch.no_grad():
            scores = model.alone(batch.prompt_tokens, [[row[0] for row in batch.responses]])[:, 0].double().numpy()
        p = 1 / (1 + np.exp(-scores))
        expected = -np.mean(np.where(batch.mark[:, 0] == 1, np.log(p), np.log(1 - p)))
        assert quality_of_marks(ModelJudge(model), batch).loss == pytest.approx(expected, rel=1e-6)
        told: list[dict[str, float]] = []
        settings = Preference(kind="bradley-terry", steps=1, batch=6, optimisation=Optimisation(lr=1e-9))
        fit(model, batch, batch, settings, 0, told.append)
        centred = scores - np.median(scores) + math.log(4 / 2)
        loss = np.mean(np.logaddexp(0, centred) - batch.mark[:, 0] * centred)
        assert told[0]["loss"] == pytest.approx(loss, rel=1e-5), "the offset begins at the share of good ones"

    def test_what_compares_knows_nothing_of_the_offset(self):
        batch, model = marks(4), judge().eval()
        pairs = Batch.of_pairs(batch.prompts[:2], *[[row[0] for row in batch.responses[i : i + 2]] for i in (0, 2)])
        before = ModelJudge(model).prefer(pairs)
        with torch.no_grad():
            model.head.bias += 3
        np.testing.assert_allclose(ModelJudge(model).prefer(pairs), before, atol=1e-6)

    def test_a_known_rule_is_learnt_and_shuffled_marks_are_not(self):
        train, test = marks(64), marks(60, seed=1)
        found = marks_quality(fitted(train), train, test)
        assert found["test"]["accuracy"] > 0.95
        assert found["test"]["low"] > 0.5
        assert found["test"]["good"] == 40
        assert found["exchanged"]["low"] < 0.5 < found["exchanged"]["high"], "the prompt says nothing of the mark"
        nothing = marks_quality(fitted(shuffled(train)), train, test)["test"]
        assert nothing["accuracy"] < 0.8, "no better than what chance correlates with the rule"

    def test_a_part_of_one_kind_is_not_measured(self):
        batch = marks(6)
        good = batch.take([i for i in range(6) if batch.mark[i, 0] == 1])
        assert set(marks_quality(ModelJudge(judge().eval()), batch, good)) == {"train"}


class TestStudy:
    @staticmethod
    def study(folder, **golden):
        path = write_micro_study(folder)
        lines = [f"labels.number={n}" for n in (24,)]
        return read_study(str(path), ["task.pairs=none", *lines, *(f"golden.{k}={v}" for k, v in golden.items())])

    def test_a_judge_that_compares_is_refused(self, tmp_path):
        with pytest.raises(
            GoodhartError, match=r"golden.kind is pairwise, which learns from pairs alone; set golden.kind"
        ):
            self.study(tmp_path)

    def test_more_labels_leave_the_golden_model_and_its_marks_alone(self, tmp_path):
        study = self.study(tmp_path, kind="bradley-terry")
        graph = build_graph(study)
        assert graph.golden.inputs["pairs"].kind == "people"
        pairs = graph.labels.inputs["pairs"]
        assert (pairs.kind, pairs.settings["pairs"]) == ("marked pairs", {"train": 24, "validation": 512})
        assert plain_data(graph.trunks["noisy"].labels.inputs["pairs"].settings)["pairs"]["train"] == 24
        assert graph.trunks[""].tests.inputs["tests"].settings["pairs"] == {"test": 512}
        assert graph.quality["golden"].inputs["tests"].kind == "test people"
        assert graph.quality["proxy"].inputs["tests"].kind == "test labels"
