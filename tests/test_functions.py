"""Functions of the user's own: known by their text, refused by name where they cannot be run elsewhere or lie."""

import inspect
import linecache
import math
import subprocess
import sys
import textwrap

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml

import goodhart
from goodhart import functions
from goodhart.alignment import extensions
from goodhart.alignment.batch import Batch
from goodhart.alignment.losses import LOSSES
from goodhart.alignment.method import KINDS
from goodhart.alignment.own_labels import OwnLabels
from goodhart.alignment.own_loss import _recording, checked
from goodhart.alignment.scores import Scores
from goodhart.alignment.table_judge import TableJudge
from goodhart.errors import GoodhartError
from goodhart.functions import Function
from goodhart.studies import session
from goodhart.studies.graph import build_graph
from goodhart.studies.spec import read_study
from goodhart.tasks.prompts import Prompt
from goodhart.tasks.reward import Rule, rewards
from micro_study import make_cells, write_tables

SHOUT = 3


@pytest.fixture(autouse=True)
def _as_it_was():
    yield
    extensions.forget()


def of(text, name="f"):
    """The reference of a function by its text."""
    return functions.learn(Function(name, textwrap.dedent(text)))


def brevity(prompt, response):
    return -float(len(response.split()))


def judged(reward, **more):
    return {"kind": "rule", "rule": {"reward": reward, **more}}


def nested(source):
    """A function that no module has at its top, as in a notebook: its own text is all that there is of it."""
    space = {}
    exec(compile(source, "<cell>", "exec"), space)
    return space


class TestText:
    def test_a_function_is_named_by_its_text_alone(self, tmp_path):
        (tmp_path / "a.py").write_text("def f(x):\n    return x + 1\n")
        (tmp_path / "b.py").write_text("def f(x):\n    return x + 1\n")
        first = functions.read(str(tmp_path / "a.py"), "f")
        assert functions.read(str(tmp_path / "b.py"), "f") == first
        assert functions.load(first)(1) == 2
        (tmp_path / "a.py").write_text("def f(x):\n    return x + 2\n")
        edited = functions.read(str(tmp_path / "a.py"), "f")
        assert edited != first
        assert (functions.load(edited)(1), functions.load(first)(1)) == (3, 2)

    def test_one_of_a_modules_file_is_that_file_and_one_inside_another_its_own_text(self):
        whole = functions.known(functions.given(brevity, "reward"))
        assert whole.text == inspect.getsource(sys.modules[__name__])

        def inner(prompt: str, response: str) -> "Unknown":
            import math

            return math.sqrt(len(response)) + max(len(prompt), inner is None)

        reference = functions.given(inner, "reward")
        text = functions.known(reference).text
        assert text.startswith("from __future__ import annotations\n\ndef inner(")
        assert functions.load(reference)("ab", "abcd") == 4

    def test_a_notebook_has_functions_without_a_file(self, monkeypatch):
        source, cell = "def f(p, r):\n    import math\n    return math.exp(len(r) - len(p))\n", "<ipython-input-1-aa>"
        monkeypatch.setitem(linecache.cache, cell, (len(source), None, source.splitlines(keepends=True), cell))
        space = {"__name__": "__main__"}
        exec(compile(source, cell, "exec"), space)
        reference = functions.given(space["f"], "golden.rule.reward")
        assert functions.known(reference).text.endswith(source)
        assert functions.load(reference)("ab", "ab") == 1

    def test_what_it_does_not_define_is_refused_by_name(self):
        free = "closed over"

        def needy(prompt, response):
            return len(free) + SHOUT + sum(math.exp(len(w)) for w in response)

        with pytest.raises(GoodhartError, match=r"golden.rule.reward: 'needy' needs free, SHOUT, math, .*import") as e:
            functions.given(needy, "golden.rule.reward")
        assert "put both into a file" in e.value.remedy

        def default(prompt, response, weight=SHOUT):
            return weight

        with pytest.raises(GoodhartError, match="'default' needs SHOUT"):
            functions.given(default, "reward")

    @pytest.mark.parametrize(
        ("value", "says"),
        [
            (lambda p, r: 0.0, "is a lambda"),
            (len, "builtin_function_or_method"),
            ("abc".count, "builtin"),
            (nested("def f(p, r):\n    return 0.0\n")["f"], "text of 'f' cannot be read"),
        ],
    )
    def test_what_has_no_text_is_refused(self, value, says):
        with pytest.raises(GoodhartError, match=says) as error:
            functions.given(value, "golden.rule.reward")
        assert "golden.rule.reward" in error.value.problem

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("1 / 0", "ZeroDivisionError"),
            ("def g(x): return x", "defines no 'f'; it has: g"),
            ("def f(:", "SyntaxError"),
        ],
    )
    def test_a_text_that_cannot_be_run_is_told(self, tmp_path, text, says):
        (tmp_path / "f.py").write_text(text)
        with pytest.raises(GoodhartError, match=says):
            functions.read(str(tmp_path / "f.py"), "f")

    def test_what_is_kept_is_found_by_another_process_and_a_changed_file_is_not_taken_for_it(self, tmp_path):
        reference = of("def f(x):\n    return x * 7\n")
        functions.keep(tmp_path, {"arms": [{"loss": reference}], "name": "f@12"})
        (file,) = tmp_path.iterdir()
        code = (
            "import sys; from pathlib import Path; from goodhart import functions;"
            "functions.recall(Path(sys.argv[1])); print(functions.load(sys.argv[2])(6))"
        )
        ask = [sys.executable, "-c", code, str(tmp_path), reference]
        assert subprocess.run(ask, capture_output=True, text=True, check=True, timeout=120).stdout == "42\n"
        file.write_text(file.read_text() + "\n# other\n")
        told = subprocess.run(ask, capture_output=True, text=True, check=False, timeout=120).stderr
        assert f"the text of the function {reference} is not known here" in told

    def test_a_cell_is_not_made_with_another_text_than_its_address_says(self):
        reference = of("def f(x):\n    return x\n")
        functions.learn_from({reference: functions.known(reference).text, "tokenizer": "tiny"})
        with pytest.raises(GoodhartError, match="is another one by now"):
            functions.learn_from({reference: "def f(x):\n    return 0\n"})


