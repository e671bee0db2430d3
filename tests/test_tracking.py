"""Training runs in trackers: each once, whatever is killed; a run that diverges is said to; nothing else changes."""

import io
import json
import math
import sqlite3
import time
from importlib.util import find_spec

import pytest
import yaml
from rich.console import Console

import goodhart
from event_files import scalars, summaries, wandb_records
from goodhart.cells.cell import Cell, closure
from goodhart.cells.executor import Progress
from goodhart.cells.make import make
from goodhart.cells.screen import Screen
from goodhart.cells.steps import Alarm, Steps, Tail
from goodhart.cells.store import Store
from goodhart.cells.work import Failure
from goodhart.errors import GoodhartError
from goodhart.studies.graph import build_graph
from goodhart.studies.spec import read_study
from goodhart.studies.tracking import observed
from goodhart.studies.watching import Watched
from goodhart.tracking import follow, tracker
from goodhart.tracking.follow import Follow, Sinks, sinks_of
from goodhart.tracking.sink import Run, Sink
from goodhart.tracking.tracker import Sample, check_trackers

HOSTILE = "<script>alert(1)</script> **bold** \x1b[31m"


def record(step, loss=0.7, **more):
    stages = {"train": {"seconds": 0.5, "operations": 1.0, "tokens": 3}}
    return {"step": step, "loss": loss, "gradient_norm": 1.0, "stages": stages, **more}


def write(path, *records):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(each) + "\n" for each in records))


class Recorded:
    """A tracker that keeps in a list what it is given."""

    def __init__(self, broken=False):
        self.given, self.broken = [], broken

    def open(self, subject):
        self.given.append(("open", subject.name))
        return self

    def log(self, records):
        if self.broken:
            raise ConnectionError("no such host")
        self.given += [("log", each) for each in records]

    def show(self, samples, step):
        self.given.append(("show", samples, step))

    def alarm(self, words, step):
        self.given.append(("alarm", words, step))

    def close(self):
        self.given.append(("close",))

    def steps(self):
        return [what[1]["step"] for what in self.given if what[0] == "log" and "train/loss" in what[1]]


class TestSteps:
    def test_a_loop_that_goes_on_repeats_no_step(self, tmp_path):
        path = tmp_path / "metrics.jsonl"
        with Steps(path) as steps:
            for step in (1, 2, 3, 4):
                steps.add(record(step))
        path.write_text(path.read_text() + '{"step": 5, "lo')
        with Steps(path, 2) as steps:
            assert [each["step"] for each in steps.records] == [1, 2]
            steps.add(record(3))
        assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3]

    def test_who_reads_it_gets_every_line_once(self, tmp_path):
        path, tail = tmp_path / "metrics.jsonl", Tail()
        assert tail.new(path) == []
        with Steps(path) as steps:
            steps.add(record(1))
            assert [each["step"] for each in tail.new(path)] == [1]
            steps.add(record(2))
            steps.add(record(3))
            steps.file.write('{"step": 4')
            steps.file.flush()
            assert [each["step"] for each in tail.new(path)] == [2, 3]
        with Steps(path, 2) as steps:  # after a kill, from the last checkpoint
            assert tail.new(path) == []
            steps.add(record(3))
            steps.add(record(4))
            assert [each["step"] for each in tail.new(path)] == [4]
        path.rename(tmp_path / "finished.jsonl")
        assert tail.new(tmp_path / "finished.jsonl") == []


class TestAlarm:
    def words(self, losses, name="loss"):
        alarm = Alarm()
        said = [alarm.words({"step": i, name: loss}) for i, loss in enumerate(losses, 1)]
        return [(i, words) for i, words in enumerate(said, 1) if words]

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_a_number_that_is_not_finite_is_one_at_once(self, value):
        (found,) = self.words([0.7, value])
        assert found == (2, f"loss is {value} at step 2")

    @pytest.mark.parametrize("name", ["loss", "gradient_norm"])
    def test_out_of_all_proportion_is_one_at_the_fifth_step_in_a_row(self, name):
        usual = [1.0, 0.5] * 10
        assert self.words([*usual, *[20.0] * 4, 1.0, *[-20.0] * 4], name) == []
        (found,) = self.words([*usual, *[-20.0] * 5], name)
        assert found[0] == 25
        assert "the 5th in a row over 10 times the usual (1) at step 25" in found[1]

    def test_a_loss_that_has_become_small_may_rise_to_where_it_began(self):
        assert self.words([*[0.7] * 10, *[1e-4] * 200, *[0.7] * 50]) == []

    def test_a_loss_that_grows_bit_by_bit_is_none_and_neither_is_a_loss_of_zeros(self):
        assert self.words([1.02**i for i in range(300)]) == []
        assert self.words([0.0] * 50 + [1e-3] * 3) == []

    def test_other_numbers_have_no_proportion(self):
        assert self.words([1.0] * 20 + [1e6] * 20, "tokens") == []


