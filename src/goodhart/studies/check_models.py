"""What a study's models can be used for, by their files alone: size, tokenizer, context."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from goodhart.errors import GoodhartError
from goodhart.models.adapter_settings import Adapter
from goodhart.models.checkpoint import load_tokenizer
from goodhart.models.model_files import config, context, parameters, vocabulary
from goodhart.studies.shared import refuse_encoder_decoders
from goodhart.studies.spec import Study

LARGE = 50_000_000
"""Parameters up to which the defaults of `study_file.OF_SIZE` hold; they were set for models of 0.4 to 16 million."""


def models(study: Study) -> dict[str, str]:
    """The study's models by the keys that name them; a judge that is a rule has none."""
    named = {"policy": study.policy}
    named |= {f"{key}.model": judge.model for key, judge in study.judges.items() if not judge.rule}
    for name, variant in study.variants.items():
        if variant.policy:
            named[f"variants.{name}.policy"] = variant.policy
    for name, arm in study.arms.items():
        named |= {f"arms.{name}.checkpoint[{number}]": model for number, model in enumerate(arm.checkpoint)}
    return named


def check_models(study: Study, folders: Mapping[str, Path]) -> None:
    """Raises GoodhartError for models, by the key that names each, that cannot do what the study asks of them."""
    check_sizes(study, {key: parameters(folder) for key, folder in folders.items()})
    configs = {key: config(folder) for key, folder in folders.items()}
    refuse_encoder_decoders(study, configs)
    check_value_models(study, configs)
    check_contexts(study, configs)
    check_tokenizers(folders)
    check_adapters(study, folders)


def check_adapters(study: Study, folders: Mapping[str, Path]) -> None:
    """Raises GoodhartError for an adapter that a model cannot have, and if there is no peft."""
    for where, (model, adapter) in adapters(study).items():
        from goodhart.models.adapter import check_adapter  # what has none needs no torch for this

        try:
            check_adapter(folders[model], adapter)
        except GoodhartError as error:
            raise GoodhartError(f"{where}: {error.problem}", error.remedy) from error


def adapters(study: Study) -> dict[str, tuple[str, Adapter]]:
    """By section, the key of the model that an adapter is over, and the adapter."""
    result: dict[str, tuple[str, Adapter]] = {}
    if study.sft.adapter:
        result["sft"] = "policy", study.sft.adapter
    for name, judge in study.judges.items():
        if judge.adapter:
            result[name] = f"{name}.model", judge.adapter
    for name, variant in study.variants.items():
        if variant.sft and variant.sft.adapter:
            result[f"variants.{name}.sft"] = (
                f"variants.{name}.policy" if variant.policy else "policy",
                variant.sft.adapter,
            )
    arms = {"golden_policy": study.golden_policy, **{f"arms.{name}": arm for name, arm in study.arms.items()}}
    for where, arm in arms.items():
        if arm.adapter:
            result[where] = _policy_of(study, arm.variant), arm.adapter
    return result


def _policy_of(study: Study, variant: str) -> str:
    """The key that names the policy of arms of this variant."""
    return f"variants.{variant}.policy" if variant and study.variants[variant].policy else "policy"


def check_sizes(study: Study, sizes: Mapping[str, int]) -> None:
    """Raises GoodhartError for keys that are left at the defaults of small models, where a model is a large one."""
    of = {key: [model for model in _of(study, key) if model in sizes] for key in study.unnamed}
    too_small = {key: max(models, key=lambda model: sizes[model]) for key, models in of.items() if models}
    large = {key: model for key, model in too_small.items() if sizes[model] > LARGE}
    if not large:
        return
    about = ", ".join(f"{model} has {sizes[model] / 1e6:,.0f} million" for model in dict.fromkeys(large.values()))
    named = ", ".join(large)
    raise GoodhartError(
        f"the defaults of {named} are for models of up to {LARGE // 10**6} million parameters, and {about}: such a "
        "model takes smaller steps, or it forgets what it knows",
        f"name them in the study file; what such models are commonly trained with is {_suggested(study, list(large))}",
    )


