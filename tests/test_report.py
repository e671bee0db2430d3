"""The report of a study: escaped, self-contained, complete, and saying what is missing."""

import html
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pyarrow.parquet as pq
import pytest
from matplotlib.image import imread
from rich.console import Console

from goodhart.errors import GoodhartError
from goodhart.report.contents import read_contents
from goodhart.report.findings import MAIN, analyse
from goodhart.report.grid import Grid
from goodhart.report.page import MANY, Section, render
from goodhart.report.provenance import settings_grid
from goodhart.report.report import write_report
from goodhart.report.samples import PROMPTS, select
from goodhart.report.terminal import terminal_table
from synthetic_study import Made, make_study

EVIL = '<script>alert("x")</script><img src=x onerror=alert(1)>&amp;{{ 7 * 7 }}'
ODD_ARM = "_[bold]$arm$ <b>one</b>"
CONTRASTS = [{"statistic": "gap at equal KL", "first": "online", "second": "offline"}]
SMALL = {"prompts": 12, "train_prompts": 4, "pairs": 8, "steps": (20, 40)}


class Page(HTMLParser):
    """Tags, their attributes and all text of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def of(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def evil(tmp_path_factory):
    """A study whose every text is hostile, with its findings and its page."""
    folder = make_study(tmp_path_factory.mktemp("study") / "evil", Made(arms=("online", ODD_ARM), spice=EVIL, **SMALL))
    findings = analyse(folder)
    return findings, write_report(folder, findings, resolution=40)


@pytest.fixture(scope="module")
def poor(tmp_path_factory):
    """A study of people's preferences with one seed and arms that have no KL in common."""
    made = Made(reach=(1.0, 3.0), start=(0.0, 20.0), seeds=(0,), hidden=False, betas=(0.1,), **SMALL)
    folder = make_study(tmp_path_factory.mktemp("study") / "poor", made)
    findings = analyse(folder)
    return findings, write_report(folder, findings, resolution=40)


def page_of(study):
    return Page(study[1].read_text(encoding="utf-8"))


def printed(findings, width=200):
    console = Console(file=io.StringIO(), width=width)
    console.print(terminal_table(findings))
    return console.file.getvalue()


def test_hostile_texts_are_shown_and_not_obeyed(evil):
    page = page_of(evil)
    allowed = {
        "html",
        "head",
        "meta",
        "title",
        "link",
        "style",
        "body",
        "header",
        "main",
        "footer",
        "nav",
        "section",
        "p",
    }
    allowed |= {"svg", "g", "path", "use", "defs", "clippath", "rect", "text", "pattern"}
    allowed |= {"h1", "h2", "a", "figure", "figcaption", "b", "div", "table", "caption", "thead", "tbody", "tr"}
    allowed |= {"th", "td", "bdi", "article", "pre", "dl", "dt", "dd", "span", "details", "summary"}
    assert {tag for tag, _ in page.tags} <= allowed
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert page.text.count(EVIL) > 2 * PROMPTS
    assert ODD_ARM in page.text


def test_the_page_asks_for_nothing_else(evil):
    page = page_of(evil)
    links = [a[key] for _, a in page.tags for key in ("src", "href") if key in a]
    assert all(link.startswith(("data:", "#")) for link in links)
    policy = next(a["content"] for a in page.of("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    assert "@import" not in page.text
    assert "url(" not in page.text


def test_every_link_has_its_section(evil):
    page = page_of(evil)
    anchors = [a["href"][1:] for a in page.of("a")]
    assert ["answer", *anchors] == [a["id"] for a in page.of("section")]
    assert {"hypotheses", "axes"}.isdisjoint(anchors)  # this study claims nothing
    assert len(anchors) == len(set(anchors)) == 13


def test_the_page_is_well_formed(evil, poor):
    """What is opened is closed, in order, but for the elements that HTML has no end of."""
    for study in (evil, poor):
        open_ones = []
        for tag, closing in re.findall(r"<(/?[a-zA-Z0-9]+)(?:\s[^<>]*?)?(/?)>", study[1].read_text(encoding="utf-8")):
            if tag.startswith("/"):
                assert open_ones.pop() == tag[1:]
            elif not closing and tag not in ("meta", "link"):
                open_ones.append(tag)
        assert not open_ones


def test_no_two_elements_have_the_same_id_and_figures_refer_to_their_own(evil):
    page = page_of(evil)
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids)) > 100
    values = [value or "" for _, a in page.tags for value in a.values()]
    used = {name for value in values for name in re.findall(r"url\(#([^)]*)\)", value)}
    used |= {a["href"][1:] for a in page.of("use")}
    assert used
    assert used <= set(ids)


