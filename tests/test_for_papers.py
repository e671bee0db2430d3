"""What a paper takes of a study: figures, tables, methods and references."""

import csv
import io
import re

import pytest

from goodhart.alignment.methods import METHODS
from goodhart.errors import GoodhartError
from goodhart.report.findings import analyse
from goodhart.report.for_papers import escaped, inches, latex, write_for_paper
from goodhart.report.grid import Grid
from goodhart.report.references import _PAPERS, bibtex, ids_in, key
from micro_study import said
from synthetic_study import Made, make_study

EVIL = r"off_line & 50% {\\input{x}} $x$"
HYPOTHESES = {
    "gap": {
        "statement": "Online is ahead.",
        "contrasts": [{"statistic": "gap at equal KL", "first": "online", "second": EVIL}],
    }
}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("paper") / "studies" / "made"
    folder.mkdir(parents=True)
    make_study(folder, Made(arms=("online", EVIL), steps=(30, 60), prompts=12, hypotheses=HYPOTHESES))
    return folder


@pytest.fixture(scope="module")
def written(study):
    findings = analyse(study)
    files = write_for_paper(findings, study / "paper", 3.25)
    return findings, {path.name: path for path in files}


def test_everything_is_written(written):
    _, files = written
    gap = next(name for name in files if name.startswith("gap-") and name.endswith(".pdf"))
    assert re.fullmatch(r"gap-[\w-]+\.pdf", gap)
    assert set(files) >= {"frontier.pdf", "frontier.svg", "frontier-vs-sft.pdf", "peaks.tex", "verdicts.csv"}
    assert {"contrasts.tex", "methods.tex", "references.bib"} <= set(files)
    assert all(path.stat().st_size for path in files.values())


def test_figures_are_as_wide_as_asked_with_fonts_that_publishers_take(written):
    _, files = written
    pdf = files["frontier.pdf"].read_bytes()
    box = re.search(rb"/MediaBox \[ ?0 0 ([\d.]+)", pdf)
    assert float(box[1]) == pytest.approx(3.25 * 72)
    assert b"/Type3" not in pdf
    assert b"/FontFile2" in pdf or b"/CIDFontType2" in pdf
    width = re.search(r'width="([\d.]+)pt"', files["frontier.svg"].read_text())
    assert float(width[1]) == pytest.approx(3.25 * 72)


def test_the_same_study_is_written_with_the_same_bytes(written, tmp_path):
    findings, files = written
    again = {path.name: path.read_bytes() for path in write_for_paper(findings, tmp_path, 3.25)}
    assert again == {name: path.read_bytes() for name, path in files.items()}


def test_names_are_text_for_latex(written):
    _, files = written
    for name in ("peaks.tex", "contrasts.tex", "methods.tex"):
        text = files[name].read_text()
        assert r"off\_line \& 50\% \{\textbackslash{}" in text
        assert r"\input" not in text
        assert not re.search(r"(?<!\\)[&%#]", re.sub(r"(?m)^% .*$| & ", "", text))


def test_a_table_has_a_line_for_each_row_and_its_numbers_to_the_right():
    grid = Grid("t", ("arm", "value"), (("a", "0.5 [0.4, 0.6]"), ("b", "\u22120.1")))
    lines = latex(grid).splitlines()
    assert lines[1] == r"\begin{tabular}{lr}"
    assert r"b & $-$0.1 \\" in lines
    assert lines.index(r"\toprule") < lines.index(r"\midrule") < lines.index(r"\bottomrule")


@pytest.mark.parametrize(("sign", "said_"), [("\\", r"\textbackslash{}"), ("~", r"\textasciitilde{}"), ("\u0007", " ")])
def test_every_special_sign_is_printed(sign, said_):
    assert escaped(f"a{sign}b") == f"a{said_}b"


def test_comma_separated_tables_hold_the_pages_numbers(written):
    findings, files = written
    rows = list(csv.reader(io.StringIO(files["peaks.csv"].read_text())))
    assert rows[0][0] == "arm"
    assert [row[0] for row in rows[1:3]] == list(findings.contents.arms[:2])


def test_methods_cite_what_references_hold(written):
    _, files = written
    text, bib = files["methods.tex"].read_text(), files["references.bib"].read_text()
    cited = {each for found in re.findall(r"\\citet\{([^}]*)\}", text) for each in found.split(",")}
    held = set(re.findall(r"@misc\{(\w+),", bib))
    assert cited == held >= {key("2405.08448")}
    assert "2 seeds" in text


def test_every_method_of_the_table_has_its_paper():
    named = ids_in(row.papers for row in METHODS.values())
    assert set(named) <= set(_PAPERS)
    entries = bibtex(named)
    assert entries.count("@misc") == len(named)
    assert entries.count("title") == len(named)
    assert "9999.99999" in bibtex(["9999.99999"])


def test_widths_have_units():
    assert inches("3.25in") == 3.25
    assert inches("8.255cm") == pytest.approx(3.25)
    assert inches("72.27 pt") == pytest.approx(1.0)
    for wrong in ("0in", "3 miles", "", "nan", "1e9in"):
        with pytest.raises(GoodhartError, match=r"3\.25in"):
            inches(wrong)


def test_the_command_says_what_it_wrote(study, capfd):
    done = said(capfd, "export", "made", "--root", str(study.parent.parent), "--width", "8cm")
    assert done.returncode == 0, done.stderr
    assert str(study / "paper" / "references.bib") in done.stdout.replace("\n", "")
    assert said(capfd, "export", "other", "--root", str(study.parent.parent)).returncode == 1
