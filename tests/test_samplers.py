"""Samplers: the built-in one reports what the trainer scores; others are told of weights, checked and probed."""

import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import goodhart
from goodhart import functions
from goodhart.alignment.batch import Batch
from goodhart.alignment.sources import DelayedSource, PolicySource
from goodhart.errors import GoodhartError
from goodhart.functions import Function
from goodhart.recipes.arm import arm_of
from goodhart.sampling.keyed import Draws, KeyedSampler
from goodhart.sampling.probe import LIMIT, Probe
from goodhart.sampling.samplers import GROUP, Setup, Synced, check_known, code_of, sampler_of
from goodhart.sampling.written import Written
from goodhart.tasks.prompts import Prompt
from tiny_models import END, PAD, llama, policy_of

LONGEST, PROMPTS = 9, [Prompt(f"{i:012x}", (2 + i % 5, 3, 4 + i % 3)) for i in range(8)]
TOKENS, DRAWS = [p.tokens for p in PROMPTS], Draws(0, "test", [p.number for p in PROMPTS])
PLAIN = """
    def plain(model, prompts, uniforms, end):
        \"\"\"One token after the other, without a cache, by the inverse of the cumulative law.\"\"\"
        import torch

        responses, logps = [], []
        for prompt, rows in zip(prompts, uniforms, strict=True):
            responses.append([])
            logps.append([])
            for u in rows:
                text, total = [], 0.0
                for each in u:
                    logits = model(input_ids=torch.tensor([prompt + text])).logits[0, -1].double() / TEMPERATURE
                    logp = logits.log_softmax(0)
                    token = min(int(torch.searchsorted(logp.exp().cumsum(0), float(each), right=True)), len(logp) - 1)
                    text.append(token)
                    total += float(REPORTED)
                    if token == end:
                        break
                responses[-1].append(text)
                logps[-1].append(total)
        return responses, logps
"""


def sharp(seed=0):
    """A model whose laws are far from uniform, so that another temperature is another law."""
    return llama(seed=seed, scale=0.6)


def plain(temperature=1.0, reported="logp[token]"):
    text = textwrap.dedent(PLAIN).replace("TEMPERATURE", str(temperature)).replace("REPORTED", reported)
    return functions.learn(Function("plain", text))


def synced(name, model):
    setup = Setup(Path(), END, PAD, LONGEST)
    policy = policy_of(model)
    return Synced(name, sampler_of(name, setup), setup, Probe(name, PAD, policy.layout))


class TestBuiltIn:
    def test_what_it_reports_is_what_the_trainer_scores(self):
        policy = policy_of(sharp(), max_tokens=LONGEST)
        for temperature, same in ((1.0, True), (0.7, False)):
            sampler = replace(policy.sampler, temperature=temperature, batch=3)
            written = sampler.written(policy.model, TOKENS, 3, DRAWS)
            assert written.responses == sampler(policy.model, TOKENS, 3, DRAWS)
            with torch.no_grad():
                scored = policy.log_probs(TOKENS, written.responses).double().numpy()
            apart = np.abs(written.logps - scored).max()
            assert (apart < 1e-4) == same
            assert same or apart > 0.1

    def test_the_responses_are_those_of_its_uniforms_and_a_seed_names_each(self):
        draws = Draws(3, "test", [5, 6], [2, 0])
        whole, part = draws.uniforms(2, 4), Draws(3, "test", [5], 3).uniforms(1, 4)
        np.testing.assert_array_equal(whole[0, 1], part[0, 0])
        seeds = [each for row in draws.seeds(3) for each in row]
        assert len(set(seeds)) == 6
        assert all(0 <= each < 2**53 for each in seeds)

    def test_what_is_drawn_keeps_its_log_probability_wherever_it_goes(self):
        policy = policy_of(sharp(), max_tokens=LONGEST)
        batch = PolicySource(PROMPTS, 8, 0, ("policy",) * 3).draw(0, policy)
        assert batch.sampled is not None
        moved = Batch.joined([each.labelled(np.ones(4)) for each in (batch[:4], batch[4:])]).take([5, 1])
        chosen = moved.columns([[2, 0], [1, 1]])
        with torch.no_grad():
            scored = policy.log_probs(chosen.contexts, chosen.responses).double().numpy()
        np.testing.assert_allclose(chosen.sampled, scored, atol=1e-4)
        assert batch.whole.sampled is not None

    def test_what_is_cut_behind_a_forced_beginning_has_none(self):
        policy = policy_of(llama(scale=0.1), max_tokens=LONGEST)
        data = Batch.of_pairs(PROMPTS, [[5, 6, 7, 8, END]] * 8, [[5, END]] * 8, np.ones(8))
        batch = PolicySource(PROMPTS, 8, 0, ("policy",), {}, data, 1.0, LONGEST).draw(0, policy)
        cut = np.array([[len(text) + len(prefix) == LONGEST and text[-1] != END for text in row]
                        for row, prefix in zip(batch.responses, batch.prefixes, strict=True)])  # fmt: skip
        assert cut.any()
        assert not cut.all()
        with torch.no_grad():
            scored = policy.log_probs(batch.contexts, batch.responses).double().numpy()
        np.testing.assert_array_equal(np.isnan(batch.sampled), cut)
        np.testing.assert_allclose(batch.sampled[~cut], scored[~cut], atol=1e-4)


