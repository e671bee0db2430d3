"""Every number of a study file has a range: what is outside is refused by name, before anything runs."""

import dataclasses
import types
import typing
from typing import Annotated, get_args, get_origin

import pytest
import yaml

from goodhart.alignment.method import Method, Term
from goodhart.cells.launch import Launch, Resources
from goodhart.config import Range, build
from goodhart.errors import GoodhartError
from goodhart.models.adapter_settings import Adapter
from goodhart.recipes.arm import Arm
from goodhart.recipes.settings import BestOf, Labels, Measurement, Pool, Task
from goodhart.studies.spec import Study, read_study
from goodhart.tasks.reward import Rule
from goodhart.tasks.world import World
from goodhart.training.settings import Optimisation, Preference, Supervised
from tiny_arms import arm

KINDS = [
    Study,
    Task,
    Pool,
    Labels,
    BestOf,
    Measurement,
    Arm,
    Method,
    Term,
    World,
    Optimisation,
    Supervised,
    Preference,
    Rule,
    Adapter,
    Launch,
    Resources,
]
MAY_BE_ZERO = {
    *(
        "Arm.first",
        "Arm.window",
        "Method.refresh",
        "Method.parameters",
        "World.seed",
        "Arm.sweep",
        "Term.place",
        "BestOf.samples",
        "Labels.flip",
        "Optimisation.warmup",
        "Optimisation.micro_batch",
        "Launch.at_once",
        "Resources.gpus",
        "Resources.memory",
    ),
    *("Optimisation.weight_decay", "Optimisation.beta1", "Optimisation.beta2", "Study.seeds", "Rule.noise"),
    *(f"Pool.{share}" for share in ("samples", "early", "human", "mismatched", "degenerate")),
}
MAY_BE_HUGE = {
    *("Arm.beta", "Optimisation.clip", "Optimisation.weight_decay", "Preference.head_factor", "Pool.temperatures"),
    *("Rule.scale", "Rule.noise"),
    *("Method.parameters", "Arm.sweep", "World.prior", "World.spread", "World.golden_beta"),
    "Adapter.alpha",
    "Arm.parts",  # their sum is looked at
}
"""Rates and factors whose size depends on their unit; a huge one has a meaning (no clipping, no preference)."""