class TestSink:
    def follow(self, tmp_path, kept, told=None):
        told = [] if told is None else told
        sink = Sink("tensorboard", kept, tmp_path / "marks.json", "study")
        return Follow(Run("run-1", f"study/{HOSTILE}", {}), Sinks([sink], told.append), told.append)

    def test_what_a_process_that_is_killed_has_given_no_later_one_gives_again(self, tmp_path):
        path, kept = tmp_path / "metrics.jsonl", Recorded()
        write(path, record(1), record(2), record(3, math.nan))
        self.follow(tmp_path, kept).look(path)
        write(path, record(1), record(2), record(3, math.nan), record(4))
        later = self.follow(tmp_path, kept)
        later.look(path)
        for _ in range(2):
            later.measured("evaluation-1", 2, {"kl": 0.5}, lambda: [Sample(HOSTILE, HOSTILE)])
        assert kept.steps() == [1, 2, 3, 4]
        assert [what for what in kept.given if what[0] == "alarm"] == [("alarm", "loss is nan at step 3", 3)]
        assert ("log", {"step": 2, "evaluation/kl": 0.5}) in kept.given
        (shown,) = [what for what in kept.given if what[0] == "show"]
        assert "\x1b" not in shown[1][0].prompt + shown[1][0].response
        assert "\x1b" not in kept.given[0][1]

    def test_one_that_fails_is_told_of_and_left_out(self, tmp_path):
        path, told = tmp_path / "metrics.jsonl", []
        write(path, record(1))
        broken = self.follow(tmp_path, Recorded(broken=True), told)
        broken.look(path)
        write(path, record(1), record(2))
        broken.look(path)
        assert told == ["tracking by tensorboard has stopped (ConnectionError: no such host); all else goes on"]


def test_what_is_no_tracker_or_not_installed_is_named_before_anything_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(tracker, "find_spec", lambda name: None)
    with pytest.raises(GoodhartError, match="there is no tracker 'comet'; there are: tensorboard, wandb"):
        check_trackers(["comet"])
    for name in ("tensorboard", "wandb", "mlflow", "trackio"):
        with pytest.raises(GoodhartError, match=rf"pip install 'goodhart\[{name}\]'"):
            check_trackers([name])
    with pytest.raises(GoodhartError, match="tensorboardX"):
        goodhart.run(write_tabular(tmp_path), tmp_path / "runs", track=["tensorboard"], quiet=True)
    assert not (tmp_path / "runs").exists()


def write_tabular(folder):
    """A study of two runs, in a world of tables."""
    keys = {"lr": [0.1], "steps": 12, "checkpoints": 2}
    arms = {"one": {"method": "online-ipo", "mode": "soft", "beta": [0.3, 0.1], **keys}}
    world = {"kind": "condorcet", "prompts": 3, "responses": 4}
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump({"name": "small", "world": world, "arms": arms, "resamples": 20, "seeds": [0]}))
    return str(path)


@pytest.fixture
def recorded(monkeypatch):
    """A tracker that is installed, and keeps what it is given for all runs."""
    given = Recorded()
    monkeypatch.setattr(tracker, "find_spec", lambda name: True)
    monkeypatch.setattr(follow, "tracker_of", lambda name, folder: given)
    return given


def screen_of(store, cells=(), log=None):
    return Screen(store, list(cells), 2, Console(file=io.StringIO()), lambda _: 1.0, log)


