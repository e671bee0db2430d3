"""Tables of text, JSON with its rows one level down, and columns that go by other names."""

import json

import pytest

from goodhart.errors import GoodhartError
from goodhart.studies.spec import read_study
from goodhart.tasks.preference_data import load_preferences
from micro_study import said
from preference_data_cases import CASES, HTML, content, write

GOOD = {"prompt": "p", "chosen": "x", "rejected": "y"}
RENAMED = {"question": HTML, "best": "x", "worst": "y"}
NAMES = {"prompt": "question", "chosen": "best", "rejected": "worst"}


def texts(path, **options):
    return [content(e) for e in load_preferences(path, **options).examples]


def refused(path, pattern, **options):
    with pytest.raises(GoodhartError, match=pattern) as caught:
        load_preferences(path, **options)
    assert "\n" not in str(caught.value)


class TestTables:
    def test_a_spreadsheet(self, tmp_path):
        path = tmp_path / "d.csv"
        path.write_bytes('\ufeffprompt;chosen;rejected\r\n"a;b\nc";"say ""x""";y\r\n\r\nq;42;[1, 2]\r\n'.encode())
        assert texts(path) == [("a;b\nc", 'say "x"', "y", 1.0), ("q", "42", "[1, 2]", 1.0)]

    def test_an_answer_that_looks_like_json_stays_text(self, tmp_path):
        path = tmp_path / "d.tsv"
        path.write_text('q\tchosen\trejected\n1\t{"a": 1}\t[]\n2\t[3]\tnull\n')
        assert texts(path, columns={"prompt": "q"}) == [("1", '{"a": 1}', "[]", 1.0), ("2", "[3]", "null", 1.0)]

    def test_a_long_cell(self, tmp_path):
        path = write(tmp_path / "d.csv", [{**GOOD, "chosen": "x" * 200_000}])
        assert len(load_preferences(path).examples[0].first) == 200_000

    def test_an_empty_cell_has_no_value(self, tmp_path):
        loaded = load_preferences(write(tmp_path / "d.csv", [GOOD, {**GOOD, "chosen": ""}]))
        assert dict(loaded.filtered) == {"no value in column 'chosen'": 1}

    def test_its_split_is_named_after_it(self, tmp_path):
        write(tmp_path / "train.csv.gz", [GOOD])
        write(tmp_path / "test.tsv", [GOOD])
        assert load_preferences(tmp_path).split == "train"

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            (
                "prompt,chosen,rejected\np,x\n",
                r"row that ends in line 2 of .*d\.csv has 2 cells, and the header 3; mend",
            ),
            ("prompt,chosen,rejected\np,x,y,z\n", r"has 4 cells, and the header 3"),
            ('prompt,chosen,rejected\np,"x,y\n', r"d\.csv is not a valid table at line 2: unexpected end of data"),
            ("prompt,chosen,chosen\np,x,y\n", r"the header of .*d\.csv names column 'chosen' twice; rename"),
            ("p,x,y\n", r"split 'd' of .* is empty"),
            ("", r"split 'd' of .* is empty"),
            ("a,b\n1,2\n", r"no known data layout; columns found: a, b; say which columns they are: --columns prompt="),
        ],
    )
    def test_faults(self, tmp_path, text, says):
        path = tmp_path / "d.csv"
        path.write_text(text)
        refused(path, says)

    def test_a_table_that_is_not_utf8(self, tmp_path):
        (tmp_path / "d.csv").write_bytes("prompt,chosen,rejected\né,x,y\n".encode("latin-1"))
        refused(tmp_path / "d.csv", r"d\.csv is not UTF-8 at byte 23; save it as UTF-8")


class TestOneLevelDown:
    @pytest.mark.parametrize("indent", [None, 1])
    @pytest.mark.parametrize("layout", CASES)
    def test_every_layout(self, tmp_path, layout, indent):
        rows, expected = CASES[layout]
        path = tmp_path / "d.json"
        path.write_text(json.dumps({"version": 1, "authors": ["a"], "data": rows}, indent=indent))
        assert texts(path) == expected

    def test_one_row_alone_is_a_row(self, tmp_path):
        path = tmp_path / "d.json"
        path.write_text(json.dumps(CASES["chat"][0][0], indent=1))
        assert texts(path) == CASES["chat"][1][:1]

    def test_several_lists_are_told_apart(self, tmp_path):
        path = tmp_path / "d.json"
        path.write_text(json.dumps({"train": [GOOD], "test": [GOOD]}))
        refused(path, r"one object with several lists of rows: train, test; save each as a file of its own")

    def test_no_rows_anywhere(self, tmp_path):
        path = tmp_path / "d.json"
        path.write_text(json.dumps({"data": "x"}))
        refused(path, r"no known data layout; columns found: data")