def test_every_checkpoint_of_the_frontier_says_what_it_is(evil):
    findings, path = evil
    figures = re.findall(r"<svg.*?</svg>", path.read_text(encoding="utf-8"), re.DOTALL)
    for measure, places in ((MAIN, (0, 1)), ("golden_vs_sft", (1,))):
        for arm in findings.contents.arms:
            checkpoints = findings.frontier(measure, arm).checkpoints
            assert len(checkpoints) == 8
            for at in checkpoints:
                name = f"{arm}, {at.checkpoint.setting}, seed {at.checkpoint.seed}, step {at.checkpoint.step}\n"
                words = [f"KL {at.kl.estimate:.1f} [", f"{at.value.estimate:.3f} [{max(0.0, at.value.low):.3f}, "]
                for place in places:
                    titles = [html.unescape(t) for t in re.findall(r"<title>(.*?)</title>", figures[place], re.DOTALL)]
                    own = [t for t in titles if t.startswith(name)]
                    assert any(all(word in title for word in words) for title in own)


def test_the_answer_and_the_frontier_stand_before_everything_else(evil):
    text = evil[1].read_text(encoding="utf-8")
    head = text[: text.index("<nav")]
    gap = evil[0].comparisons(MAIN)[0].gap
    assert "At the same KL budget, what does sampling from the policy buy?" in head
    assert f"{gap.mean.estimate:+.3f}".replace("-", "−") in head
    assert "with 80% power" in head
    assert head.count("<svg") == 1


def test_long_tables_can_be_folded_and_short_ones_cannot(evil):
    text = evil[1].read_text(encoding="utf-8")
    folds = re.findall(r"<details class=\"grid\"( open)?>\n<summary>(.*?) <span class=\"note\">\((\d+) rows\)", text)
    rows = {title: (bool(opened), int(number)) for opened, title, number in folds}
    assert rows["Every setting"] == (False, len(settings_grid(evil[0].contents.record["study"]).rows))
    assert rows["Classification, every checkpoint"][0] is False
    assert "<caption>Each arm at its peak</caption>" in text
    for title in rows:
        assert f"<caption>{title}</caption>" not in text
    printed_page = text[text.index("@media print") :]
    assert "details::details-content { content-visibility: visible; }" in printed_page


def test_figures_are_on_the_page_and_in_the_folder(evil):
    drawings = page_of(evil).of("svg")
    files = list((evil[1].parent / "figures").glob("*.png"))
    assert len(drawings) == len(files) == 11
    for file in files:
        assert imread(file)[..., :3].std() > 0.01, "an empty figure"
    assert all(a["aria-label"] for a in drawings)


def test_page_terminal_and_json_have_the_same_gap(evil):
    findings, path = evil
    gap = findings.comparisons(MAIN)[0].gap
    saved = json.loads((path.parent / "summary.json").read_text())["summary"]["measures"]["held_out/golden_vs_policy"]
    assert saved["comparisons"][0]["gap"]["curve"]["mean"]["estimate"] == gap.mean.estimate
    number = f"{gap.mean.estimate:+.3f}".replace("-", "−")
    lead = f"{number} [{gap.mean.low:+.3f}, {gap.mean.high:+.3f}]".replace("-", "−")
    reach = f"{gap.common.low:.1f} to {gap.common.high:.1f} nats"
    for text in (page_of(evil).text, printed(findings)):
        assert lead in text
        assert reach in text


