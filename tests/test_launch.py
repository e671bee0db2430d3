"""Where cells are made decides no result; who is lost is replaced a stated number of times; what a launcher is told."""

import json
import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from goodhart.cells.cell import Cell
from goodhart.cells.executor import execute
from goodhart.cells.launch import Launch, Resources
from goodhart.cells.ray_cluster import RayCluster, options, ray_cluster
from goodhart.cells.slurm import Slurm, parameters
from goodhart.cells.store import Store
from goodhart.cells.work import ENVIRONMENT, Failure, Lost, Task, attempt
from goodhart.config import build
from goodhart.errors import GoodhartError
from goodhart.studies import one_cell, watching
from goodhart.studies.engine import settle
from goodhart.studies.links import _below
from goodhart.studies.spec import read_study


def cell(label: str, kind: str = "corpus", **inputs: Cell) -> Cell:
    return Cell(kind, {"label": label}, inputs, label)


def finish(store: Store, made: Cell) -> None:
    store.partial(made.id).mkdir(parents=True, exist_ok=True)
    store.finish(made.id, {"id": made.id, "spec": made.spec, "result": {}, "seconds": 1.0, "threads": 1})


class Scripted:
    """An executor whose cells end as they are told, one after another."""

    def __init__(self, store, ends=(), places=2, tries=3, pause=0.0):
        self.store, self.ends, self.places, self.tries, self.pause = store, dict(ends), places, tries, pause
        self.at, self.begun, self.most = [], [], 0

    def room(self):
        return self.places - len(self.at)

    def begin(self, cells):
        assert all(self.store.has(needed.id) for each in cells for needed in each.inputs.values())
        self.at += cells
        self.begun += [each.label for each in cells]
        self.most = max(self.most, len(self.at))

    def ended(self, seconds):
        if not self.at:
            return []
        each = self.at.pop(0)
        end = self.ends.get(each.label, [True]).pop(0) if self.ends.get(each.label) else True
        if end is True:
            finish(self.store, each)
        return [(each, end)]

    def place(self, each):
        assert each in self.at, "of a cell that has ended nobody knows where it is"
        return f"on {each.label}'s node"


LOST = Lost("its node went away", "wait for another")


def go(tmp_path, *cells, **how):
    executor = Scripted(Store(tmp_path), **how)
    watched = []
    progress = execute(Store(tmp_path), list(cells), executor, lambda at, _: watched.append(dict(at.places)))
    return executor, progress, watched


def test_a_lost_cell_is_begun_again_as_often_as_the_executor_says_and_no_worker_decides(tmp_path):
    executor, progress, _ = go(tmp_path, cell("a"), cell("b"), ends={"a": [LOST, LOST]})
    assert executor.begun.count("a") == 3
    assert not progress.failed
    executor, progress, _ = go(tmp_path / "2", cell("a"), cell("b"), ends={"a": [LOST] * 9})
    assert executor.begun.count("a") == 3
    ((_, failure),) = progress.failed.values()
    assert str(failure) == "a: its node went away (3 times); wait for another"
    assert [each.label for each in progress.done] == ["b"]


def test_no_more_is_begun_than_there_is_room_for_and_inputs_come_first(tmp_path):
    first = cell("first")
    last = [cell(f"last {n}", first=first) for n in range(7)]
    executor, progress, watched = go(tmp_path, *last, first, places=3)
    assert executor.most == 3
    assert len(progress.done) == 8
    assert {"on last 1's node", "on last 2's node"} <= {place for at in watched for place in at.values()}


def test_a_cell_that_another_process_makes_is_asked_for_again_after_the_pause_and_no_sooner(tmp_path):
    began = time.monotonic()
    executor, progress, _ = go(tmp_path, cell("a"), ends={"a": [False, False]}, pause=0.3)
    assert executor.begun == ["a"] * 3
    assert time.monotonic() - began >= 0.6
    assert [each.label for each in progress.done] == ["a"]
    assert not progress.elsewhere


def test_a_fault_that_every_cell_would_meet_begins_nothing_more(tmp_path):
    full = Failure("the disk is full", "free some", everywhere=True)
    executor = Scripted(Store(tmp_path), {"a": [full]}, places=1)
    with pytest.raises(GoodhartError, match="the disk is full; free some"):
        execute(Store(tmp_path), [cell("a"), cell("b")], executor, lambda *_: None)
    assert executor.begun == ["a"]


