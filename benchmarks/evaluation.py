"""Measuring one checkpoint: Goodhart's way against the plain way, interleaved on one thread.

Run: python benchmarks/evaluation.py [--steps 15] [--batch 32]. The policy is `tiny`, the golden model `small` with a
score for each response, the proxy `tiny` with both responses in context. The plain way samples with `generate`, scores
every response behind a copy of its prompt, and asks the judges about every pair anew; both give the same divergences
and judgements for the same responses, which is checked first.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

import step as harness
from goodhart.alignment.batch import Batch
from goodhart.alignment.judge import ModelJudge
from goodhart.evaluation.checkpoint import Judges, judged, verdicts, written
from goodhart.evaluation.kl import divergence
from goodhart.evaluation.verdicts import Opponents, known_of
from goodhart.models.checkpoint import find
from goodhart.models.packing import Tokens
from goodhart.models.preference import PreferenceModel
from goodhart.sampling.keyed import Draws


@dataclass(frozen=True)
class Generate:
    """The peer's sampler: `generate` on left-padded prompts."""

    eos: int
    pad: int

    def __call__(self, model: Any, prompts: Sequence[Tokens], samples: int, _: Draws) -> list[list[list[int]]]:
        """One response for each prompt."""
        assert samples == 1
        width = max(map(len, prompts))
        with torch.no_grad():
            out = model.generate(
                torch.tensor([[self.pad] * (width - len(p)) + list(p) for p in prompts]),
                attention_mask=torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts]),
                do_sample=True,
                temperature=1.0,
                top_k=0,
                top_p=1.0,
                max_new_tokens=harness.RESPONSE_TOKENS,
                pad_token_id=self.pad,
                eos_token_id=self.eos,
            )[:, width:].tolist()
        return [[row[: row.index(self.eos) + 1] if self.eos in row else row] for row in out]


def judge(model: str, kind: Any, bench: harness.Bench, layout: Any) -> ModelJudge:
    """A preference model with a head drawn at random."""
    made = PreferenceModel.from_language_model(find(model).path, kind, 5, bench.tokenizer.pad_token_id, layout)
    torch.nn.init.normal_(made.head.weight, std=0.1, generator=torch.Generator().manual_seed(0))
    return ModelJudge(made.eval())


def ways(bench: harness.Bench) -> tuple[Callable[[int], object], Callable[[int], object]]:
    """Both ways as functions of the seed, after the check that they agree."""
    prompts, tokens = bench.pairs.prompts, bench.pairs.prompt_tokens
    fixed, eos = (list(bench.pairs.first), list(bench.pairs.second)), bench.tokenizer.eos_token_id
    ours = bench.policy
    plain = replace(ours, layout="plain", sampler=Generate(eos, ours.pad), model=copy.deepcopy(bench.model))
    judges = {
        layout: Judges(judge("small", "bradley-terry", bench, layout), judge("tiny", "pairwise", bench, layout))
        for layout in ("shared prompt", "plain")
    }
    several = [[[text] for text in side] for side in fixed]
    ready = {
        name: Opponents(*several, known_of(each, tokens, *several))
        for name, each in judges["shared prompt"].by_name.items()
    }

    def quickly(responses: Sequence[Tokens]) -> dict[str, Any]:
        both = judges["shared prompt"].by_name.items()
        return verdicts({name: judged(each, tokens, responses, ready[name]) for name, each in both})

    def plainly(responses: Sequence[Tokens]) -> dict[str, Any]:
        """Every pair in both orders anew, with all that a judge needs of the opponent."""
        found: dict[str, Any] = {}
        for name, each in judges["plain"].by_name.items():
            for writer, theirs in zip(("policy", "sft"), fixed, strict=True):
                r = each.prefer(Batch.of_pairs(prompts, responses, theirs))
                found[f"{name}_p_vs_{writer}"] = ((r[:, 0] + 1 - r[:, 1]) / 2).tolist()
        return found

    texts = [row[0] for row in ours.sample(prompts, 1, seed=0, purpose="check")]
    one, two = (divergence(each, each, tokens, [[text] for text in texts]).logp for each in (ours, plain))
    np.testing.assert_allclose(one, two, rtol=1e-3, atol=1e-3)
    fast = quickly(texts)
    for name, scores in plainly(texts).items():
        np.testing.assert_allclose(fast[name], scores, rtol=1e-3, atol=1e-3)

    def run(policy: Any, judge_all: Callable[[Sequence[Tokens]], object]) -> Callable[[int], object]:
        more = {"eos": eos, "decode": bench.tokenizer.decode, "hidden": None}

        def once(seed: int) -> object:
            rows = written(policy, policy, prompts, range(1), seed=seed, **more)
            return judge_all(rows["response"])

        return once

    return run(plain, plainly), run(ours, quickly)


def main() -> None:
    """Print the table."""
    args = harness.options(__doc__)
    harness.quiet()
    theirs, ours = ways(harness.prepare("tiny", args.batch))
    spent: list[tuple[float, float]] = []
    for seed in range(args.steps + 3):
        began = time.perf_counter()
        theirs(seed)
        between = time.perf_counter()
        ours(seed)
        spent.append((between - began, time.perf_counter() - between))
    a, b = (statistics.median(column) * 1e3 for column in zip(*spent[3:], strict=True))
    ratio = statistics.median(x / y for x, y in spent[3:])
    print(f"{args.batch} prompts: plain {a:.0f} ms   Goodhart {b:.0f} ms   ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
