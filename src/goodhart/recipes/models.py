"""Recipes for the models before any arm: SFT policy and preference models."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from goodhart.alignment.batch import Batch
from goodhart.alignment.judge import ModelJudge, PairJudge
from goodhart.alignment.mark_table import read_marked, read_marks
from goodhart.alignment.pair_table import read_labelled, read_pairs
from goodhart.alignment.policy import LanguagePolicy
from goodhart.alignment.rule import FILE, RuleJudge
from goodhart.alignment.sources import used_places
from goodhart.cells.steps import STEPS_FILE, Steps
from goodhart.cells.workplace import Workplace
from goodhart.compute.ranks import number
from goodhart.compute.shards import is_sharded
from goodhart.compute.threads import spread
from goodhart.errors import GoodhartError
from goodhart.models.adapter import (
    adapted,
    base_of,
    copy_adapter,
    has_adapter,
    is_adapter,
    merged,
    save_adapter,
    with_saved_adapter,
)
from goodhart.models.adapter_settings import Adapter
from goodhart.models.checkpoint import load_model, load_tokenizer, load_whole, save_model
from goodhart.models.encoder_decoder import is_encoder_decoder
from goodhart.models.logprobs import choose_layout
from goodhart.models.packing import cuts
from goodhart.models.precision import FLOAT32, Precision
from goodhart.models.preference import PreferenceModel
from goodhart.models.recomputation import recompute_layers
from goodhart.recipes.located import model_folder
from goodhart.recipes.mark_quality import TRAIN_MARKS, marks_quality
from goodhart.recipes.model_card import write_model_card
from goodhart.recipes.people import MARKS, table_of
from goodhart.sampling.keyed import KeyedSampler
from goodhart.tasks.docstring_text import RESPOND
from goodhart.tasks.prompt_table import read_demonstrations, read_held_out
from goodhart.training import preference, supervised
from goodhart.training.optimiser import Descent
from goodhart.training.settings import RULE, Preference, Supervised

HELD_OUT_LINES = 256
"""At most this many human lines of held-out prompts tell what the SFT policy has learnt."""
TRAIN_PAIRS = 256
"""Training pairs, or marks, on which a preference model's quality is measured beside the held-out ones."""


def load_policy(path: Path | str, max_tokens: int, *, whole: bool = False) -> tuple[LanguagePolicy, Any]:
    """A policy with the keyed sampler, and its tokenizer; `whole` merges an adapter into the weights.

    Raises GoodhartError if its context is too short.
    """
    policy, tokenizer = read_policy(path, max_tokens, whole=whole)
    return policy.at(FLOAT32), tokenizer


def read_policy(path: Path | str, max_tokens: int, *, whole: bool = False) -> tuple[LanguagePolicy, Any]:
    """The same, over whose weights an adapter can still be laid: they are in no parts before it is asked for `at`."""
    tokenizer = load_tokenizer(path)
    sampler = KeyedSampler(tokenizer.eos_token_id, tokenizer.pad_token_id, max_tokens)
    model = load_whole(path) if whole else load_model(path)
    policy = LanguagePolicy.of(model, sampler, tokenizer.pad_token_id)
    return policy, tokenizer


def load_beside(base: LanguagePolicy, base_folder: Path, folder: Path) -> LanguagePolicy:
    """The policy of a checkpoint; on the weights of `base` where it is an adapter over that policy's folder."""
    if is_adapter(folder) and Path(base_of(folder)) == base_folder.resolve():
        if number() == 1:
            return replace(base, model=with_saved_adapter(base.model, folder), name="")
        # a tree that lies in parts has no tensors that another could share
        whole = read_policy(base_folder, 1)[0].model
        return replace(base, model=with_saved_adapter(whole, folder), name="").at(FLOAT32)
    assert isinstance(base.sampler, KeyedSampler)
    return load_policy(folder, base.sampler.max_tokens)[0]


def reference_name(work: Workplace) -> str:
    """Under what the SFT policy's log-probabilities are kept: the address of its cell."""
    return work.inputs["sft"].name


def load_reference(work: Workplace, precision: Precision = FLOAT32) -> LanguagePolicy:
    """The SFT policy, to score with."""
    return replace(read_policy(work.inputs["sft"] / "final", 1)[0], name=reference_name(work)).at(precision)


