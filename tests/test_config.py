"""Settings: strict construction, overrides, and addresses that depend on content alone."""

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goodhart.config import address, build, canonical, choices, load_yaml, override, plain_data
from goodhart.errors import GoodhartError


@dataclass(frozen=True)
class Engine:
    lr: float = 1e-3
    steps: int = 10
    decay: Literal["constant", "linear"] = "constant"


@dataclass(frozen=True)
class Wheel:
    size: int
    spokes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Car:
    name: str
    engine: Engine = Engine(lr=0.5, steps=7)
    wheels: tuple[Wheel, ...] = ()
    doors: dict[str, Wheel] = field(default_factory=dict)
    owner: str | None = None
    spare: Wheel | None = None
    fast: bool = False


def message(kind, data):
    with pytest.raises(GoodhartError) as caught:
        build(kind, data)
    text = str(caught.value)
    assert "\n" not in text
    assert text == f"{caught.value.problem}; {caught.value.remedy}"
    return text


def test_defaults_are_kept():
    assert build(Car, {"name": "a"}) == Car("a")


def test_a_mapping_changes_the_keys_it_names_and_keeps_the_others_of_the_default():
    assert build(Car, {"name": "a", "engine": {"steps": 3}}) == Car("a", Engine(lr=0.5, steps=3))


def test_everything_nests():
    data = {
        "name": "a",
        "wheels": [{"size": 1}, {"size": 2, "spokes": [3, 4]}],
        "doors": {"left": {"size": 5}},
        "owner": "me",
        "spare": {"size": 6},
        "fast": True,
    }
    expected = Car("a", Engine(0.5, 7), (Wheel(1), Wheel(2, (3, 4))), {"left": Wheel(5)}, "me", Wheel(6), True)
    assert build(Car, data) == expected
    assert build(Car, plain_data(expected)) == expected
    assert build(Car, {**data, "spare": None, "owner": None}).spare is None


def test_an_unknown_key_is_named_with_the_nearest_known_one():
    assert message(Car, {"name": "a", "wheles": []}) == "unknown key 'wheles'; did you mean 'wheels'?"
    assert message(Car, {"name": "a", "engine": {"step": 3}}) == "unknown key 'engine.step'; did you mean 'steps'?"
    assert message(Car, {"name": "a", "wheels": [{"size": 1, "spoke": [2]}]}).startswith(
        "unknown key 'wheels[0].spoke'"
    )
    assert message(Engine, {"qqq": 1}) == "unknown key 'qqq'; the keys here are lr, steps, decay"
    assert "'1'" in message(Engine, {1: 2})


def test_a_missing_key_is_named():
    assert message(Car, {}) == "key 'name' is missing; add it to the study file"
    assert "'doors.left.size' is missing" in message(Car, {"name": "a", "doors": {"left": {}}})


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"engine": {"lr": "fast"}}, "engine.lr is 'fast'; give a value of type float"),
        ({"engine": {"steps": 1.5}}, "engine.steps is 1.5; give a value of type int"),
        ({"engine": {"steps": True}}, "engine.steps is True; give a value of type int"),
        ({"engine": {"lr": True}}, "engine.lr is True; give a value of type float"),
        ({"engine": {"lr": None}}, "engine.lr is None"),
        ({"engine": {"decay": "cosine"}}, "engine.decay is 'cosine'; choose one of constant, linear"),
        ({"engine": 3}, "engine is 3; write a mapping of settings"),
        ({"engine": None}, "engine is None; write a mapping of settings"),
        ({"wheels": 3}, "wheels is 3; write a list"),
        ({"wheels": "ab"}, "wheels is 'ab'; write a list"),
        ({"wheels": [{"size": "x"}]}, "wheels[0].size is 'x'"),
        ({"doors": [1]}, "doors is [1]; write a mapping of names"),
        ({"name": 3}, "name is 3; give a value of type str"),
        ({"fast": 1}, "fast is 1; give a value of type bool"),
    ],
)
def test_a_value_of_a_wrong_type_is_named(data, says):
    assert message(Car, {"name": "a", **data}).startswith(says)


@pytest.mark.parametrize("data", [None, 3, [1], "text"])
def test_settings_are_a_mapping(data):
    assert "write a mapping of settings" in message(Car, data)


@pytest.mark.parametrize(
    ("text", "value"), [("lr: 1e-4", 1e-4), ("lr: 3", 3.0), ("lr: 0.25", 0.25), ("lr: '1E-2'", 0.01)]
)
def test_numbers_are_read_as_people_write_them(tmp_path, text, value):
    path = tmp_path / "engine.yaml"
    path.write_text(text)
    found = build(Engine, load_yaml(path)).lr
    assert found == value
    assert type(found) is float