def test_the_executor_is_part_of_no_address_and_of_no_name():
    plain, far = read_study("smoke", []), read_study("smoke", ["executor.kind=slurm", "executor.at_once=7"])
    assert far.name == "smoke"
    assert (far.executor.kind, far.executor.at_once) == ("slurm", 7)
    assert read_study("smoke", ["executor.kind=ray", "labels.number=16"]).name == "smoke-labels-number-16"
    from goodhart.studies.graph import build_graph

    addresses = [sorted(c.id for c in build_graph(each).runs.values()) for each in (plain, far)]
    assert addresses[0] == addresses[1]


def test_precision_is_not_measured_on_a_machine_that_only_asks(tmp_path):
    far = read_study("smoke", ["executor.kind=ray"])
    with pytest.raises(GoodhartError, match="give --precision float32"):
        settle(far, tmp_path, keep=False)


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ({"resources": {"runs": {}}}, "there is no kind of cell 'runs'"),
        ({"kind": "slurm", "resources": {"run": {"gpus": 0.5}}}, "executor.resources.run.gpus is 0.5"),
        ({"kind": "kubernetes"}, "kubernetes"),
        ({"at_once": -1}, "at_once"),
    ],
)
def test_what_an_executor_cannot_be(said, problem):
    with pytest.raises(GoodhartError, match=problem):
        build(Launch, said, "executor").validate()


def test_resources_go_by_the_kind_of_cell():
    launch = build(Launch, {"resources": {"run": {"gpus": 2, "cpus": 8}, "others": {"cpus": 3}}}, "executor")
    assert launch.of("run") == Resources(cpus=8, gpus=2.0)
    assert launch.of("evaluation") == Resources(cpus=3)
    assert Launch().of("run") == Resources()


def test_what_slurm_is_told():
    launch = Launch("slurm", at_once=5, slurm={"partition": "gpu", "account": "lab"})
    told = parameters(launch, Resources(cpus=4, gpus=2.0, memory=1.5, minutes=30), "best of n")
    assert told["job_name"] == "goodhart-best-of-n"
    assert (told["time"], told["cpus_per_task"], told["gpus_per_node"], told["mem"]) == (30, 4, 2, "1536M")
    assert (told["partition"], told["account"], told["array_parallelism"]) == ("gpu", "lab", 5)
    assert "export OMP_NUM_THREADS=1" in told["setup"]
    assert told["signal_delay_s"] == 120
    assert parameters(launch, Resources(minutes=1), "run")["signal_delay_s"] < 60


class SlurmJob:
    """What submitit gives for a job."""

    def __init__(self, function, number):
        self.function, self.job_id = function, str(number)
        self.paths = SimpleNamespace(stderr=f"{number}.err")
        self.state, self.value, self.cancelled = "PENDING", None, False

    def done(self, force_check=False):
        return self.value is not None

    def result(self):
        if isinstance(self.value, Exception):
            raise self.value
        return self.value

    def get_info(self, mode):
        return {"State": self.state, "NodeList": "node7"}

    def cancel(self, check):
        self.cancelled = True


class Submitter:
    """A submitit executor that remembers what was submitted together."""

    def __init__(self):
        self.arrays, self.jobs = [], []

    def __call__(self, resources, kind):
        self.arrays.append((kind, resources, []))
        return self

    def batch(self):
        from contextlib import nullcontext

        return nullcontext()

    def submit(self, function):
        job = SlurmJob(function, len(self.jobs))
        self.jobs.append(job)
        self.arrays[-1][2].append(function.task.cell.label)
        return job


def a_task(root):
    return lambda each, threads: Task(str(root), each, threads, "default", ("here", "2"))


