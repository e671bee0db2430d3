"""What comes before the arms: data, SFT policies, judges, labels, baselines and opponents, for each variant."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from goodhart import functions
from goodhart.alignment.extensions import code_of
from goodhart.cells.cell import Cell
from goodhart.config import plain_data
from goodhart.models.checkpoint import find
from goodhart.recipes.arm import KEYED, Arm
from goodhart.recipes.settings import HELD_OUT_PAIRS, Labels, Pool
from goodhart.studies.data_cells import data_cells
from goodhart.studies.plan import GOLDEN_POLICY, SFT, Trunk, sft_of
from goodhart.studies.spec import Study, Variant
from goodhart.tasks.label_file import file_digest
from goodhart.tasks.pair_rules import ALONE
from goodhart.training.settings import Preference, Supervised

PANEL = ("panel.evaluation", "panel.train")
"""Sizes of a measurement that grow."""
LENGTH = ("arm.steps", "arm.checkpoints", "arm.spacing", "arm.first")
"""Of a run, what decides how far it goes and what is kept of it."""


@dataclass(frozen=True, slots=True)
class _Judges:
    """A golden model with its baseline, and the settings of both judges by role."""

    golden: Cell
    golden_policy: Cell
    settings: dict[str, Preference]


class Trunks:
    """Makes the cells that the arms of a study and of its variants share."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self.tokenizer = find(study.policy)
        self.small = {"max_response": study.task.max_response}
        self.lowered = {"precision": study.precision} if study.precision == "bfloat16" else {}
        self.prompts, people, tests = data_cells(study, self.tokenizer)
        self.sft = self._sft(study.policy, study.sft)
        self.pairs, self.test_pairs = people or self._pool(self.sft), tests or self._test_pool(self.sft)
        """What the golden model learns from and is measured by: initial pairs, people's pairs, or marks."""
        judges = self._judges(study.golden, study.proxy)
        self.plain = self._built(judges, study.labels, self.sft, SFT)
        self.anchors = {(self.sft.id, judges.golden.id): SFT}
        """The name of an SFT policy among the arms of a table, as one judge sees it."""

    @property
    def panel(self) -> dict[str, int]:
        """The prompts that checkpoints are measured on."""
        task = self.study.task
        return {"validation": task.validation, "evaluation": task.evaluation, "train": task.train_evaluation}

    def all(self) -> dict[str, Trunk]:
        """What the arms of each variant share, by variant; the study's own has the empty name."""
        trunks = {"": self.plain}
        for name, variant in self.study.variants.items():
            trunks[name] = self._trunk(name, variant)
        return trunks

    def _sft(self, policy: str, settings: Supervised) -> Cell:
        spec = {"sft": settings, "model": find(policy).digest, **self.small}
        label = "SFT" if policy == self.study.policy else f"SFT {policy}"
        return Cell("sft", spec, {"prompts": self.prompts}, label, {"model": policy})

    def _pool(self, sft: Cell) -> Cell:
        spec = {"task": self.study.task, "pool": self.study.pool, "validation": self.study.task.validation}
        return Cell("pairs", spec, {"prompts": self.prompts, "sft": sft}, "initial pairs")

    def _test_pool(self, sft: Cell) -> Cell:
        task, pool = self.study.task, replace(self.study.pool, pairs=Pool().pairs)
        spec = {"task": task, "pool": pool, "validation": task.validation, "test": task.test}
        return Cell("test pairs", spec, {"prompts": self.prompts, "sft": sft}, "test pairs")

    def _preference(self, role: str, settings: Preference, pairs: Cell) -> Cell:
        common = {"tokenizer": self.tokenizer.digest, "seed": 0}
        if settings.rule:
            places = {"tokenizer": self.study.policy, **functions.texts_in(settings.rule.reward)}
            return Cell("rule", {"rule": settings.rule, **common}, {"prompts": self.prompts}, f"{role} rule", places)
        spec: dict[str, Any] = {"preference": settings, "model": find(settings.model).digest, **common}
        places = {"model": settings.model, "tokenizer": self.study.policy}
        return Cell("preference", spec, {"prompts": self.prompts, "pairs": pairs}, f"{role} model", places)

    def _paired(self, marks: Cell, numbers: dict[str, int]) -> Cell:
        """The cell's pairs; of marks, so many of each split beside samples of the study's own SFT policy."""
        if self.study.task.pairs != ALONE:
            return marks
        inputs = {"prompts": self.prompts, "marks": marks, "sft": self.sft}
        return Cell("marked pairs", {"pairs": numbers, **self.small}, inputs, "marked responses beside samples")

    def _labels(self, labels: Labels, sft: Cell, golden: Cell) -> Cell:
        pairs = self._paired(self.pairs, {"train": labels.number, "validation": HELD_OUT_PAIRS})
        inputs = {"prompts": self.prompts, "pairs": pairs, "golden": golden, "sft": sft}
        if labels.file:
            spec, places = {"labels": labels, "file": file_digest(labels.file)}, {"file": labels.file}
            return Cell("adopted labels", spec, inputs, f"{labels.number} adopted labels", places)
        return Cell("labels", {"labels": labels}, inputs, f"{labels.number} golden labels")

    def _test_labels(self, sft: Cell, golden: Cell) -> Cell:
        tests = self._paired(self.test_pairs, {"test": HELD_OUT_PAIRS})
        inputs = {"prompts": self.prompts, "tests": tests, "golden": golden, "sft": sft}
        return Cell("test labels", {}, inputs, "golden labels of test pairs")

    def tests_of(self, trunk: Trunk) -> Cell:
        """Pairs that only measure, with the labels of a trunk's judge and log-probabilities of the study's own SFT."""
        return self._test_labels(self.plain.sft, trunk.golden)

    def _golden_policy(self, golden: Cell, sft: Cell) -> Cell:
        """The baseline of every win rate by a judge; its prompts are those of the study's own number of golden labels.

        So labels that the study adopts do not move what its policies are measured against.
        """
        labels = self._labels(replace(self.study.labels, file=""), sft, golden)
        inputs = {"prompts": self.prompts, "sft": sft, "labels": labels, "judge": golden}
        return self.run(self.study.golden_policy, 0, inputs, GOLDEN_POLICY)

    def _opponents(self, judges: _Judges, sft: Cell, labels: Cell, proxy: Cell) -> Cell:
        measured = self.study.measurement
        numbers = {name: measured.opponents_of(each.kind) for name, each in judges.settings.items()}
        spec = {
            "step": self.study.golden_policy.checkpoint_steps()[-1],
            "panel": self.panel,
            "opponents": numbers,
            **self.small,
        }
        inputs = {"prompts": self.prompts, "sft": sft, "labels": labels, "golden": judges.golden, "proxy": proxy}
        inputs |= {"golden_policy": judges.golden_policy}
        return Cell("opponents", spec, inputs, "opponents", grows=(*PANEL, "opponents"))

    def _built(self, judges: _Judges, labels: Labels, sft: Cell, anchor: str) -> Trunk:
        """The data set, the proxy and the opponents are of the study's own SFT policy; log-probabilities of `sft`."""
        data = self._labels(labels, self.sft, judges.golden)
        proxy = self._preference("proxy", judges.settings["proxy"], data)
        opponents = self._opponents(judges, self.sft, data, proxy)
        tests = self._test_labels(sft, judges.golden)
        if sft.id != self.sft.id:
            data = self._labels(labels, sft, judges.golden)
        return Trunk(sft, data, tests, judges.golden, judges.golden_policy, proxy, opponents, anchor)

    def _judges(self, golden: Preference, proxy: Preference) -> _Judges:
        model = self._preference("golden", golden, self.pairs)
        return _Judges(model, self._golden_policy(model, self.sft), {"golden": golden, "proxy": proxy})

    def _trunk(self, name: str, variant: Variant) -> Trunk:
        """Another policy has its own start and reference; another judge its own labels, baseline and opponents."""
        study = self.study
        judges = self._judges(variant.golden or study.golden, variant.proxy or study.proxy)
        sft = self._sft(variant.policy or study.policy, variant.sft or study.sft)
        anchor = self.anchors.setdefault((sft.id, judges.golden.id), sft_of(name))
        return self._built(judges, variant.labels or study.labels, sft, anchor)

    def run(self, arm: Arm, seed: int, inputs: dict[str, Cell], label: str, **more: Any) -> Cell:
        """A training run of an arm at one setting and seed."""
        kind = arm.method.kind
        spec = {"arm": arm, "seed": seed, **self.small, **self.lowered, **code_of(kind), **more}
        if arm.sampler != KEYED:
            from goodhart.sampling import samplers  # brings PyTorch with it

            spec |= samplers.code_of(arm.sampler)
        places = functions.texts_in(plain_data(spec)) | ({"code": kind.code} if kind.code else {})
        return Cell("run", spec, inputs, label, places, LENGTH if arm.grows else ())