def sft(work: Workplace) -> dict[str, Any]:
    """`early/` and `final/`: Hugging Face checkpoints of the supervised policy; `metrics.jsonl`."""
    settings = work.setting(Supervised, "sft")
    begun, tokenizer = read_policy(model_folder(work, "model"), work.settings["max_response"])
    if settings.optimisation.gradient_checkpointing:
        recompute_layers(begun.model)
    policy = (begun.adapted(settings.adapter, 0) if settings.adapter else begun).at(FLOAT32)
    table = work.inputs["prompts"] / "prompts.parquet"
    descent = Descent(policy.parameters(), settings.optimisation, settings.steps)
    state = work.state / "training.pt"
    start = descent.load(state) if state.exists() else 0
    steps = range(start, settings.steps)
    train = read_demonstrations(table, lambda number: used_places(steps, settings.batch, number, 0))
    _check_context(policy.model, train.longest, work.settings["max_response"])
    work.watch.start()
    with Steps(work.folder / STEPS_FILE, start) as said:
        for step, loss, norm in supervised.fit(policy, train.prompts, train.lines, settings, descent, 0, start):
            said.add({"step": step, "loss": loss, "gradient_norm": norm})
            work.say(step, settings.steps, f"{loss:.2f} nats per token")
            if step == settings.early:
                early = _whole(policy, begun, settings.adapter)
                save_policy(early, tokenizer, work.folder / "early", work, f"SFT policy at step {step}")
                descent.save(state, step)
    work.watch.lap("train")
    if settings.adapter:  # what is measured is what is kept: the base and the reference of every arm
        policy = replace(policy, model=_whole(policy, begun, settings.adapter))
    save_policy(policy.model, tokenizer, work.folder / "final", work, "SFT policy")
    policy = policy.at(FLOAT32)
    policy.model.eval()
    held_out = [row for row in read_held_out(table, range(HELD_OUT_LINES)) if row.demonstration]
    prompts, lines = [r.prompt for r in held_out], [r.demonstration for r in held_out]
    elsewhere = [*prompts[1:], prompts[0]]
    return {
        "nats per token, own prompt": supervised.nats_per_token(policy, prompts, lines),
        "nats per token, another prompt": supervised.nats_per_token(policy, elsewhere, lines),
        "layout": policy.layout,
        "parameters": sum(p.numel() for p in policy.model.parameters()),
    }


def judge(folder: Path) -> PairJudge:
    """The preference model of a cell, or its rule."""
    if (folder / "model" / FILE).is_file():
        return RuleJudge.load(folder / "model")
    return ModelJudge(PreferenceModel.load(folder / "model").placed())


def _check_context(model: Any, prompt: int, response: int) -> None:
    """Raises GoodhartError if the longest prompt and response do not fit; T5's relative positions have no limit."""
    context = getattr(model.config, "max_position_embeddings", None)
    # an encoder-decoder counts the positions of prompt and response apart
    longest = max(prompt, response) if is_encoder_decoder(model) else prompt + response
    if context is not None and longest > context:
        raise GoodhartError(
            f"prompt and response take up to {longest} tokens, the policy's context has {context}",
            "lower task.max_prompt or task.max_response, or choose another policy",
        )


def _whole(policy: LanguagePolicy, begun: LanguagePolicy, adapter: Adapter | None) -> Any:
    """The policy's model with the adapter merged into the weights that it began with."""
    if adapter is None:
        return policy.model
    if not is_sharded(policy.model):
        return merged(policy.model)
    tree = adapted(begun.model, adapter, 0)
    copy_adapter(tree, policy.model)
    return merged(tree)


def save_policy(
    model: Any, tokenizer: Any, folder: Path, work: Workplace, title: str, base: Path | None = None
) -> None:
    """An ordinary Hugging Face checkpoint with a model card; of a policy with an adapter, the adapter alone.

    `base` is the checkpoint that the adapter is over: it is named by the way from one cell to the other.
    """
    if has_adapter(model):
        assert base is not None
        save_adapter(model, folder, f"../../{base.parent.name}/{base.name}")
    else:
        save_model(model, folder)
    tokenizer.save_pretrained(folder)
    write_model_card(folder, title, work.settings, work.inputs, adapter=has_adapter(model))


def preference_model(work: Workplace) -> dict[str, Any]:
    """`model/`, a preference model fitted on labelled pairs or on marks, and `metrics.jsonl`; its held-out quality."""
    settings = work.setting(Preference, "preference")
    index = work.inputs["prompts"] / "prompts.parquet"
    source = table_of(work.inputs["pairs"])
    seed, steps = work.settings["seed"], range(settings.steps)
    read, read_all = (read_marked, read_marks) if source.name == MARKS else (read_labelled, read_pairs)
    data = read(source, "train", index, lambda number: used_places(steps, settings.batch, number, seed))
    validation = read_all(source, "validation", index)[0]
    if len(data) == 0 or len(validation) == 0:
        raise GoodhartError("there are no training or no validation pairs", "raise task.held_out or task.validation")
    model = _initial_model(work, settings)
    work.watch.start()

    def say(record: dict[str, int | float]) -> None:
        said.add(_of_validation(record) if "accuracy" in record else record)
        note = f"accuracy {record['accuracy']:.3f}" if "accuracy" in record else f"loss {record['loss']:.3f}"
        work.say(int(record["step"]), settings.steps, note)

    with Steps(work.folder / STEPS_FILE) as said:
        looks = preference.fit(model, data, validation, settings, seed, say)
    work.watch.lap("train")
    (work.folder / "model").mkdir(exist_ok=True)
    model.save(work.folder / "model")
    return {"looks": looks, "training pairs": len(data), "parameters": sum(p.numel() for p in model.parameters())}