def test_a_study_that_is_gone_on_with_repeats_no_step_and_the_cells_have_the_same_bits(tmp_path, recorded):
    graph = build_graph(read_study(write_tabular(tmp_path), []))
    cells, stores = closure(graph.targets), [Store(tmp_path / name) for name in ("without", "with")]
    for cell in cells:
        assert make(stores[0], cell)
    progress = Progress(len(cells))
    for part in (cells[:3], cells[3:], []):
        with observed("small", graph, stores[1], screen_of(stores[1]), ["tensorboard"]) as watch:
            for cell in part:
                assert make(stores[1], cell)
                watch(progress, cell)
    assert recorded.steps() == 2 * list(range(1, 13))
    evaluations = [what[1] for what in recorded.given if what[0] == "log" and "evaluation/kl" in what[1]]
    assert [each["step"] for each in evaluations] == [12, 12]
    assert sum(what[0] == "show" for what in recorded.given) == 2
    names = {what[1].rpartition(" ")[0] for what in recorded.given if what[0] == "open"}
    assert names == {f"small/one/beta={beta} lr=0.1/seed 0" for beta in (0.3, 0.1)}
    for cell in cells:
        files = [store.record(cell.id)["files"] for store in stores]
        both = [{name: digest for name, (_, digest) in each.items() if name != "metrics.jsonl"} for each in files]
        assert both[0] == both[1]


def test_finished_runs_are_forwarded_by_a_later_call_that_asks_for_it(tmp_path, recorded):
    graph, store = build_graph(read_study(write_tabular(tmp_path), [])), Store(tmp_path)
    for cell in closure(graph.targets):
        assert make(store, cell)
    for _ in range(2):
        with observed("small", graph, store, screen_of(store), ["tensorboard"]):
            assert recorded.steps() == 2 * list(range(1, 13))


def test_a_run_that_diverges_is_said_to_on_the_screen_in_the_log_and_in_the_tracker(tmp_path, recorded):
    graph, store = build_graph(read_study(write_tabular(tmp_path), [])), Store(tmp_path)
    first, second = dict.fromkeys(graph.runs.values())
    progress = Progress(2, running={cell.id: (cell, time.monotonic()) for cell in (first, second)})
    screen = screen_of(store, [first, second], tmp_path / "log.txt")
    with observed("small", graph, store, screen, ["tensorboard"]) as watch:
        write(store.partial(first.id) / "metrics.jsonl", record(1), record(2, math.inf))
        write(store.partial(second.id) / "metrics.jsonl", record(1))
        watch(progress, None)
        progress.failed[second.id] = (second, Failure("loss nan is not finite at step 2", "lower the learning rate"))
        watch(progress, second)
    assert "ALARM small/one/beta=0.3 lr=0.1/seed 0" in screen.console.file.getvalue()
    assert "loss is inf at step 2" in (tmp_path / "log.txt").read_text()
    assert [what[1:] for what in recorded.given if what[0] == "alarm"] == [
        ("loss is inf at step 2", 2),
        ("failed: loss nan is not finite at step 2", 2),
    ]


def test_who_watches_from_elsewhere_sees_it_too(tmp_path):
    store = Store(tmp_path)
    cells = [Cell("run", {"number": number}, label=f"arm {number}") for number in range(2)]
    for cell in cells:
        store.begin(cell.id)
    write(store.partial(cells[0].id) / "metrics.jsonl", record(1, math.nan))
    store.fail(cells[1].id, "loss nan is not finite", "lower the learning rate")
    watched = Watched(store, cells, lambda _: 1.0)
    with store.lock(cells[0].id):
        watched.look()
        watched.look()
    assert watched.warnings == ["ALARM arm 0: loss is nan at step 1", "FAILED loss nan is not finite"]


def test_two_commands_do_not_forward_one_study(tmp_path, recorded):
    graph, store = build_graph(read_study(write_tabular(tmp_path), [])), Store(tmp_path)
    screen = screen_of(store)
    with (
        observed("small", graph, store, screen, ["tensorboard"]) as one,
        observed("small", graph, store, screen, ["tensorboard"]) as other,
    ):
        assert (len(one.sinks.each), other.sinks.each) == (1, [])
    assert "another command forwards the runs of this study" in screen.console.file.getvalue()


def needs(name):
    reason = f"{name} IS NOT INSTALLED: that runs arrive there was NOT tested; pip install 'goodhart[{name}]'"
    module = {"tensorboard": "tensorboardX"}.get(name, name)
    return pytest.mark.skipif(find_spec(module) is None, reason=reason)


