"""What several processes cannot make together (`executor.processes`), told before the first cell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from goodhart.errors import GoodhartError
from goodhart.functions import is_function
from goodhart.recipes.arm import KEYED, Arm

if TYPE_CHECKING:
    from goodhart.studies.spec import Study

_ALONE = "leave executor.processes out (a cell of several GPUs then has its models' layers on all of them)"


def refuse_unshared(study: Study) -> None:
    """Raises GoodhartError for arms whose run holds more than parts of its models, and for worlds without models."""
    if study.executor.processes == 1:
        return
    if study.world:
        raise _refused(study, "a tabular world's policies are tables, and small", "leave executor.processes out")
    for name, arm in {"the golden policy": study.golden_policy, **study.arms}.items():
        for key, why in _unshared(arm).items():
            raise _refused(study, f"arm {name!r} has {key}: {why}", f"{_ALONE}, or take the arm out")


def refuse_encoder_decoders(study: Study, configs: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises GoodhartError for a model, by the key that names it, whose parts are called without the whole of it."""
    for key, config in configs.items() if study.executor.processes > 1 else ():
        if config.get("is_encoder_decoder"):
            raise _refused(study, f"{key} is an encoder-decoder, which they cannot share", _ALONE)


def _unshared(arm: Arm) -> dict[str, str]:
    """By the key of the setting, why an arm's run cannot be shared."""
    method = arm.method
    copied = "it holds a copy of the policy, and a model in parts is not copied"
    apart = "it would be called in every process, and nobody knows whether it says the same in all of them"
    reasons = {
        f"refresh: {method.refresh}": copied if method.refresh != 1 else "",
        "labeller: itself": copied if method.labeller == "itself" else "",
        "reference: moving": copied if method.reference == "moving" else "",
        "average: true": copied if method.average else "",
        f"loss: {method.loss}": f"a {method.kind.learner} is learnt beside the policy, and it is not in parts"
        if method.kind.learner != "none"
        else "",
        f"sampler: {arm.sampler}": "it takes whole weights" if arm.sampler != KEYED else "",
        f"labeller: {method.labeller}": apart if is_function(method.labeller) else "",
        "drawn: mixture": "two models write it token by token" if "mixture" in method.drawn else "",
    }
    return {key: why for key, why in reasons.items() if why}


def _refused(study: Study, problem: str, remedy: str) -> GoodhartError:
    return GoodhartError(f"executor.processes is {study.executor.processes}, and {problem}", remedy)
