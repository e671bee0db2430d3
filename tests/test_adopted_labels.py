"""Labels from elsewhere stand in for golden labels: same labels, same bits; what they are of is known by its texts."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from goodhart import interface
from goodhart.cells.cell import closure
from goodhart.cells.digest import sha256
from goodhart.cells.make import make
from goodhart.cells.store import Store
from goodhart.cells.workplace import Workplace
from goodhart.compute.kernels import using
from goodhart.compute.threads import use_threads
from goodhart.errors import GoodhartError
from goodhart.recipes.adopted_labels import adopted_labels
from goodhart.report.for_papers import methods
from goodhart.report.opening import beside
from goodhart.report.provenance import adopted_grids, label_grid
from goodhart.result import Result
from goodhart.studies.check import check
from goodhart.studies.engine import settle
from goodhart.studies.graph import build_graph
from goodhart.studies.pair_texts import pair_texts
from goodhart.studies.spec import read_study
from goodhart.tasks.label_file import read_labels
from micro_study import make_cells, preference_lines, said, write_micro_study, write_tables

OWN = {"beta": [0.1], "lr": [0.01], "steps": 4, "batch": 8, "checkpoints": 1}
ARMS = {"online": OWN, "offline": {**OWN, "source": "data", "labeller": "data"}}
AT = "beta=0.1 lr=0.01"
NUMBER = 32


def rows_of(pairs, label=lambda pair: pair["label"]):
    return [{"pair": pair["pair"], "texts": pair["texts"], "label": label(pair)} for pair in pairs]


def write(file, rows):
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("adopted_labels")


@pytest.fixture(scope="module")
def golden(folder):
    """(path, graph, pairs) of a study with golden labels, as far as its runs; its pairs with texts and labels."""
    best = {"samples": 0}
    plain = {"variants": {}, "hypotheses": {}, "axes": {}, "best_of": best, "seeds": [0], "resamples": 20}
    path = write_micro_study(folder, arms=ARMS, **plain)
    study = read_study(str(path), [])
    graph = made(folder, study)
    store = Store(folder / "runs")
    pairs = pair_texts(store, graph.labels, study)
    table = pq.read_table(store.folder(graph.labels.id) / "pairs.parquet", filters=[("split", "=", "train")])
    labels = dict(zip(table.column("pair").to_pylist(), table.column("label").to_pylist(), strict=True))
    return path, graph, [{**pair, "label": labels[pair["pair"]]} for pair in pairs]


def made(folder, study):
    """The study's graph, whose runs are made with the kernels that the root has chosen once."""
    study, engine = settle(study, folder / "runs", keep=True)
    graph = build_graph(study)
    use_threads(1)
    with using(engine.kernels.choice.chosen):
        for cell in closure(list(graph.runs.values())):
            assert make(Store(folder / "runs"), cell)
    return graph


def with_labels(golden, file, *overrides):
    return read_study(str(golden[0]), [f"labels.file='{file}'", *overrides])


def weights(folder, graph, arm):
    return sha256(Store(folder / "runs").folder(graph.runs[arm, AT, 0].id) / "step-4" / "model.safetensors")


@pytest.fixture(scope="module")
def same(folder, golden):
    """The same study with golden's labels from a file, in another order, to its end."""
    file = write(folder / "same.jsonl", rows_of(reversed(golden[2])))
    study, graph, engine = make_cells(with_labels(golden, file, "name=same"), folder / "runs")
    return graph, Result(write_tables(folder / "runs", study, graph, engine)), file


@pytest.mark.parametrize("arm", list(ARMS))
def test_golden_labels_from_a_file_give_the_same_bits(folder, golden, same, arm):
    assert golden[1].runs[arm, AT, 0].id != same[0].runs[arm, AT, 0].id
    assert weights(folder, golden[1], arm) == weights(folder, same[0], arm)


def test_golden_still_measures(golden, same):
    """What policies are measured by, and against, has the address that it has without adopted labels."""
    own, other = golden[1].trunks[""], same[0].trunks[""]
    assert (own.golden.id, own.golden_policy.id, own.tests.id) == (
        other.golden.id,
        other.golden_policy.id,
        other.tests.id,
    )
    assert own.proxy.id != other.proxy.id


