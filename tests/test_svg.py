"""Figures inside a page: which title a mark has, whose ids they are, and what becomes of hostile names."""

import re
from html.parser import HTMLParser
from xml.etree import ElementTree as Tree

import pytest

from goodhart.report import theme
from goodhart.report.svg import drawn, placed, titled, titled_bar

EVIL = '</svg><script>alert("x")</script>&amp;{{ 7 }} id="f1-x" url(#m) \x00\x1b\ud800'
SEEN = EVIL.replace("\x00\x1b\ud800", "\ufffd" * 3)


def figure_of(draw):
    with theme.canvas(4.0, 3.0) as figure:
        draw(figure.subplots())
        return drawn(figure)


def marks(svg):
    """(title, x, y) of each mark that has one."""
    uses = [element for element in Tree.fromstring(svg).iter("use") if element.find("title") is not None]
    return [(use.find("title").text, float(use.get("x")), float(use.get("y"))) for use in uses]


@pytest.mark.parametrize("filling", ["full", "none", "left", "top"])
def test_each_mark_has_its_own_title_whatever_its_filling(filling):
    height = {"low": 0.1, "middle": 0.5, "high": 0.9}
    across = {"low": 3.0, "middle": 1.0, "high": 2.0}

    def draw(axes):
        (line,) = axes.plot(list(across.values()), list(height.values()), "o-", fillstyle=filling)
        titled(line, "the run", list(height))

    svg = figure_of(draw)
    found = marks(svg)
    assert {title for title, *_ in found} == set(height)
    assert len(found) in (3, 6)
    assert [t for t, *_ in sorted(found[:3], key=lambda m: -m[2])] == ["low", "middle", "high"]  # y runs downwards
    assert [t for t, *_ in sorted(found[:3], key=lambda m: m[1])] == ["middle", "high", "low"]
    assert "<title>the run</title>" in svg


def test_a_mark_that_cannot_be_drawn_gives_no_other_one_its_title():
    def draw(axes):
        (line,) = axes.plot([1.0, float("nan"), 3.0], [1.0, 2.0, 3.0], "o")
        titled(line, "", ["first", "lost", "last"])

    svg = figure_of(draw)
    assert marks(svg) == []
    assert "<title>first\n\nlost\n\nlast</title>" in svg


def test_bars_have_the_title_of_their_mark():
    def draw(axes):
        titled_bar(axes.errorbar([1, 2], [1, 2], yerr=[0.1, 0.2], fmt="o"), ["one", "two"])

    svg = figure_of(draw)
    assert [title for title, *_ in marks(svg)] == ["one", "two"]
    paths = [path for path in Tree.fromstring(svg).iter("path") if path.find("title") is not None]
    assert [path.find("title").text for path in paths] == ["one", "two"]


class Seen(HTMLParser):
    """Tags of a page, and the text in them."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.text.append(data)


def test_hostile_names_are_text():
    def draw(axes):
        (line,) = axes.plot([1, 2], [1, 2], "o")
        titled(line, EVIL, [EVIL, "two"])
        axes.set_title("a <b>$x$ &amp; b")

    page = Seen(placed(figure_of(draw), "f1-", EVIL))
    assert {"script", "b", "style", "metadata"}.isdisjoint(page.tags)
    assert page.tags.count("svg") == 1
    assert page.text.count(SEEN) == 2
    assert "a <b>$x$ &amp; b" in page.text


def test_figures_of_one_page_share_no_id_and_refer_to_their_own():
    def draw(axes):
        axes.plot([1, 2], [1, 2], "o")
        axes.bar([1], [1], hatch="//")

    one = figure_of(draw)
    assert one == figure_of(draw), "the same figure has the same text"
    ids = []
    for prefix in ("f1-", "f2-"):
        svg = placed(one, prefix, "name")
        own = re.findall(r' id="([^"]*)"', svg)
        used = {*re.findall(r'href="#([^"]*)"', svg), *re.findall(r"url\(#([^)]*)\)", svg)}
        assert used == set(own)
        ids += own
    assert len(ids) == len(set(ids)) > 4


def test_a_figure_asks_for_nothing_and_styles_nothing_else():
    svg = figure_of(lambda axes: axes.plot([1, 2], [1, 2], "o"))
    assert "http" not in svg
    assert "<style" not in svg
    assert "<text" in svg, "letters are letters, and can be found"
