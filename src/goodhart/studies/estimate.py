"""How long a study will take, from what its cells cost."""

from __future__ import annotations

import heapq
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from goodhart.cells.cell import Cell
from goodhart.cells.executor import comes_later
from goodhart.cells.local import share
from goodhart.cells.record import processor
from goodhart.cells.store import write_atomically
from goodhart.config import address
from goodhart.models.checkpoint import find
from goodhart.models.model_files import parameters
from goodhart.models.presets import CONTEXT, PRESETS, VOCABULARY, config_of
from goodhart.recipes.arm import Arm
from goodhart.recipes.slots import work_of
from goodhart.studies.spec import Study

FIXED, PER_MILLION = 22e-6, 21e-6
"""Seconds per token of a forward pass, and per million parameters: measured with 1.3 and 5.1 million parameters on
one core of the machine of docs/performance.md. A backward pass takes twice that again, and so does decoding."""
PROBE = 54e-6
"""Seconds per token that `probe` gave on the same machine."""
_SHARE = 0.67
"""Of the longest response, the mean one."""
_DATA = {
    **{"docstrings": 11.0, "corpus": 2.0, "prompts": 9.0, "preferences": 9.0, "people": 1.0, "test people": 1.0},
    "rule": 1.0,
}
"""Seconds of cells that run no model."""
_RULE = 4e-4
"""Seconds in which a rule judges a pair: most of it is the similarity of two texts."""
_COPY = 0.02
"""Seconds to read or write a million weights."""
_START = 1.0
"""Seconds of loading and saving in each cell."""
_TABLE, _TABLE_STEP = 0.1, 0.004
"""Seconds of a cell of a tabular study, and of a step of its runs: 16 prompts with 16 pairs each."""
_TRAINED, _PIECES = ("sft", "preference"), 16
_SHARED = ("pairs", "test pairs", "marked pairs", "labels", "adopted labels", "test labels", "quality")
"""Cells whose pieces are micro-batches, and cells with many pieces."""
_TOGETHER = 0.9
"""What a thread does of its work when there are several."""


def probe() -> float:
    """Seconds per token of a forward pass of the smallest shipped shape, the median of some."""
    import torch
    from transformers import AutoModelForCausalLM

    from goodhart.compute.placement import device, place

    config = config_of(PRESETS["tiny"], vocab_size=VOCABULARY, bos=0, eos=1, pad=2)
    model: Any = place(AutoModelForCausalLM.from_config(config).eval(), 1)
    tokens = torch.zeros(32, CONTEXT // 4, dtype=torch.long, device=device())
    spent: list[float] = []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            for _ in range(9):
                began = time.perf_counter()
                model(tokens).logits.sum().item()
                spent.append(time.perf_counter() - began)
    finally:
        torch.set_num_threads(threads)
    return statistics.median(spent) / tokens.numel()


def speed(root: Path, *, keep: bool) -> float:
    """What `probe` gave on this processor, as the root knows it; else measured now and, if wished, kept there."""
    file = root / "engine" / f"speed-{address(processor())}.json"
    try:
        return float(json.loads(file.read_text(encoding="utf-8"))["seconds per token"])
    except (OSError, ValueError, KeyError, TypeError):
        measured = probe()
    if keep:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, json.dumps({"processor": processor(), "seconds per token": measured}))
    return measured


def tabular_seconds(cell: Cell) -> float:
    """Expected seconds of a cell of a tabular study, whose work is small beside loading and saving it."""
    steps = cell.settings["arm"].steps if cell.kind == "tabular run" else 0
    return _TABLE + _TABLE_STEP * steps


def millions(name: str) -> float:
    """Millions of parameters of a model, from the headers of its weight files alone."""
    return parameters(Path(find(name).path)) / 1e6


