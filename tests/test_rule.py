"""A rule as a judge: exact rewards by hand, functions of the text alone, exact ties, noise that stays."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from goodhart.alignment.batch import Batch
from goodhart.alignment.labellers import JudgeLabels
from goodhart.alignment.rule import RuleJudge, by_prompt, prompt_key
from goodhart.errors import GoodhartError
from goodhart.tasks.prompts import Prompt
from goodhart.tasks.reward import Rule, rewards, words_of
from goodhart.tasks.similarity import similarity
from goodhart.training.preference import quality_of

PROMPT = "open_file\nOpen a file and read the lines."
LINE = "open a file and read the lines"
RULES = [
    Rule("length", target=3),
    Rule("word", words=("file", "sum")),
    Rule("copy", target=3),
    Rule("similarity"),
    Rule("length", target=3, noise=0.7),
    Rule("similarity", noise=0.2),
]
texts = st.lists(st.sampled_from(["return", "the", "sum", "of", "file", "lines", "a", "read"]), max_size=6).map(
    " ".join
)
rules = st.sampled_from(RULES)


def reward(rule, text, lines=(LINE,)):
    return rewards(rule, [PROMPT], [text], [lines])[0]


class TestSettings:
    @pytest.mark.parametrize("rule", [Rule(), *RULES, Rule("word", words=("naïve", "SUM", "42"), scale=2.0)])
    def test_what_a_reward_reads_may_be_set(self, rule):
        rule.validate("judge.rule")

    @pytest.mark.parametrize(
        ("rule", "name"),
        [
            (Rule("word", target=3, words=("sum",)), "target"),
            (Rule("similarity", target=3), "target"),
            (Rule("similarity", words=("sum",)), "words"),
            (Rule("length", words=("sum",)), "words"),
            (Rule("copy", target=3, words=("sum",)), "words"),
        ],
    )
    def test_what_it_does_not_read_is_refused_and_not_ignored(self, rule, name):
        with pytest.raises(GoodhartError) as found:
            rule.validate("judge.rule")
        assert found.value.problem == f"judge.rule.{name} is set, which the reward '{rule.reward}' does not read"
        assert f"leave judge.rule.{name} out" in found.value.remedy

    @pytest.mark.parametrize("odd", ["open file", "open_file", "", " file", "file.", "!"])
    def test_what_is_not_one_word_can_never_be_in_a_response_and_is_refused(self, odd):
        with pytest.raises(GoodhartError) as found:
            Rule("word", words=("sum", odd)).validate("judge.rule")
        assert found.value.problem == f"judge.rule.words holds {odd!r}, which is not one word"

    def test_a_reward_for_words_needs_some(self):
        with pytest.raises(GoodhartError, match=r"judge\.rule\.words is empty"):
            Rule("word").validate("judge.rule")

    def test_left_alone_it_wants_eight_words_and_a_word_less_is_worth_four_logits(self, judge_of, tokens):
        judge, (prompt, _) = judge_of(Rule())
        eight, seven, nine = ("a " * n for n in (8, 7, 9))
        assert [reward(Rule(), text) for text in (eight, seven, nine)] == [0, -1, -1]
        pairs = Batch.of_pairs([Prompt("0" * 12, prompt)], [tokens(eight)], [tokens(seven)])
        assert judge.prefer(pairs)[0, 0] == pytest.approx(1 / (1 + math.exp(-4.0)))


@pytest.fixture(scope="module")
def judge_of(tokenizer):
    def judge(rule, seed=0):
        prompts = [
            tokenizer.encode(PROMPT, add_special_tokens=False),
            tokenizer.encode("sum", add_special_tokens=False),
        ]
        rows = [(prompt_key(prompts[0]), LINE), (prompt_key(prompts[1]), "return the sum of two numbers")]
        return RuleJudge(rule, tokenizer, by_prompt(rows), seed), [tuple(prompt) for prompt in prompts]

    return judge


@pytest.fixture(scope="module")
def tokens(tokenizer):
    return lambda text: [*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id]


class TestRewards:
    @pytest.mark.parametrize(
        ("rule", "text", "value"),
        [
            (Rule("length", target=3), "one two three", 0),
            (Rule("length", target=3), "one", -2),
            (Rule("length", target=3), "", -3),
            (Rule("length", target=3), "snake_case is, four...", -1),
            (Rule("word", words=("sum", "File")), "the SUM of sums", 0.5),
            (Rule("word", words=("sum", "file")), "file file sum", 1),
            (Rule("copy", target=3), "read the lines", 1),
            (Rule("copy", target=3), "read read read", 1 / 3),
            (Rule("copy", target=3), "read the lines of it", (3 - 2) / 3),
            (Rule("copy", target=3), "", -1),
            (Rule("similarity"), LINE, 1),
            (Rule("similarity"), "", 0),
        ],
    )
    def test_by_hand(self, rule, text, value):
        assert reward(rule, text) == pytest.approx(value)

    @given(st.integers(1, 12), texts)
    def test_only_a_line_of_that_many_different_words_of_the_prompt_reaches_the_peak_of_copy(self, target, text):
        words, own = words_of(text), set(words_of(PROMPT))
        best = len(words) == target and len(set(words)) == target and set(words) <= own
        found = reward(Rule("copy", target=target), text)
        assert found <= 1
        assert (found == 1) == best

    def test_similarity_is_the_hidden_measure_and_the_nearest_line_counts(self):
        there = similarity(["read a line", "read a line"], [LINE, "a line"])
        assert reward(Rule("similarity"), "read a line", (LINE, "a line")) == there.max() > there.min()


class TestJudge:
    @given(rules, st.lists(texts, min_size=1, max_size=5), st.randoms())
    def test_a_score_is_a_function_of_the_text_alone(self, judge_of, tokens, tokenizer, rule, drawn, random):
        """Not of the place in a batch, of what else is in it, of padding behind the text, or of the call."""
        judge, (prompt, _) = judge_of(rule)
        responses = [tokens(text) for text in drawn]
        whole = judge.alone([prompt] * len(drawn), [responses])[:, 0]
        order = random.sample(range(len(drawn)), len(drawn))
        padded = [[*responses[i], *[tokenizer.pad_token_id] * random.randint(0, 3)] for i in order]
        np.testing.assert_array_equal(judge.alone([prompt] * len(drawn), [padded])[:, 0], whole[order])
        alone = [judge_of(rule)[0].alone([prompt], [[response]])[0, 0] for response in responses]
        np.testing.assert_array_equal(alone, whole)

    @given(rules, texts, texts)
    def test_the_two_orders_add_up_to_one_and_equal_texts_are_a_tie(self, judge_of, tokens, rule, first, second):
        judge, prompts = judge_of(rule)
        ids = [Prompt(f"{i:012x}", prompt) for i, prompt in enumerate(prompts)]
        pairs = Batch.of_pairs(ids, [tokens(first)] * 2, [tokens(second)] * 2)
        r = judge.prefer(pairs)
        np.testing.assert_allclose(r.sum(1), 1, atol=1e-12)
        np.testing.assert_array_equal(judge.prefer(pairs.swapped()), r[:, ::-1])
        if first == second:
            assert (r == 0.5).all()
            assert JudgeLabels(judge, "hard", 0).label(pairs, 0).label.tolist() == [0.5, 0.5]

    def test_probabilities_by_hand(self, judge_of, tokens):
        judge, (prompt, _) = judge_of(Rule("length", target=3, scale=0.5))
        pairs = Batch.of_pairs(
            [Prompt("0" * 12, prompt)] * 2, [tokens("a b c"), tokens("a")], [tokens("a"), tokens("a b c d e")]
        )
        odds = 1 / (1 + math.exp(-1))
        np.testing.assert_allclose(judge.prefer(pairs), [[odds, 1 - odds], [0.5, 0.5]])
        assert JudgeLabels(judge, "hard", 0).label(pairs, 0).label.tolist() == [1.0, 0.5]

    @given(rules, st.lists(texts, min_size=2, max_size=4))
    def test_what_is_known_of_opponents_changes_nothing(self, judge_of, tokens, rule, drawn):
        judge, prompts = judge_of(rule)
        responses, *opponents = ([tokens(text)] * 2 for text in drawn)
        known = judge.alone(prompts, opponents)
        r = judge.prefer_each(prompts, responses, opponents)
        np.testing.assert_array_equal(judge.prefer_each(prompts, responses, opponents, known), r)
        assert r.shape == (2, len(opponents), 2)

    def test_noise_is_keyed_by_seed_prompt_and_text_and_has_its_size(self, judge_of, tokens):
        rule = Rule("length", target=3, scale=2.0, noise=0.7)
        judge, (prompt, other) = judge_of(rule)
        exact, _ = judge_of(replace(rule, noise=0.0))
        responses = [tokens(f"a{i}") for i in range(1500)]
        asked = [prompt] * len(responses)
        error = (judge.alone(asked, [responses]) - exact.alone(asked, [responses]))[:, 0] / rule.scale
        assert abs(error.mean()) < 4 * 0.7 / math.sqrt(1500)
        assert error.std() == pytest.approx(0.7, rel=0.08)
        elsewhere = judge.alone([other] * len(responses), [responses])[:, 0]
        reseeded = judge_of(rule, seed=1)[0].alone(asked, [responses])[:, 0]
        here = judge.alone(asked, [responses])[:, 0]
        assert (elsewhere != here).all()
        assert (reseeded != here).all()

    def test_noise_costs_agreement_with_the_exact_rule_and_never_flips_with_the_order(self, judge_of, tokens):
        exact, (prompt, _) = judge_of(Rule("length", target=3))
        sides = [[tokens("b " * (i % n) + f"a{i}") for i in range(200)] for n in (3, 4)]
        pairs = JudgeLabels(exact, "hard", 0).label(Batch.of_pairs([Prompt("0" * 12, prompt)] * 200, *sides), 0)
        found = [quality_of(judge_of(Rule("length", target=3, noise=noise))[0], pairs)[0] for noise in (0.0, 1.0, 30.0)]
        assert found[0].accuracy > 0.8 > found[1].accuracy > found[2].accuracy
        assert found[2].accuracy == pytest.approx(0.5, abs=0.12)
        assert [quality.flips for quality in found] == [0, 0, 0]

    def test_no_pairs_have_no_verdicts(self, judge_of):
        for rule in RULES:
            assert judge_of(rule)[0].prefer(Batch.of_pairs([], [], [])).shape == (0, 2)

    def test_what_is_saved_judges_alike(self, judge_of, tokens, tmp_path):
        for rule in RULES:
            judge, prompts = judge_of(rule, seed=3)
            judge.save(tmp_path)
            responses = [tokens("read a file"), tokens("sum")]
            again = RuleJudge.load(tmp_path)
            np.testing.assert_array_equal(again.alone(prompts, [responses]), judge.alone(prompts, [responses]))
            assert (again.rule, again.seed) == (rule, 3)

    def test_a_prompt_without_a_human_line_is_an_error(self, judge_of, tokens):
        judge, _ = judge_of(Rule("similarity"))
        with pytest.raises(GoodhartError, match="human lines"):
            judge.alone([(1, 2)], [[tokens("a")]])
        assert judge_of(Rule("length"))[0].alone([(1, 2)], [[tokens("a")]]).shape == (1, 1)


def test_different_lines_of_one_prompt_are_kept_once_each_in_their_order():
    assert by_prompt([(b"a", "x"), (b"b", "x"), (b"a", "y"), (b"a", "x")]) == {b"a": ("x", "y"), b"b": ("x",)}
