"""One preference step, Goodhart against TRL: online and offline IPO, interleaved in one process on one thread.

Run: python benchmarks/step.py [--models tiny small large] [--steps 15] [--batch 32] [--prompt 48] [--response 24]
[--precision float32]. A parity check in float32 comes first: for the same weights and tokens both sides must give the
same loss and gradient, or nothing is timed. TRL runs at its best of the settings below, found by short trials; with
`--precision bfloat16` both sides are held to that, Goodhart with bfloat16 weights under a float32 master, TRL with
autocast or bfloat16 weights. `large` has about 30 million random weights; the others ship with the package.
"""

from __future__ import annotations

import argparse
import copy
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from goodhart.cells.work import ENVIRONMENT

if __name__ == "__main__" and os.environ.get("MALLOC_MMAP_MAX_") is None:
    os.environ.update(ENVIRONMENT)  # glibc reads its settings at the start only; both sides profit from them
    os.execv(sys.executable, [sys.executable, *sys.argv])

import numpy as np
import torch
import transformers
import trl
from datasets import Dataset, disable_progress_bars
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, LlamaForCausalLM
from transformers.utils import logging
from trl import DPOConfig, DPOTrainer
from trl.experimental.online_dpo import OnlineDPOConfig, OnlineDPOTrainer

from goodhart.alignment.batch import Batch
from goodhart.alignment.labellers import DataLabels
from goodhart.alignment.losses import LOSSES
from goodhart.alignment.policy import LanguagePolicy
from goodhart.alignment.sources import DataSource, PolicySource
from goodhart.models.checkpoint import find, load_tokenizer
from goodhart.models.norms import fuse_norms
from goodhart.models.precision import Precision
from goodhart.models.presets import Preset, config_of
from goodhart.sampling.keyed import KeyedSampler
from goodhart.tasks import docstrings
from goodhart.tasks.docstring_text import prompt_frame, prompt_text
from goodhart.tasks.prompts import Prompt
from goodhart.training.alignment import Objective, Step, train
from goodhart.training.optimiser import Descent
from goodhart.training.settings import Optimisation

LARGE = Preset(hidden=512, layers=9, heads=8, feed_forward=1408)
BETA, PROMPT_TOKENS, RESPONSE_TOKENS = 0.1, 48, 24
BFLOAT16 = "bfloat16"
PACKAGES = ["argparse", "email", "json", "logging", "multiprocessing", "tkinter", "unittest"]
MORE_PACKAGES = ["asyncio", "concurrent", "ctypes", "http", "importlib", "sqlite3", "urllib", "wsgiref", "xml"]
STILL = Optimisation(lr=1e-7, warmup=1)
"""So small a rate that the lengths of responses, and so the work, stay what they are."""
CALM = {"report_to": [], "use_cpu": True, "disable_tqdm": True, "save_strategy": "no", "gradient_checkpointing": False}


@dataclass(frozen=True)
class Variant:
    """How TRL is set up."""

    attention: str
    numbers: str = "float32"

    def __str__(self) -> str:
        return f"{self.attention}, {self.numbers}"

    def of(self, model: Any) -> Any:
        """A copy of a model that is set up so."""
        made = copy.deepcopy(model).to(torch.bfloat16 if self.numbers == WEIGHTS else torch.float32)
        made.set_attn_implementation(self.attention)
        return made


AUTOCAST, WEIGHTS = "bf16 autocast", "bf16 weights"
ATTENTION = "sdpa", "eager"
VARIANTS = {
    "float32": [Variant(each, numbers) for numbers in ("float32", AUTOCAST) for each in ATTENTION],
    BFLOAT16: [Variant(each, numbers) for numbers in (AUTOCAST, WEIGHTS) for each in ATTENTION],
}
"""bfloat16 weights without a master are not the float32 step: their small updates are rounded away."""


