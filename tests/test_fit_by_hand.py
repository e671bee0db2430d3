"""When a preference model in training is looked at, what is said of it, and how many orders are asked."""

import numpy as np
import pytest
import torch

from goodhart.alignment.batch import Batch
from goodhart.models.preference import PreferenceModel
from goodhart.models.tree import plant
from goodhart.training.preference import fit
from goodhart.training.settings import Optimisation, Preference
from tiny_models import llama, prompt

PROMPTS, FIRST, SECOND = [[2, 3], [4], [5, 6]], [[9, 1], [9, 7, 1], [9]], [[8, 1], [8, 1], [8, 6]]


def model_of(kind):
    return PreferenceModel(llama(layers=1), kind, 15, 0, "plain")


def data(label):
    return Batch.of_pairs([prompt(i, *p) for i, p in enumerate(PROMPTS)], FIRST, SECOND, np.array(label))


@pytest.mark.parametrize(("steps", "every", "expected"), [(5, 2, [0, 2, 4, 5]), (4, 2, [0, 2, 4]), (1, 9, [0, 1])])
def test_a_model_is_looked_at_as_often_as_asked_and_at_the_end_and_each_look_is_said(steps, every, expected):
    said = []
    settings = Preference(
        steps=steps,
        batch=3,
        check_every=every,
        patience=9,
        head_factor=1.0,
        optimisation=Optimisation(lr=1e-3, warmup=1),
    )
    looks = fit(model_of("bradley-terry"), data([1.0] * 3), data([1.0] * 3), settings, 0, said.append)
    assert [look["step"] for look in looks] == expected
    assert [each for each in said if "accuracy" in each] == looks[1:], "the first look is of before the training"
    assert len({look["loss"] for look in looks}) == len(looks)


@pytest.mark.parametrize("kind", ["pairwise", "bradley-terry"])
@torch.no_grad()
def test_one_order_is_the_first_of_two(kind):
    model = model_of(kind)
    one, two = (model.both(PROMPTS, FIRST, SECOND, orders=orders) for orders in (1, 2))
    assert (one.shape, two.shape) == ((3, 1), (3, 2))
    torch.testing.assert_close(one[:, 0], two[:, 0])


def test_a_tree_is_taken_to_a_device_once():
    tree = plant([[5, 6], [7]], [[[8, 9], [1]], [[], [2]]])
    there = tree.to("meta")
    assert there is tree.to(torch.device("meta"))
    assert tree.to("cpu") is tree
    assert {part.device.type for part in (there.ids, there.all.whole.index, there.ends.branches.places)} == {"meta"}