def _of(study: Study, key: str) -> list[str]:
    """The keys of the models whose size decides what a setting should be."""
    section, *rest = key.split(".")
    if section in ("golden", "proxy"):
        return [f"{section}.model"]
    if section == "golden_policy":
        return ["policy"]
    if section == "sft":
        variants = [f"variants.{n}.policy" for n, v in study.variants.items() if v.policy and not v.sft]
        return ["policy", *variants]
    if section == "arms":
        return [_policy_of(study, study.arms[".".join(rest[:-1])].variant)]
    for name, variant in study.variants.items():
        for judge in ("proxy", "golden"):
            if key.startswith(f"variants.{name}.{judge}."):
                return [f"variants.{name}.{judge}.model"]
        if key.startswith(f"variants.{name}.sft."):
            return [f"variants.{name}.policy" if variant.policy else "policy"]
    raise ValueError(key)


def _suggested(study: Study, keys: list[str]) -> str:
    """Values as TRL's recipes for reward models, and published ones for DPO and IPO, have them for 0.5 to 8 billion."""
    steps = max(arm.steps for arm in study.arms.values())
    by_ending = {
        "optimisation.lr": "1.0e-5",
        "head_factor": "1",
        "golden_policy.steps": str(steps),
        ".lr": "[1.0e-6]",
    }
    values = {key: next(value for ending, value in by_ending.items() if key.endswith(ending)) for key in keys}
    return " ".join(f"{key}={value}" for key, value in values.items())


def check_value_models(study: Study, configs: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises GoodhartError for an arm that learns values beside a policy that has no value model."""
    for name, arm in {"the golden policy": study.golden_policy, **study.arms}.items():
        policy = _policy_of(study, arm.variant)
        learnt = arm.method.kind.learner in ("value", "critic")
        if learnt and configs.get(policy, {}).get("is_encoder_decoder"):
            raise GoodhartError(
                f"arm {name!r} learns a value model, and {policy} is an encoder-decoder, which has none here",
                "take a method without one, such as rloo instead of ppo, or a causal model",
            )


def check_contexts(study: Study, configs: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises GoodhartError for a model that has fewer positions than the longest text that it must read."""
    task = study.task
    kinds = {f"{key}.model": judge.kind for key, judge in study.judges.items()}
    for key, settings in configs.items():
        limit = context(dict(settings))
        # a preference model has a separator behind each response
        responses = {"pairwise": 2, "bradley-terry": 1}.get(kinds.get(key, ""), 0)
        written = responses * (task.max_response + 1) if responses else task.max_response
        apart = bool(settings.get("is_encoder_decoder"))
        longest = max(task.max_prompt, written) if apart else task.max_prompt + written
        if limit is not None and longest > limit:
            what = "both responses" if responses == 2 else "a response"
            raise GoodhartError(
                f"{key} has a context of {limit} tokens, and a prompt of task.max_prompt={task.max_prompt} with {what} "
                f"of task.max_response={task.max_response} takes {longest}",
                "lower them, or choose a model with a longer context",
            )


def check_tokenizers(folders: Mapping[str, Path]) -> None:
    """Raises GoodhartError for a model that reads other tokens than the policy."""
    known: dict[Path, dict[str, int]] = {}
    for folder in folders.values():
        if folder not in known:
            known[folder] = vocabulary(folder) or load_tokenizer(folder).get_vocab()
    policy = folders["policy"]
    for key, folder in folders.items():
        if known[folder] == known[policy]:
            continue
        theirs, ours = (load_tokenizer(each).get_vocab() for each in (folder, policy))  # its own code may add tokens
        if theirs != ours:
            raise GoodhartError(
                f"{key} ({folder}) and the policy ({policy}) have different tokenizers, of {len(theirs)} and "
                f"{len(ours)} tokens",
                "choose models of one family: responses are handed on as token ids",
            )