@dataclass(frozen=True)
class Bench:
    """A model with a batch of prompts and a pair of responses for each."""

    name: str
    model: Any
    """As Transformers loads it, which is what TRL's users have."""
    tokenizer: Any
    pairs: Batch
    response_tokens: int

    @property
    def policy(self) -> LanguagePolicy:
        sampler = KeyedSampler(self.tokenizer.eos_token_id, self.tokenizer.pad_token_id, self.response_tokens)
        model = copy.deepcopy(self.model)
        fuse_norms(model)  # what Goodhart's own loader does
        return LanguagePolicy.of(model, sampler, self.tokenizer.pad_token_id)


class LongerWins:
    """A labeller that costs nothing, on both sides the same."""

    def label(self, batch: Batch, step: int) -> Batch:  # noqa: ARG002 - the protocol's signature
        lengths = np.array([[len(a), len(b)] for a, b in batch.responses])
        return batch.labelled((lengths[:, 0] >= lengths[:, 1]).astype(np.float64))


def prepare(name: str, batch: int, prompt: int = PROMPT_TOKENS, response: int = RESPONSE_TOKENS) -> Bench:
    """The model, prompts from the standard library's docstrings, and two responses of the model to each.

    Prompts have at most the given tokens and, but for the frame around them, at least half as many.
    """
    tokenizer = load_tokenizer(find("tiny").path)
    if name == "large":
        torch.manual_seed(0)
        ids = {"bos": tokenizer.bos_token_id, "eos": tokenizer.eos_token_id, "pad": tokenizer.pad_token_id}
        model: Any = LlamaForCausalLM(config_of(LARGE, vocab_size=len(tokenizer), **ids)).eval()
    else:
        model = AutoModelForCausalLM.from_pretrained(find(name).path, dtype=torch.float32).eval()
    found, _ = docstrings.collect([*PACKAGES, *MORE_PACKAGES])
    opening, closing = prompt_frame(tokenizer)
    texts = [tokenizer.encode(prompt_text(item), add_special_tokens=False) for item in found]
    size = prompt - len(opening) - len(closing)
    tokens = [[*opening, *ids[:size], *closing] for ids in texts if len(ids) >= prompt // 2]
    stable = [t for t in tokens if tokenizer.encode(tokenizer.decode(t), add_special_tokens=False) == t][:batch]
    prompts = [Prompt(f"{i:016x}", tuple(t)) for i, t in enumerate(stable)]
    if len(prompts) < batch:
        sys.exit(f"there are only {len(prompts)} docstrings of {prompt // 2} tokens or more: lower --batch or --prompt")
    bench = Bench(name, model, tokenizer, Batch(prompts, []), response)
    drawn = bench.policy.sample(prompts, 2, seed=0, purpose="benchmark")
    pairs = Batch.of_pairs(prompts, [two[0] for two in drawn], [two[1] for two in drawn])
    return replace(bench, pairs=LongerWins().label(pairs, 0))


def settings(variant: Variant, batch: int) -> dict[str, Any]:
    bf16 = variant.numbers == AUTOCAST
    return {**CALM, "beta": BETA, "per_device_train_batch_size": batch, "bf16": bf16, "learning_rate": STILL.lr}


def trl_online(bench: Bench, variant: Variant, folder: str) -> Any:
    """TRL's OnlineDPOTrainer on the bench's prompts."""
    texts = [bench.tokenizer.decode(list(p.tokens)) for p in bench.pairs.prompts]
    model, reference = variant.of(bench.model), variant.of(bench.model)
    args = OnlineDPOConfig(
        folder, loss_type="ipo", max_new_tokens=bench.response_tokens, temperature=1.0, top_p=1.0, top_k=0,
        **settings(variant, len(texts)),
    )  # fmt: skip
    trainer = OnlineDPOTrainer(
        model=model,
        ref_model=reference,
        args=args,
        train_dataset=Dataset.from_dict({"prompt": texts}),
        processing_class=bench.tokenizer,
        reward_funcs=[lambda completion_ids, **_: [float((np.array(ids) > 0).sum()) for ids in completion_ids]],
    )
    trainer.create_optimizer()
    return trainer


def trl_offline(bench: Bench, variant: Variant, folder: str, *, cached: bool) -> tuple[Any, dict[str, Any]]:
    """TRL's DPOTrainer and the bench's pairs as its batch, with reference log-probabilities if they are cached."""
    model, reference = variant.of(bench.model), variant.of(bench.model)
    data = Dataset.from_dict({"prompt": ["return the"], "chosen": [" sum"], "rejected": [" file"]})
    args = DPOConfig(folder, loss_type=["ipo"], precompute_ref_log_probs=cached, **settings(variant, len(bench.pairs)))
    trainer = DPOTrainer(
        model=model, ref_model=reference, args=args, train_dataset=data, processing_class=bench.tokenizer
    )
    assert bench.pairs.label is not None
    rows: list[dict[str, Any]] = []
    with torch.no_grad():
        known = bench.policy.log_probs(bench.pairs.prompt_tokens, bench.pairs.responses).tolist()
    for prompt, two, label, logp in zip(
        bench.pairs.prompts, bench.pairs.responses, bench.pairs.label, known, strict=True
    ):
        w, y = (0, 1) if label > 0.5 else (1, 0)
        row = {"prompt_ids": list(prompt.tokens), "chosen_ids": list(two[w]), "rejected_ids": list(two[y])}
        rows.append({**row, **({"ref_chosen_logps": logp[w], "ref_rejected_logps": logp[y]} if cached else {})})
    trainer.create_optimizer()
    trainer.current_gradient_accumulation_steps = 1  # what `train` would set
    return trainer, trainer.data_collator(rows)


def finish(trainer: Any) -> None:
    """What HF's Trainer does after a backward pass."""
    torch.nn.utils.clip_grad_norm_(trainer.model.parameters(), 1.0)
    trainer.optimizer.step()
    trainer.optimizer.zero_grad()


def trl_online_step(trainer: Any) -> Callable[[], None]:
    texts = list(trainer.train_dataset["prompt"])

    def step() -> None:
        trainer.training_step(trainer.model, {"prompt": texts})
        finish(trainer)

    return step


def trl_offline_step(trainer: Any, batch: dict[str, Any]) -> Callable[[], None]:
    def step() -> None:
        trainer.training_step(trainer.model, batch)
        finish(trainer)

    return step


def our_steps(bench: Bench, *, online: bool, cached: bool, precision: Precision = "float32") -> Callable[[], Step]:
    """Goodhart's loop, a step a call."""
    master = bench.policy
    policy, reference = master.at(precision), replace(bench.policy, name="start").at(precision)
    policy.model.train()
    size = len(bench.pairs)
    if online:
        source: Any = PolicySource(bench.pairs.prompts, size, 0)
        labeller: Any = LongerWins()
    else:
        with torch.no_grad():
            known = reference.log_probs(bench.pairs.prompt_tokens, bench.pairs.responses).double().numpy()
        source = DataSource(replace(bench.pairs, logps={reference.name: known} if cached else {}), size, 0)
        labeller = DataLabels()
    lowered = () if policy is master else policy.parameters()
    descent = Descent(master.parameters(), STILL, 10**6, lowered=lowered)
    steps = train(policy, reference, source, labeller, descent, Objective(LOSSES["ipo"], {"beta": BETA}), steps=10**6)
    return lambda: next(steps)


def slope(model: Any) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def same(what: str, ours: tuple[float, torch.Tensor], theirs: tuple[float, torch.Tensor]) -> None:
    """Stop unless loss and gradient agree (TRL's margin is 1/(2 beta), ours 1/2 of beta times it: a factor beta^2)."""
    loss, gradient = ours
    their_loss, their_gradient = theirs[0] * BETA**2, theirs[1] * BETA**2
    off = float((gradient - their_gradient).norm() / gradient.norm())
    if abs(loss - their_loss) > 1e-3 * abs(loss) or off > 1e-2:
        sys.exit(f"{what}: not the same computation (loss {loss} and {their_loss}, gradients differ by {off:.1%})")
    print(f"  parity {what}: loss {loss:.6f} and {their_loss:.6f}, gradients differ by {off:.1e} of their norm")


def our_gradient(bench: Bench, reduction: str) -> tuple[float, torch.Tensor]:
    from goodhart.alignment.losses import MARGINS, pair_loss
    from goodhart.alignment.scores import reduced

    policy = bench.policy
    with torch.no_grad():
        known = policy.log_probs(bench.pairs.prompt_tokens, bench.pairs.responses)
    policy.model.load_state_dict(moved(bench).state_dict())
    rho = policy.log_probs(bench.pairs.prompt_tokens, bench.pairs.responses) - known
    rho = reduced(rho, torch.as_tensor(bench.pairs.lengths, dtype=rho.dtype), reduction)
    label = torch.as_tensor(bench.pairs.label, dtype=rho.dtype)
    loss = pair_loss(MARGINS["ipo"], rho[:, 0], rho[:, 1], label, beta=BETA).mean()
    loss.backward()
    return float(loss.detach()), slope(policy.model)


def moved(bench: Bench) -> Any:
    """The model a little away from the reference, so that the log-ratios are not all zero."""
    model = copy.deepcopy(bench.model)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.02 * p.std() * torch.randn(p.shape, generator=draw))
    return model


