"""The page: sections of sentences, figures, tables and samples, in one HTML file that needs nothing else."""

from __future__ import annotations

import html
import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from goodhart.report import svg
from goodhart.report.grid import Grid
from goodhart.report.samples import Sample
from goodhart.report.theme import Picture

_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
MANY = 16
"""Tables of more rows can be folded."""


@dataclass(frozen=True)
class Section:
    """A part of the page; `notices` are what a reader must not miss, `folded` tables are long and open on a click."""

    anchor: str
    title: str
    lead: str = ""
    paragraphs: tuple[str, ...] = ()
    pictures: tuple[Picture, ...] = ()
    grids: tuple[Grid, ...] = ()
    samples: tuple[Sample, ...] = ()
    folded: tuple[Grid, ...] = ()
    notices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Point:
    """A hypothesis with its verdict, and what is said of it."""

    name: str
    verdict: str
    text: str


@dataclass(frozen=True)
class Opening:
    """What stands above everything else: an answer in a sentence, what belongs to it, and the figure that shows it."""

    title: str
    answer: str
    details: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()
    points: tuple[Point, ...] = ()
    picture: Picture | None = None

    @property
    def pictures(self) -> tuple[Picture, ...]:
        """Its figure, if it has one."""
        return (self.picture,) if self.picture else ()


def _figures() -> Callable[[Picture], Markup]:
    """A filter that gives a picture's figure, each with ids of its own; it is XML, in which names are escaped."""
    places = itertools.count(1)
    return lambda picture: Markup(svg.placed(picture.drawing.svg, f"f{next(places)}-", picture.title))  # noqa: S704


def framed(page: str, height: int = 640) -> str:
    """A page as one element of another, whose styles and its own leave one another alone; of that many pixels."""
    return f'<iframe srcdoc="{html.escape(page)}" style="width: 100%; height: {height}px; border: 0"></iframe>'


def render(name: str, question: str, footer: str, sections: list[Section], openings: Sequence[Opening] = ()) -> str:
    """The HTML; every text is escaped, and characters that HTML forbids become U+FFFD.

    With several openings it is a page of several studies, an opening for each.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["svg"] = _figures()
    page = environment.get_template("page.html.j2")
    article, kind = ("", "Goodhart studies") if len(openings) > 1 else ("a ", "Goodhart study")
    said = {"title": f"{name}: {article}{kind}", "kind": kind, "name": name, "question": question, "footer": footer}
    text = page.render(**said, openings=openings, sections=sections, many=MANY)
    return _UNPRINTABLE.sub("\ufffd", text)