def test_slurm_gets_an_array_for_each_kind_of_cell_and_each_end_is_told(tmp_path):
    pytest.importorskip("submitit")
    from submitit.core.utils import FailedJobError, UncompletedJobError

    submitter = Submitter()
    launch = Launch("slurm", at_once=5, resources={"run": Resources(cpus=4)})
    slurm = Slurm(launch, a_task(tmp_path), submitter)
    cells = [cell("r1", "run"), cell("e", "evaluation"), cell("r2", "run"), cell("r3", "run")]
    assert slurm.room() == 5
    slurm.begin(cells)
    assert slurm.room() == 1
    assert [(kind, each.cpus, labels) for kind, each, labels in submitter.arrays] == [
        ("evaluation", 1, ["e"]),
        ("run", 4, ["r1", "r2", "r3"]),
    ]
    assert submitter.jobs[1].function.task.threads == 4
    assert slurm.place(cells[0]) == "job 1 pending"
    submitter.jobs[1].state = "RUNNING"
    assert slurm.place(cells[0]) == "job 1 on node7"
    submitter.jobs[0].value = True
    submitter.jobs[1].value, submitter.jobs[1].state = UncompletedJobError("nothing"), "OUT_OF_MEMORY"
    submitter.jobs[2].value = FailedJobError("no module named goodhart")
    ends = {each.label: end for each, end in slurm.ended(0.0)}
    assert ends["e"] is True
    assert isinstance(ends["r1"], Lost)
    assert "out_of_memory" in ends["r1"].why
    assert isinstance(ends["r2"], Failure)
    assert "no module named goodhart" in ends["r2"].problem
    assert "r3" not in ends
    slurm.cancel()
    assert [job.cancelled for job in submitter.jobs] == [False, False, False, True]


def test_a_job_whose_time_is_up_is_queued_again_as_it_is(tmp_path):
    pytest.importorskip("submitit")
    from goodhart.cells.slurm import Job

    job = Job(a_task(tmp_path)(cell("a"), 1))
    again = job.checkpoint()
    assert again.function is job


def test_where_slurm_is_not_that_is_said(tmp_path, monkeypatch):
    pytest.importorskip("submitit")
    from goodhart.cells.slurm import slurm

    monkeypatch.setenv("PATH", str(tmp_path))
    with (
        pytest.raises(GoodhartError, match="there is no Slurm here"),
        slurm(tmp_path, Launch("slurm"), "default", ("a", "b"), tmp_path / "jobs"),
    ):
        pass


def test_what_ray_is_told():
    told = options(Resources(cpus=2, gpus=0.5, memory=2.0))
    assert told["max_retries"] == 0, "trying again is the executor's"
    assert (told["num_cpus"], told["num_gpus"], told["memory"]) == (2, 0.5, 2 * 2**30)
    assert told["runtime_env"]["env_vars"] == ENVIRONMENT
    assert "memory" not in options(Resources())


def test_a_task_uses_the_chosen_kernels_on_a_machine_like_that_which_chose_them_only(tmp_path, monkeypatch):
    from goodhart.cells.record import here
    from goodhart.compute import kernels

    used = []
    monkeypatch.setattr(kernels, "use", used.append)
    lone = cell("lone")
    finish(Store(tmp_path), lone)
    assert Task(str(tmp_path), lone, 1, "onednn", here())() is True
    assert Task(str(tmp_path), lone, 1, "onednn", ("another processor", "2"))() is True
    assert used == ["onednn", "default"]


def made_by_ray(task):
    """Stands in for the making of a cell, in a process of Ray's."""

    def work():
        store, what = Store(Path(task.root)), task.cell.settings["label"]
        marker = Path(task.root) / f"begun {task.cell.id}"
        again = marker.exists()
        marker.touch()
        if what == "die" or (what == "die once" and not again):
            os.kill(os.getpid(), 9)
        if what == "raise":
            raise ZeroDivisionError("by nothing")
        assert os.environ["OMP_NUM_THREADS"] == "1"
        store.partial(task.cell.id).mkdir(parents=True, exist_ok=True)
        store.finish(task.cell.id, {"id": task.cell.id, "spec": task.cell.spec, "result": {}})
        return True

    return attempt(task.cell.label, work, ())


def test_ray_makes_cells_and_one_whose_process_is_killed_is_begun_again(tmp_path, monkeypatch):
    pytest.importorskip("ray")
    import ray

    from goodhart.cells import ray_cluster as module

    monkeypatch.setenv("RAY_worker_niceness", "0")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
    monkeypatch.setattr(module, "_made", made_by_ray)
    greedy = Launch("ray", address="local", resources={"run": Resources(cpus=4096)})
    with (
        pytest.raises(GoodhartError, match="no machine of the Ray cluster has 4096 cores"),
        ray_cluster(tmp_path, greedy, "default", ("a", "b")),
    ):
        pass
    assert not ray.is_initialized()
    first = cell("first")
    cells = [first, cell("die once", first=first), cell("die"), cell("raise"), cell("after", first=first)]
    with ray_cluster(tmp_path, Launch("ray", address="local", tries=2), "default", ("a", "b")) as executor:
        assert isinstance(executor, RayCluster)
        progress = execute(Store(tmp_path), cells, executor, lambda *_: None)
    assert not ray.is_initialized()
    assert sorted(each.label for each in progress.done) == ["after", "die once", "first"], progress.failed
    failures = {each.label: str(failure) for each, failure in progress.failed.values()}
    assert failures["raise"].startswith("raise: ZeroDivisionError: by nothing")
    assert "Ray lost its task" in failures["die"]
    assert "(2 times)" in failures["die"]