def parity(bench: Bench, folder: str) -> None:
    """Same weights and tokens: same loss and gradients, online and offline."""
    plain = Variant("sdpa")
    online = trl_online(bench, plain, folder)
    online.model.load_state_dict(moved(bench).state_dict())
    width = max(len(p.tokens) for p in bench.pairs.prompts)
    pad, texts = bench.tokenizer.pad_token_id, [*bench.pairs.first, *bench.pairs.second]
    fronts = [[pad] * (width - len(p.tokens)) + list(p.tokens) for p in bench.pairs.prompts] * 2
    front_mask = [[0] * (width - len(p.tokens)) + [1] * len(p.tokens) for p in bench.pairs.prompts] * 2
    back = [[*t, *[pad] * (bench.response_tokens - len(t))] for t in texts]
    back_mask = [[1] * len(t) + [0] * (bench.response_tokens - len(t)) for t in texts]
    online._generate = lambda *_: (*map(torch.tensor, (fronts, front_mask, back, back_mask)), {})
    lengths = [float(len(t)) for t in texts]
    online.reward_funcs = [lambda **_: lengths]
    loss = online.training_step(online.model, {"prompt": list(online.train_dataset["prompt"])})
    same("online", our_gradient(bench, "sum"), (float(loss), slope(online.model)))
    offline, batch = trl_offline(bench, plain, folder, cached=False)
    offline.model.load_state_dict(moved(bench).state_dict())
    loss = offline.training_step(offline.model, batch)
    same("offline", our_gradient(bench, "mean"), (float(loss), slope(offline.model)))