class TestProbe:
    def test_an_honest_function_is_taken_and_gives_the_keyed_responses(self):
        model = sharp()
        written = synced(plain(), model).written(model, TOKENS, 2, DRAWS)
        ours = KeyedSampler(END, PAD, LONGEST).written(model, TOKENS, 2, DRAWS)
        assert written.responses == ours.responses
        np.testing.assert_allclose(written.logps, ours.logps, atol=1e-4)

    def test_another_temperature_is_refused_with_the_measured_difference(self):
        model = sharp()
        with pytest.raises(GoodhartError, match=r"nats per token away from the trainer's \(mean") as error:
            synced(plain(0.7), model).written(model, TOKENS, 2, DRAWS)
        said = float(error.value.problem.split(" that are ")[1].split(" ")[0])
        assert said > 5 * LIMIT

    @pytest.mark.parametrize(("temperature", "says"), [(0.4, "likelier"), (2.5, "less likely")])
    def test_one_that_reports_the_policys_law_and_samples_by_another_is_refused(self, temperature, says):
        model = sharp()
        sampler = synced(plain(temperature, f"({temperature} * logits).log_softmax(0)[token]"), model)

        def synced_often():
            for call in range(6):
                sampler.at = ()
                sampler.written(model, TOKENS, 2, replace(DRAWS, first_sample=2 * call))

        with pytest.raises(GoodhartError, match=rf"samples by another law: its tokens are {says} .* standard errors"):
            synced_often()

    def test_an_honest_one_is_not_refused_however_often_it_is_looked_at(self):
        policy = policy_of(sharp(), max_tokens=LONGEST)
        probe = Probe("keyed", PAD, policy.layout)
        most = 0.0
        for call in range(60):
            draws = replace(DRAWS, first_sample=2 * call)
            probe.look(policy.model, TOKENS, policy.sampler.written(policy.model, TOKENS, 2, draws))
            most = max(most, abs(probe.total) / probe.variance**0.5)
        assert most < 4

    def test_it_is_told_of_every_change_of_weights_and_of_nothing_else(self):
        told = []

        class Counting:
            def update(self, model):
                told.append(model)

            def sample(self, prompts, samples, draws):
                return KeyedSampler(END, PAD, LONGEST).written(told[-1], prompts, samples, draws)

        model = sharp()
        policy = policy_of(model)
        setup = Setup(Path(), END, PAD, LONGEST)
        policy = replace(policy, sampler=Synced("counting", Counting(), setup, Probe("counting", PAD, policy.layout)))
        source = DelayedSource(PolicySource(PROMPTS, 4, 0), 2)
        for step in range(4):
            source.draw(step, policy)
            with torch.no_grad():
                next(model.parameters()).add_(0.01)
        assert len(told) == 2
        source.inner.draw(4, policy)
        source.inner.draw(5, policy)
        assert len(told) == 3
        assert told[-1] is model


