"""Arms: what has a meaning alone and beside the others, and what a study file says about them."""

import re

import pytest
import yaml

from goodhart.analysis.hypotheses import Axis, Contrast, Hypothesis
from goodhart.errors import GoodhartError
from goodhart.recipes.arm import settings_of, written_by
from goodhart.recipes.settings import BestOf, Labels
from goodhart.studies.arms import validate_arms
from goodhart.studies.spec import Study, Variant, read_study
from goodhart.training.settings import Supervised
from tiny_arms import arm

OFFLINE = {"source": "data", "labeller": "data"}
SAMPLES = {"source": "samples", "labeller": "data"}
MIXTURE = {"source": "mixture", "labeller": "data"}
REPLAY = {"source": "stream", "stream": "online", "labeller": "data"}


def refused(check, *words):
    with pytest.raises(GoodhartError) as caught:
        check()
    text = str(caught.value)
    assert "\n" not in text
    for word in words:
        assert word in text


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"source": "data"}, "source 'data' with labeller 'proxy'"),
        ({"labeller": "data"}, "source 'policy' with labeller 'data'"),
        ({"source": "stream", "labeller": "data"}, "stream ''"),
        ({"stream": "online"}, "stream 'online'"),
        ({"window": 4}, "window 4"),
        ({**OFFLINE, "window": 0}, "window 0"),
        ({**REPLAY, "window": -1}, "window -1"),
        ({"refresh": -1}, "refresh -1"),
        ({**OFFLINE, "refresh": 4}, "refresh 4"),
        (SAMPLES, "writers []"),
        ({**SAMPLES, "writers": ("sft",)}, "writers ['sft']"),
        ({**SAMPLES, "writers": ("sft",) * 3}, "writers ['sft', 'sft', 'sft']"),
        ({"writers": ("sft", "sft")}, "writers ['sft', 'sft']"),
        (MIXTURE, "parts {}"),
        ({"parts": {"online": 1.0}}, "parts {'online': 1.0}"),
        ({**MIXTURE, "parts": {"online": 0.5, "offline": 0.4}}, "add up to 1"),
        ({**MIXTURE, "parts": {"online": 1.5, "offline": -0.5}}, "positive"),
        ({"labeller": "golden"}, "its judge"),
        ({"checkpoints": 0}, "0 checkpoints"),
        ({"steps": 5, "checkpoints": 6}, "6 checkpoints in 5 steps"),
        ({"lr": ()}, "lr []"),
        ({"lr": (1e-4, 0.0)}, "lr [0.0001, 0.0]"),
        ({"beta": (0.1, -0.1)}, "beta [0.1, -0.1]"),
        ({"beta": ()}, "beta [] and lr [0.0001] with loss 'ipo'"),
        ({"loss": "best-of-2"}, "with loss 'best-of-2'"),
    ],
)
def test_an_arm_without_a_meaning_is_named_with_what_is_wrong(settings, says):
    refused(lambda: arm(**settings).validate("odd"), "arm 'odd'", says)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        OFFLINE,
        REPLAY,
        {**REPLAY, "window": 0},
        {"refresh": 0},
        {**SAMPLES, "writers": ("sft", "online@30")},
        {**MIXTURE, "parts": {"a": 0.1, "b": 0.2, "c": 0.7}},
        {"loss": "best-of-2", "beta": ()},
        {"steps": 5, "checkpoints": 5},
    ],
)
def test_an_arm_with_a_meaning_is_taken(settings):
    arm(**settings).validate("odd")


def test_only_the_golden_policy_learns_from_the_judge():
    arm(labeller="golden").validate("golden policy", judge_may_train=True)