def numbers(hint):
    """The Annotated or bare number inside a field's type, or None."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint in (int, float) or (origin is Annotated and arguments[0] in (int, float)):
        return hint
    if origin in (tuple, dict, typing.Union, types.UnionType):
        inner = [numbers(a) for a in arguments if a not in (str, type(None), Ellipsis)]
        return next((each for each in inner if each is not None), None)
    return None


def fields():
    for kind in KINDS:
        for name, hint in typing.get_type_hints(kind, include_extras=True).items():
            found = numbers(hint)
            if found is not None:
                yield pytest.param(kind, name, hint, id=f"{kind.__name__}.{name}")


def shaped(hint, number):
    origin = get_origin(hint)
    if origin is dict:
        return {"a": shaped(get_args(hint)[1], number)}
    return [number] if origin is tuple else number


def refusal(kind, name, hint, number):
    """What is said of the number, or None if it is taken."""
    needed = {Study: {"name": "a"}, Term: {"coefficient": ["a"]}}.get(kind, {})
    try:
        build(kind, {**needed, name: shaped(hint, number)})
    except GoodhartError as error:
        return str(error)
    return None


def test_no_dataclass_of_a_study_file_is_missed():
    seen, waiting = set(), [Study]
    while waiting:
        kind = waiting.pop()
        if dataclasses.is_dataclass(kind):
            if kind in seen or kind.__module__.startswith("goodhart.analysis"):
                continue
            seen.add(kind)
            waiting += typing.get_type_hints(kind).values()
        waiting += get_args(kind)
    assert {kind.__name__ for kind in seen} - {"Variant"} == {kind.__name__ for kind in KINDS}


@pytest.mark.parametrize(("kind", "name", "hint"), fields())
def test_a_number_has_a_range(kind, name, hint):
    where = f"{kind.__name__}.{name}"
    number = numbers(hint)
    assert get_origin(number) is Annotated, f"{where} has no range: any number would be taken"
    assert any(isinstance(each, Range) for each in get_args(number)[1:]), f"{where} has no range"
    for value, allowed in ((-1, False), (0, where in MAY_BE_ZERO), (10**30, where in MAY_BE_HUGE)):
        said = refusal(kind, name, hint, value)
        assert (said is None) == allowed, f"{where}={value}: {said or 'taken'}"
        assert said is None or name in said, f"{said!r} does not name {where}"


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("sft.steps=-1", "sft.steps is -1; give a number that is 1 or more and at most 1,000,000,000"),
        ("golden.check_every=0", "golden.check_every is 0"),
        ("seeds=[-1]", "seeds[0] is -1"),
        ("task.evaluation=0", "task.evaluation is 0; give a number that is 2 or more"),
        ("task.held_out=1", "task.held_out is 1.0; give a number that is more than 0 and less than 1"),
        ("resamples=0", "resamples is 0; give a number that is 20 or more"),
        ("arms.online.lr=[-1e-4]", "arms.online.lr[0] is -0.0001"),
        ("sft.early=51", "sft.early is 51, behind the last of 50 steps; set sft.early=16"),
        ("golden_policy.labeller=proxy", "labeller 'proxy'"),
        ("golden_policy={source: data, labeller: data}", "source 'data'"),
        ("golden_policy.variant=few", "variant 'few'"),
        ("pool.temperatures=[]", "pool.temperatures is empty"),
    ],
)
def test_what_cannot_be_run_is_told_when_the_file_is_read(override, says):
    with pytest.raises(GoodhartError) as caught:
        read_study("quick", [override])
    assert says in str(caught.value)


def write(folder, **study):
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(study))
    return str(path)


def test_an_early_checkpoint_that_nothing_reads_may_lie_behind_the_end(tmp_path):
    path = write(tmp_path, task={"data": "d.jsonl"}, sft={"steps": 5})
    assert read_study(path, []).sft.early > 5


def test_who_names_data_means_the_data(tmp_path):
    task = read_study(write(tmp_path, task={"data": "someone/data", "layout": "text"}), []).task
    assert (task.kind, task.data) == ("preferences", "someone/data")
    assert read_study(write(tmp_path, task={"max_prompt": 9}), []).task.kind == "docstrings"
    assert read_study(write(tmp_path), ["task.data=someone/data"]).task.kind == "preferences"


@pytest.mark.parametrize("key", ["data", "layout", "columns", "pairs", "data_split", "template"])
def test_a_built_in_task_reads_no_data(tmp_path, key):
    value = {"columns": {"prompt": "q"}, "pairs": "all"}.get(key, "plain")
    path = write(tmp_path, task={"kind": "names", key: value})
    with pytest.raises(GoodhartError, match=rf"task\.{key} is .*, which the built-in task 'names' does not read"):
        read_study(path, [])


@pytest.mark.parametrize("where", ["arms.online", "golden_policy"])
def test_a_learning_rate_that_an_arm_does_not_read_is_refused_with_the_one_that_it_reads(where):
    with pytest.raises(GoodhartError) as caught:
        read_study("quick", [f"{where}.optimisation.lr=1e-5"])
    assert str(caught.value).startswith(f"{where}.optimisation.lr is not read")
    assert f"set {where}.lr=[1e-5]" in str(caught.value)
    assert read_study("quick", [f"{where}.optimisation.warmup=3"]).arms


class TestOverridesBelowNames:
    def refused(self, override, *says, study="quick"):
        with pytest.raises(GoodhartError) as caught:
            read_study(study, [override])
        for each in says:
            assert each in str(caught.value)

    def test_an_unknown_name_is_an_error_with_the_nearest(self):
        self.refused("arms.onlin.steps=4", "'onlin', which is not there", "did you mean 'online'?", "arms.onlin={...}")
        self.refused("variants.128 label.labels.number=9", "did you mean '128 labels'?", study="paper")
        self.refused("hypotheses.gapp.statement=x", "did you mean 'gap'?", study="paper")
        self.refused("axes.zzz.log=false", "'zzz', which is not there", study="paper")
        self.refused("variants.few.labels.number=9", "the names here are: none")

    def test_a_whole_new_one_is_taken(self):
        study = read_study("quick", ["arms.new={steps: 4}", "variants.few={labels: {number: 9}}"])
        assert list(study.arms) == ["online", "offline", "new"]
        assert (study.arms["new"].steps, study.variants["few"].labels.number) == (4, 9)

    def test_a_known_one_is_changed_whatever_its_name(self, tmp_path):
        assert read_study("paper", ["arms.online, nano.steps=40"]).arms["online, nano"].steps == 40
        path = write(tmp_path, arms={"lr 0.5": {}, "lr 0": {}})
        arms = read_study(path, ["arms.lr 0.5.steps=9"]).arms
        assert [arms["lr 0.5"].steps, arms["lr 0"].steps] == [9, arm().steps]

    def test_default_arms_stay_beside_the_one_that_is_changed(self, tmp_path):
        arms = read_study(write(tmp_path), ["arms.offline.steps=9"]).arms
        assert (list(arms), arms["offline"].method.source, arms["offline"].steps) == (["online", "offline"], "data", 9)


class TestPathsStartAtTheFile:
    @pytest.fixture
    def folder(self, tmp_path, monkeypatch):
        for name in ("shell", "study/models/mine", "study/tiny", "study/owner/name"):
            (tmp_path / name).mkdir(parents=True)
        (tmp_path / "study" / "prompt.jinja").write_text("{{ messages[0].content }}?")
        (tmp_path / "study" / "data.jsonl").write_text("{}")
        monkeypatch.chdir(tmp_path / "shell")
        return tmp_path / "study"

    def test_data_models_and_template_are_found_beside_the_file(self, folder):
        path = write(
            folder,
            task={"data": "data.jsonl", "template": "prompt.jinja"},
            policy="models/mine",
            golden={"model": "./models/mine"},
            proxy={"model": "owner/name"},
            variants={"v": {"policy": "models/mine", "proxy": {"model": "models/mine"}}},
        )
        study = read_study(path, [])
        mine = str(folder / "models" / "mine")
        assert (study.task.data, study.policy, study.golden.model) == (str(folder / "data.jsonl"), mine, mine)
        assert study.proxy.model == str(folder / "owner" / "name"), "what exists beside the file is taken for it"
        assert (study.variants["v"].policy, study.variants["v"].proxy.model) == (mine, mine)
        assert study.task.template == "{{ messages[0].content }}?"

    def test_presets_and_hub_ids_stay_what_they_are(self, folder):
        study = read_study(write(folder, policy="tiny", proxy={"model": "Qwen/Qwen2.5-0.5B"}), [])
        assert (study.policy, study.proxy.model, study.golden.model) == ("tiny", "Qwen/Qwen2.5-0.5B", "small")

    def test_what_is_not_there_is_named_where_it_was_sought(self, folder):
        study = read_study(write(folder, task={"data": "other.jsonl"}), [])
        assert study.task.data == str(folder / "other.jsonl")

    def test_on_the_command_line_they_start_at_the_shell(self, folder):
        (folder / "x.jinja").write_text("{{ shell }}")
        path = write(folder, task={"data": "data.jsonl", "template": "none"})
        study = read_study(path, ["task.data=../d.jsonl", "policy=../p", "task.template=../study/x.jinja"])
        assert (study.task.data, study.policy, study.task.template) == ("../d.jsonl", "../p", "{{ shell }}")

    def test_a_template_that_is_not_there_is_an_error(self, folder):
        with pytest.raises(GoodhartError, match=r"task.template is '.*chat', which is no file .*auto, none, plain"):
            read_study(write(folder, task={"data": "data.jsonl", "template": "chat"}), [])


class TestWhatIsLeftToDefaults:
    ALL = (
        *("sft.optimisation.lr", "golden.optimisation.lr", "golden.head_factor", "proxy.optimisation.lr"),
        *("proxy.head_factor", "golden_policy.lr", "golden_policy.steps"),
    )

    def test_of_a_file(self, tmp_path):
        arms = {"a": {"lr": [1e-6]}, "b": {}}
        path = write(tmp_path, arms=arms, golden={"optimisation": {"lr": 1e-5}}, golden_policy={"steps": 9})
        named = {"golden.optimisation.lr", "golden_policy.steps"}
        assert set(read_study(path, []).unnamed) == {*self.ALL, "arms.b.lr"} - named
        found = read_study(path, ["arms.b.lr=[1e-6]", "proxy.head_factor=2"]).unnamed
        assert set(found) == {*self.ALL} - named - {"proxy.head_factor"}

    def test_what_ships_is_set_for_the_models_that_ship(self):
        found = read_study("quick", ["arms.online.lr=[1e-6]"]).unnamed
        assert set(found) == {*self.ALL, "arms.offline.lr"}

    def test_a_variant_inherits_what_the_study_names(self, tmp_path):
        variants = {"v": {"proxy": {"steps": 9}, "sft": {"optimisation": {"lr": 1e-5}}}}
        path = write(tmp_path, proxy={"head_factor": 1}, variants=variants)
        found = {key for key in read_study(path, []).unnamed if key.startswith("variants")}
        assert found == {"variants.v.proxy.optimisation.lr"}

    def test_a_file_cannot_say_it(self, tmp_path):
        with pytest.raises(GoodhartError, match="unknown key 'unnamed'"):
            read_study(write(tmp_path, unnamed=[]), [])
