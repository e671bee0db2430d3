"""Several studies on one page: all of them, on the same axes, with what differs and nothing else."""

import json
import re

import pytest

from goodhart import arguments
from goodhart.commands import results
from goodhart.errors import GoodhartError
from goodhart.report import theme
from goodhart.report.findings import MAIN, analyse
from goodhart.report.side_by_side import THERE, _differing, distinct, verdicts_and_gaps, write_side_by_side
from goodhart.result import Result
from synthetic_study import Made, make_study
from test_report import EVIL, Page

SMALL = {"prompts": 12, "train_prompts": 4, "pairs": 8, "steps": (20, 40), "betas": (0.1,)}
CONTRASTS = [{"statistic": "gap at equal KL", "first": "online", "second": "offline"}]
CLAIM = {"gap": {"statement": "Online is ahead.", "contrasts": CONTRASTS}}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two studies of arms that differ; the second has a hostile arm, a longer reach and no hypothesis."""
    root = tmp_path_factory.mktemp("root") / "studies"
    first = make_study(root / "first", Made(hypotheses=CLAIM, **SMALL))
    other = Made(arms=("online", EVIL), heights=(0.2, 0.1), reach=(16.0, 14.0), spice=EVIL, **SMALL)
    return [first, make_study(root / "second", other)]


@pytest.fixture(scope="module")
def studies(folders):
    return {folder.name: analyse(folder) for folder in folders}


@pytest.fixture(scope="module")
def page(studies, tmp_path_factory):
    return write_side_by_side(studies, tmp_path_factory.mktemp("both"), resolution=30)


def minus(text):
    return text.replace("-", "−")


def test_both_answers_stand_at_the_head(studies, page):
    text = page.read_text(encoding="utf-8")
    head = Page(text[: text.index("<nav")]).text
    for label, findings in studies.items():
        mean = findings.comparisons(MAIN)[0].gap.mean
        assert label in head
        assert minus(f"{mean.estimate:+.3f} [{mean.low:+.3f}, {mean.high:+.3f}]") in head


def test_hostile_names_ids_and_requests(page):
    text = page.read_text(encoding="utf-8")
    seen = Page(text)
    assert {"script", "img", "iframe", "style "}.isdisjoint(tag for tag, _ in seen.tags)
    assert EVIL in seen.text
    ids = [a["id"] for _, a in seen.tags if "id" in a]
    assert len(ids) == len(set(ids)) > 50
    assert all(a[key].startswith(("data:", "#")) for _, a in seen.tags for key in ("src", "href") if key in a)


def test_frontiers_have_the_same_axes_and_an_arm_the_same_look(studies, monkeypatch, tmp_path):
    real, figures = theme.png, []
    monkeypatch.setattr(theme, "png", lambda figure, resolution: figures.append(figure) or real(figure, resolution))
    write_side_by_side(studies, tmp_path / "page", resolution=30)
    one, two = figures[0].get_axes()
    assert (one.get_title(loc="left"), two.get_title(loc="left")) == ("first", "second")
    assert one.get_xlim() == two.get_xlim()
    assert one.get_ylim() == two.get_ylim()
    assert one.get_xlim()[1] >= 16, "the longer reach is drawn whole"
    looks = [{line.get_color() for line in panel.get_lines() if line.get_marker() in "os^"} for panel in (one, two)]
    assert len(looks[0] & looks[1]) == 1, "the arm that both have"
    assert len(looks[0] | looks[1]) == 3
    assert len(list((tmp_path / "page" / "figures").glob("*.png"))) == 3


def test_verdicts_and_gaps_are_in_one_table_with_dashes_for_what_a_study_has_not(studies):
    grid = verdicts_and_gaps(studies)
    assert grid.header == ("hypothesis or arms", "by", "first", "second")
    cells = {row[:2]: row[2:] for row in grid.rows}
    assert len(cells) == len(grid.rows) == 1 + 2 * 4
    (ruling,) = studies["first"].rulings
    said, nothing = cells["gap: Online is ahead.", "verdict"]
    assert said.startswith(ruling.verdict)
    assert nothing == "–"
    for place, (label, other) in enumerate((("first", "offline"), ("second", EVIL))):
        for measure, words in ((MAIN, "golden win rate against the golden policy"), ("hidden", "hidden measure")):
            mean = studies[label].comparisons(measure)[0].gap.mean
            row = cells[f"online − {other}", words]
            assert row[place].startswith(minus(f"{mean.estimate:+.3f} ["))
            assert row[1 - place] == "–"


def test_only_settings_that_differ_are_listed(studies, page):
    alike = {"seeds": [0, 1], "sft": {"steps": 5, "lr": 0.1}, "arms": {"a": {"beta": [1]}, "b": {"beta": [2]}}}
    other = {"seeds": [0, 1], "sft": {"steps": 7, "lr": 0.1}, "arms": {"a": {"beta": [1]}}, "looks": {"first": 2}}
    grid = _differing("t", {"one": alike, "two": other})
    assert grid.rows == (("sft.steps", "5", "7"), ("arms.b", THERE, "–"), ("looks", "–", THERE))
    assert _differing("t", {"one": alike, "two": alike}).note == "There is no difference."
    text = page.read_text(encoding="utf-8")
    rows = re.findall(r"<tr><td><bdi>(.*?)</bdi>", text[text.index("Settings that differ") :])
    assert "arms.offline" in rows
    assert not {"name", "question", "seeds", "task.kind"} & set(rows)


def test_settings_follow_their_study():
    words = ["quick", "seeds=[0]", "labels.number=4", "covered", "mine.yaml", "seeds=[1]"]
    assert results.named_studies(words) == [
        ("quick", ["seeds=[0]", "labels.number=4"]), ("covered", []), ("mine.yaml", ["seeds=[1]"]),
    ]  # fmt: skip


def test_a_folder_whose_name_has_an_equals_sign_is_a_study(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a=b").mkdir()
    assert results.named_studies(["quick", "a=b"]) == [("quick", []), ("a=b", [])]


def test_studies_of_one_name_are_told_apart_and_none_stands_beside_itself(tmp_path):
    one, two, three = tmp_path / "x" / "quick", tmp_path / "y" / "quick", tmp_path / "y" / "thin"
    assert list(distinct([one, three])) == ["quick", "thin"]
    assert list(distinct([one, two, three])) == [str(one.resolve()), str(two.resolve()), "thin"]
    with pytest.raises(GoodhartError, match="'quick' is laid beside itself"):
        distinct([one, three, one])


def test_one_study_is_none_beside(studies, tmp_path):
    with pytest.raises(GoodhartError, match="two studies or more"):
        write_side_by_side({"first": studies["first"]}, tmp_path)


def test_the_command_and_python_make_the_same_page(folders, tmp_path, capsys):
    root = folders[0].parent.parent
    results.report(arguments.Report(str(folders[0]), (str(folders[1]),), root=root))
    path = root / "comparisons" / "first+second" / "report.html"
    printed = capsys.readouterr().out
    assert str(path) in printed.replace("\n", "")
    assert "Verdicts and gaps" in printed
    made = Result(folders[0]).beside(Result(folders[1]), into=tmp_path / "both")
    assert made.read_text(encoding="utf-8") == path.read_text(encoding="utf-8")
    assert json.loads((folders[0] / "record.json").read_text()), "the studies' own folders are left alone"
    assert not (folders[0] / "report.html").exists()