def forward(name, folder):
    """A run whose steps come in two processes' worth, with an alarm and an evaluation, to a tracker."""
    path = folder / "metrics.jsonl"
    run, told = Run("run-1", "study/arm/beta=0.1/seed 0 (abc123)", {"arm": {"beta": 0.1}}), []
    for last in (2, 4):
        write(path, *(record(step, loss=step / 4) for step in range(1, last + 1)))
        with sinks_of(check_trackers([name]), folder / "tracking", "study", told.append) as sinks:
            one = Follow(run, sinks, told.append)
            one.look(path)
            if last == 4:
                one.measured("evaluation-1", 3, {"kl": 0.5}, lambda: [Sample("prompt", HOSTILE)])
                one.alarm("loss is nan", 4)
    assert told == ["ALARM study/arm/beta=0.1/seed 0 (abc123): loss is nan"]
    return folder / "tracking"


LOSSES = [(1, 0.25), (2, 0.5), (3, 0.75), (4, 1.0)]


@needs("tensorboard")
def test_tensorboard_has_each_step_once(tmp_path):
    folder = forward("tensorboard", tmp_path) / "tensorboard" / "study" / "arm" / "beta=0.1" / "seed 0 (abc123)"
    assert scalars(folder, "train/loss") == LOSSES
    assert scalars(folder, "evaluation/kl") == [(3, 0.5)]
    assert scalars(folder, "alarm") == [(4, 1.0)]
    (text,) = [each.tensor.string_val[0] for _, each in summaries(folder) if each.tag.startswith("samples/0")]
    assert text.startswith(b"    prompt"), "as code, in which nothing is markup"
    assert b"\x1b" not in text


@needs("wandb")
def test_wandb_has_each_step_once(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    files = sorted(forward("wandb", tmp_path).glob("wandb/wandb/offline-run-*/*.wandb"))
    records = [each for file in files for each in wandb_records(file)]
    runs = [each.run for each in records if each.WhichOneof("record_type") == "run"]
    assert {(run.display_name, run.run_group) for run in runs} == {("study/arm/beta=0.1/seed 0 (abc123)", "study")}
    assert len({run.run_id for run in runs}) == 1
    items = [each.history.item for each in records if each.WhichOneof("record_type") == "history"]
    rows = [{each.key or "/".join(each.nested_key): json.loads(each.value_json) for each in row} for row in items]
    assert [(row["step"], row["train/loss"]) for row in rows if "train/loss" in row] == LOSSES
    assert [(row["step"], row["evaluation/kl"]) for row in rows if "evaluation/kl" in row] == [(3, 0.5)]
    assert [row["step"] for row in rows if "alarm" in row] == [4]
    assert [row["step"] for row in rows if any(name.startswith("samples") for name in row)] == [3]


@needs("mlflow")
def test_mlflow_has_each_step_once(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = forward("mlflow", tmp_path) / "mlflow"
    store = sqlite3.connect(folder / "mlflow.db")
    assert store.execute("select name from runs").fetchall() == [("study/arm/beta=0.1/seed 0 (abc123)",)]
    values = "select step, value from metrics where key = ? order by step"
    assert store.execute(values, ["train/loss"]).fetchall() == LOSSES
    assert store.execute(values, ["evaluation/kl"]).fetchall() == [(3, 0.5)]
    assert store.execute("select value from tags where key = 'alarm'").fetchall() == [("loss is nan",)]
    assert store.execute("select value from params where key = 'arm.beta'").fetchall() == [("0.1",)]
    (text,) = folder.rglob("samples/step-3.txt")
    assert "\x1b" not in text.read_text()


@needs("trackio")
def test_trackio_has_each_step_once(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "tracking" / "trackio"))
    folder = forward("trackio", tmp_path) / "trackio"
    (file,) = folder.glob("goodhart*.db")
    store = sqlite3.connect(file)
    rows = [(step, json.loads(row)) for step, row in store.execute("select step, metrics from metrics order by step")]
    assert [(step, row["train/loss"]) for step, row in rows if "train/loss" in row] == LOSSES
    assert [(step, row["evaluation/kl"]) for step, row in rows if "evaluation/kl" in row] == [(3, 0.5)]
    assert [step for step, row in rows if "alarm" in row] == [4]
