"""Where a study names functions of the user's own, how it names them, and their first trial."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from goodhart import functions
from goodhart.alignment.extensions import own_defaults, reads_rewards
from goodhart.alignment.method import Method
from goodhart.errors import GoodhartError
from goodhart.functions import in_file, is_function
from goodhart.recipes.arm import Arm
from goodhart.tasks.reward import Rule, rewards

if TYPE_CHECKING:
    from goodhart.studies.spec import Study

_JUDGES = ("golden", "proxy")
_OF_ARMS = ("loss", "labeller", "sampler")
_PROMPT, _RESPONSES = "Name a colour of the sky.", ("Blue, by day.", "")
"""What a judge and a labeller are tried on; a response may be empty."""


def changed(data: dict[str, Any], keys: list[str], change: Callable[[str], str]) -> dict[str, Any]:
    """The settings with the text below some keys changed, where there is one."""
    head, *rest = keys
    value = data.get(head)
    if rest and isinstance(value, dict):
        return {**data, head: changed(value, rest, change)}
    return {**data, head: change(value)} if not rest and isinstance(value, str) else data


def _slots(data: dict[str, Any]) -> Iterator[list[str]]:
    """The keys that can name a function."""
    for judge in _JUDGES:
        yield [judge, "rule", "reward"]
        yield from (["variants", name, judge, "rule", "reward"] for name in _names(data, "variants"))
    for slot in _OF_ARMS:
        yield ["golden_policy", slot]
        yield from (["arms", name, slot] for name in _names(data, "arms"))


def _names(data: dict[str, Any], mapping: str) -> list[str]:
    return list(data[mapping]) if isinstance(data.get(mapping), dict) else []


def placed(data: dict[str, Any], place: Callable[[str], str]) -> dict[str, Any]:
    """The settings with the files of functions where `place` says that they are."""

    def moved(word: str) -> str:
        at = in_file(word)
        return f"{place(at[0])}:{at[1]}" if at else word

    for keys in _slots(data):
        data = changed(data, keys, moved)
    return data


def with_functions(data: dict[str, Any]) -> dict[str, Any]:
    """The settings with functions named by the digest of their text. Raises GoodhartError for what cannot be read."""

    def read(word: str) -> str:
        at = in_file(word)
        return functions.read(*at) if at else word

    for keys in _slots(data):
        data = changed(data, keys, read)
    return data


def with_parameters(data: dict[str, Any]) -> dict[str, Any]:
    """Arms whose loss is a function, with its defaults for the parameters that they leave out."""
    arms = data.get("arms")
    result = {name: _filled(arm) for name, arm in arms.items()} if isinstance(arms, dict) else None
    whole = data if result is None else {**data, "arms": result}
    return {**whole, "golden_policy": _filled(data["golden_policy"])} if "golden_policy" in data else whole


def _filled(arm: Any) -> Any:
    if not isinstance(arm, dict) or not is_function(arm.get("loss")):
        return arm
    defaults = own_defaults(arm["loss"])
    known = {name: value for name, value in defaults.items() if value is not None and name != "beta"}
    given = arm.get("parameters")
    result = {**arm, "parameters": {**known, **given}} if isinstance(given, dict) else {**arm, "parameters": known}
    return result if "beta" in defaults or "beta" in arm else {**result, "beta": []}


def try_functions(study: Study) -> None:
    """Call every judge and labeller on made-up text. Raises GoodhartError for one that cannot be what it stands for."""
    if study.world:
        return
    for where, judge in study.judges.items():
        if judge.rule and is_function(judge.rule.reward):
            _try_judge(judge.rule, f"{where}.rule.reward")
    for name, arm in study.arms.items():
        if is_function(arm.method.labeller):
            _try_labeller(arm, f"arms.{name}.labeller")


def _try_judge(rule: Rule, where: str) -> None:
    """A judge is a function of the text: what is drawn anew at every call is none."""
    functions.check_takes(rule.reward, ("prompt", "response"), where)
    prompts = [_PROMPT] * len(_RESPONSES)
    first, again = (rewards(rule, prompts, _RESPONSES, []) for _ in range(2))
    if (first != again).any():
        raise GoodhartError(
            f"{where}: {rule.reward} returned {first.tolist()} and then {again.tolist()} for the same texts",
            "return a number that the texts alone decide; noise that stays is proxy.rule.noise",
        )


def _try_labeller(arm: Arm, where: str) -> None:
    from goodhart.alignment.own_labels import returned  # brings the judges with it, and they PyTorch

    method: Method = arm.method
    asks = reads_rewards(method.labeller)
    drawn = [_RESPONSES[place % 2] for place in range(len(method.drawn))]
    proxy = [[0.5, -0.5][place % 2] for place in range(len(drawn))]
    try:
        returned(method.labeller, method.kind.supervision, _PROMPT, drawn, *([proxy] if asks else []))
    except GoodhartError as error:
        raise GoodhartError(f"{where}: {error.problem}", error.remedy) from error