class TestJudge:
    def test_its_reward_is_that_of_prompt_and_response(self):
        rule = Rule(of("def f(prompt, response):\n    return len(prompt) - 2 * len(response)\n"))
        assert rewards(rule, ["abc", "abc"], ["", "ab"], []).tolist() == [3.0, -1.0]
        rule.validate("golden.rule")
        assert "user's function f" in rule.meaning
        with pytest.raises(GoodhartError, match=r"golden\.rule\.target is set"):
            Rule(rule.reward, target=3).validate("golden.rule")

    @pytest.mark.parametrize(
        ("returns", "says"),
        [
            ("float('nan')", r"returned nan \(float\)"),
            ("None", r"returned None \(NoneType\)"),
            ("[1.0]", r"returned \[1.0\] \(list\)"),
            ("'good'", "returned 'good'"),
            ("1 / 0", "failed on the response 'b' .*ZeroDivisionError"),
        ],
    )
    def test_what_is_no_finite_number_is_refused_with_the_response(self, returns, says):
        rule = Rule(of(f"def f(prompt, response):\n    return {returns}\n"))
        with pytest.raises(GoodhartError, match=says) as error:
            rewards(rule, ["a"], ["b"], [])
        assert rule.reward in error.value.problem
        assert "'b'" in error.value.problem

    def test_a_study_tries_it_where_it_is_given(self):
        def draws(prompt, response):
            import random

            return random.random()

        def short(prompt):
            return 0.0

        for function, says in ((draws, "for the same texts"), (short, r"short\(prompt, response\)")):
            with pytest.raises(GoodhartError, match=says) as error:
                goodhart.study({"golden": judged(function)})
            assert "golden.rule.reward" in error.value.problem

    def test_a_function_where_none_can_be_is_an_error_of_that_key(self):
        with pytest.raises(GoodhartError, match=r"sft.steps is 'brevity@"):
            goodhart.study({"sft": {"steps": brevity}})


class TestAddresses:
    @pytest.fixture
    def path(self, tmp_path):
        (tmp_path / "mine.py").write_text("def mine(prompt, response):\n    return len(response)\n")
        path = tmp_path / "study.yaml"
        path.write_text(yaml.safe_dump({"golden": judged("mine.py:mine"), "proxy": judged("length")}))
        return path

    def test_the_text_is_in_the_address_of_what_depends_on_it_and_the_path_is_not(self, path, tmp_path):
        before = build_graph(read_study(str(path), []))
        (tmp_path / "moved.py").write_text((tmp_path / "mine.py").read_text())
        moved = build_graph(read_study(str(path), [f"golden.rule.reward={tmp_path}/moved.py:mine"]))
        assert moved.golden.id == before.golden.id
        assert {run.id for run in moved.runs.values()} == {run.id for run in before.runs.values()}
        (tmp_path / "mine.py").write_text("def mine(prompt, response):\n    return -len(response)\n")
        after = build_graph(read_study(str(path), []))
        assert (after.proxy.id, after.sft.id, after.pairs.id) == (before.proxy.id, before.sft.id, before.pairs.id)
        assert after.golden.id != before.golden.id
        assert after.labels.id != before.labels.id

    def test_what_is_given_in_python_is_what_a_file_names(self, path, tmp_path):
        ours = goodhart.study({"golden": judged(brevity), "proxy": judged("length")})
        theirs = read_study(str(path), [f"golden.rule.reward={__file__}:brevity"])
        assert build_graph(ours).golden.id == build_graph(theirs).golden.id
        changed = goodhart.study({"golden": judged("length")}, **{"golden.rule.reward": brevity})
        assert changed.golden.rule.reward == ours.golden.rule.reward

    def test_unknown_words_are_refused_with_the_names_and_the_form_of_ones_own(self, path):
        for key in ("golden.rule.reward", "arms.online.labeller"):
            with pytest.raises(GoodhartError, match=rf"{key} is 'loud'.*FILE.py:NAME"):
                read_study(str(path), [f"{key}=loud"])