def test_the_report_names_file_and_digest_and_what_golden_says(same):
    _, result, file = same
    record = result.record
    (grid,) = adopted_grids(record["adopted labels"])
    assert f"Labels adopted from same.jsonl, sha256 {sha256(file)}." in grid.note
    assert ("agreement with golden labels", "1.000") in grid.rows
    labels = label_grid(record["labels"], record["test labels"], record["sft"])
    assert ("adopted pairs, train", f"{NUMBER}") in labels.rows
    assert f"{NUMBER} pairs have labels from same.jsonl; they" in " ".join(beside(result.findings))
    assert rf"{sha256(file)[:16]}}}; 100.0\% of them agree" in methods(result.findings, [])


def test_inverted_labels_change_what_is_trained(folder, golden, same):
    file = write(folder / "inverted.jsonl", rows_of(golden[2], lambda pair: 1 - pair["label"]))
    graph = made(folder, with_labels(golden, file))
    for arm in ARMS:
        assert weights(folder, graph, arm) != weights(folder, same[0], arm)
    ties = np.mean([pair["label"] == 0.5 for pair in golden[2]])
    adopted = Store(folder / "runs").record(graph.labels.id)["result"]["adopted"]
    assert adopted["agreement with golden"] == pytest.approx(ties)


def test_the_content_of_the_file_is_the_address_and_its_place_is_not(folder, golden, same):
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    copied = write(elsewhere / "copied.jsonl", rows_of(reversed(golden[2])))
    assert build_graph(with_labels(golden, copied)).labels.id == same[0].labels.id
    write(copied, rows_of(golden[2]))
    assert build_graph(with_labels(golden, copied)).labels.id != same[0].labels.id
    assert build_graph(with_labels(golden, "")).labels.id == golden[1].labels.id


def test_a_study_from_a_study_keeps_its_file(golden, same):
    study = interface.study(with_labels(golden, same[2]), seeds=[1])
    assert (study.labels.file, study.seeds) == (str(same[2]), (1,))


def test_a_path_starts_at_the_study_file(folder, golden):
    near = golden[0].with_name("near.yaml")
    near.write_text(
        golden[0].read_text()
        + "\nlabels: {file: near.jsonl}\nvariants: {other: {labels: {number: 8}}, own: {labels: {file: ''}}}\n"
    )
    study = read_study(str(near), [])
    assert study.labels.file == str(folder / "near.jsonl")
    assert study.variants["other"].labels.file == str(folder / "near.jsonl")
    assert study.variants["own"].labels.file == ""


@pytest.fixture
def work(folder, golden, tmp_path):
    """How a labels cell is made by hand from a file with so many labels, and another table of pairs."""
    store = Store(folder / "runs")
    inputs = {name: store.folder(cell.id) for name, cell in golden[1].labels.inputs.items()}

    def adopt(rows, number=8, pairs=None):
        file = write(tmp_path / "labels.jsonl", rows)
        settings = {"labels": {"number": number}, "file": sha256(file)}
        own = inputs if pairs is None else {**inputs, "pairs": pairs}
        out = tmp_path / "out"
        out.mkdir(exist_ok=True)
        found = adopted_labels(Workplace(settings, own, out, {"file": str(file)}))
        table = pq.read_table(out / "pairs.parquet", filters=[("split", "=", "train")])
        return found, dict(zip(table.column("pair").to_pylist(), table.column("label").to_pylist(), strict=True))

    adopt.pairs = inputs["pairs"]
    return adopt


