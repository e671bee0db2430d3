"""Files, folders and the Hub, and every way in which they can be wrong."""

import json

import pytest

from goodhart.errors import GoodhartError
from goodhart.tasks.preference_data import load_preferences
from preference_data_cases import CASES, HTML, KINDS, battle, content, tldr, user, write


class TestSources:
    ROWS = CASES["text"][0]

    def test_a_folder_has_its_files_as_splits(self, tmp_path):
        write(tmp_path / "data" / "train-00000-of-00002.parquet", self.ROWS[:1])
        write(tmp_path / "data" / "train-00001-of-00002.parquet", self.ROWS[1:])
        write(tmp_path / "test.jsonl.gz", self.ROWS[:1])
        (tmp_path / "dataset_infos.json").write_text("{}")
        (tmp_path / "README.md").write_text("x")
        assert [e.prompt for e in load_preferences(tmp_path).examples] == [HTML, "p"]
        assert len(load_preferences(tmp_path, split="test").examples) == 1
        with pytest.raises(GoodhartError, match=r"no split 'dev'; its splits are: train, test"):
            load_preferences(tmp_path, split="dev")

    def test_files_are_named_as_the_hub_names_them(self, tmp_path):
        write(tmp_path / "a" / "train-00000-of-00001-cced8514c7ed782a.parquet", self.ROWS)
        write(tmp_path / "b" / "comparisons" / "train" / "0000.parquet", self.ROWS[:1])
        write(tmp_path / "b" / "comparisons" / "train" / "0001.parquet", self.ROWS[1:])
        write(tmp_path / "b" / "comparisons" / "validation" / "0000.parquet", self.ROWS[:1])
        for folder in ("a", "b"):
            assert len(load_preferences(tmp_path / folder, split="train").examples) == 2
        assert len(load_preferences(tmp_path / "b", split="validation").examples) == 1

    def test_several_splits_without_train_must_be_chosen_from(self, tmp_path):
        write(tmp_path / "a.jsonl", self.ROWS)
        write(tmp_path / "b.jsonl", self.ROWS)
        with pytest.raises(GoodhartError, match=r"several splits: a, b; name one"):
            load_preferences(tmp_path)

    def test_a_byte_order_mark_and_blank_lines(self, tmp_path):
        path = write(tmp_path / "d.jsonl", self.ROWS)
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n\r\n") + b"\n")
        assert len(load_preferences(path).examples) == 2

    def test_json_lines_in_a_file_called_json(self, tmp_path):
        path = write(tmp_path / "d.jsonl", self.ROWS).rename(tmp_path / "d.json")
        assert len(load_preferences(path).examples) == 2

    @pytest.mark.parametrize("kind", KINDS)
    def test_reading_a_file_leaves_nothing_behind(self, tmp_path, monkeypatch, kind):
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("TMPDIR", str(tmp_path))
        load_preferences(write(tmp_path / f"d.{kind}", self.ROWS))
        assert [f.name for f in tmp_path.iterdir()] == [f"d.{kind}"]

    def test_the_hub(self, monkeypatch, tmp_path):
        import datasets

        asked = []

        def load_dataset(name, subset, *, split, cache_dir, revision):
            asked.append((name, subset, split, cache_dir, revision))
            return datasets.Dataset.from_list(self.ROWS)

        def splits(name, subset, *, revision):
            asked.append(("splits", revision))
            return ["test", "train"]

        monkeypatch.setattr(datasets, "get_dataset_split_names", splits)
        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
        loaded = load_preferences("someone/prefs", subset="s", revision="c0ffee", cache=tmp_path)
        assert [content(e) for e in loaded.examples] == CASES["text"][1]
        assert asked == [("splits", "c0ffee"), ("someone/prefs", "s", "train", str(tmp_path), "c0ffee")]

    def test_the_hub_unreachable(self, monkeypatch):
        import datasets

        def fail(*_, **__):
            raise ConnectionError("Couldn't reach it\nmore")

        monkeypatch.setattr(datasets, "get_dataset_split_names", fail)
        with pytest.raises(GoodhartError, match=r"Couldn't reach it; .*download it") as caught:
            load_preferences("someone/prefs")
        assert "\n" not in str(caught.value)
        monkeypatch.setattr(datasets, "get_dataset_split_names", lambda *_, **__: ["train"])
        monkeypatch.setattr(datasets, "load_dataset", fail)
        with pytest.raises(GoodhartError, match=r"someone/prefs is no local path.*Couldn't reach"):
            load_preferences("someone/prefs")


GOOD = {"prompt": "p", "chosen": "x", "rejected": "y"}


