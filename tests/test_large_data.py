"""Preference data of any size are read a few rows at a time, and come out as if all had been read at once."""

import gc
import itertools
import json
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from goodhart.alignment.pair_table import SCHEMA, read_labelled, read_pairs
from goodhart.alignment.sources import places, used_places
from goodhart.commands import own_data
from goodhart.errors import GoodhartError
from goodhart.recipes import data as data_recipes
from goodhart.tasks import data_files, examples, preference_tokens, row_groups
from goodhart.tasks.chosen import Chosen, Each, token_lists
from goodhart.tasks.data_description import Reading, describe
from goodhart.tasks.distinct import Distinct
from goodhart.tasks.preference import Preference
from goodhart.tasks.preference_data import load_preferences
from goodhart.tasks.preference_rows import Comparison, Row
from goodhart.tasks.preference_tokens import Encoded, Framing, tokenise
from goodhart.tasks.prompt_table import read_demonstrations, read_train
from goodhart.tasks.row_groups import RowGroups
from preference_data_cases import CASES, user, write
from record_people import LAYOUTS, RECORDED, found_here, rows
from test_preference_data_tokens import PLAIN

THEN = json.loads(RECORDED.read_text())
GOOD = {"prompt": "p", "chosen": "x", "rejected": "y"}


@pytest.fixture
def few_at_once(monkeypatch):
    """Sizes of batches that no layout's rows are a multiple of, and no text that waits in memory."""
    for module, name, size in (
        (data_files, "_BATCH", 7), (examples, "BATCH", 5), (examples, "_IN_MEMORY", 1),
        (preference_tokens, "_BATCH", 3), (data_recipes, "_PART", 11),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, size)


def whole(path, **options):
    """All that is known of a data set."""
    loaded = load_preferences(path, **options)
    return loaded, list(loaded.examples)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_has_the_split_the_counts_and_the_tokens_that_it_had(layout, tmp_path):
    assert found_here(layout, "jsonl", tmp_path) == THEN[layout]


@pytest.mark.parametrize(("layout", "kind"), [("text", "parquet"), ("battle", "json.gz"), ("marks", "csv")])
def test_no_size_of_a_batch_changes_a_bit(layout, kind, tmp_path, few_at_once, monkeypatch):
    monkeypatch.setattr(row_groups, "GROUP", 13)
    monkeypatch.setattr(pq, "write_table", partial(pq.write_table, row_group_size=17))
    assert found_here(layout, kind, tmp_path) == THEN[layout]


@pytest.mark.parametrize("layout", CASES)
def test_a_layout_is_read_alike_in_parts(layout, tmp_path, few_at_once, monkeypatch):
    path = write(tmp_path / "d.jsonl", list(rows(layout)))
    loaded, every = whole(path)
    assert list(loaded.examples.at(np.arange(1, len(every), 3))) == every[1::3] == list(loaded.examples[1::3])
    assert loaded.examples[-1] == every[-1]
    monkeypatch.undo()
    assert whole(path) == (loaded, every)


def test_a_file_that_grows_while_it_is_read_is_an_error(tmp_path):
    path = write(tmp_path / "d.jsonl", [GOOD] * 3)

    def grow(what, done, total):
        if what == "rows found":
            with path.open("a") as file:
                file.write("\n" + json.dumps(GOOD))

    with pytest.raises(GoodhartError, match=r"d\.jsonl has changed while it was read; run the command again"):
        load_preferences(path, say=grow)


class TestTheLastRowOfMany:
    NUMBER = 1200

    def refused(self, path, pattern):
        with pytest.raises(GoodhartError, match=pattern):
            load_preferences(path)

    def test_malformed_json(self, tmp_path):
        path = write(tmp_path / "d.jsonl", [GOOD] * self.NUMBER)
        with path.open("a") as file:
            file.write('\n{"prompt": "p" "chosen": 1}\n')
        self.refused(path, r"d\.jsonl is not valid JSON at line 1201, column 16")

    @pytest.mark.parametrize("kind", ["jsonl", "json", "csv"])
    def test_a_wrong_value(self, kind, tmp_path):
        good = {"conversation_a": [user("p")], "conversation_b": [user("p")], "winner": "tie"}
        path = write(tmp_path / f"d.{kind}", [good] * self.NUMBER + [{**good, "winner": "B"}])
        line = "row 1201" if kind == "json" else "line 1202" if kind == "csv" else "line 1201"
        self.refused(path, rf"{line} of .*d\.{kind}: column 'winner' holds str 'B'")

    def test_parquet(self, tmp_path):
        good = {"conversation_a": [user("p")], "conversation_b": [user("p")], "winner": "tie"}
        path = write(tmp_path / "d.parquet", [good] * self.NUMBER + [{**good, "winner": "B"}])
        self.refused(path, r"row 1201 of .*d\.parquet: column 'winner' holds str 'B'")

    def test_a_parquet_file_whose_end_is_damaged(self, tmp_path):
        table = pa.Table.from_pylist([{**GOOD, "prompt": f"p{n}"} for n in range(self.NUMBER)])
        pq.write_table(table, tmp_path / "d.parquet", row_group_size=300, compression="gzip")
        found = pq.ParquetFile(tmp_path / "d.parquet").metadata.row_group(3).column(0)
        start, size = found.data_page_offset, found.total_compressed_size
        content = bytearray((tmp_path / "d.parquet").read_bytes())
        content[start + 16 : start + size - 8] = bytes(size - 24)
        (tmp_path / "d.parquet").write_bytes(content)
        self.refused(tmp_path / "d.parquet", r"d\.parquet is not valid Parquet: ")

    def test_a_short_row_of_a_table(self, tmp_path):
        path = write(tmp_path / "d.csv", [GOOD] * self.NUMBER)
        with path.open("a") as file:
            file.write("p,x\n")
        self.refused(path, r"row that ends in line 1202 of .*d\.csv has 2 cells")


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_few_rows_are_alive_at_any_time(kind, tmp_path, few_at_once):
    path = write(tmp_path / f"d.{kind}", [{**GOOD, "prompt": f"p{n}"} for n in range(2100)])
    kinds, alive = {Row, Comparison, Preference, Encoded}, []

    def count(*_):
        alive.append(sum(type(each) in kinds for each in gc.get_objects()))

    assert describe(path, Reading(PLAIN), say=count).splits[0].usable == 2100
    assert len(alive) == 6, "at the rows found, read and tokenised"
    assert 0 < max(alive) <= 30