def test_what_is_not_labelled_and_what_is_not_there_is_counted(golden, work):
    pairs = golden[2]
    validation = pq.read_table(work.pairs / "pairs.parquet", filters=[("split", "=", "validation")])
    every = pq.read_table(work.pairs / "pairs.parquet", filters=[("split", "=", "train")]).num_rows
    rows = rows_of(pairs[2:14], lambda _: 0.25)
    rows += [{"pair": pairs[0]["pair"], "label": None}, rows[0], {"pair": "0" * 24, "label": 1}]
    rows += [{"pair": validation.column("pair")[0].as_py(), "label": 1}]
    found, labels = work(rows)
    assert labels == {pair["pair"]: 0.25 for pair in pairs[2:10]}
    adopted = found["adopted"]
    assert adopted["pairs without a label"] == every - 12
    assert adopted["labels that are not used"] == 4
    assert adopted["labels of other pairs"] == 2
    assert found["pairs"]["train"] == adopted["pairs"] == 8


def test_validation_pairs_have_golden_labels(folder, golden, same):
    """Whatever the file says of training pairs."""
    store = Store(folder / "runs")
    columns = ["pair", "label", "ref_first", "ref_second"]
    validation = [("split", "=", "validation")]
    own, other = (
        pq.read_table(store.folder(graph.labels.id) / "pairs.parquet", columns=columns, filters=validation)
        for graph in (golden[1], same[0])
    )
    assert own.num_rows > 0
    assert own.equals(other)


def test_the_command_writes_the_pairs_that_are_labelled(golden, tmp_path, capfd):
    """Before there is any label: a study can name the file that is to come."""
    out, root = tmp_path / "pairs.jsonl", golden[0].parent / "runs"
    words = ("pairs", str(golden[0]), "labels.file=to_come.jsonl", "--out", str(out), "--root", str(root))
    done = said(capfd, *words)
    assert done.returncode in (0, None), done.stderr
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert rows == [{key: value for key, value in pair.items() if key != "label"} for pair in golden[2]]
    lines = {line["prompt"]: {line["chosen"].strip(), line["rejected"].strip()} for line in preference_lines(300)}
    assert all({row["first"].strip(), row["second"].strip()} == lines[row["prompt"]] for row in rows)
    assert "is there already" in said(capfd, *words).stderr


def test_labels_of_no_pair_and_of_too_few_are_refused(golden, work):
    with pytest.raises(GoodhartError, match=r"none of the 2 labels in .*labels.jsonl is of one of the study's"):
        work([{"pair": "a", "label": 1}, {"pair": "b", "label": 0}])
    with pytest.raises(GoodhartError, match=r"labels.number is 8, and .* labels 3 .*set labels.number=3"):
        work([*rows_of(golden[2][:3]), *({"pair": f"{i}", "label": 1} for i in range(9))])


def test_labels_of_other_texts_are_refused(golden, work):
    rows = rows_of(golden[2])
    rows[3]["texts"] = "0" * 12
    with pytest.raises(GoodhartError, match=r"line 4 of .*labels.jsonl: the label is of other texts than pair"):
        work(rows)


def test_a_pair_with_a_sample_needs_the_digest_of_its_texts(golden, work, tmp_path):
    """The id of people's pairs is of their content, that of a sampled pair is not."""
    table = pq.read_table(work.pairs / "pairs.parquet")
    kinds = pa.array(["samples"] * len(table), pa.string())
    pq.write_table(table.set_column(table.schema.get_field_index("kind"), "kind", kinds), tmp_path / "pairs.parquet")
    bare = [{"pair": pair["pair"], "label": pair["label"]} for pair in golden[2]]
    _, labels = work(bare)
    assert work(rows_of(golden[2]), pairs=tmp_path)[1] == labels
    with pytest.raises(GoodhartError, match=r"line 1 of .* without the column texts nobody knows which"):
        work(bare, pairs=tmp_path)