ARMS = {
    "online": arm(beta=(0.1, 0.03), lr=(1e-4,), steps=60, batch=32, checkpoints=4),
    "offline": arm(**OFFLINE),
    "late": arm(**SAMPLES, writers=("sft", "online@60")),
    "both": arm(**MIXTURE, parts={"online": 0.5, "late": 0.5}),
    "half": arm(**MIXTURE, parts={"online": 0.5, "offline": 0.5}),
    "winners": arm(loss="best-of-2", beta=()),
    "replay": arm(**REPLAY, beta=(0.1,)),
    "stale": arm(refresh=0),
}


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"variant": "small"}, "variant 'small', which the study has not; known: wide"),
        ({**REPLAY, "stream": "nobody"}, "'nobody'"),
        ({**REPLAY, "stream": "offline"}, "name one of: online, winners, stale"),
        ({**REPLAY, "batch": 16}, "asks for 60 batches of 16, but 'online' leaves 60 of 32"),
        ({**REPLAY, "steps": 61}, "asks for 61 batches of 32"),
        ({**REPLAY, "window": 4, "steps": 61}, "asks for 61 batches of 32"),
        ({**REPLAY, "reduction": "mean"}, "reduction mean"),
        ({**REPLAY, "variant": "wide"}, "variant 'wide'"),
        ({**REPLAY, "beta": (0.1, 0.2)}, "a beta or lr that 'online' has not"),
        ({**REPLAY, "lr": (1e-3,)}, "a beta or lr that 'online' has not"),
        ({**REPLAY, "loss": "best-of-2", "beta": ()}, "no beta where it has one"),
        ({**REPLAY, "stream": "winners"}, "a beta or lr that 'winners' has not"),
        ({**SAMPLES, "writers": ("sft", "online")}, "writer 'online'; write sft or ARM@STEP"),
        ({**SAMPLES, "writers": ("@60", "sft")}, "writer '@60'; write sft or ARM@STEP"),
        ({**SAMPLES, "writers": ("sft", "online@last")}, "writer 'online@last'; write sft or ARM@STEP"),
        ({**SAMPLES, "writers": ("sft", "nobody@60")}, "writer 'nobody@60'; name an arm"),
        ({**SAMPLES, "writers": ("sft", "late@60")}, "writer 'late@60'; name an arm of this study that has no writers"),
        ({**SAMPLES, "writers": ("sft", "both@60")}, "writer 'both@60'; name an arm of this study that has no writers"),
        ({**SAMPLES, "writers": ("online@7", "sft")}, "checkpoints of 'online' are at steps 15, 30, 45, 60"),
        ({**SAMPLES, "writers": ("sft", "online@60"), "variant": "wide"}, "'online' have different variants"),
        ({**MIXTURE, "parts": {"nobody": 1.0}}, "mixes 'nobody'"),
        ({**MIXTURE, "parts": {"half": 0.5, "online": 0.5}}, "mixes 'half'"),
        ({**MIXTURE, "parts": {"stale": 0.5, "online": 0.5}}, "mixes 'stale'"),
        ({**MIXTURE, "parts": {"online": 1.0}, "reduction": "mean"}, "'online' differ in reduction or variant"),
        ({**MIXTURE, "parts": {"online": 1.0}, "variant": "wide"}, "'online' differ in reduction or variant"),
        ({**MIXTURE, "parts": {"replay": 1.0}}, "a beta or lr that 'replay' has not"),
        ({**MIXTURE, "parts": {"replay": 1.0}, "loss": "best-of-2", "beta": ()}, "no beta where it has one"),
        ({**MIXTURE, "parts": {"online": 0.99, "offline": 0.01}}, "no pair in a batch of 32"),
    ],
)
def test_what_the_others_cannot_give_is_refused(settings, says):
    arms = {**ARMS, "odd": arm(**settings)}
    refused(lambda: validate_arms(arms, ["wide"]), "'odd'", says)


@pytest.mark.parametrize(
    "settings",
    [
        {**REPLAY, "beta": (0.03,), "steps": 20},
        {**REPLAY, "window": 0, "steps": 90, "batch": 16},
        {**REPLAY, "stream": "winners", "loss": "best-of-2", "beta": ()},
        {**SAMPLES, "writers": ("half@15", "online@45")},
        {**MIXTURE, "parts": {"late": 0.25, "replay": 0.75}, "beta": (0.1,)},
        {**MIXTURE, "parts": {"winners": 0.5, "offline": 0.5}},
    ],
)
def test_what_the_others_can_give_is_taken(settings):
    validate_arms({**ARMS, "odd": arm(**settings)}, ["wide"])


