"""Verdicts, contrasts and axes on the page: every statistic in words, hostile names, and files with safe names."""

import html
import json
import re
from dataclasses import replace

import pytest

from goodhart.analysis.contrasts import Estimate
from goodhart.analysis.hypotheses import Contrast, Hypothesis, Published
from goodhart.analysis.interval import around
from goodhart.analysis.rulings import Decision, Ruling
from goodhart.report.findings import analyse
from goodhart.report.hypotheses import contrast_grid, described, estimates, ruling_line, verdict_grid
from goodhart.report.report import write_report
from goodhart.report.theme import file_name
from synthetic_study import Made, make_study

EVIL = '<script>alert("x")</script>'
OUTSIDE = "../../x"


def decision(statistic="gap at equal KL", first="one", second="two", estimate=0.1234, verdict="supported", **other):
    interval = None if estimate is None else around(estimate, 0.01, 9.0, seeds=2, prompts=24)
    found = Estimate(interval, "KL 1 to 2 nats" if interval else "nothing in common")
    return Decision(Contrast(statistic, first, second, **other), found, 0.01, 0.02, verdict)


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (decision(), "gap at equal KL: one − two"),
        (decision("gap at equal setting"), "gap at equal setting: one − two"),
        (decision("gap at equal compute"), "gap at equal compute: one − two"),
        (decision("gap at equal pairs"), "gap at equal pairs: one − two"),
        (decision("peak"), "peak: one − two"),
        (decision("best possible"), "best possible: one ÷ two − 1"),
        (decision("accuracy"), "accuracy: one − two (held-out pairs)"),
        (decision("winner shift", split="train"), "winner shift: one − two (train pairs)"),
        (decision("loser shift"), "loser shift: one − two (held-out pairs)"),
        (decision("stream accuracy", "proxy", stream="one"), "stream accuracy: proxy − two (stream of one)"),
        (decision("correlation"), "correlation: one, two"),
        (decision("correlation", second=""), "correlation: one"),
        (decision(baseline=("three", "four")), "gap at equal KL: (one − two) − (three − four)"),
        (decision("best possible", baseline=("three", "four")), "best possible: (one ÷ two) − (three ÷ four)"),
        (decision(measure="hidden", split="train"), "gap at equal KL: one − two (hidden measure, training prompts)"),
        (decision("peak", measure="proxy_vs_sft"), "peak: one − two (proxy win rate against SFT)"),
        (decision("peak", split="train"), "peak: one − two (training prompts)"),
    ],
)
def test_every_statistic_is_spelled_out(made, words):
    assert described(made) == words


def ruling(*decisions, name="H", paper=""):
    contrasts = tuple(each.contrast for each in decisions)
    return Ruling(name, Hypothesis("It is so.", contrasts, Published(paper)), decisions)


def test_a_verdict_stands_beside_what_decides_it_and_what_was_published():
    beside = decision("peak", verdict="contradicted", decides=False)
    made = ruling(decision(), decision(estimate=None, verdict="undecided"), beside, paper="supported")
    (row,) = verdict_grid([made]).rows
    assert row[:3] == ("H", "It is so.", "undecided")
    assert row[3] == (
        "gap at equal KL: one − two: +0.123 [+0.101, +0.146] (supported); "
        "gap at equal KL: one − two: – (nothing in common) (undecided)"
    )
    assert row[4:] == ("supported", "cannot tell")


@pytest.mark.parametrize(
    ("ours", "theirs", "said"),
    [
        ("supported", "supported", "agree"),
        ("contradicted", "supported", "disagree"),
        ("supported", "contradicted", "disagree"),
        ("contradicted", "contradicted", "agree"),
        ("undecided", "contradicted", "cannot tell"),
        ("supported", "mixed", "as some of its tasks"),
        ("supported", "", "not in the paper"),
        ("no difference", "supported", "no difference of interest here"),
    ],
)
def test_agreement_with_the_paper(ours, theirs, said):
    (row,) = verdict_grid([ruling(decision(verdict=ours), paper=theirs)]).rows
    assert row[4:] == (theirs or "–", said)