def test_terminal_shows_names_as_they_are(evil):
    text = printed(evil[0])
    assert ODD_ARM in text
    assert text.count("at matched KL") == text.count("at equal β") == 1
    assert all(any(line.startswith(name) for line in text.splitlines()) for name in ("golden policy ", "SFT policy "))
    assert max(map(len, printed(evil[0], width=80).splitlines())) <= 80


def test_samples_are_of_one_prompt_by_everybody(evil):
    contents = evil[0].contents
    rows = {(r["prompt"], r["arm"], r["setting"], r["seed"], r["step"]): r["text"] for r in contents.rows.to_pylist()}
    texts = {p["text"]: p for p in contents.prompts.to_pylist() if p["split"] == "held_out"}
    samples = select(contents).samples
    assert len(samples) == PROMPTS
    for sample in samples:
        prompt = texts[sample.prompt]
        assert sample.human == prompt["reference"]
        by = {response.writer: response.text for response in sample.responses}
        assert list(by) == ["online", ODD_ARM, "golden policy", "SFT policy"]
        assert by["online"] == rows[prompt["prompt"], "online", "beta=0.1 lr=0.0002", 0, 40]
        assert by["golden policy"] == rows[prompt["prompt"], "golden policy", "beta=0.1 lr=0.0002", 0, 60]
        assert by["SFT policy"] == rows[prompt["prompt"], "sft", "", 0, 0]
    assert "step 40" in select(contents).origin


def test_what_is_missing_is_said(poor):
    text = page_of(poor).text
    assert "no KL in common" in text
    assert "cannot compare them at the same KL budget" in text
    assert "Only one seed was run" in text
    assert "This task has no hidden measure" in text
    assert "human line" not in "".join(s.human or "" for s in select(poor[0].contents).samples)
    assert not (poor[1].parent / "figures" / "gap.png").exists()
    shown = printed(poor[0])
    assert "nothing is claimed" in shown
    assert "Only one seed was run" in shown
    assert "nan" not in shown.lower()


def test_no_number_on_a_page_is_nan(evil, poor):
    for study in (evil, poor):
        cells = page_of(study).text.lower().split()
        assert not {"nan", "[nan,", "nan]", "inf", "none]"} & set(cells)


def test_unprintable_characters_do_not_break_the_page(tmp_path):
    text = render("name\x00", "asked \ud800?", "1", [Section("a", "Title\x1b[31m")])
    text.encode("utf-8")
    assert "\x00" not in text
    assert "\x1b" not in text
    assert "name\ufffd" in text


def test_a_table_is_folded_from_so_many_rows_on():
    def page(rows):
        return render("name", "asked", "", [Section("a", "A", grids=(Grid("Long one", ("x",), (("1",),) * rows),))])

    assert "<details" not in page(MANY)
    assert "<caption>Long one" in page(MANY)
    assert re.search(r'<details class="grid" open>\s*<summary>Long one <span class="note">\(17 rows\)', page(MANY + 1))
    assert "<caption" not in page(MANY + 1)


def test_a_name_that_is_no_text_does_not_break_a_figure(tmp_path):
    axes = {"staleness": {"label": "steps \ud800", "lines": {"\udfff line": {"online": 1, "offline": 4}}}}
    small = {**SMALL, "prompts": 4, "steps": (20,), "betas": (0.1,)}
    page = write_report(make_study(tmp_path / "study", Made(axes=axes, **small)), resolution=30)
    assert "steps \ufffd" in page.read_text()


@pytest.mark.parametrize("name", ["rows.parquet", "pairs.parquet", "prompts.parquet", "record.json"])
def test_a_missing_file_is_named(tmp_path, name):
    folder = make_study(tmp_path / "study", Made(prompts=2, train_prompts=1, pairs=2, steps=(5,), seeds=(0,)))
    (folder / name).unlink()
    with pytest.raises(GoodhartError, match=name):
        write_report(folder)
    (folder / name).write_text("{no table, no json")
    with pytest.raises(GoodhartError, match=name):
        write_report(folder)