@pytest.mark.parametrize("text", [".nan", ".inf", "nan", "-inf"])
def test_a_number_that_is_none_is_refused(text):
    assert message(Car, override({"name": "a"}, f"engine.lr={text}")).endswith("; give a finite number")


def test_overrides_set_nested_values_and_leave_the_given_settings_alone():
    data = {"name": "a", "engine": {"lr": 0.1}}
    found = override(override(data, "engine.steps=3"), "wheels=[{size: 1, spokes: [2]}]")
    assert found == {"name": "a", "engine": {"lr": 0.1, "steps": 3}, "wheels": [{"size": 1, "spokes": [2]}]}
    assert data == {"name": "a", "engine": {"lr": 0.1}}
    assert override({}, "a.b.c=x=y") == {"a": {"b": {"c": "x=y"}}}
    assert override({"engine": None}, "engine.lr=1e-4") == {"engine": {"lr": "1e-4"}}


@pytest.mark.parametrize(
    ("assignment", "says"),
    [
        ("steps", "cannot understand 'steps'; write key=value"),
        ("=3", "cannot understand '=3'"),
        ("name.first=x", "'name.first=x' goes below 'name'"),
        ("seeds=[1", "the value of 'seeds=[1' is not valid YAML"),
    ],
)
def test_an_override_that_cannot_be_applied_is_named(assignment, says):
    with pytest.raises(GoodhartError) as caught:
        override({"name": "a"}, assignment)
    assert str(caught.value).startswith(says)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("- 1\n- 2", "holds list, not a mapping"),
        ("", "holds NoneType"),
        ("a: [1", "is not valid YAML"),
        ("a: !!python/object/apply:os.getcwd []", "is not valid YAML"),
        (b"\xff\xfe\x00a", "is not valid YAML"),
    ],
)
def test_a_file_that_is_no_mapping_is_named(tmp_path, content, says):
    path = tmp_path / "study.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(GoodhartError, match=says) as caught:
        load_yaml(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(GoodhartError, match="cannot read"):
            load_yaml(path)


scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
nested = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=8
)


@given(st.dictionaries(st.text(), nested, max_size=6), st.randoms(use_true_random=False))
def test_the_order_of_keys_does_not_reach_the_address(data, random):
    items = list(data.items())
    random.shuffle(items)
    assert canonical(dict(items)) == canonical(data)
    assert address(dict(items)) == address(data)


@given(nested, nested)
def test_different_settings_have_different_spellings(one, other):
    def typed(value):
        if isinstance(value, dict):
            return {k: typed(v) for k, v in value.items()}
        return [typed(v) for v in value] if isinstance(value, list) else (type(value).__name__, repr(value))

    assert (canonical(one) == canonical(other)) == (typed(one) == typed(other))


def test_the_address_of_known_settings():
    """Cells of earlier runs are found by these."""
    assert canonical(Car("é", wheels=(Wheel(1, (2,)),))) == (
        '{"doors":{},"engine":{"decay":"constant","lr":0.5,"steps":7},"fast":false,"name":"é","owner":null,'
        '"spare":null,"wheels":[{"size":1,"spokes":[2]}]}'
    )
    assert address(Car("é", wheels=(Wheel(1, (2,)),))) == "86c7a3e108b3"
    assert address(Car("a")) == address({**dataclasses.asdict(Car("a"))})
    assert address({"path": Path("a/b")}) == address({"path": "a/b"})
    assert len({address(Car("a")), address(Car("b")), address(Car("a", Engine()))}) == 3


def test_a_number_without_a_spelling_has_no_address():
    with pytest.raises(ValueError, match="not JSON compliant"):
        address({"lr": math.nan})


def test_the_choices_of_a_field_are_read_from_its_type():
    assert choices(Engine, "decay") == ["constant", "linear"]


def test_a_file_that_repeats_itself_a_billion_times_is_read_at_once(tmp_path):
    """Aliases make a tree of nine to the ninth leaves out of ten lines."""
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    lines += [f"{c}: &{c} [{', '.join([f'*{b}'] * 9)}]" for b, c in zip("abcdefgh", "bcdefghi", strict=True)]
    path = tmp_path / "laughs.yaml"
    path.write_text("\n".join(lines))
    assert set(load_yaml(path)) == set("abcdefghi")
    path.write_text("a: &a [*a]")
    assert list(load_yaml(path)) == ["a"]


@pytest.mark.parametrize("text", ['arms: {"a\\ud800": {}}', '? "\\udfff"\n: 1', 'x: [{y: "\\ud800"}]'])
def test_letters_that_no_file_can_hold_are_refused(tmp_path, text):
    path = tmp_path / "surrogates.yaml"
    path.write_text(text)
    with pytest.raises(GoodhartError, match="lone surrogate"):
        load_yaml(path)