def test_a_sweep_has_a_name_and_an_arm_for_each_point():
    points = dict(settings_of(arm(beta=(0.1, 0.03), lr=(1e-4, 2e-3))))
    assert list(points) == ["beta=0.1 lr=0.0001", "beta=0.1 lr=0.002", "beta=0.03 lr=0.0001", "beta=0.03 lr=0.002"]
    assert (points["beta=0.03 lr=0.002"].beta, points["beta=0.03 lr=0.002"].lr) == ((0.03,), (2e-3,))
    best = arm(loss="best-of-2", beta=(), lr=(1e-4, 2e-3))
    assert [(name, arm.beta, arm.lr) for name, arm in settings_of(best)] == [
        ("lr=0.0001", (), (1e-4,)),
        ("lr=0.002", (), (2e-3,)),
    ]
    assert (best.default.lr, arm().default.beta) == ((1e-4,), (0.1,))


def test_a_writer_is_an_arm_at_a_step():
    assert written_by("online@30") == ("online", 30)
    assert written_by("a@b, c@3") == ("a@b, c", 3)
    for other in ("sft", "online", "@3", "online@", "online@x", ""):
        with pytest.raises(ValueError, match=f"^(invalid literal.*|{re.escape(other)})$"):
            written_by(other)


def test_checkpoints_are_evenly_spaced_and_end_at_the_last_step():
    assert arm(steps=36, checkpoints=3).checkpoint_steps() == [12, 24, 36]
    assert arm(steps=7, checkpoints=2).checkpoint_steps() == [4, 7]
    assert arm(steps=5, checkpoints=5).checkpoint_steps() == [1, 2, 3, 4, 5]


def contrast(**settings):
    return {"statistic": "gap at equal KL", "first": "online", "second": "offline", **settings}


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"first": "nobody"}, "names arm 'nobody', which the study has not"),
        ({"baseline": ("online", "nobody")}, "names arm 'nobody'"),
        ({"second": ""}, "compares 'online' with ''"),
        ({"baseline": ("online",)}, "baseline ['online']"),
        ({"statistic": "accuracy", "baseline": ("online", "offline")}, "'accuracy' cannot take off"),
        ({"predicted": "near"}, "near 0 within 0"),
        ({"predicted": "nothing"}, "decides and predicts nothing"),
        ({"first": "proxy"}, "'proxy'"),
        ({"baseline": ("proxy", "online")}, "'gap at equal KL'"),
        ({"stream": "online"}, "stream 'online'"),
        ({"statistic": "stream accuracy"}, "stream ''"),
        ({"statistic": "stream accuracy", "stream": "offline"}, "the stream of 'offline'"),
        ({"statistic": "stream accuracy", "stream": "mean", "first": "proxy"}, "reduction sum"),
        ({"statistic": "stream accuracy", "stream": "best of n by proxy"}, "the stream of 'best of n by proxy'"),
        ({"statistic": "stream accuracy", "stream": "online", "first": "best of n by proxy"}, "trained arms"),
        ({"statistic": "stream accuracy", "stream": "online", "first": "wide"}, "different variants"),
        ({"decides": False}, "no contrast decides hypothesis 'H'"),
    ],
)
def test_a_hypothesis_that_cannot_be_tested_is_refused(settings, says):
    study = Study(
        "a",
        arms={"online": arm(), "offline": arm(**OFFLINE), "mean": arm(reduction="mean"), "wide": arm(variant="wide")},
        variants={"wide": Variant("other")},
        best_of=BestOf(4, (2,)),
        hypotheses={"H": Hypothesis("It is so.", (Contrast(**contrast(**settings)),))},
    )
    refused(study.validate, "H", says)


@pytest.mark.parametrize(
    "settings",
    [
        {"second": "best of n by golden", "baseline": ("online", "online")},
        {"statistic": "stream accuracy", "stream": "online", "first": "proxy"},
        {"statistic": "correlation", "second": ""},
        {"predicted": "near", "than": 0.05},
        {"statistic": "gap at equal setting", "baseline": ("online", "online")},
    ],
)
def test_a_hypothesis_that_can_be_tested_is_taken(settings):
    found = Hypothesis("It is so.", (Contrast(**contrast(**settings)),))
    Study("a", best_of=BestOf(4, (2,)), hypotheses={"H": found}).validate()