class TestColumns:
    @pytest.mark.parametrize("kind", ["jsonl", "parquet", "csv"])
    def test_columns_by_other_names(self, tmp_path, kind):
        path = write(tmp_path / f"d.{kind}", [RENAMED])
        loaded = load_preferences(path, columns=NAMES)
        assert [content(e) for e in loaded.examples] == [(HTML, "x", "y", 1.0)]
        assert loaded.columns == ("question", "best", "worst")

    def test_a_column_can_be_taken_in_place_of_another(self, tmp_path):
        path = write(tmp_path / "d.jsonl", [{**GOOD, "revised": "z"}])
        assert texts(path, columns={"chosen": "revised"}) == [("p", "z", "y", 1.0)]

    def test_what_is_seen_is_said_and_the_mapping_proposed(self, tmp_path):
        path = write(tmp_path / "d.jsonl", [RENAMED])
        refused(
            path, r"found: question, best, worst; perhaps --columns prompt=question,chosen=best,rejected=worst; the"
        )

    def test_the_names_of_the_file_stand_in_errors(self, tmp_path):
        path = write(tmp_path / "d.jsonl", [RENAMED, {**RENAMED, "best": 5}])
        refused(path, r"line 2 of .*: column 'best' holds int 5, not text", columns=NAMES)
        path = write(tmp_path / "d.jsonl", [RENAMED, {**RENAMED, "best": None}])
        assert dict(load_preferences(path, columns=NAMES).filtered) == {"no value in column 'best'": 1}

    def test_slips_of_the_pen(self, tmp_path):
        path = write(tmp_path / "d.jsonl", [RENAMED])
        refused(path, r"no layout has a column 'promt' .*; did you mean 'prompt'\?", columns={"promt": "question"})
        refused(
            path,
            r"'prompt' is to be 'questoin', and the columns found are: question, best, worst; did you mean 'question'",
            columns={"prompt": "questoin"},
        )
        some = {"prompt": "question", "chosen": "best"}
        says = r"column 'rejected' .* found: question, best, worst; say which column it is \(--columns rejected="
        refused(path, says, layout="text", columns=some)

    def test_the_command_describes_them(self, tmp_path, capfd):
        path = write(tmp_path / "d.csv", [RENAMED])
        done = said(capfd, "data", str(path), "--columns", "prompt=question,chosen=best,rejected=worst")
        assert done.returncode == 0
        assert "layout      text" in done.stdout
        done = said(capfd, "data", str(path), "--columns", "prompt:question")
        assert done.returncode == 1
        assert "--columns: cannot understand 'prompt:question'; write prompt=question" in done.stderr

    def test_run_takes_them_in_place_of_the_files(self, tmp_path, capfd):
        data = write(tmp_path / "d.jsonl", [RENAMED])
        study = tmp_path / "s.yaml"
        study.write_text(f"task: {{data: {data}, columns: {{prompt: question}}}}\n")
        assert read_study(str(study), []).task.columns == {"prompt": "question"}
        done = said(capfd, "run", str(study), "--dry-run", "--root", str(tmp_path / "runs"), "--columns", "prompt=q")
        assert done.returncode == 1
        assert "'prompt' is to be 'q', and the columns found are: question, best, worst" in done.stderr


def test_columns_and_pairs_decide_and_their_defaults_do_not():
    from goodhart.config import essential
    from goodhart.recipes.settings import Task

    task = Task("preferences", "d.jsonl", columns={"prompt": "q"}, pairs="all")
    assert essential(task) == {"kind": "preferences", "columns": {"prompt": "q"}, "pairs": "all"}
    assert essential(Task("preferences", "d.jsonl")) == {"kind": "preferences"}
