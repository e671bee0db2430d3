"""Goodhart from Python: the names, what a study is made of, and what a result gives."""

import json
import subprocess
import sys
from html.parser import HTMLParser

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pyarrow as pa
import pytest
import yaml

import goodhart
from goodhart.errors import GoodhartError
from synthetic_study import Made, make_study

mpl.use("Agg")
EVIL = '<script>alert(1)</script>"'
HYPOTHESES = {
    "gap": {
        "statement": "Online is ahead.",
        "contrasts": [{"statistic": "gap at equal KL", "first": "online", "second": "offline"}],
    }
}
WORLD = {
    "name": "small",
    "world": {"kind": "transitive", "prompts": 2, "responses": 3},
    "arms": {
        "one": {"method": "online-ipo", "mode": "soft", "beta": [0.3], "lr": [0.1], "steps": 8, "checkpoints": 2},
        "two": {"method": "ipo", "beta": [0.3], "lr": [0.1], "steps": 8, "checkpoints": 2},
    },
    "resamples": 20,
}


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    folder = tmp_path_factory.mktemp("interface") / "studies" / "made"
    folder.mkdir(parents=True)
    arms = {"arms": ("online", "offline", EVIL), "heights": (0.3, 0.18, 0.1), "reach": (9.0, 7.0, 5.0)}
    make_study(folder, Made(**arms, start=(0.0, 0.0, 0.0), steps=(30, 60), prompts=12, hypotheses=HYPOTHESES))
    return goodhart.open("made", root=folder.parent.parent)


class TestImport:
    def test_it_costs_next_to_nothing_and_brings_no_library(self):
        code = (
            "import sys, time; t = time.perf_counter(); import goodhart; print(time.perf_counter() - t, *sys.modules)"
        )
        took, *modules = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
        ).stdout.split()
        assert float(took) < 0.1
        assert not {"torch", "pyarrow", "numpy", "rich", "yaml"} & set(modules)

    def test_names_are_there_before_and_after_their_rooms(self):
        assert set(goodhart.__all__) <= set(dir(goodhart))
        code = "import goodhart; a = goodhart.study; import goodhart.studies.session; assert goodhart.study is a"
        subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
        with pytest.raises(AttributeError, match="no attribute 'nothing'"):
            goodhart.nothing  # noqa: B018


class TestStudy:
    def test_changes_are_those_of_the_command_line(self):
        study = goodhart.study("quick", seeds=[0, 1], **{"sft.steps": 70})
        assert (study.seeds, study.sft.steps) == ((0, 1), 70)
        assert study == goodhart.studies.spec.read_study("quick", ["seeds=[0,1]", "sft.steps=70"])

    def test_a_mapping_is_what_a_file_would_say(self, tmp_path):
        path = tmp_path / "small.yaml"
        path.write_text(yaml.safe_dump(WORLD))
        assert goodhart.study(WORLD) == goodhart.study(path)
        assert goodhart.study(goodhart.study(WORLD)) == goodhart.study(WORLD)
        assert goodhart.study(goodhart.study(WORLD), seeds=[5]).seeds == (5,)

    def test_what_is_wrong_is_named(self):
        with pytest.raises(GoodhartError, match="no study 'quik'"):
            goodhart.study("quik")
        with pytest.raises(GoodhartError, match="sedes"):
            goodhart.study("quick", sedes=[0])


class TestRun:
    def test_a_study_is_run_opened_and_gone_on_with_and_what_fails_is_warned_of(self, tmp_path, capsys):
        asked = {**WORLD, "arms": {**WORLD["arms"], "wild": {**WORLD["arms"]["two"], "beta": [1e300]}}}
        with pytest.warns(RuntimeWarning, match="not finite"):
            made = goodhart.run(asked, root=tmp_path, quiet=True, workers=1)
        assert capsys.readouterr().out == ""
        assert made.report.is_file()
        assert made.arms == ("one", "two")
        assert made.unfinished["without"] == ["wild"]
        again = goodhart.open("small", root=tmp_path)
        assert again.rows.equals(made.rows)
        with pytest.raises(GoodhartError, match="'one' was not measured by hidden; take another measure"):
            made.gap("one", "two", measure="hidden")
        del asked["arms"]["wild"]
        assert goodhart.run(asked, root=tmp_path, quiet=True, workers=1).rows.equals(made.rows)
        assert json.loads((made.folder / "record.json").read_text())["cost"]["cells made"] == 0

    def test_what_is_not_there_is_said_with_what_is(self, result):
        with pytest.raises(GoodhartError, match=r"no study 'other' .*there are: made"):
            goodhart.open("other", root=result.folder.parent.parent)