@pytest.mark.parametrize(
    ("axis", "says"),
    [
        (Axis("x", {"a": {"nobody": 1.0}}), "'nobody'"),
        (Axis("x", {"a": {"online": 1.0}}, beside=("nobody",)), "'nobody'"),
        (Axis("x", {"a": {"online": 0.0}}), "places [0.0]"),
        (Axis("x"), "places []"),
    ],
)
def test_an_axis_that_cannot_be_drawn_is_refused(axis, says):
    refused(Study("a", axes={"odd": axis}).validate, "axis 'odd'", says)
    Study("a", axes={"odd": Axis("x", {"a": {"online": 0.0}}, log=False)}).validate()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"arms": {"sft": arm()}}, "'sft'"),
        ({"arms": {"proxy": arm()}}, "'proxy'"),
        ({"arms": {"golden policy": arm()}}, "'golden policy'"),
        ({"arms": {"best of n by proxy": arm()}, "best_of": BestOf(4, (2,))}, "'best of n by proxy'"),
        ({"arms": {"sft (a)": arm()}, "variants": {"a": Variant("other")}}, "'sft (a)'"),
        ({"arms": {}}, "no arms"),
        ({"seeds": (1, 1)}, "seeds"),
        ({"labels": Labels(flip=0.5)}, "labels: flip is 0.5"),
        ({"variants": {"noisy": Variant(labels=Labels(flip=-0.1))}}, "variants.noisy.labels: flip is -0.1"),
        ({"golden_policy": arm(labeller="golden")}, "golden policy"),
        ({"golden_policy": arm(beta=(0.1,), **OFFLINE, refresh=3)}, "golden policy"),
        ({"best_of": BestOf(4, (2, 8))}, "best of [2, 8]"),
        ({"best_of": BestOf(4, (0, 2))}, "best of [0, 2]"),
        ({"best_of": BestOf(4, ())}, "best of []"),
        ({"best_of": BestOf(4, (2,), ())}, "by []"),
    ],
)
def test_a_study_without_a_meaning_is_refused(settings, says):
    refused(Study("a", **settings).validate, says)


def test_best_of_n_stands_beside_the_arms_only_where_it_is_asked_for():
    assert Study("a").all_arms == ["online", "offline"]
    assert Study("a", best_of=BestOf(4, (2,), ("golden",))).all_arms == ["online", "offline", "best of n by golden"]


def test_a_variant_has_what_it_does_not_name_from_the_study(tmp_path):
    study = {
        "sft": {"steps": 7, "optimisation": {"lr": 0.5}},
        "labels": {"number": 99, "mode": "soft"},
        "proxy": {"kind": "bradley-terry", "steps": 3},
        "variants": {
            "noisy": {"labels": {"flip": 0.1}},
            "longer": {"policy": "nano", "sft": {"batch": 5, "optimisation": {"warmup": 3}}},
            "bare": {},
        },
    }
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(study))
    found = read_study(str(path), ["sft.early=2", "variants.noisy.proxy.steps=4"])
    noisy, longer = found.variants["noisy"], found.variants["longer"]
    assert noisy.labels == Labels(99, "soft", 0.1)
    assert (noisy.proxy.kind, noisy.proxy.steps, noisy.sft, noisy.policy) == ("bradley-terry", 4, None, "")
    assert (longer.sft.steps, longer.sft.batch, longer.sft.early) == (7, 5, 2)
    optimisation = longer.sft.optimisation
    assert (optimisation.lr, optimisation.warmup, optimisation.decay) == (0.5, 3, Supervised().optimisation.decay)
    assert (longer.labels, longer.proxy) == (None, None)
    assert found.variants["bare"] == Variant()
    assert (found.labels.flip, found.sft.batch) == (0.0, Supervised().batch)


def test_a_variants_own_faults_are_named(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump({"variants": {"noisy": {"labels": {"fllip": 0.1}}}}))
    refused(lambda: read_study(str(path), []), "variants.noisy.labels.fllip", "flip")
    path.write_text(yaml.safe_dump({"variants": {"noisy": 3}}))
    refused(lambda: read_study(str(path), []), "variants.noisy is 3")


@pytest.mark.parametrize("name", ["paper", "names", "quick", "smoke", "thin", "covered"])
def test_the_studies_that_ship_are_valid(name):
    study = read_study(name, [])
    validate_arms(study.arms, study.variants)