def test_no_more_comparisons_are_tokenised_than_are_asked_for():
    taken = []

    def endless():
        for n in itertools.count():
            taken.append(n)
            yield Preference(str(n), "p", "x", "y", 1.0)

    found = tokenise(endless(), PLAIN, Framing.of("auto", PLAIN, "text"))
    ids = [each.id for each in itertools.islice(found, 1000)]
    assert ids == [str(n) for n in range(1000)]
    assert len(taken) <= 1000 + preference_tokens._BATCH


def test_progress_is_drawn_on_a_terminal_and_nothing_in_a_pipe(monkeypatch):
    for terminal in (True, False):
        screen = Console(force_terminal=terminal, width=100, record=True, force_interactive=terminal)
        monkeypatch.setattr(own_data, "Console", lambda stderr, screen=screen: screen)
        with own_data._bar() as say:
            for what, total in (("rows found", None), ("rows read", 40), ("tokenised", 40)):
                for done in (20, 40):
                    say(what, done, total)
        drawn = screen.export_text()
        assert ("tokenised" in drawn) == terminal
        assert terminal or not drawn


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.integers(0, 40), max_size=12), max_size=6))
def test_names_are_new_once(parts):
    found, before = Distinct(), set()
    for part in parts:
        new = found.new(np.array(part, dtype=np.uint64) << np.uint64(58))
        first = [name not in before and name not in part[:place] for place, name in enumerate(part)]
        assert new.tolist() == first
        before |= set(part)
    assert len(found) == len(before)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 9), st.integers(0, 9), st.integers(1, 7), st.integers(1, 20))
def test_the_items_that_steps_use(start, steps, batch, size):
    walked = {item for step in range(start, start + steps) for item in places(step, batch, size, 3)}
    used = used_places(range(start, start + steps), batch, size, 3)
    assert used.tolist() == sorted(used.tolist())
    assert walked <= set(used.tolist())
    assert set(used.tolist()) == walked or steps * batch >= 2 * size


def test_what_is_not_at_hand_is_read_when_it_is_asked_for():
    read = []

    def load(asked):
        read.append(asked.tolist())
        column = pa.chunked_array([pa.array([[n] * n], pa.list_(pa.int32())) for n in asked.tolist()])
        return token_lists(column)

    some = Chosen(9, np.array([1, 4, 8]), load)
    assert (len(some), some[1], some[4], some[-1], read) == (9, (1,), (4,) * 4, (8,) * 8, [[1, 4, 8]])
    assert some[0:3] == [(), (1,), (2, 2)]
    assert read == [[1, 4, 8], [0], [2]]
    with pytest.raises(IndexError):
        some[9]
    doubled = Each(some, lambda ids: 2 * len(ids))
    assert (len(doubled), doubled[4], doubled[-1], doubled[:2]) == (9, 8, 16, [0, 2])


def test_training_reads_what_it_uses_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setattr(row_groups, "GROUP", 13)
    found_here("text", "jsonl", tmp_path)
    table, pairs = tmp_path / "prompts/prompts.parquet", tmp_path / "people/pairs.parquet"
    all_pairs, _, _ = read_pairs(pairs, "train", table)
    used = np.arange(2, len(all_pairs), 3)
    some = read_labelled(pairs, "train", table, lambda number: used)
    order = [*used.tolist(), 0]
    assert len(some) == len(all_pairs)
    ours, theirs = some.take(order), all_pairs.take(order)
    assert [p.id for p in ours.prompts] == [p.id for p in theirs.prompts]
    assert ours.prompt_tokens == theirs.prompt_tokens
    assert [[list(r) for r in row] for row in ours.responses] == [[list(r) for r in row] for row in theirs.responses]
    assert ours.label.tolist() == theirs.label.tolist()
    train = read_train(table)
    shown = read_demonstrations(table, lambda number: np.arange(1, number, 2))
    assert len(shown.prompts) == len(train)
    assert list(shown.prompts) == [row.prompt for row in train]
    assert list(shown.lines) == [row.demonstration for row in train]
    assert shown.longest == max(len(row.prompt.tokens) for row in train)
    few, ids, _ = read_pairs(pairs, "train", table, 5, ("people",))
    assert (few.prompt_tokens, len(ids)) == (all_pairs.prompt_tokens[:5], 5)
    assert not read_pairs(pairs, "train", table, 5, ("samples",))[1]


def test_a_table_is_the_same_file_in_whatever_parts_its_rows_come(tmp_path):
    def written(name, sizes):
        with RowGroups(tmp_path / name, SCHEMA) as table:
            done = 0
            for size in sizes:
                table.add_columns(size, {"pair": [str(n) for n in range(done, done + size)]})
                done += size
        return (tmp_path / name).read_bytes()

    once = written("b", [20_000])
    assert written("c", [1, 8190, 0, 2, 8192, 3615]) == once
    assert pq.ParquetFile(tmp_path / "c").metadata.num_row_groups == 3