class Stream:
    """What DuckDB and polars ask a table for."""

    def __init__(self, table):
        self.table = table

    def __arrow_c_stream__(self, requested_schema=None):
        return self.table.__arrow_c_stream__(requested_schema)


class TestResult:
    def test_tables_are_read_by_what_reads_arrow(self, result):
        rows = result.rows
        assert isinstance(rows, pa.Table)
        again = pa.table(Stream(rows))
        assert again.equals(rows)
        assert len(rows) > 0

    def test_a_frontier_is_that_of_the_report(self, result):
        found, expected = result.frontier("online"), result.findings.frontier("golden_vs_policy", "online")
        np.testing.assert_array_equal(found.kl, expected.envelope.budgets)
        assert found.value.tolist() == [at.estimate for at in expected.envelope.pointwise]
        assert (found.low <= found.value).all()
        assert (found.value <= found.high).all()
        assert len(found.checkpoints) == len(expected.checkpoints) == 8
        assert "peak" in repr(found)

    def test_a_gap_is_that_of_the_report_and_turns_with_its_arms(self, result):
        found, turned = result.gap("online", "offline"), result.gap("offline", "online")
        assert found.interval.estimate == result.rulings[0].decisions[0].found.interval.estimate
        assert turned.interval.estimate == pytest.approx(-found.interval.estimate, abs=1e-12)
        assert "online − offline at matched KL" in repr(found)
        assert result.gap("online", "offline", "hidden").measure == "hidden"

    def test_verdicts_are_by_hypothesis(self, result):
        assert result.verdicts == {"gap": result.rulings[0].verdict}
        assert "gap" in repr(result)

    def test_samples_are_of_the_last_checkpoint_and_the_same_each_time(self, result):
        found = result.samples("online", prompts=5)
        assert len(found) == 5
        assert set(found.column("step").to_pylist()) == {60}
        assert found.equals(result.samples("online", prompts=5))
        assert not found.equals(result.samples("online", prompts=5, seed=1))
        assert len(set(found.column("prompt").to_pylist())) == 5

    def test_figures_are_drawn_onto_the_callers_axes(self, result):
        _, (left, right) = plt.subplots(1, 2)
        assert result.plot.frontier(ax=left, arms=["online"]) is left
        assert result.plot.gap("online", "offline", ax=right) is right
        assert [text.get_text() for text in left.get_legend().get_texts()] == ["online"]
        assert right.get_ylabel() == "online − offline"
        own = result.plot.frontier()
        assert len(own.get_legend().get_texts()) == 3
        plt.close("all")

    @pytest.mark.parametrize(
        ("ask", "says"),
        [
            (lambda r: r.frontier("onlin"), "no arm 'onlin'"),
            (lambda r: r.gap("online", "online"), "compared with itself"),
            (lambda r: r.gap("online", "x"), "its arms are: online, offline, <script"),
            (lambda r: r.frontier("online", "gold"), "no measure 'gold'"),
            (lambda r: r.samples("x"), "no arm 'x'"),
            (lambda r: r.plot.frontier(arms=["x"]), "no arm 'x'"),
        ],
    )
    def test_what_it_has_not_is_named_with_what_it_has(self, result, ask, says):
        with pytest.raises(GoodhartError, match=says):
            ask(result)
        plt.close("all")

    def test_a_notebook_shows_the_answer_apart_from_its_own_styles(self, result):
        shown = result._repr_html_()

        class Frames(HTMLParser):
            pages: list

            def handle_starttag(self, tag, attrs):
                assert tag == "iframe"
                self.pages.append(dict(attrs)["srcdoc"])

        outer = Frames()
        outer.pages = []
        outer.feed(shown)
        (page,) = outer.pages
        assert "<script" not in page
        assert "&lt;script&gt;" in page
        assert "That is the golden win rate" in page