def test_one_cell_is_made_once_and_says_how_it_ended(tmp_path, monkeypatch):
    from goodhart.cells import work, worker

    monkeypatch.setattr(worker, "_start", light_start)
    monkeypatch.setattr(work, "work", scripted_end)
    first, bad = cell("first"), cell("bad")
    last = cell("last", first=first)
    with pytest.raises(GoodhartError, match=rf"reads cells that are not there: {first.id} .first."):
        one_cell.make_cell(last, tmp_path, 1, "default")
    assert one_cell.make_cell(first, tmp_path, 1, "default") == 0
    assert one_cell.make_cell(first, tmp_path, 1, "default") == 0
    assert one_cell.make_cell(cell("busy"), tmp_path, 1, "default") == 75
    with pytest.raises(GoodhartError, match="it broke; mend it"):
        one_cell.make_cell(bad, tmp_path, 1, "default")
    assert Store(tmp_path).failure(bad.id) == {"problem": "it broke", "remedy": "mend it"}


def light_start(*_):
    """What a worker does first, without PyTorch."""


def scripted_end(root, each, threads):
    if each.label == "bad":
        return Failure("it broke", "mend it")
    if each.label == "busy":
        return False
    finish(Store(Path(root)), each)
    return True


def test_who_watches_sees_what_others_make_and_not_what_the_dead_have_left(tmp_path):
    store = Store(tmp_path)
    done, mine, dead, waiting = cell("done"), cell("mine"), cell("dead"), cell("waiting")
    finish(store, done)
    store.begin(mine.id)
    (store.partial(mine.id) / "progress.json").write_text(json.dumps({"done": 3, "total": 8, "note": "loss 1"}))
    (tmp_path / "locks").mkdir()
    owner = {"host": os.uname().nodename, "pid": 2**22 + 1}
    (tmp_path / "locks" / f"{dead.id}.json").write_text(json.dumps(owner))
    watched = watching.Watched(store, [done, mine, dead, waiting], lambda _: 60.0)
    with store.lock(mine.id):
        watched.look()
    assert [row.name for row in watched.rows] == ["mine"]
    line = watched.line()
    assert line.startswith("1 of 4 cells are done, 1 being made, about 3.0 min left; mine 3 of 8 loss 1 by process")
    finish(store, mine)
    watched.look()
    assert watched.news == ["done: mine"]
    assert watched.line() == "2 of 4 cells are done; nobody makes any of the others now"
    assert not watched.over
    finish(store, dead)
    finish(store, waiting)
    watched.look()
    assert watched.over


def test_a_process_of_another_machine_is_believed_while_its_folder_changes(tmp_path):
    store, far = Store(tmp_path), cell("far")
    store.begin(far.id)
    (tmp_path / "locks").mkdir()
    owner = tmp_path / "locks" / f"{far.id}.json"
    owner.write_text(json.dumps({"host": "another", "pid": 1}))
    assert store.held_since(far.id) == pytest.approx(owner.stat().st_mtime)
    old = time.time() - 3600
    os.utime(owner, (old, old))
    assert store.held_since(far.id) is not None
    os.utime(store.partial(far.id), (old, old))
    assert store.held_since(far.id) is None


@pytest.mark.parametrize("name", ["../../etc", "a/b", "..", "", " ", "nul\0l", "-rf", "ok beta=0.1 (x)"])
def test_a_readable_name_never_leaves_its_folder(name):
    path = _below(name, "seed-0")
    assert len(path.parts) == 2
    assert ".." not in path.parts
    assert not path.is_absolute()


def test_a_study_file_says_where_its_cells_are_made(tmp_path):
    smoke = yaml.safe_load((Path(one_cell.__file__).parent / "presets" / "smoke.yaml").read_text())
    path = tmp_path / "mine.yaml"
    executor = {"kind": "slurm", "slurm": {"partition": "gpu"}, "resources": {"run": {"gpus": 1, "minutes": 90}}}
    path.write_text(yaml.safe_dump({**smoke, "executor": executor}))
    assert read_study(str(path), []).executor.of("run").minutes == 90
