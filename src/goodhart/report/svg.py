"""A figure as SVG that stands in a page: a mark that is pointed at says what it is, without a script."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary
from xml.etree import ElementTree as Tree

import matplotlib as mpl
from matplotlib.artist import Artist
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure

CLASS = "drawing"
"""The class of every figure of a page, and of nothing else."""
_FONTS = "'DejaVu Sans', Verdana, sans-serif"
"""What figures are laid out with, a font as wide, and what there is."""
_POINTS, _PIXELS = 72, 96
"""Units of matplotlib's SVG, and of a page, in an inch."""
_DIGITS = re.compile(r"-?\d+\.\d{3,}")
_LINK = re.compile(r"url\(#([^)]*)\)")
_FORBIDDEN = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]")
_DRAWN = ("d", "x", "y", "width", "height", "transform", "viewBox")
_FRAME = "stroke-linejoin:round;stroke-linecap:butt"
"""What matplotlib says of all elements in a style sheet, which would reach the whole page."""


@dataclass(frozen=True)
class _Titles:
    each: tuple[str, ...]
    whole: str


_TITLES: WeakKeyDictionary[Artist, _Titles] = WeakKeyDictionary()


def titled(artist: Artist, whole: str = "", each: Sequence[str] = ()) -> None:
    """Say what an artist is, and what each mark of a line is, in the order of its data."""
    _TITLES[artist] = _Titles(tuple(each), whole)


def titled_bar(bars: ErrorbarContainer, each: Sequence[str], whole: str = "") -> None:
    """The same of marks with bars."""
    line, _, ends = bars.lines
    titled(line, whole, each)
    for collection in ends:
        titled(collection, each=each)


def drawn(figure: Figure) -> str:
    """The figure as one `<svg>` element with a `<title>` in every mark; the same text for the same figure."""
    marks = {f"mark{i}": artist for i, artist in enumerate(figure.findobj(lambda a: a in _TITLES))}
    buffer = io.StringIO()
    for name, artist in marks.items():
        artist.set_gid(name)
    try:
        with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "goodhart"}), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing")  # the reader's browser may have the glyph
            figure.savefig(buffer, format="svg", facecolor="white", metadata={"Date": None})
    finally:
        for artist in marks.values():
            artist.set_gid(None)
    root = _cleaned(_FORBIDDEN.sub("\ufffd", buffer.getvalue()))
    by_id = {element.get("id", ""): element for element in root.iter()}
    for name, artist in marks.items():
        if name in by_id:
            _entitle(by_id[name], _TITLES[artist])
    _drop_ids(root)
    return Tree.tostring(root, encoding="unicode")


def placed(svg: str, prefix: str, label: str) -> str:
    """The same with ids that no other figure of the page has, and a name for those who cannot see it."""
    root = Tree.fromstring(svg)  # noqa: S314 - made by `drawn`
    for element in root.iter():
        for key, value in element.items():
            if key == "id":
                element.set(key, prefix + value)
            elif key == "href" and value.startswith("#"):
                element.set(key, f"#{prefix}{value[1:]}")
            elif "url(#" in value:
                element.set(key, _LINK.sub(rf"url(#{prefix}\1)", value))
    root.set("aria-label", _FORBIDDEN.sub("\ufffd", label))
    return Tree.tostring(root, encoding="unicode")


def _cleaned(text: str) -> Tree.Element:
    """What matplotlib wrote, as an element of HTML: no namespaces, no style sheet, and numbers of two decimals."""
    root = Tree.fromstring(text)  # noqa: S314 - made by matplotlib, which escapes names
    for element in root.iter():
        element.tag = _local(element.tag)
        for key, value in list(element.items()):
            del element.attrib[key]
            short = _DIGITS.sub(_rounded, value).strip() if key in _DRAWN else value.replace("'DejaVu Sans'", _FONTS)
            element.set(_local(key), " ".join(short.split()))
        element.text, element.tail = (element.text or "").strip() or None, None
    for parent in reversed(list(root.iter())):
        for child in list(parent):
            if child.tag in ("metadata", "style") or (child.tag in ("g", "defs") and not len(child)):
                parent.remove(child)
    width = float(root.attrib.pop("width").removesuffix("pt")) * _PIXELS / _POINTS
    del root.attrib["height"], root.attrib["version"]
    root.attrib |= {"class": CLASS, "role": "img", "width": f"{width:.0f}", "style": _FRAME}
    return root


def _local(name: str) -> str:
    return name.rpartition("}")[2]


def _rounded(number: re.Match[str]) -> str:
    return f"{float(number[0]):.2f}".rstrip("0").rstrip(".")


def _entitle(group: Tree.Element, titles: _Titles) -> None:
    """Marks are drawn in the order of the data; a filling of two halves is drawn as two marks, one after another."""
    marks = list(group.iter("use")) or group.findall("path")
    whole, each = titles.whole, titles.each
    if each and marks and len(marks) % len(each) == 0:
        for place, mark in enumerate(marks):
            mark.append(_title(each[place % len(each)]))
    elif each:  # a line of which some marks were not drawn: better all of them than a wrong one
        whole = "\n\n".join(each)
    if whole:
        group.insert(0, _title(whole))


def _title(words: str) -> Tree.Element:
    element = Tree.Element("title")
    element.text = _FORBIDDEN.sub("\ufffd", words)
    return element


def _drop_ids(root: Tree.Element) -> None:
    """Ids that nothing refers to say nothing to a reader."""
    values = [value for element in root.iter() for value in element.attrib.values()]
    named = {value[1:] for value in values if value.startswith("#")} | {n for v in values for n in _LINK.findall(v)}
    for element in root.iter():
        if element.get("id", "") not in named:
            element.attrib.pop("id", None)