class TestReturned:
    @pytest.mark.parametrize(
        ("body", "says"),
        [
            ("None", "returned a NoneType"),
            ("([], [])", r"log-probabilities of shape \(0,\)"),
            ("([], [[-1.0] * 2 for p in prompts])", "returned 0 rows"),
            ("([[[END]] for p in prompts], [[-1.0] for p in prompts])", r"rows of \[1\] responses"),
            ("([[[END]] * 2 for p in prompts], [[-1.0] for p in prompts])", r"log-probabilities of shape \(8, 1\)"),
            ("([[[END]] * 2 for p in prompts], [[float('nan')] * 2 for p in prompts])", "log-probabilities of shape"),
            ("([[[END]] * 2 for p in prompts], [[0.5] * 2 for p in prompts])", "0 or less"),
            ("([[[5]] * 2 for p in prompts], [[-1.0] * 2 for p in prompts])", r"wrote \[5\] \(1 tokens\)"),
            ("([[[]] * 2 for p in prompts], [[-1.0] * 2 for p in prompts])", r"wrote \[\] \(0 tokens\)"),
            ("([[[END, END]] * 2 for p in prompts], [[-1.0] * 2 for p in prompts])", "first end token"),
            ("([[[10**6, END]] * 2 for p in prompts], [[-1.0] * 2 for p in prompts])", "token ids, int from 0 to"),
            ("1 / 0", "ZeroDivisionError"),
        ],
    )
    def test_what_are_no_responses_is_said_by_name(self, body, says):
        text = f"def odd(model, prompts, uniforms, end):\n    END = end\n    return {body}\n"
        name, model = functions.learn(Function("odd", text)), sharp()
        with pytest.raises(GoodhartError, match=says) as error:
            synced(name, model).written(model, TOKENS, 2, DRAWS)
        assert name in error.value.problem

    def test_names_are_checked_where_they_are_given(self, tmp_path, monkeypatch):
        with pytest.raises(GoodhartError, match=r"arms.a.sampler is 'keyd'; did you mean 'keyed'\?"):
            goodhart.study({"arms": {"a": {"sampler": "keyd"}}})
        with pytest.raises(GoodhartError, match="leave sampler out"):
            goodhart.study({"arms": {"a": {"method": "dpo", "sampler": plain()}}})
        few = functions.learn(Function("few", "def few(model):\n    return 0\n"))
        with pytest.raises(GoodhartError, match=r"few\(model, prompts, uniforms, end\)"):
            goodhart.study({"arms": {"a": {"sampler": few}}})
        assert arm_of("online-dpo", sampler=plain()).sampler == plain()

    def test_an_installed_package_announces_its_sampler(self, tmp_path, monkeypatch):
        package = tmp_path / "other_sampler.py"
        package.write_text(
            "class Other:\n    def __init__(self, setup): self.setup = setup\n    def update(self, model): pass\n"
            "    def sample(self, prompts, samples, draws): pass\n\ndef odd(setup): return 3\n"
        )
        dist = tmp_path / "other_sampler-1.dist-info"
        dist.mkdir()
        (dist / "METADATA").write_text("Metadata-Version: 2.1\nName: other-sampler\nVersion: 1\n")
        points = f"[{GROUP}]\nother = other_sampler:Other\nodd = other_sampler:odd\n"
        (dist / "entry_points.txt").write_text(points)
        monkeypatch.syspath_prepend(str(tmp_path))
        setup = Setup(tmp_path, END, PAD, LONGEST)
        check_known("other", "arms.a.sampler")
        assert sampler_of("other", setup).setup is setup
        before = code_of("other")
        package.write_text(package.read_text() + "\n# edited\n")
        assert code_of("other") != before
        assert code_of("keyed") == {}
        with pytest.raises(GoodhartError, match="the sampler odd is a int"):
            sampler_of("odd", setup)


def test_written_is_one_row_of_log_probabilities_for_each_prompt():
    empty = KeyedSampler(END, PAD, LONGEST).written(sharp(), [], 2, Draws(0, "test", []))
    assert isinstance(empty, Written)
    assert empty.logps.shape == (0, 2)