def test_every_contrast_has_a_line_with_its_prediction():
    made = [
        decision(predicted="less", than=0.3),
        decision(predicted="near", than=0.05),
        replace(decision("peak", decides=False), adjusted=None),
        decision("winner shift", estimate=-2.34),
        replace(decision(estimate=None, verdict="undecided"), p=None, adjusted=None),
    ]
    rows = contrast_grid([ruling(*made), ruling(decision(), name="second")]).rows
    assert [row[0] for row in rows] == ["H", "", "", "", "", "second"]
    assert [row[2] for row in rows] == ["< 0.3", "within ±0.05", "> 0", "> 0", "> 0", "> 0"]
    assert rows[2][5:] == ("0.010", "–", "–", "(supported)")
    assert rows[3][3].startswith("−2.3 [")
    assert rows[4][3:] == ("– (nothing in common)", "nothing in common", "–", "–", "–", "undecided")
    assert rows[0][5:] == ("0.010", "0.020", "–", "supported")


def test_the_look_and_what_could_have_been_seen_stand_beside_a_verdict():
    open_one = replace(decision(verdict="undecided"), look=2, visible=0.0412, within=0.3)
    done = replace(decision(), look=1, visible=0.05)
    (first, second) = contrast_grid([ruling(open_one, done)]).rows
    assert first[5:] == ("2 (2 seeds)", "0.010", "0.020", "0.300", "0.041", "undecided")
    assert second[5:] == ("1 (2 seeds)", "0.010", "0.020", "–", "0.050", "supported")
    seen = "undecided at look 2, could have seen a difference of 0.041 with 80% power"
    assert verdict_grid([ruling(open_one)]).rows[0][3].endswith(f"({seen})")
    assert ruling_line(ruling(open_one)) == f"H: {seen}"
    assert ruling_line(ruling(open_one, done)) == f"H: undecided (gap at equal KL: one − two {seen})"
    assert ruling_line(ruling(done)) == "H: supported at look 1"
    assert ruling_line(ruling(replace(done, look=0))) == "H: supported"
    small = ruling(done, replace(done, verdict="no difference", look=2))
    assert ruling_line(small) == "H: no difference at look 2"
    assert ruling_line(ruling(decision(estimate=None, verdict="undecided"))) == "H: undecided"


def test_companions_are_marked_in_brackets_and_no_part_of_what_decides():
    beside = replace(decision("peak", decides=False, verdict="contradicted"), adjusted=None, companion=True)
    unit = decision("peak", measure="hidden", decides=False, predicted="nothing", verdict="undecided")
    made = ruling(decision(), beside, replace(unit, p=None, adjusted=None, companion=True))
    rows = contrast_grid([made]).rows
    assert [row[1] for row in rows] == [
        "gap at equal KL: one − two",
        "↳ peak: one − two",
        "↳ peak: one − two (hidden measure)",
    ]
    assert rows[1][5:] == ("0.010", "–", "–", "(contradicted)")
    assert (rows[2][2], *rows[2][5:]) == ("–",) * 5
    assert rows[2][3] == "+0.123 [+0.101, +0.146]"
    (verdict,) = verdict_grid([made]).rows
    assert verdict[2:4] == ("supported", "gap at equal KL: one − two: +0.123 [+0.101, +0.146] (supported)")


@pytest.mark.parametrize("name", [OUTSIDE, "/etc/x", "a\\b", "a\nb", ".", "x" * 300, "中" * 300, EVIL])
def test_a_figures_file_lies_in_its_folder_whatever_its_name(name, tmp_path):
    found = file_name("hypothesis", name)
    (tmp_path / f".{found}.png.12345678").write_bytes(b"")
    (tmp_path / f"{found}.png").write_bytes(b"")
    assert len(list(tmp_path.iterdir())) == 2
    assert file_name("axis", "policy scale") == "axis-policy-scale"