def test_a_missing_column_or_section_is_named(tmp_path):
    folder = make_study(tmp_path / "study", Made(prompts=2, train_prompts=1, pairs=2, steps=(5,), seeds=(0,)))
    record = json.loads((folder / "record.json").read_text())
    (folder / "record.json").write_text(json.dumps({k: v for k, v in record.items() if k != "cost"}))
    with pytest.raises(GoodhartError, match="cost"):
        read_contents(folder)
    rows = pq.read_table(folder / "rows.parquet")
    pq.write_table(rows.drop_columns(["entropy"]), folder / "rows.parquet")
    with pytest.raises(GoodhartError, match=r"rows\.parquet lacks the columns entropy"):
        read_contents(folder)
    pq.write_table(rows.slice(0, 0), folder / "rows.parquet")
    with pytest.raises(GoodhartError, match="no rows"):
        read_contents(folder)


def browse(browser, path, profile):
    """The document as the browser sees it, and what its console said."""
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"]
    command += ["--enable-logging=stderr", "--dump-dom", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.fixture
def browser(capsys):
    installed = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if installed is None:
        with capsys.disabled():
            print(
                "\nNOT CHECKED: no Chromium here, so the report was not loaded in a browser (apt-get install chromium)"
            )
        pytest.skip("no Chromium")
    return installed


MEASURE = """
onload = () => {
  const page = document.getElementById("page").contentDocument;
  const beside = [...page.querySelectorAll("main *")].filter(e => e.getBoundingClientRect().right > WIDTH);
  const head = page.getElementById("answer").getBoundingClientRect().bottom;
  const lost = beside.filter(e => !e.closest(".scroll")).map(e => e.tagName);
  const marks = [...page.querySelector("svg").querySelectorAll("use")].filter(e => e.querySelector("title"));
  const middle = ({x, y, width, height}) => [x + width / 2, y + height / 2];
  const seen = marks.map(e => page.elementFromPoint(...middle(e.getBoundingClientRect()))?.tagName);
  document.title = JSON.stringify([page.documentElement.scrollWidth, lost, head, seen]);
}
"""


def laid_out(browser, path, folder, width):
    """The page's width when it is shown this wide, what is cut off, where its head ends, and what is at its marks."""
    frame = f'<iframe id="page" src="{path.as_uri()}" style="width: {width}px; height: 800px; border: 0"></iframe>'
    outer = folder / "outer.html"
    outer.write_text(f"<body>{frame}<script>{MEASURE.replace('WIDTH', str(width))}</script></body>")
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files"]
    command += [f"--user-data-dir={folder / 'wide'}", "--window-size=1400,900", "--dump-dom", outer.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return json.loads(html.unescape(re.search(r"<title>(.*?)</title>", done.stdout)[1]))


@pytest.mark.parametrize("width", [400, 1280])
def test_the_page_fits_its_window(evil, browser, tmp_path, width):
    across, lost, *_ = laid_out(browser, evil[1], tmp_path, width)
    assert across <= width
    assert lost == []


def test_the_head_is_above_the_fold(browser, tmp_path):
    claims = {
        f"H{i}": {"statement": "At the same KL online is better than offline.", "contrasts": CONTRASTS}
        for i in range(9)
    }
    page = write_report(make_study(tmp_path / "nine", Made(hypotheses=claims, **SMALL)), resolution=30)
    _, _, head, seen = laid_out(browser, page, tmp_path, 1280)
    assert 300 < head <= 800
    assert len(seen) > 16
    assert set(seen) == {"use"}, "nothing lies above a mark but another mark"


def test_the_page_loads_in_a_browser(evil, browser, tmp_path):
    document, console = browse(browser, evil[1], tmp_path / "profile")
    assert "<title>evil: a Goodhart study</title>" in document
    assert document.count("<section") == 14
    assert "alert(" in Page(document).text
    assert console == []
    broken = tmp_path / "broken.html"
    policy = "<meta http-equiv='Content-Security-Policy' content=\"default-src 'none'\">"
    broken.write_text(f"<html><head>{policy}</head><body><img src='http://localhost:9/x.png'></body></html>")
    assert browse(browser, broken, tmp_path / "profile")[1], "a broken page must be noticed, or the check above is void"
