"""Going on look by look: which arms, until when, and what is said; and one study that is really run."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from goodhart import rounds
from goodhart.analysis.hypotheses import Contrast, Hypothesis, Looks
from goodhart.analysis.interval import around
from goodhart.analysis.rulings import Decision, Ruling
from goodhart.analysis.study_tables import Estimate
from goodhart.cells.executor import Progress
from goodhart.cells.store import Store
from goodhart.errors import GoodhartError
from goodhart.report import theme
from goodhart.report.contents import read_contents
from goodhart.report.findings import ruled
from goodhart.studies import session
from goodhart.studies.engine import Engine
from goodhart.studies.graph import build_graph
from goodhart.studies.plan import Graph
from goodhart.studies.reach import onward, reach, undecided, whole
from goodhart.studies.results import Unfinished
from goodhart.studies.session import Outcome, Prospect, Workers
from goodhart.studies.spec import Study, read_study
from micro_study import make_cells, said, write_micro_study

LOOKS = {"seeds": [2, 3, 4], "shares": [0.1, 0.3, 0.6]}
SMALL = {"beta": [0.1], "lr": [0.01], "steps": 2, "batch": 4, "checkpoints": 2}
ARMS = {
    "online": SMALL,
    "offline": {**SMALL, "source": "data", "labeller": "data"},
    "replay": {**SMALL, "source": "stream", "stream": "online", "labeller": "data"},
}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    changes = {"arms": ARMS, "variants": {}, "hypotheses": {}, "axes": {}, "best_of": {"samples": 2, "n": [2]}}
    return write_micro_study(tmp_path_factory.mktemp("looks"), **changes, resamples=20, seeds=[5, 6, 7, 8], looks=LOOKS)


@pytest.fixture(scope="module")
def study(path):
    return read_study(str(path), [])


def test_looks_without_seeds_have_the_first_ones(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text("looks: {seeds: [2, 4], shares: [0.5, 0.5], smallest: 0.03}\n")
    found = read_study(str(path), [])
    assert (found.seeds, found.looks) == ((0, 1, 2, 3), Looks((2, 4), (0.5, 0.5), 0.03))
    assert read_study(str(path), ["looks.seeds=[3,5]"]).seeds == (0, 1, 2, 3, 4)
    path.write_text("looks: {}\n")
    assert (read_study(str(path), []).seeds, read_study(str(path), []).looks) == (tuple(range(8)), Looks())
    with pytest.raises(GoodhartError, match="the last look has 8 seeds"):
        read_study(str(path), ["seeds=[0,1]"])
    with pytest.raises(GoodhartError, match=r"looks.seeds is \[\]"):
        read_study(str(path), ["looks.seeds=[]", "seeds=[0]"])


def test_a_graph_has_the_seeds_that_each_arm_has_come_to(study):
    graph = build_graph(
        study, {"online": 2, "offline": 3, "replay": 4, "best of n by proxy": 2, "best of n by golden": 2}
    )
    seeds = {arm: sorted({m.seed for m in graph.measured if m.arm == arm}) for arm in study.all_arms}
    assert (seeds["online"], seeds["offline"], seeds["replay"]) == ([5, 6], [5, 6, 7], [5, 6, 7, 8])
    assert seeds["best of n by proxy"] == [5, 6]
    read = {seed for arm, _, seed in graph.runs if arm == "online"}
    assert read == {5, 6, 7, 8}  # what replay reads
    every = build_graph(study)
    assert {cell.id for cell in graph.targets} < {cell.id for cell in every.targets}
    assert {c.id for c in build_graph(study, whole(study)).targets} == {c.id for c in every.targets}


def test_reach_is_the_last_look_of_which_every_cell_is_there(study, tmp_path, monkeypatch):
    graph = build_graph(study)

    def done(**seeds):
        cells = {m.cell.id for m in graph.measured if m.seed in seeds.get(m.arm, ())}
        monkeypatch.setattr(Store, "has", lambda store, cell: cell in cells)
        return reach(study, Store(tmp_path), graph)

    assert set(done().values()) == {2}
    found = done(online=(5, 6, 7), offline=(5, 6, 7, 8), replay=(5, 7, 8))
    assert (found["online"], found["offline"], found["replay"]) == (3, 4, 2)
    assert reach(replace(study, looks=None), Store(tmp_path), graph) == whole(study)


def decision(verdict, first="online", second="offline", there=True, decides=True):
    interval = around(0.1, 0.1, 5.0, seeds=2, prompts=9) if there else None
    return Decision(Contrast("peak", first, second, decides=decides), Estimate(interval, ""), None, None, verdict)


def ruling(*decisions):
    return Ruling("H", Hypothesis("So.", tuple(d.contrast for d in decisions)), decisions)


def test_only_what_an_undecided_contrast_compares_goes_on(study):
    now = dict.fromkeys(study.all_arms, 2)
    assert onward(study, now, [ruling(decision("supported"))]) == now
    further = onward(study, now, [ruling(decision("supported"), decision("undecided", "replay"))])
    assert further == {**now, "replay": 3, "offline": 3}
    assert onward(study, further, [ruling(decision("undecided"))]) == {**further, "online": 3, "offline": 4}
    last = dict.fromkeys(study.all_arms, 4)
    assert onward(study, last, [ruling(decision("undecided"))]) == last
    closed = ruling(decision("contradicted"), decision("undecided", "replay"))
    beside = ruling(decision("supported"), decision("undecided", "replay", decides=False))
    silent = ruling(decision("undecided", there=False))
    for each in (closed, beside, silent):
        assert (onward(study, now, [each]), undecided([each])) == (now, [])


def test_flags_that_have_no_meaning_are_refused(study):
    plain = Study("s")
    assert rounds.limit(plain, until_decided=False, within="") is None
    with pytest.raises(GoodhartError, match="has no looks"):
        rounds.limit(plain, until_decided=True, within="")
    with pytest.raises(GoodhartError, match="without --until-decided"):
        rounds.limit(study, until_decided=False, within="3h")
    for text in ("3", "soon", "h", "-3h", "0h", "3h 5"):
        with pytest.raises(GoodhartError, match="--within is"):
            rounds.limit(study, until_decided=True, within=text)


@pytest.mark.parametrize(
    ("text", "seconds"), [("3h", 10800), ("90m", 5400), ("1h30m", 5400), ("1.5h", 5400), ("45s", 45)]
)
def test_times_are_read(study, text, seconds):
    assert rounds.limit(study, until_decided=True, within=text) == seconds


def loop(study, monkeypatch, verdicts, *, until_decided=True, limit=None, missing=()):
    """The online arm's seeds in every round of a loop, and what is said; `verdicts` are those after each round.

    A round takes no time and is expected to take 10 seconds; those of the numbers `missing` leave a cell unmade.
    """
    made, heard, graph = [], [], Graph.__new__(Graph)

    def round_(job, asked):
        return rounds.Round(asked or dict.fromkeys(study.all_arms, 2), graph, [], Prospect(1, lambda _: 1.0, 10.0))

    def made_(job, now):
        made.append(now.reach["online"])
        return Outcome(Path(str(len(made))), graph, {}, Unfinished(int(len(made) in missing), 9))

    monkeypatch.setattr(rounds, "_round", round_)
    monkeypatch.setattr(rounds, "_made", made_)
    monkeypatch.setattr(rounds, "ruled", lambda folder: (ruling(decision(verdicts[int(folder.name) - 1])),))
    job = rounds.Job(study, Engine.__new__(Engine), Path(), Workers(1), Console(), heard.append)
    rounds.run(job, until_decided=until_decided, limit=limit)
    return made, heard


def test_the_loop_ends_with_a_decision_or_with_the_looks(study, monkeypatch):
    assert loop(study, monkeypatch, ["undecided", "supported"]) == ([2, 3], ["every hypothesis is decided"])
    assert loop(study, monkeypatch, ["no difference"]) == ([2], ["every hypothesis is decided"])
    assert loop(study, monkeypatch, ["undecided"] * 3) == ([2, 3, 4], ["the looks are used up; undecided: H"])


def test_without_the_flag_the_next_look_is_priced_and_not_begun(study, monkeypatch):
    made, heard = loop(study, monkeypatch, ["undecided"], until_decided=False)
    assert made == [2]
    assert heard == [
        "the next look (3 seeds of offline and online) takes about 10.0 s; --until-decided goes on with it"
    ]
    plain = replace(study, looks=None)
    assert loop(plain, monkeypatch, ["undecided"], until_decided=False) == ([2], [])


def test_a_look_that_would_not_end_in_time_is_not_begun(study, monkeypatch):
    made, heard = loop(study, monkeypatch, ["undecided"], limit=10.0)
    assert made == [2]
    assert "it is not begun" in heard[0]
    with pytest.raises(GoodhartError, match="what has to come first takes about 10"):
        loop(study, monkeypatch, ["undecided"], limit=9.0)


def test_a_look_with_failed_cells_ends_the_loop(study, monkeypatch):
    assert loop(study, monkeypatch, ["undecided", "undecided"], missing=(2,)) == ([2, 3], [])


@pytest.fixture(scope="module")
def made(path, tmp_path_factory):
    """A root in which all seeds of two arms are made."""
    root = tmp_path_factory.mktemp("made")
    make_cells(read_study(str(path), BOTH), root)
    return root


BOTH = [
    "looks={seeds: [2, 3], shares: [0.5, 0.5]}",
    "seeds=[5,6,7]",
    "best_of.samples=0",
    f"arms={json.dumps({arm: ARMS[arm] for arm in ('online', 'offline')})}",
    "name=micro",
]


def test_a_study_goes_on_where_it_stopped_and_its_report_is_of_its_rows(path, made, tmp_path, capfd, monkeypatch):
    """Cells are copied in place of being made. Models this small decide nothing, so both looks are used up."""

    def copied(store, cells, *_):
        for cell in cells:
            if not store.has(cell.id):
                shutil.copytree(made / "cells" / cell.id, store.folder(cell.id))
        return Progress(len(cells))

    monkeypatch.setattr(session, "execute", copied)
    monkeypatch.setattr(theme, "png", lambda *_: b"")
    root = tmp_path / "runs"
    command = ["run", str(path), *BOTH, "--root", str(root), "--workers", "1"]
    first = said(capfd, *command)
    assert first.returncode == 0, first.stderr
    assert "the next look (3 seeds of online and offline)" in first.stdout
    assert seeds_of(root) == [5, 6]
    rest = said(capfd, *command, "--until-decided")
    assert rest.returncode == 0, rest.stderr
    assert "the looks are used up; undecided: online against offline" in rest.stdout
    folder = root / "studies" / "micro"
    rulings = ruled(folder)
    assert [d.look for d in rulings[0].decisions if d.contrast.decides] == [2]
    assert seeds_of(root) == [5, 6, 7]
    again = said(capfd, "report", str(path), *BOTH, "--root", str(root))
    assert again.returncode == 0
    assert "undecided at look 2, could have seen a difference of" in again.stdout
    assert ruled(folder) == rulings
    assert read_contents(folder).unfinished["missing"] == 0
    assert "missing" not in said(capfd, "status", str(path), *BOTH, "--root", str(root)).stdout


def seeds_of(root):
    table = pq.read_table(root / "studies" / "micro" / "rows.parquet").to_pylist()
    found = [sorted({r["seed"] for r in table if r["arm"] == arm}) for arm in ("online", "offline")]
    assert found[0] == found[1]
    return found[0]
