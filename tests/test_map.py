"""Variants with a judge of their own, and the picture of a study's hypotheses by what differs between them."""

import json

import pytest

from goodhart.analysis.hypotheses import Map
from goodhart.cells.cell import closure
from goodhart.errors import GoodhartError
from goodhart.report import map_figure
from goodhart.report.findings import analyse
from goodhart.report.map_figure import map_picture, predicted
from goodhart.report.report import write_report
from goodhart.studies.graph import anchors, build_graph
from goodhart.studies.spec import read_study
from micro_study import make_cells, write_micro_study, write_tables
from test_report_hypotheses import EVIL, decision, ruling

RULE = {"kind": "rule", "rule": {"reward": "length", "target": 2}}
NOISY = {"kind": "rule", "rule": {"reward": "length", "target": 2, "noise": 0.5}}
OWN = {"beta": [0.1], "lr": [0.01], "steps": 4, "batch": 8, "checkpoints": 2}
OFFLINE = {**OWN, "source": "data", "labeller": "data"}
ARMS = {
    "online": OWN,
    "offline": OFFLINE,
    "online, short": {**OWN, "variant": "short"},
    "offline, short": {**OFFLINE, "variant": "short"},
    "offline, short, few": {**OFFLINE, "variant": "short, few"},
}
VARIANTS = {
    "short": {"golden": RULE, "proxy": NOISY},
    "short, few": {"golden": RULE, "proxy": NOISY, "labels": {"number": 16}},
}


def hypothesis(first, second, **more):
    contrast = {"statistic": "gap at equal KL", "first": first, "second": second, **more}
    return {"statement": "So it is.", "contrasts": [contrast]}


HYPOTHESES = {
    "learnt": hypothesis("online", "offline"),
    "short": hypothesis("online, short", "offline, short"),
    "short, few": hypothesis("online, short", "offline, short, few", predicted="near", than=0.03),
}
MAPS = {
    "when it pays": {
        "rows": "labels",
        "columns": "passes",
        "panels": {"learnt": {"32": {"1": "learnt"}}, "short": {"32": {"1": "short"}, "16": {"2": "short, few"}}},
    }
}


def write(folder, **changes):
    given = {"arms": ARMS, "variants": VARIANTS, "hypotheses": HYPOTHESES, "maps": MAPS, "axes": {}}
    return str(write_micro_study(folder, best_of={"samples": 0}, resamples=20, **{**given, **changes}))


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return read_study(write(tmp_path_factory.mktemp("map")), [])


def test_a_variants_judge_labels_and_measures_its_arms_with_a_baseline_of_its_own(study):
    graph = build_graph(study)
    own, short, few = (graph.trunks[name] for name in ("", "short", "short, few"))
    assert short.golden.kind == "rule"
    assert own.golden.kind == "preference"
    assert short.golden.id == few.golden.id
    for trunk in (own, short, few):
        assert trunk.labels.inputs["golden"].id == trunk.golden.id
        assert trunk.tests.inputs["golden"].id == trunk.golden.id
        assert trunk.golden_policy.inputs["judge"].id == trunk.golden.id
        assert trunk.opponents.inputs["golden_policy"].id == trunk.golden_policy.id
    assert short.golden_policy.id == few.golden_policy.id, "one judge has one baseline, whatever is labelled for arms"
    assert short.golden_policy.id != own.golden_policy.id
    for item in graph.measured:
        trunk = graph.trunks[study.arms[item.arm].variant] if item.arm in study.arms else None
        assert trunk is None or item.cell.inputs["golden"].id == trunk.golden.id


def test_each_judge_sees_the_sft_policy_under_a_name(study):
    graph = build_graph(study)
    assert anchors(study, graph) == {
        "online": "sft",
        "offline": "sft",
        "online, short": "sft (short)",
        "offline, short": "sft (short)",
        "offline, short, few": "sft (short)",
    }
    starts = [item for item in graph.measured if item.arm.startswith("sft")]
    assert {item.arm for item in starts} == {"sft", "sft (short)"}
    assert len(starts) == 2


def test_a_variant_without_a_judge_leaves_every_address_where_it_was(study, tmp_path):
    path = write(tmp_path, arms=dict(list(ARMS.items())[:2]), variants={}, hypotheses={}, maps={})
    alone = {cell.kind: cell.id for cell in closure(build_graph(read_study(path, [])).targets)}
    whole = {cell.id for cell in closure(build_graph(study).targets)}
    # the data of both lie in folders of their own, and have the same content
    assert alone["preferences"] in whole
    assert alone["opponents"] in whole


def test_arms_of_different_judges_are_not_compared(tmp_path):
    mixed = {"mixed": hypothesis("online", "offline, short")}
    with pytest.raises(GoodhartError, match="compares arms of different judges"):
        read_study(write(tmp_path, hypotheses=mixed, maps={}), [])
    across = {"mixed": hypothesis("online", "offline", baseline=["online, short", "offline, short"])}
    with pytest.raises(GoodhartError, match="compares arms of different judges"):
        read_study(write(tmp_path, hypotheses=across, maps={}), [])


def test_a_map_names_hypotheses_that_there_are(tmp_path):
    wrong = {"m": {"rows": "a", "columns": "b", "panels": {"p": {"1": {"2": "nothing"}}}}}
    with pytest.raises(GoodhartError, match=r"maps.m has 'nothing' at p, 1, 2"):
        read_study(write(tmp_path, maps=wrong), [])


def test_a_study_of_two_judges_has_a_report_with_its_map(study, tmp_path):
    small, graph, engine = make_cells(study, tmp_path)
    folder = write_tables(tmp_path, small, graph, engine)
    found = analyse(folder)
    assert set(found.shown) == {"online", "offline"}, "figures of all arms draw those of one judge"
    assert [{c.gap.first, c.gap.second} for c in found.comparisons("golden_vs_policy")] == [{"online", "offline"}]
    page = write_report(folder, found, resolution=30).read_text(encoding="utf-8")
    assert "When it pays" in page
    assert (folder / "figures" / "map-when-it-pays.png").is_file()
    assert json.loads((folder / "record.json").read_text())["variants"]["golden (short)"]["test"]["pairs"] > 0


@pytest.fixture
def drawn(monkeypatch):
    """The texts of a picture, in order."""
    texts = []
    before = map_figure.Axes.text
    monkeypatch.setattr(map_figure.Axes, "text", lambda self, x, y, s, **k: (texts.append((x, s)), before(self, x, y, s, **k))[1])  # fmt: skip  # noqa: E501
    return texts


def test_every_tile_says_what_was_predicted_and_what_was_found(drawn):
    rulings = [
        ruling(decision(), name="a"),
        ruling(decision(estimate=-0.04, verdict="contradicted"), name="b"),
        ruling(decision(estimate=None, verdict="undecided", predicted="near", than=0.03), name=EVIL),
    ]
    found = Map("labels", "passes", {"one": {"64": {"8": "a", "32": "b"}, "256": {"8": EVIL}}})
    picture = map_picture(EVIL, found, rulings, 30)
    assert [text for _, text in drawn] == [
        *("predicted > 0", "+0.123 ✓", "[+0.101, +0.146]"),
        *("predicted > 0", "−0.040", "[−0.063, −0.017]"),
        *("predicted within ±0.03", "–", "no KL in common"),
    ]
    assert [x for x, _ in drawn[::3]] == [0, 1, 0]
    assert "/" not in picture.name
    assert "labels" in picture.caption


def test_predictions_are_short():
    assert predicted(decision(predicted="less", than=0.3).contrast) == "< 0.3"
    assert predicted(decision(predicted="nothing", decides=False).contrast) == "–"
