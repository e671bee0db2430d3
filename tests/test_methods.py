"""The table of methods: what its rows say is what the losses read, and what a study file makes of them."""

import inspect

import pytest

from goodhart.alignment.losses import LOSSES
from goodhart.alignment.method import KINDS, Term
from goodhart.alignment.methods import METHODS
from goodhart.alignment.terms import FUNCTIONS, coefficient
from goodhart.config import build, choices, essential, plain_data
from goodhart.errors import GoodhartError
from goodhart.recipes.arm import Arm, arm_of, settings_of
from goodhart.studies.spec import read_study
from goodhart.training.statistics import STATISTICS
from micro_study import write_micro_study


@pytest.mark.parametrize("name", METHODS)
def test_every_row_is_a_method_that_a_study_can_name(name):
    more = {"external": "wide"} if METHODS[name].method.reference == "external" else {}
    arm = arm_of(name, **more)
    arm.validate(name)
    ((_, single),) = settings_of(arm)
    again = build(Arm, essential(single), "arm")
    assert essential(again) == essential(single)
    assert again.method.loss == METHODS[name].method.loss
    assert METHODS[name].formula
    assert METHODS[name].papers


def test_the_names_of_a_study_file_are_those_of_the_functions():
    assert set(LOSSES) == set(KINDS)
    assert set(FUNCTIONS) == set(choices(Term, "function"))
    assert {each for kind in KINDS.values() for each in kind.statistics} == set(STATISTICS)
    assert {row.method.loss for row in METHODS.values()} == set(LOSSES)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_loss_has_the_parameters_that_its_function_takes(loss):
    taken = inspect.signature(LOSSES[loss]).parameters.values()
    assert tuple(p.name for p in taken if p.kind is p.KEYWORD_ONLY) == KINDS[loss].parameters


def test_any_parameter_is_swept():
    arm = arm_of("vpo-offline", beta=(0.1, 0.2), sweep={"alpha": (0.01, 0.1)})
    points = dict(settings_of(arm))
    assert list(points) == [
        "beta=0.1 lr=0.0001 alpha=0.01",
        "beta=0.1 lr=0.0001 alpha=0.1",
        "beta=0.2 lr=0.0001 alpha=0.01",
        "beta=0.2 lr=0.0001 alpha=0.1",
    ]
    assert [single.method.parameters for single in points.values()] == [{"alpha": a} for a in (0.01, 0.1) * 2]
    assert {single.sweep == {} for single in points.values()} == {True}
    one = dict(settings_of(arm_of("vpo-offline", sweep={"alpha": (0.3,)})))
    assert list(one) == ["beta=0.1 lr=0.0001"], "what has one value tells no setting from another"
    said = arm_of("vpo-offline", parameters={"alpha": 0.3})
    assert essential(next(iter(one.values()))) == essential(next(settings_of(said))[1])


def test_what_a_file_says_of_an_arm_goes_before_its_method():
    arm = arm_of("tr-dpo", parameters={"reference_rate": 1.0}, beta=(0.3,), loss="ipo")
    assert (arm.method.loss, arm.beta, arm.method.reference) == ("ipo", (0.3,), "moving")
    assert arm.method.parameters == {"reference_rate": 1.0, "reference_every": 512.0}
    assert plain_data(arm_of("rloo"))["beta"] == []


@pytest.mark.parametrize(
    ("method", "keys", "says"),
    [
        ("dpo", {"parameters": {"alpha": 0.1}}, "alpha, which its slots do not read"),
        ("dpo", {"parameters": {"beta": 0.1}}, "beta and lr are keys of the arm"),
        ("dpo", {"sweep": {"beta": (0.1,)}}, "as a key of the arm"),
        ("dpo", {"sweep": {"alpha": ()}}, "at least one value"),
        ("dpo", {"loss": "simpo"}, "lacks the parameters gamma"),
        ("online-dpo", {"drawn": ("policy",) * 3}, "learns from 3 responses a prompt"),
        ("dpo", {"drawn": ("policy",) * 3}, "only a policy source draws"),
        ("rloo", {"drawn": ("policy",)}, "learns from 1 responses"),
        ("rloo", {"beta": (0.1,)}, "without one"),
        ("xpo", {"drawn": ("policy", "reference"), "terms": ({"coefficient": ["alpha"], "law": "drawn", "place": 2},)},
         "response 2"),
        ("kto", {"terms": ({"coefficient": ["desirable"], "law": "chosen"},)}, "learns from no labels"),
        ("dpo", {"reference": "external"}, "names the variant"),
        ("dpo", {"external": "wide"}, "the others name none"),
        ("raft", {"drawn": ("policy",)}, "selects 'best' of a single response"),
        ("dpo", {"parameters": {"prefix": 0.5}}, "forces prefixes"),
        ("h2o-ipo", {"parameters": {"replay": 0.0}}, "no pairs of one of the two"),
        ("h2o-ipo", {"parameters": {"replay": 1.0}}, "no pairs of one of the two"),
        ("dpo", {"buffer": True}, "keeps pairs in a buffer with source 'data'"),
        ("rloo", {"buffer": True}, "a loss that learns from labels"),
        ("online-ipo", {"buffer": True, "parameters": {"prefix": 0.5}}, "no buffer, or no prefix"),
    ],
)  # fmt: skip
def test_slots_that_do_not_fit_are_named_with_a_remedy(method, keys, says):
    with pytest.raises(GoodhartError) as caught:
        arm_of(method, **keys).validate("odd")
    assert says in str(caught.value)
    assert "odd" in str(caught.value)


def test_a_coefficient_is_the_signed_product_of_parameters():
    given = {"alpha": 0.5, "beta": 0.2}
    assert coefficient(["alpha", "beta"], given) == pytest.approx(0.1)
    assert coefficient(["-alpha", "beta"], given) == pytest.approx(-0.1)
    assert coefficient(["-alpha", "-beta"], given) == pytest.approx(0.1)
    with pytest.raises(KeyError, match="gamma"):
        coefficient(["gamma"], given)


def test_a_single_reward_needs_a_judge_that_scores(tmp_path):
    path = write_micro_study(tmp_path, arms={"mine": {"method": "reinforce"}}, hypotheses={}, axes={}, variants={})
    read_study(str(path), [])
    with pytest.raises(GoodhartError, match=r"'mine' learns from the reward of one response.*bradley-terry"):
        read_study(str(path), ["proxy.kind=pairwise"])
    read_study(str(path), ["proxy.kind=pairwise", "arms.mine.drawn=[policy, policy]"])


def test_an_external_reference_is_a_variant_of_the_study(tmp_path):
    arms = {"mine": {"method": "dpo-external", "external": "wider"}}
    path = write_micro_study(tmp_path, arms=arms, hypotheses={}, axes={})
    with pytest.raises(GoodhartError, match=r"'wider', which is no variant.*wide"):
        read_study(str(path), [])


def test_a_start_is_a_checkpoint_of_an_arm_that_begins_at_sft(tmp_path):
    first = {"method": "dpo", "steps": 4, "checkpoints": 2}
    for start, says in (
        ("dpo", "write ARM@STEP"),
        ("other@2", "name an arm"),
        ("dpo@3", "are 2, 4"),
        ("b@2", "name an"),
    ):
        arms = {"dpo": first, "a": {**first, "start": start}, "b": {**first, "start": "dpo@2"}}
        path = write_micro_study(tmp_path, arms=arms, hypotheses={}, axes={}, variants={})
        with pytest.raises(GoodhartError, match=says):
            read_study(str(path), [])