PRICED = """
    from torch.nn.functional import softplus
    def f(s, *, beta, price=0.01):
        z = beta * (s.rho[:, 0] - s.rho[:, 1]) - price * (s.lengths[:, 0] - s.lengths[:, 1])
        label = s.of_label()
        return label * softplus(-z) + (1 - label) * softplus(z)
"""


class TestLoss:
    def test_what_it_learns_from_is_what_it_reads(self):
        reads = {
            "label": "s.of_label() * s.rho[:, 0]",
            "reward": "(s.of_reward() * s.policy).mean(1)",
            "mark": "(s.mark * s.rho).sum(1)",
            "none": "-s.policy.mean(1)",
        }
        for supervision, body in reads.items():
            reference = of(f"def f(s):\n    return {body}\n")
            extensions.own_loss(reference)
            assert KINDS[reference].supervision == supervision
            assert not KINDS[reference].tokenwise
        tokens = of("def f(s):\n    return (s.token_by_token().policy * s.of_reward()[..., None]).sum((1, 2))\n")
        extensions.own_loss(tokens)
        assert KINDS[tokens].tokenwise

    @pytest.mark.parametrize(
        ("body", "says"),
        [
            ("s.rho.mean()", r"shape \(\) and torch.float32; return one value for each prompt.*shape \(3,\)"),
            ("s.rho", r"shape \(3, 2\)"),
            ("0.0", r"returned 0.0 \(float\)"),
            ("s.rho.detach().sum(1)", "does not depend on the policy"),
            ("s.of_label() * s.of_reward().sum(1) * s.rho.sum(1)", "reads label and reward"),
            ("s.rhos", r"failed \(AttributeError"),
        ],
    )
    def test_what_it_returns_is_checked(self, body, says):
        reference = of(f"def f(s):\n    return {body}\n")
        with pytest.raises(GoodhartError, match=says) as error:
            extensions.own_loss(reference)
        assert reference in error.value.problem

    def test_it_is_checked_again_in_the_run(self):
        reference = of("def f(s):\n    return s.rho.sum(1)[:3]\n")
        extensions.own_loss(reference)
        scores = _recording(set())
        assert checked(reference)(scores).shape == (3,)
        with pytest.raises(GoodhartError, match=r"returned a tensor of shape \(3,\).*shape \(4,\)"):
            LOSSES[reference](Scores(torch.zeros(4, 2, requires_grad=True), torch.zeros(4, 2), torch.ones(4, 2)))

    def test_its_arguments_are_the_methods_parameters(self):
        loss = of(PRICED)
        study = goodhart.study({"arms": {"mine": {"loss": loss, "sweep": {"price": [0.0, 0.1]}}}})
        method = study.arms["mine"].method
        assert (method.kind.parameters, method.parameters) == (("beta", "price"), {"price": 0.01})
        assert method.has_beta
        free = of("def f(s, *, price=0.5):\n    return s.of_label() * (s.rho[:, 0] - price * s.rho[:, 1])\n")
        assert goodhart.study({"arms": {"mine": {"loss": free}}}).arms["mine"].beta == ()
        with pytest.raises(GoodhartError, match="lacks the parameters price"):
            goodhart.study({"arms": {"mine": {"loss": of(PRICED.replace("=0.01", ""))}}})

    def test_it_learns_what_the_same_loss_by_name_learns(self, tmp_path):
        """In a finite world, to the last bit."""
        ours = of(
            """
            def f(s, *, beta):
                import torch
                z, label = beta * (s.rho[:, 0] - s.rho[:, 1]), s.of_label()
                f = torch.nn.functional.softplus
                return label * f(-z) + (1 - label) * f(z)
            """
        )
        own = {"beta": [0.3], "lr": [0.1], "steps": 8, "checkpoints": 2}
        world = {"kind": "transitive", "prompts": 2, "responses": 3}
        arms = {"dpo": {"method": "dpo", **own}, "mine": {"method": "dpo", "loss": ours, **own}}
        study = goodhart.study({"name": "own", "world": world, "arms": arms, "resamples": 20})
        session.remember(study, tmp_path, "Python")
        _, graph, engine = make_cells(study, tmp_path)
        rows = pq.read_table(write_tables(tmp_path, study, graph, engine) / "rows.parquet").to_pylist()
        values = {arm: [row["kl"] for row in rows if row["arm"] == arm] for arm in arms}
        assert values["mine"] == pytest.approx(values["dpo"], rel=1e-9)
        assert max(values["mine"]) > 0.01
        (kept,) = (tmp_path / "functions").iterdir()
        assert kept.stem == ours
        cells = [c.read_text() for c in (tmp_path / "cells").glob("tabular-run-*/cell.json")]
        assert sum(f'"loss": "{ours}"' in text for text in cells) == 1
        functions._KNOWN.clear()
        functions._LOADED.clear()
        extensions.forget()
        assert session.asked("own", [], tmp_path).arms["mine"].method.kind.supervision == "label"