class TestFaults:
    def says(self, path, pattern, **options):
        with pytest.raises(GoodhartError, match=pattern) as caught:
            load_preferences(path, **options)
        assert "\n" not in str(caught.value)

    def test_nothing_there(self, tmp_path):
        self.says(tmp_path / "no.jsonl", r"there is no file or folder .*no\.jsonl; check the path")
        self.says("prefs.jsonl", r"there is no file or folder prefs\.jsonl")
        self.says(tmp_path, r"holds no data file; put files with these endings there: \.jsonl")
        (tmp_path / "d.xlsx").write_text("a,b")
        self.says(tmp_path / "d.xlsx", r"d\.xlsx is of no known kind; convert it")

    def test_layouts(self, tmp_path):
        path = write(tmp_path / "d.jsonl", [{"question": "q", "fine": "x", "foul": "y"}])
        self.says(path, r"no known data layout; columns found: question, fine, foul; .*text: prompt.*battle: conv")
        path = write(tmp_path / "d.jsonl", [{"prompt": "q", "chosen": "x"}])
        self.says(path, r"column 'rejected' is missing\); columns found: prompt, chosen")
        self.says(path, r"column 'rejected' of layout 'text' is missing; columns found: prompt", layout="text")
        self.says(path, r"unknown data layout 'nice'; choose one of text, chat", layout="nice")

    @pytest.mark.parametrize("kind", ["jsonl", "json.gz", "parquet"])
    def test_an_empty_split(self, tmp_path, kind):
        write(tmp_path / "train.jsonl", [GOOD])
        path = write(tmp_path / f"test.{kind}", [])
        self.says(path, r"split 'test' of .* is empty; other splits: none")
        self.says(tmp_path, r"split 'test' of .* is empty; other splits: train", split="test")

    def test_malformed_json(self, tmp_path):
        good = json.dumps(GOOD)
        path = tmp_path / "d.jsonl"
        path.write_text(f'{good}\n\n{good}\n{{"prompt": "p" "chosen": 1}}\n')
        self.says(path, r"d\.jsonl is not valid JSON at line 4, column 16: Expecting ',' delimiter; mend")
        path.write_text(f"{good}\n[1]\n")
        self.says(path, r"line 2 of .*d\.jsonl is list, not an object")
        path = tmp_path / "d.json"
        path.write_text(f"[\n{good},\n{good}\n{good}]")
        self.says(path, r"d\.json is not valid JSON at line 4")
        path.write_text('["a"]')
        self.says(path, r"row 1 of .*d\.json is str, not an object")

    def test_damaged_files(self, tmp_path):
        path = write(tmp_path / "d.jsonl.gz", [GOOD])
        path.write_bytes(path.read_bytes()[:-12])
        self.says(path, r"d\.jsonl\.gz cannot be read: ")
        path.write_bytes(b"no gzip")
        self.says(path, r"d\.jsonl\.gz cannot be read: Not a gzipped file")
        (tmp_path / "d.parquet").write_bytes(b"no parquet")
        self.says(tmp_path / "d.parquet", r"d\.parquet is not valid Parquet: ")
        (tmp_path / "l.jsonl").write_bytes('{"prompt": "é"}'.encode("latin-1"))
        self.says(tmp_path / "l.jsonl", r"l\.jsonl is not UTF-8 at byte 12")

    @pytest.mark.parametrize(
        ("good", "bad", "pattern"),
        [
            (GOOD, GOOD | {"chosen": 5}, r"line 2 of .*: column 'chosen' holds int 5, not text"),
            (GOOD, GOOD | {"rejected": ["x" * 99]}, r"column 'rejected' holds list \['xxx.*\.\.\., not text"),
            (CASES["chat"][0][0], GOOD, r"line 2 of .*: column 'chosen' holds str 'x', not a list of chat messages"),
            (
                CASES["implicit-chat"][0][0],
                {"chosen": [{"speaker": "human", "text": "p"}], "rejected": [user("p")]},
                r"column 'chosen' holds dict .* not a chat message with role and content",
            ),
            (CASES["tldr"][0][0], tldr(2, post="p"), r"column 'choice' holds int 2, not 0 or 1"),
            (CASES["tldr"][0][0], tldr(0) | {"summaries": [{"text": "x"}]}, r"not a list of two summaries"),
            (CASES["tldr"][0][0], tldr(0) | {"summaries": ["x", "y"]}, r"not a record with text"),
            (CASES["tldr"][0][0], tldr(0) | {"info": "x"}, r"column 'info' holds str 'x', not a record"),
            (CASES["battle"][0][0], battle("B", [user("p")], []), r"holds str 'B', not one of model_a, model_b, tie"),
        ],
    )
    def test_a_wrong_type_in_a_row(self, tmp_path, good, bad, pattern):
        self.says(write(tmp_path / "d.jsonl", [good, bad]), pattern)

    def test_a_wrong_type_in_parquet(self, tmp_path):
        path = write(tmp_path / "d.parquet", [{"prompt": "p", "chosen": 1, "rejected": 2}])
        self.says(path, r"row 1 of .*d\.parquet: column 'chosen' holds int 1, not", layout="text")

    def test_a_subset_of_a_file(self, tmp_path):
        self.says(write(tmp_path / "d.jsonl", [GOOD]), r"subset 's' was named for local data", subset="s")