@dataclass(frozen=True)
class Costs:
    """The expected seconds of a study's cells on this machine."""

    study: Study
    millions: Mapping[str, float]
    """Parameters of every model that it names."""
    scale: float
    """How much slower this machine is than the one where the constants were measured."""

    @classmethod
    def of(cls, study: Study, seconds_per_token: float) -> Costs:
        """With the models' parameters counted; `seconds_per_token` is what `probe` gives on this machine."""
        policies = (v.policy for v in study.variants.values() if v.policy)
        judges = (judge.model for judge in study.judges.values() if not judge.rule)
        names = {study.policy, *policies, *judges}
        return cls(study, {name: millions(name) for name in names}, seconds_per_token / PROBE)

    def seconds(self, cell: Cell) -> float:
        """Of one process that makes the cell."""
        if cell.kind in _DATA:
            return self.scale * _DATA[cell.kind]
        return self.scale * (_START + _WORK[cell.kind](self, cell))

    def parts(self, cell: Cell) -> int:
        """Pieces of a cell that threads can share (`goodhart.compute.threads`)."""
        if cell.kind in _TRAINED:
            settings = cell.settings[cell.kind]
            return -(-settings.batch // (settings.optimisation.micro_batch or settings.batch))
        return _PIECES if cell.kind in _SHARED else 1

    def forward(self, model: str) -> float:
        """Seconds per token of a model's forward pass."""
        return FIXED + PER_MILLION * self.millions[model]

    @property
    def prompt(self) -> float:
        """Tokens of a prompt."""
        return float(self.study.task.max_prompt)

    @property
    def response(self) -> float:
        """Tokens of a response."""
        return _SHARE * self.study.task.max_response

    @property
    def pair(self) -> float:
        """Tokens of a prompt with two responses."""
        return self.prompt + 2 * self.response

    @property
    def panel(self) -> int:
        """Prompts that a checkpoint is measured on."""
        return self.study.task.evaluation + self.study.task.train_evaluation

    def judgement(self, cell: Cell) -> float:
        """Seconds in which a judge decides one pair in both orders."""
        if cell.kind == "rule":
            return _RULE
        settings = cell.settings["preference"]
        bare = 2 * (self.response + 2)
        read = self.prompt + (4 if settings.kind == "pairwise" else 2) * (self.response + 1)
        return (read + bare) * self.forward(cell.places["model"])

    def run(self, cell: Cell) -> float:
        """A training run: samples and labels for what its source samples, reference and training for all."""
        arm: Arm = cell.settings["arm"]
        policy = self.forward(_policy(cell.inputs["sft"]))
        judges = [needed for name, needed in cell.inputs.items() if name.endswith("judge")]
        each = sum(map(self.judgement, judges[:1])) / 2
        seconds = 0.0
        for part in cell.settings.get("parts", [{"arm": arm, "pairs": arm.batch}]):
            work = work_of(part["arm"].method)
            # decoding reads each token as often as training it does, and a reference scores what is new
            passes = 4 * self._behind(work.sampled) + self._behind(work.kept) + 3 * self._behind(work.learnt)
            seconds += part["pairs"] * (policy * passes + each * work.judged)
        return arm.steps * seconds

    def _behind(self, responses: int) -> float:
        """Tokens of a prompt with some responses; without any it is not read."""
        return self.prompt + responses * self.response if responses else 0.0

    def merge(self, cell: Cell) -> float:
        """Reading and writing the weights of all that is merged or kept."""
        copies = len(cell.inputs) + cell.settings["checkpoints"]
        return copies * _COPY * self.millions[_policy(cell.inputs["sft"])]

    def adopted(self, cell: Cell) -> float:
        """Reading and writing the weights of policies, of about the SFT policy's size."""
        return len(cell.settings["models"]) * _COPY * self.millions[_policy(cell.inputs["sft"])]

    def evaluation(self, cell: Cell) -> float:
        """Samples, two scorings, two judges against their opponents, and the classified pairs."""
        policy = self.forward(_policy(cell.inputs["sft"]))
        one, responses = self.prompt + self.response, cell.settings["responses"]
        return self.panel * responses * (5 * policy * one + self._judges(cell)) + (
            2 * cell.settings["pairs"] * policy * self.pair
        )

    def _judges(self, cell: Cell) -> float:
        """Seconds in which both judges compare one response with all of its opponents."""
        numbers = cell.inputs["opponents"].settings["opponents"]
        return sum(self.answers(cell.inputs[name], numbers[name]) for name in ("golden", "proxy"))

    def answers(self, judge: Cell, opponents: int) -> float:
        """Seconds in which a judge compares one response with so many opponents of either writer."""
        scalar = judge.kind == "rule" or judge.settings["preference"].kind != "pairwise"
        return self.judgement(judge) * (0.7 if scalar else 1.3 * opponents)

    def best_of(self, cell: Cell) -> float:
        """All samples by both judges."""
        samples = cell.settings["best_of"].samples
        policy = self.forward(_policy(cell.inputs["sft"]))
        return self.panel * (3 * policy * (self.prompt + samples * self.response) + samples * self._judges(cell))

    def sft(self, cell: Cell) -> float:
        """Demonstrations, forward and back, and the held-out ones."""
        settings = cell.settings["sft"]
        tokens = 3 * settings.steps * settings.batch + 2 * self.study.task.validation
        return tokens * (self.prompt + self.response) * self.forward(_policy(cell))

    def pairs(self, cell: Cell) -> float:
        """Some two and a half samples for each initial pair, in large batches."""
        return self._pool(cell, self.study.pool.pairs + self.study.task.validation)

    def test_pairs(self, cell: Cell) -> float:
        """The same for those that only measure."""
        return self._pool(cell, self.study.task.test)

    def marked_pairs(self, cell: Cell) -> float:
        """A sample for each marked response, of which the held-out ones are no more than their prompts or so."""
        numbers: dict[str, int] = cell.settings["pairs"]
        held_out = {"validation": self.study.task.validation, "test": self.study.task.test}
        number = sum(min(size, held_out.get(split, size)) for split, size in numbers.items())
        return number * (self.prompt + 2 * self.response) * self.forward(_policy(cell.inputs["sft"]))

    def _pool(self, cell: Cell, number: int) -> float:
        return 1.4 * number * (self.prompt + 2.4 * self.response) * self.forward(_policy(cell.inputs["sft"]))

    def preference(self, cell: Cell) -> float:
        """Training in both orders, and the looks at the validation set."""
        settings = cell.settings["preference"]
        looks = (1 + settings.steps // settings.check_every) * self.study.task.validation * 0.6
        return (3 * settings.steps * settings.batch + looks) * self.judgement(cell)

    def quality(self, cell: Cell) -> float:
        """Training and test pairs, and in a built-in task six probes for each."""
        probes = 7 if cell.inputs["tests"].kind == "test pairs" else 1
        return (256 + probes * self.study.task.test) * self.judgement(cell.inputs["model"])

    def labels(self, cell: Cell) -> float:
        """Golden labels and the reference's log-probabilities."""
        return (cell.settings["labels"].number + self.study.task.validation / 3) * self._label(cell)

    def test_labels(self, cell: Cell) -> float:
        """The same for the pairs that only measure."""
        return self.study.task.test / 3 * self._label(cell)

    def _label(self, cell: Cell) -> float:
        return self.judgement(cell.inputs["golden"]) + self.forward(_policy(cell.inputs["sft"])) * self.pair

    def written(self, cell: Cell) -> float:
        """Two samples for each prompt, their labels, and three scorings."""
        return cell.inputs["labels"].settings["labels"].number * (
            self.judgement(cell.inputs["golden"]) + 6 * self.forward(_policy(cell.inputs["sft"])) * self.pair
        )

    def opponents(self, cell: Cell) -> float:
        """Two samples for each prompt and opponent, and what the judges need of them."""
        numbers = cell.settings["opponents"]
        judges = sum(self.judgement(cell.inputs[name]) / 2 * number for name, number in numbers.items())
        return self.panel * (4 * self.forward(_policy(cell.inputs["sft"])) * self.pair * max(numbers.values()) + judges)

    def stream(self, cell: Cell) -> float:
        """Golden labels of some pairs, and their classifiers."""
        number = cell.settings["pairs"] * len(cell.settings["steps"])
        policy = self.forward(_policy(cell.inputs["sft"]))
        return number * (self.judgement(cell.inputs["golden"]) + len(cell.settings["last"]) * policy * self.pair)


def _policy(sft: Cell) -> str:
    return str(sft.places["model"])


_WORK = {
    "run": Costs.run,
    "evaluation": Costs.evaluation,
    "best of n": Costs.best_of,
    "sft": Costs.sft,
    "pairs": Costs.pairs,
    "test pairs": Costs.test_pairs,
    "marked pairs": Costs.marked_pairs,
    "preference": Costs.preference,
    "quality": Costs.quality,
    "labels": Costs.labels,
    "adopted labels": Costs.labels,
    "test labels": Costs.test_labels,
    "written": Costs.written,
    "merge": Costs.merge,
    "adopted": Costs.adopted,
    "opponents": Costs.opponents,
    "stream": Costs.stream,
}


def duration(
    cells: list[Cell],
    done: Collection[str],
    seconds: Callable[[Cell], float],
    workers: int,
    parts: Callable[[Cell], int] = lambda _: 1,
) -> float:
    """Expected wall seconds of what is missing: the executor's own order, with the expected seconds of each cell."""
    missing = {cell.id: cell for cell in cells if cell.id not in done}
    readers, lacks = defaultdict[str, list[str]](list), dict[str, int]()
    for cell in missing.values():
        needed = {each.id for each in cell.inputs.values() if each.id not in done}
        lacks[cell.id] = len(needed)
        for other in needed:
            readers[other].append(cell.id)
    turn = {cell: (comes_later(missing[cell]), place, cell) for place, cell in enumerate(missing)}
    ready = [turn[cell] for cell, number in lacks.items() if not number]
    heapq.heapify(ready)
    running, now = list[tuple[float, str]](), 0.0
    while ready or running:
        begun = [heapq.heappop(ready)[2] for _ in range(min(len(ready), workers - len(running)))]
        most = share(workers, len(running) + len(begun))
        for cell in begun:
            threads = min(most, parts(missing[cell]))
            taken = seconds(missing[cell]) / (threads * _TOGETHER if threads > 1 else 1)
            heapq.heappush(running, (now + taken, cell))
        now, ended = heapq.heappop(running)
        for reader in readers[ended]:
            lacks[reader] -= 1
            if not lacks[reader]:
                heapq.heappush(ready, turn[reader])
    return now