def _of_validation(look: dict[str, int | float]) -> dict[str, int | float]:
    return {name if name == "step" else f"validation_{name}": value for name, value in look.items()}


def judge_quality(work: Workplace) -> dict[str, Any]:
    """How well a judge does on held-out pairs and, in a built-in task, its probes; nothing is written."""
    index, source, tests = work.inputs["prompts"] / "prompts.parquet", work.inputs["pairs"], work.inputs["tests"]
    model = judge(work.inputs["model"])
    work.watch.start()
    if (source / MARKS).exists():
        marks = read_marks(source / MARKS, "train", index, TRAIN_MARKS)[0], read_marks(tests / MARKS, "test", index)[0]
        result = marks_quality(model, *marks)
        work.watch.lap("evaluate")
        return result
    train, _, _ = read_pairs(source / "pairs.parquet", "train", index, TRAIN_PAIRS)
    result: dict[str, Any] = {"train": _quality(model, train)}
    test, _, kinds = read_pairs(tests / "pairs.parquet", "test", index)
    if len(test):
        result["test"] = _quality(model, test)
        by_kind = sorted(set(kinds)) if len(set(kinds)) > 1 else []
        result["test by kind"] = {k: _quality(model, test.take(_where(kinds, k))) for k in by_kind}
    if (tests / "probes.parquet").exists():
        probes, _, names = read_pairs(tests / "probes.parquet", "test", index)
        result["probes"] = {k: _quality(model, probes.take(_where(names, k))) for k in dict.fromkeys(names)}
    work.watch.lap("evaluate")
    return result


def _where(kinds: list[str], kind: str) -> list[int]:
    return [i for i, k in enumerate(kinds) if k == kind]


def _initial_model(work: Workplace, settings: Preference) -> PreferenceModel:
    """A language model that reads the same tokens as the policy, with a fresh head."""
    checkpoint = model_folder(work, "model")
    tokenizer, policy_tokenizer = load_tokenizer(checkpoint), load_tokenizer(model_folder(work, "tokenizer"))
    if tokenizer.get_vocab() != policy_tokenizer.get_vocab():
        raise GoodhartError(
            f"preference model {work.places['model']!r} and the policy have different tokenizers",
            "choose models of one family: responses are passed on as token ids",
        )
    vocabulary = tokenizer.get_vocab()
    separator = vocabulary.get(RESPOND, tokenizer.eos_token_id)
    layout = choose_layout(load_model(checkpoint), tokenizer.pad_token_id)
    assert settings.kind != RULE, "a rule has a cell of its own"
    model = PreferenceModel.from_language_model(checkpoint, settings.kind, separator, tokenizer.pad_token_id, layout)
    if settings.optimisation.gradient_checkpointing:
        recompute_layers(model.language_model)
    if settings.adapter:
        base = {"name": work.places["model"], "digest": work.settings["model"]}
        model.adapt(settings.adapter, int(work.settings["seed"]), base)
    return model.placed()


def _quality(model: PairJudge, pairs: Batch) -> dict[str, Any]:
    """Agreement with the labels with its 95% Wilson interval, the loss, and the share of order flips."""
    from scipy.stats import binomtest  # it takes half a second, and few cells ask it

    quality, agreed = preference.quality_of(model, pairs)
    interval = binomtest(round(float(agreed.sum())), len(agreed)).proportion_ci(method="wilson")
    return {**asdict(quality), "low": float(interval.low), "high": float(interval.high)}


def with_reference(reference: LanguagePolicy, pairs: Batch) -> Batch:
    """The pairs with the reference's log-probabilities under its name."""
    return pairs.scored_by(reference.name, scored(reference, pairs))


def scored(policy: LanguagePolicy, pairs: Batch, batch: int = 32) -> Float[np.ndarray, "pair 2"]:
    """Log-probabilities of fixed data in nats, once for all, in batches that no run's course can change."""

    def score(model: Any, cut: slice) -> Float[np.ndarray, "pair 2"]:
        part = pairs[cut]
        logps = replace(policy, model=model).log_probs(part.prompt_tokens, part.responses)
        return logps.double().cpu().numpy()

    with torch.no_grad():
        return np.concatenate(spread(policy.model, score, cuts(len(pairs), batch)))
