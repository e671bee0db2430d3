"""The site: what is made from the source is right and whole, pages need no network, a broken link is an error."""

import os
import re
import subprocess
import sys
from dataclasses import MISSING, dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Annotated, Literal

import pytest

from goodhart.config import Range, build
from goodhart.recipes.arm import Arm
from goodhart.studies.spec import Study

REPOSITORY = Path(__file__).parent.parent
sys.path.append(str(REPOSITORY / "docs"))

import generate  # noqa: E402


@dataclass(frozen=True)
class Inner:
    """What is below."""

    size: Annotated[int, Range(2)] = 3
    """How large."""


@dataclass(frozen=True)
class Outer:
    """A section | of a file."""

    must: str
    """Always there
    (docs/power.md)."""
    how: Literal["a", "b"] = "a"
    """One | the other."""
    below: dict[str, Inner] = field(default_factory=lambda: {"x": Inner(4)})
    """By name."""
    hidden: int = field(default=1, metadata={"read": False})


class TestKeys:
    def test_a_table_says_type_default_and_meaning(self):
        section = generate.Section(Outer, ("outer", "more.NAME.outer"), tuple(generate.keys_of(Outer)))
        *_, head, _, must, how, below = generate._table_of_keys(section).splitlines()
        assert head == "| key | value | default | meaning |"
        assert must == "| `must` | text | to be given | Always there ([power](../power.md)). |"
        assert how == r"| `how` | `a`, `b` | `a` | One \| the other. |"
        assert below == "| `below` | by name: [keys](#inner) | `{x: {size: 4}}` | By name. |"
        (size,) = generate.keys_of(Inner)
        assert generate.type_words(size.kind) == "whole number, 2 or more"
        assert section.title == "`outer`"

    def test_every_key_of_a_study_file_has_a_meaning(self):
        lacking = [(s.title, key.name) for s in generate.sections() for key in s.keys if not key.meaning]
        assert lacking == []

    def test_what_is_shown_as_default_is_the_default(self):
        checked = 0
        for section in generate.sections():
            keys = [key for key in section.keys if key.name != "method"]
            must = {key.name for key in keys if key.default is MISSING}
            if must <= {"name"}:
                named = dict.fromkeys(must, "a study")
                said = {key.name: key.default for key in keys if key.name not in must and key.default is not None}
                assert build(section.kind, {**named, **said}) == build(section.kind, named), section.title
                checked += 1
        assert checked > 10

    def test_every_section_is_there_at_all_its_places(self):
        sections = {section.kind: section for section in generate.sections()}
        assert sections[Arm].paths == ("golden_policy", "arms.NAME")
        page = generate.keys_page()
        anchors = set(re.findall(r"\(#(\w+)\)", page))
        assert anchors == {section.anchor for section in sections.values()} - {Study.__name__.lower()}
        assert all(f"{{#{anchor}}}" in page for anchor in anchors)


class TestCommands:
    def test_the_page_has_what_a_command_prints(self):
        words = [sys.executable, "-m", "goodhart.cli", "where", "--help"]
        said = subprocess.run(
            words, capture_output=True, text=True, check=True, env={**os.environ, "COLUMNS": str(generate.COLUMNS)}
        ).stdout
        assert generate.help_of("where") == "\n".join(line.rstrip() for line in said.strip().splitlines())
        assert generate.help_of("where") in generate.commands_page()

    def test_no_command_is_left_out(self):
        page = generate.commands_page()
        assert {"run", "init", "data", "power"} < set(generate.commands())
        assert re.findall(r"^## goodhart (\w+)$", page, re.MULTILINE) == list(generate.commands())

    def test_the_shell_completes_commands_and_options(self, tmp_path):
        words = [sys.executable, "-m", "goodhart.cli", "--tyro-write-completion", "bash", str(tmp_path / "goodhart")]
        subprocess.run(words, check=True)
        asked = """
            source "$0"
            COMP_WORDS=(goodhart "$@"); COMP_CWORD=$#; COMPREPLY=()
            $(complete -p goodhart | sed 's/.*-F \\([^ ]*\\).*/\\1/')
            printf '%s\\n' "${COMPREPLY[@]}"
        """

        def completed(*words):
            done = subprocess.run(
                ["bash", "-c", asked, str(tmp_path / "goodhart"), *words], capture_output=True, text=True, check=True
            )
            return done.stdout.split("\n")[:-1]

        assert set(completed("")) == {"-h", "--help", *generate.commands()}
        assert completed("in") == ["init"]
        for command in ("run", "init", "data"):
            options = completed(command, "--")
            assert options
            assert all(re.fullmatch(r"--[a-z-]+", option) for option in options), options