def test_a_file_that_changed_since_the_study_began_is_refused(folder, golden, tmp_path):
    file = write(tmp_path / "labels.jsonl", rows_of(golden[2]))
    settings = {"labels": {"number": 8}, "file": sha256(file)}
    write(file, rows_of(golden[2], lambda _: 0))
    with pytest.raises(GoodhartError, match="have changed since the study began"):
        adopted_labels(Workplace(settings, {}, tmp_path, {"file": str(file)}))


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([{"pair": "a", "label": 1}, {"pair": "b", "label": 1.5}], r"line 2 of .*labels.jsonl: the label is 1.5"),
        ([{"pair": "a", "label": 1}, {"pair": "b", "label": -1}], r"line 2 of .*: the label is -1"),
        ([{"pair": "a", "label": 1}, {"pair": "b", "label": "first"}], r"line 2 of .*: the label is 'first'"),
        ([{"pair": "a", "label": 1}, {"pair": "b", "label": True}], r"line 2 of .*: the label is True"),
        ([{"pair": "a", "label": 1}, {"pair": "b", "label": float("nan")}], r"line 2 of .*: the label is nan"),
        ([{"pair": "a", "label": 1}, {"pair": 7, "label": 1}], r"line 2 of .*: column 'pair' holds int 7"),
        (
            [{"pair": "a", "label": 1}, {"pair": "a", "label": 1}, {"pair": "a", "label": 0}],
            r"line 3 of .*: pair 'a' has label 0, and on line 1 of .* 1",
        ),
        (
            [{"pair": "a", "label": 1, "texts": "b"}, {"pair": "a", "label": 1, "texts": "c"}],
            r"line 2 of .*: pair 'a' has other texts than on line 1",
        ),
        ([{"pair": "a", "best": 1}, {"pair": "b", "best": 1}], "has no column 'label'; it has pair"),
        ([{"id": "a", "label": 1}, {"id": "b", "label": 1}], "column 'pair' holds NoneType None"),
    ],
)  # fmt: skip
def test_a_row_that_is_no_label_is_named(tmp_path, rows, problem):
    with pytest.raises(GoodhartError, match=problem):
        read_labels(write(tmp_path / "labels.jsonl", rows))


def test_every_kind_of_file_says_the_same(tmp_path):
    rows = [{"pair": "12", "texts": "3e4", "label": 1}, {"pair": "b", "texts": "5e6", "label": 0.5}]
    rows = [*rows, {"pair": "c", "texts": "7", "label": None}]
    write(tmp_path / "labels.jsonl", rows)
    pq.write_table(pa.Table.from_pylist([{**row, "label": row["label"]} for row in rows]), tmp_path / "labels.parquet")
    (tmp_path / "labels.csv").write_text("pair,texts,label\n12,3e4,1\nb,5e6,0.5\nc,7,\n")
    found = [read_labels(tmp_path / f"labels.{kind}") for kind in ("jsonl", "parquet", "csv")]
    assert [{pair: (each.label, each.texts) for pair, each in file.items()} for file in found] == [
        {"12": (1.0, "3e4"), "b": (0.5, "5e6")}
    ] * 3


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["labels.mode=soft"], r"labels.mode=soft and labels.flip=0 are of labels that the golden model gives"),
        (["labels.flip=0.1"], r"set labels.mode=hard and labels.flip=0, or leave labels.file empty"),
        (["variants={noisy: {labels: {flip: 0.2}}}"], r"variants.noisy.labels.flip=0.2 are of"),
    ],
)
def test_settings_of_golden_labels_are_refused_beside_a_file(golden, same, overrides, problem):
    with pytest.raises(GoodhartError, match=problem):
        with_labels(golden, same[2], *overrides)


def test_a_file_that_cannot_do_is_told_before_the_first_cell(golden, tmp_path):
    few = write(tmp_path / "few.jsonl", rows_of(golden[2][:5]))
    with pytest.raises(GoodhartError, match=r"labels.number is 32, and .*few.jsonl has 5 labels.*number=5"):
        check(with_labels(golden, few))
    for name, problem in (("none.jsonl", "cannot be read"), ("few.txt", "cannot be read|no file of labels")):
        with pytest.raises(GoodhartError, match=problem):
            build_graph(with_labels(golden, tmp_path / name))


def test_a_world_has_no_such_labels(golden, same):
    study = read_study("tabular", [])
    with pytest.raises(GoodhartError, match=r"labels.file is not read"):
        replace(study, labels=replace(study.labels, file=str(same[2]))).validate()
