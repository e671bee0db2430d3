"""`goodhart init` writes a study file that runs, for every layout, within the time, the memory and the context."""

import re
import shlex
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from goodhart import commands, interface, proposal
from goodhart.cells.make import make
from goodhart.cells.store import Store
from goodhart.errors import GoodhartError
from goodhart.proposal import Asked, propose
from goodhart.recipes.settings import Task
from goodhart.studies import estimate, session
from goodhart.studies.data_fit import Measured, choose_limits
from goodhart.studies.memory_fit import Need, Room
from goodhart.studies.spec import read_study
from goodhart.tasks.preference_layouts import LAYOUTS
from micro_study import make_cells_here, preference_lines, said, write_model
from preference_data_cases import answer, hh, user, write

LINES = preference_lines(40)
TEXTS = [" ".join(line.values()) for line in LINES]
HOSTILE = '"]}\n# x\npolicy: evil\n---\n- &a !!python/object/apply:os.system ["echo"]\u2028 \x85 {{ 7 }} \x1b[31m'


def rows(layout):
    """The micro preferences in a layout."""
    for n, line in enumerate(LINES):
        prompt, good, bad = line["prompt"], line["chosen"], line["rejected"]
        both = {"prompt": prompt, "responses": [bad, good]}
        yield from {
            "text": [line],
            "chat": [{"prompt": [user(prompt)], "chosen": [answer(good)], "rejected": [answer(bad)]}],
            "implicit-chat": [
                {"chosen": [user(prompt), answer(good)], "rejected": [user(prompt), answer(bad)]},
            ],
            "dialogue": [{"chosen": hh(prompt, good), "rejected": hh(prompt, bad)}],
            "tldr": [{"info": {"post": prompt}, "summaries": [{"text": bad}, {"text": good}], "choice": 1}],
            "battle": [
                {
                    "conversation_a": [user(prompt), answer(good)],
                    "conversation_b": [user(prompt), answer(bad)],
                    "winner": "model_a" if n % 5 else "tie",
                }
            ],
            "sharegpt": [
                {
                    "conversations": [{"from": "human", "value": prompt}],
                    "chosen": {"from": "gpt", "value": good},
                    "rejected": {"from": "gpt", "value": bad},
                }
            ],
            "ranks": [{**both, "ranks": [2, 1]}],
            "ranking": [{**both, "ranking": [1, 0]}],
            "ratings": [{**both, "ratings": [1, 4.5]}],
            "ultrafeedback": [
                {
                    "instruction": prompt,
                    "completions": [{"response": r, "overall_score": s} for r, s in ((bad, 2), (good, 9))],
                }
            ],
            "marks": [
                {"prompt": prompt, "completion": good, "label": True},
                {"prompt": prompt, "completion": bad, "label": False},
            ],
        }[layout]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model of some thousand weights, and a root that all studies share."""
    folder = tmp_path_factory.mktemp("init")
    write_model(folder / "model", TEXTS)
    return folder


@pytest.fixture
def here(monkeypatch):
    """Cells are made in this process, which has waited for torch once."""

    make_cells_here(monkeypatch)
    monkeypatch.setattr(estimate, "probe", lambda: estimate.PROBE)  # whatever else this machine does


def wrote(capfd, *arguments):
    """The study file `mine.yaml` that the command writes, and what it says."""
    done = said(capfd, "init", *arguments, "--policy", "model")
    assert done.returncode == 0, done.stderr
    return yaml.safe_load(Path("mine.yaml").read_text()), done.stdout


def refused(capfd, says, *arguments):
    done = said(capfd, "init", *arguments)
    assert done.returncode == 1
    assert says in done.stderr, done.stderr
    assert len(done.stderr.splitlines()) == 1


def alone():
    """Marks without partners: the preferred response to two prompts of three, the other one to the third."""
    for n, line in enumerate(LINES):
        yield {"prompt": line["prompt"], "completion": line["chosen" if n % 3 else "rejected"], "label": bool(n % 3)}


def test_the_line_that_it_ends_with_runs_to_its_report(place, here, capfd, monkeypatch):
    """Of the data that differ most from others behind the SFT policy: marks that make no pairs, in a CSV."""
    monkeypatch.chdir(place)
    write(Path("whole.csv"), list(alone()))
    done = said(capfd, "init", "whole.csv", "--policy", "model", "--out", "whole.yaml", "--time", "29s")
    assert done.returncode == 0, done.stderr
    assert "40 of 40 usable marks are within" in done.stdout
    assert yaml.safe_load(Path("whole.yaml").read_text())["task"]["pairs"] == "none"
    kto = "arms.kto={method: kto, source: data, labeller: data, beta: [0.1], steps: 4, batch: 8, checkpoints: 1}"
    run = said(capfd, *shlex.split(done.stdout.splitlines()[-1])[1:], kto, "name=whole")
    assert run.returncode == 0, run.stderr
    assert "online − offline at matched KL" in run.stdout
    page = (place / "runs" / "studies" / "whole" / "report.html").read_text()
    assert "held-out marks" in page
    assert "Of marks agreement is the AUC" in page
    assert "golden agrees with initial labels" not in page


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_line_runs_for_every_layout(place, here, layout, capfd, monkeypatch):
    """Up to the SFT policy: behind it no cell knows of which layout the data were."""

    def made(study, root, *_, **__):
        session.check_before(study, root)
        _, _, cells = session.planned(study, root)
        wanted = [cell for cell, _ in cells if cell.kind in ("preferences", "people", "test people", "sft")]
        assert len(wanted) == 4
        assert all(make(Store(root), cell) for cell in wanted)
        return SimpleNamespace(folder=root, unfinished={"failed": []})

    monkeypatch.chdir(place)
    monkeypatch.setattr(interface, "perform", made)
    monkeypatch.setattr(commands.study, "show", lambda *_: None)
    write(Path("d.jsonl"), list(rows(layout)))
    done = said(capfd, "init", "d.jsonl", "--policy", "model", "--out", f"{layout}.yaml")
    assert done.returncode == 0, done.stderr
    line = done.stdout.splitlines()[-1]
    assert line == f"goodhart run {layout}.yaml"
    run = said(capfd, *shlex.split(line)[1:])
    assert run.returncode == 0, run.stderr


class TestFile:
    @pytest.fixture(autouse=True)
    def _in_a_folder(self, place, here, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        Path("model").symlink_to(place / "model")
        write(Path("d.jsonl"), LINES)

    def test_it_is_short_and_says_why(self, capfd):
        study, told = wrote(capfd, "d.jsonl")
        text = Path("mine.yaml").read_text()
        assert len(text.splitlines()) < 45
        assert "40 rows of layout text: 40 pairs, 0 filtered" in text
        assert "with 80% power" in text
        assert study["seeds"] == [0, 1, 2]
        assert study["task"]["data"] == "d.jsonl"
        assert "sees a difference of" in told

    def test_what_its_limits_filter_is_what_the_study_filters(self, capfd):
        long = [{**line, "chosen": line["chosen"] * 9} for line in LINES[:1]]
        write(Path("d.jsonl"), LINES + long)
        study, _ = wrote(capfd, "d.jsonl")
        task = study["task"]
        limits = [f"--max-prompt={task['max_prompt']}", f"--max-response={task['max_response']}"]
        shown = said(capfd, "data", "d.jsonl", "--model", "model", *limits).stdout
        filtered = int(re.search(r"filtered\s+(\d+)", shown).group(1))
        assert f"As longer, {filtered} of 41 pairs" in Path("mine.yaml").read_text()
        assert filtered == 1

    def test_what_is_said_of_the_data_stands_in_it(self, capfd):
        write(Path("d.csv"), [{"frage": r["prompt"], "antwort": r["completion"], "gut": r["label"]}
                              for r in rows("marks")])  # fmt: skip
        names = "prompt=frage,completion=antwort,label=gut"
        study, _ = wrote(capfd, "d.csv", "--columns", names, "--pairs", "all")
        assert study["task"]["columns"] == {"prompt": "frage", "completion": "antwort", "label": "gut"}
        assert study["task"]["pairs"] == "all"

    def test_hostile_names_stay_data(self, capfd, place):
        column = HOSTILE.replace(",", "")
        folder = Path("odd # name: [x]")
        folder.mkdir()
        data = write(folder / "d.jsonl", [{column: line["prompt"], **line, "prompt": HOSTILE} for line in LINES])
        study, told = wrote(capfd, str(data), "--columns", f"prompt={column}")
        assert study["task"]["columns"] == {"prompt": column}
        assert study["task"]["data"] == str(data)
        assert study["policy"] == "./model"
        assert "\x1b" not in told
        assert all(line.isprintable() for line in Path("mine.yaml").read_text().splitlines())

    def test_a_file_is_written_over_by_force_alone(self, capfd):
        Path("mine.yaml").write_text("mine")
        refused(capfd, "mine.yaml is there already; give another --out, or --force", "d.jsonl")
        assert Path("mine.yaml").read_text() == "mine"
        wrote(capfd, "d.jsonl", "--force")
        assert sorted(path.name for path in Path().iterdir()) == ["d.jsonl", "mine.yaml", "model"]

    def test_a_file_below_another_folder_finds_its_data(self, capfd):
        Path("studies").mkdir()
        assert said(capfd, "init", "d.jsonl", "--policy", "model", "--out", "studies/a.yaml").returncode == 0
        study = read_study("studies/a.yaml", [])
        assert Path(study.task.data).samefile("d.jsonl")
        assert Path(study.policy).samefile("model")

    def test_what_cannot_be_is_one_line(self, capfd):
        model = ("--policy", "model")
        refused(
            capfd, "even the smallest study of these data and models takes about", "d.jsonl", *model, "--time", "1s"
        )
        refused(capfd, "--time is 'soon'; give a time, for example 3h", "d.jsonl", *model, "--time", "soon")
        refused(capfd, "--out is 'a b.yaml'", "d.jsonl", "--out", "a b.yaml")
        refused(capfd, "there is no folder no", "d.jsonl", "--out", "no/a.yaml")
        refused(capfd, "have different tokenizers", "d.jsonl", *model, "--golden", "tiny")
        write(Path("few.jsonl"), LINES[:6])
        refused(capfd, "few.jsonl has 6 pairs that fit, of 6 prompts; give more", "few.jsonl", *model)
        write(Path("other.jsonl"), [{"a": 1}])
        refused(capfd, "no known data layout; columns found: a", "other.jsonl", *model)

    def test_a_model_that_ships_reads_chat_by_turns(self, capfd):
        write(Path("chat.jsonl"), list(rows("chat")))
        assert said(capfd, "init", "chat.jsonl").returncode == 0
        study = yaml.safe_load(Path("mine.yaml").read_text())
        assert (study["policy"], study["golden"]["model"], study["task"]["template"]) == ("tiny", "small", "plain")

    def test_less_time_gives_a_smaller_study(self, capfd):
        seconds = {}
        for time in ("40s", "2m", "5m"):
            study, _ = wrote(capfd, "d.jsonl", "--time", time, "--force")
            seconds[time] = study["arms"]["online"]["steps"] * len(study["seeds"])
        assert seconds["40s"] < seconds["2m"] <= seconds["5m"]


def test_limits_let_through_what_fits():
    n = np.arange(100)
    measured = Measured(n, 10 + n, 5 + n % 7, n)
    wide = choose_limits(measured, lambda prompt, response: True)
    assert (wide.prompt, wide.response, wide.share) == (112, 16, 0.95)
    assert len(wide.kept) == 100
    narrow = choose_limits(measured, lambda prompt, response: prompt + response <= 64)
    assert narrow.prompt + narrow.response <= 64
    assert narrow.kept.prompt.max() <= narrow.prompt
    with pytest.raises(GoodhartError, match=r"cannot read even a tenth of these pairs, of which the shortest has 15"):
        choose_limits(measured, lambda prompt, response: False)


def test_micro_batches_are_what_memory_holds():
    need = Need(fixed=1000, row=100)
    assert [need.rows(Room(size, 1), 32) for size in (0, 1100, 1399, 1400, 10**9)] == [1, 1, 2, 4, 16]
    assert not need.fits(Room(1099, 1))


def test_large_models_are_given_their_learning_rates(tmp_path, monkeypatch):
    monkeypatch.setattr(proposal, "LARGE", 1000)
    monkeypatch.setattr(estimate, "probe", lambda: estimate.PROBE)
    write_model(tmp_path / "model", TEXTS)
    model = str(tmp_path / "model")
    data = str(write(tmp_path / "d.jsonl", LINES))
    found = propose(Asked(data, model, "", Task("preferences", data), None, tmp_path), tmp_path, lambda *_: None)
    (tmp_path / "mine.yaml").write_text(found.text)
    study = read_study(str(tmp_path / "mine.yaml"), [])
    assert study.unnamed == ()
    assert (study.arms["online"].lr, study.sft.optimisation.lr, study.golden.head_factor) == ((1e-6,), 1e-5, 1)