class Loaded(HTMLParser):
    """What a page fetches by itself, and what it refers to."""

    def __init__(self):
        super().__init__()
        self.fetched, self.links = [], []

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.fetched += [given[name] for name in ("src", "data", "poster") if given.get(name)]
        if tag == "link":
            self.fetched.append(given.get("href", ""))
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])


def mkdocs(*words, **options):
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONWARNINGS": "ignore"}
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", *words],
        **{"capture_output": True, "text": True, "check": False, "cwd": REPOSITORY, "env": environment, **options},
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The whole site, built as `make docs` does."""
    folder = tmp_path_factory.mktemp("site")
    done = mkdocs("--quiet", "--site-dir", str(folder))
    assert done.returncode == 0, done.stderr
    return folder


def pages(site):
    return [page for page in sorted(site.rglob("*.html")) if page.name != "404.html"]


class TestSite:
    def test_nothing_is_fetched_from_elsewhere(self, site):
        for page in pages(site):
            text = page.read_text(encoding="utf-8")
            loaded = Loaded()
            loaded.feed(text)
            for place in loaded.fetched:
                assert not re.match(r"(\w+:)?//", place), (page.name, place)
                if not place.startswith("data:"):
                    assert (page.parent / place.partition("?")[0].partition("#")[0]).exists(), (page.name, place)
        styles = "".join(sheet.read_text(encoding="utf-8") for sheet in site.rglob("*.css"))
        assert not re.findall(r"(?:url\(|@import )[\"']?(?:https?:)?//[^)]*", styles)

    def test_what_has_to_be_there_is_there(self, site):
        names = {str(page.relative_to(site)) for page in pages(site)}
        assert {"index.html", "start.html", "your-data.html", "reference/study-file.html", "recipes.html"} < names
        keys = (site / "reference" / "study-file.html").read_text(encoding="utf-8")
        assert "made here" not in keys
        assert 'id="arm"' in keys
        python = (site / "reference" / "python.html").read_text(encoding="utf-8")
        assert "Raises GoodhartError for an arm or measure it has not" in python
        notebook = (site / "notebooks" / "ten-minutes.html").read_text(encoding="utf-8")
        assert "over KL 3.2 to 5.5 nats" in notebook
        assert (site / "notebooks" / "ten-minutes.ipynb").is_file()

    def test_links_to_notebooks_lead_to_their_pages(self, site):
        loaded = Loaded()
        loaded.feed((site / "start.html").read_text(encoding="utf-8"))
        assert "notebooks/ten-minutes.html" in loaded.links


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[there](other.md#here)", ""),
        ("[gone](gone.md)", "gone.md"),
        ("[there](other.md#gone)", "#gone"),
        ("[there](other.md#here) and ![picture](gone.png)", "gone.png"),
    ],
)
def test_a_link_that_leads_nowhere_is_an_error(tmp_path, text, fault):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text(f"# One\n\n{text}\n")
    (tmp_path / "docs" / "other.md").write_text("# Two\n\n## Here\n")
    (tmp_path / "mkdocs.yml").write_text(
        f"INHERIT: {REPOSITORY / 'mkdocs.yml'}\ndocs_dir: docs\nhooks: []\nextra: {{polyfills: []}}\nextra_css: []\n"
        "plugins: {search: {}}\nnav: [index.md, other.md]\n"
    )
    done = mkdocs("-f", str(tmp_path / "mkdocs.yml"), cwd=tmp_path)
    assert (done.returncode != 0) == bool(fault), done.stderr
    assert fault in done.stderr


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "recipes/README.md"])
def test_links_of_other_pages_lead_somewhere(page):
    path = REPOSITORY / page
    for place in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", path.read_text(encoding="utf-8")):
        assert place.startswith("https://") or (path.parent / place).exists(), place