def timed(step: Callable[[], Any]) -> float:
    began = time.perf_counter()
    step()
    return time.perf_counter() - began


def best_variant(
    variants: list[Variant], make: Callable[[Variant], Callable[[], None]]
) -> tuple[Variant, Callable[[], None]]:
    """The variant with the shortest step; the first call of each is not counted."""
    trials: list[tuple[float, int, Callable[[], None]]] = []
    for i, variant in enumerate(variants):
        step = make(variant)
        step()
        trials.append((min(timed(step) for _ in range(2)), i, step))
    seconds = "; ".join(f"{variants[i]} {s * 1e3:.0f} ms" for s, i, _ in trials)
    print(f"  TRL trials: {seconds}")
    _, i, step = min(trials, key=lambda trial: trial[:2])
    return variants[i], step


def compare(name: str, theirs: Callable[[], None], ours: Callable[[], Step], steps: int) -> None:
    """Interleaved steps: medians, and the median of the ratios of neighbours."""
    theirs()
    ours()
    pairs: list[tuple[float, float]] = []
    stages: list[dict[str, float]] = []
    for _ in range(steps):
        pairs.append((timed(theirs), began := time.perf_counter()))
        stages.append({name: spent.seconds for name, spent in ours().stages.items()})
        pairs[-1] = (pairs[-1][0], time.perf_counter() - began)
    a, b = (statistics.median(column) * 1e3 for column in zip(*pairs, strict=True))
    ratio = statistics.median(x / y for x, y in pairs)
    shares = ", ".join(f"{k} {statistics.median(s[k] for s in stages) * 1e3:.0f}" for k in stages[0])
    with FlopCounterMode(display=False) as counter:
        ours()
    rate = counter.get_total_flops() / (b / 1e3)
    print(f"  {name:32s} TRL {a:7.0f} ms   Goodhart {b:7.0f} ms   ratio {ratio:.2f}   ({shares} ms)")
    print(
        f"  {'':32s} {rate / 1e9:.0f} GFLOP/s, {rate / matrix_rate():.0%} of a float32 matrix product on this core",
        flush=True,
    )


