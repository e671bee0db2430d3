"""A split by prompt lets no prompt stand on both sides."""

import random

import pytest

from goodhart.errors import GoodhartError
from goodhart.tasks.preference import Preference, prompt_draws, prompt_text, split_by_prompt
from preference_data_cases import turns


def examples_of(prompts):
    return [Preference(str(i), prompt, "x", "y", 1.0) for i, prompt in enumerate(prompts)]


def sides(examples, share, seed):
    """The (train, test) parts."""
    return [[examples[i] for i in places] for places in split_by_prompt(prompt_draws(examples, seed), share)]


PROMPTS = [f"prompt {i % 300}" for i in range(600)]


class TestSplitByPrompt:
    def test_no_prompt_is_on_both_sides(self):
        examples = examples_of(PROMPTS + [p.upper() + " \n" for p in PROMPTS])
        train, test = sides(examples, 0.2, seed=1)

        def texts(part):
            return {" ".join(prompt_text(e.prompt).lower().split()) for e in part}

        assert not texts(train) & texts(test)
        assert sorted(e.id for e in train + test) == sorted(e.id for e in examples)
        assert 30 < len(texts(test)) < 90  # 60 expected of 300, standard deviation 7

    def test_a_prompts_side_depends_on_nothing_else(self):
        examples = examples_of(PROMPTS)
        _, test = sides(examples, 0.2, seed=1)
        mixed = random.Random(0).sample(examples, 400)
        _, again = sides(mixed, 0.2, seed=1)
        assert {e.id for e in again} == {e.id for e in test} & {e.id for e in mixed}
        _, other = sides(examples, 0.2, seed=2)
        assert {e.id for e in other} != {e.id for e in test}

    def test_chat_prompts(self):
        same = examples_of([turns("p"), turns("p")] + [turns(str(i)) for i in range(50)])
        train, test = sides(same, 0.5, seed=0)
        assert len({e.id in {t.id for t in test} for e in same[:2]}) == 1
        assert train

    @pytest.mark.parametrize("share", [0.0, 1.0, -1.0, float("nan")])
    def test_a_share_outside(self, share):
        with pytest.raises(GoodhartError, match="test share"):
            sides(examples_of(["a"]), share, seed=0)

    def test_an_empty_part(self):
        with pytest.raises(GoodhartError, match=r"part of 1 comparisons.* is empty"):
            sides(examples_of(["a"]), 0.5, seed=0)