@pytest.fixture(scope="module")
def claimed(tmp_path_factory):
    """A study with hostile hypotheses and axes: its findings and its page."""
    contrasts = [
        {"statistic": "gap at equal KL", "first": "online", "second": "offline"},
        {"statistic": "accuracy", "first": "offline", "second": "online", "split": "train", "decides": False},
        {"statistic": "stream accuracy", "first": "proxy", "second": "online", "stream": "online", "decides": False},
        {"statistic": "gap at equal compute", "first": "online", "second": "offline", "decides": False},
    ]
    hypotheses = {name: {"statement": f"{EVIL} {name}", "contrasts": contrasts} for name in (EVIL, OUTSIDE)}
    lines = {EVIL: {"online": 1.0, "offline": 4.0}}
    axes = {OUTSIDE: {"label": EVIL, "lines": lines, "beside": ["online"]}}
    small = Made(prompts=8, train_prompts=3, pairs=6, steps=(20, 40), betas=(0.1,), hidden=False)
    made = replace(small, hypotheses=hypotheses, axes=axes)
    folder = make_study(tmp_path_factory.mktemp("study") / "claimed", made)
    findings = analyse(folder)
    return findings, write_report(folder, findings, resolution=40)


def test_names_and_statements_are_escaped(claimed):
    text = claimed[1].read_text(encoding="utf-8")
    assert "<script" not in text
    assert text.count("&lt;script&gt;") > 5
    assert 'id="hypotheses"' in text
    assert 'id="axes"' in text


def test_each_hypothesis_has_a_sentence_at_the_head(claimed):
    text = claimed[1].read_text(encoding="utf-8")
    head = text[: text.index("<nav")]
    points = re.findall(
        r"<li><b><bdi>(.*?)</bdi></b> <span class=\"verdict (.*?)\">(.*?)</span> <bdi>(.*?)</bdi></li>", head
    )
    assert [html.unescape(name) for name, *_ in points] == [ruling.name for ruling in claimed[0].rulings]
    for ruling, (_, look, verdict, said) in zip(claimed[0].rulings, points, strict=True):
        assert verdict == ruling.verdict
        assert look == verdict.replace(" ", "-")
        number = next(d.found.interval.estimate for d in ruling.decisions if d.contrast.decides)
        assert html.unescape(said).startswith(ruling.hypothesis.statement)
        assert f"{number:+.3f}".replace("-", "−") in said


def test_many_contrasts_are_counted_in_a_sentence():
    many = ruling(decision(), decision(verdict="undecided"), decision())
    assert estimates(many) == "of 3 contrasts: 2 supported, 1 undecided"
    assert estimates(ruling(decision())) == "+0.123 [+0.101, +0.146]"
    both = "gap at equal KL: one − two: +0.123 [+0.101, +0.146]; peak: one − two: +0.123 [+0.101, +0.146]"
    assert estimates(ruling(decision(), decision("peak"))) == both
    unseen = ruling(replace(decision(verdict="undecided"), visible=0.0412))
    assert estimates(unseen).endswith(", could have seen a difference of 0.041 with 80% power")


def test_figures_lie_in_their_folder(claimed):
    folder = claimed[1].parent
    names = {path.name for path in (folder / "figures").iterdir()}
    assert {"hypothesis-------x.png", "axis-------x.png"} <= names
    outside = {
        path.name for path in folder.parent.rglob("*") if path.suffix == ".png" and path.parent.name != "figures"
    }
    assert not outside


def test_the_page_lists_companions_of_what_is_measured(claimed):
    """The task has no hidden measure."""
    rows = contrast_grid(claimed[0].rulings[:1]).rows
    assert [row[1] for row in rows if row[1].startswith("↳")] == [
        "↳ gap at equal setting: online − offline",
        "↳ gap at equal KL: online − offline (golden win rate against SFT)",
    ]
    text = claimed[1].read_text(encoding="utf-8")
    assert all(text.count(row[1]) >= 2 for row in rows)  # once for each hypothesis


def test_the_page_and_the_json_have_the_same_verdicts(claimed):
    findings, page = claimed
    saved = json.loads((page.parent / "summary.json").read_text())
    assert saved["verdicts"] == {ruling.name: ruling.verdict for ruling in findings.rulings}
    number = saved["rulings"][0]["decisions"][0]["found"]["interval"]["estimate"]
    assert number == findings.rulings[0].decisions[0].found.interval.estimate
    text = page.read_text(encoding="utf-8")
    assert f"{number:+.3f}".replace("-", "−") in text
    assert "the study keeps no classified stream of them" in text
    assert {"nan", "[nan,", "nan]"}.isdisjoint(text.lower().split())