def matrix_rate() -> float:
    """FLOP/s of a float32 product of 1024 x 1024 matrices on one thread, the best of ten."""
    a = torch.randn(1024, 1024)
    return 2 * 1024**3 / min(timed(lambda: a @ a) for _ in range(10))


def quiet() -> None:
    """One thread, and nothing but the table on the screen."""
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    disable_progress_bars()


def options(description: str | None, *, lengths: bool = False) -> argparse.Namespace:
    """Models, steps and batch from the command line; for a step also its lengths and its precision."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--models", nargs="+", default=["tiny", "small", "large"], choices=["tiny", "small", "large"])
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--batch", type=int, default=32)
    if lengths:
        parser.add_argument("--prompt", type=int, default=PROMPT_TOKENS, help="tokens at most, and half of it at least")
        parser.add_argument("--response", type=int, default=RESPONSE_TOKENS, help="tokens at most")
        parser.add_argument("--precision", default="float32", choices=["float32", BFLOAT16], help="of both sides")
    return parser.parse_args()


def main() -> None:
    """Print the table."""
    args = options(__doc__, lengths=True)
    quiet()
    print(f"TRL {trl.__version__}, transformers {transformers.__version__}, torch {torch.__version__}, one thread")
    print(f"{platform.processor() or platform.machine()}, {matrix_rate() / 1e9:.0f} GFLOP/s in float32 matrix products")
    for name in args.models:
        table(prepare(name, args.batch, args.prompt, args.response), args.steps, args.precision)


def table(bench: Bench, steps: int, precision: Precision) -> None:
    """All comparisons for one model."""
    mean = np.mean([len(r) for two in bench.pairs.responses for r in two])
    length = np.mean([len(p.tokens) for p in bench.pairs.prompts])
    size = sum(p.numel() for p in bench.model.parameters()) / 1e6
    print(f"{bench.name}: {size:.1f}M parameters, {len(bench.pairs)} prompts of {length:.1f} tokens on average,")
    print(f"responses of {mean:.1f}; Goodhart in {precision}")
    variants = VARIANTS[precision]
    with tempfile.TemporaryDirectory() as folder:
        parity(bench, folder)
        variant, step = best_variant(variants, lambda v: trl_online_step(trl_online(bench, v, folder)))
        compare(f"online ({variant})", step, our_steps(bench, online=True, cached=False, precision=precision), steps)
        for cached in (False, True):
            variant, step = best_variant(
                variants, lambda v, cached=cached: trl_offline_step(*trl_offline(bench, v, folder, cached=cached))
            )
            ours = our_steps(bench, online=False, cached=cached, precision=precision)
            compare(f"offline{', cached reference' * cached} ({variant})", step, ours, steps)
            if not cached:
                ours = our_steps(bench, online=False, cached=True, precision=precision)
                compare("offline, as each is unless told", step, ours, steps)


if __name__ == "__main__":
    main()