def batch(*rows):
    return Batch([Prompt(f"{i:012x}", (i,)) for i in range(len(rows))], rows)


def decode(rows):
    return [" ".join(map(str, row)) for row in rows]


class TestLabeller:
    @pytest.mark.parametrize(
        ("supervision", "body", "value"),
        [
            ("label", "float(len(responses[0]) < len(responses[1]))", [1.0, 0.0]),
            ("reward", "[len(r) for r in responses]", [[1, 3], [3, 1]]),
            ("mark", "[len(r) > 1 for r in responses]", [[0, 1], [1, 0]]),
        ],
    )
    def test_what_it_returns_is_what_is_learnt(self, supervision, body, value):
        labeller = OwnLabels(of(f"def f(prompt, responses):\n    return {body}\n"), supervision, decode)
        got = labeller.label(batch([[1], [1, 2]], [[3, 4], [5]]), 0)
        assert getattr(got, supervision).tolist() == value
        assert got.responses == [[[1], [1, 2]], [[3, 4], [5]]] or [list(r) for r in got.responses]

    def test_it_can_ask_the_proxy(self):
        reference = of("def f(prompt, responses, rewards):\n    return rewards[0] > rewards[1]\n")
        assert extensions.reads_rewards(reference)
        labeller = OwnLabels(reference, "label", decode, TableJudge(np.full((1, 3, 3), 0.5), np.array([[0.0, 2, -1]])))
        batches = [Batch([Prompt("0" * 12, (0,))], [each]) for each in ([[1], [2]], [[2], [0]])]
        assert [labeller.label(each, 0).label.tolist() for each in batches] == [[1.0], [0.0]]

    @pytest.mark.parametrize(
        ("supervision", "body", "says"),
        [
            ("label", "1.5", r"returned 1.5 \(float\).*from 0 to 1"),
            ("label", "[0.5]", r"returned \[0.5\] \(list\)"),
            ("reward", "[0.5]", "one finite number for each response"),
            ("reward", "0.5", "one finite number for each response"),
            ("reward", "[0.5, float('inf')]", "one finite number for each response"),
            ("mark", "[2, 0]", r"from 0 \(bad\) to 1"),
        ],
    )
    def test_what_is_no_supervision_is_refused_with_what_is(self, supervision, body, says):
        reference = of(f"def f(prompt, responses):\n    return {body}\n")
        with pytest.raises(GoodhartError, match=says) as error:
            OwnLabels(reference, supervision, decode).label(batch([[1], [2]]), 0)
        assert f"the labeller {reference} returned" in error.value.problem

    @pytest.mark.parametrize(
        ("arm", "says"),
        [
            ({"mode": "soft"}, "leave both out"),
            ({"drawn": ["policy"] * 4, "selection": "best and worst"}, "leave both out"),
            ({"method": "best-of-n"}, None),
            ({"source": "data"}, "only a policy source needs a proxy"),
        ],
    )
    def test_it_stands_in_no_slot_that_would_not_read_it(self, arm, says):
        labeller = of("def f(prompt, responses):\n    return 0.5\n")
        if says is None:
            return
        with pytest.raises(GoodhartError, match=says):
            goodhart.study({"arms": {"mine": {**arm, "labeller": labeller}}})

    def test_the_run_reads_no_proxy_unless_it_asks(self):
        deaf = of("def f(prompt, responses):\n    return 0.5\n")
        asking = of("def f(prompt, responses, rewards):\n    return 0.5\n")
        graph = build_graph(goodhart.study({"arms": {"a": {"labeller": deaf}, "b": {"labeller": asking}}}))
        reads = {arm: "judge" in run.inputs for (arm, _, _), run in graph.runs.items()}
        assert reads == {"a": False, "b": True}
        with pytest.raises(GoodhartError, match=r"arms.a.labeller: the labeller f@.* returned 3"):
            goodhart.study({"arms": {"a": {"labeller": of("def f(prompt, responses):\n    return 3\n")}}})
