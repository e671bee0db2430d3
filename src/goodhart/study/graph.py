"""From a study to its cells."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from goodhart.analysis.hypotheses import PROXY
from goodhart.models.checkpoint import find
from goodhart.study.arm import SFT_WRITER, Arm, settings_of, written_by
from goodhart.study.arms import shares_of
from goodhart.study.cell import Cell
from goodhart.study.data_cells import data_cells
from goodhart.study.plan import GOLDEN_POLICY, SFT, Graph, Measured, Streamed, Trunk, sft_of
from goodhart.study.spec import Labels, Pool, Study, Variant, best_of_arm
from goodhart.training.settings import Preference, Supervised

PAIRS = 128
"""Pairs of each split that every checkpoint classifies."""
PANEL = ("panel.evaluation", "panel.train")
"""Sizes of a measurement that grow."""
LENGTH = ("arm.steps", "arm.checkpoints", "arm.spacing", "arm.first")
"""Of a run, what decides how far it goes and what is kept of it."""
BEST_OF = "best of n"
"""The setting of best-of-n among those of a table."""
STREAM_PAIRS = 64
"""Pairs before each checkpoint of a stream that are classified (arXiv 2405.08448, figure 6)."""


def build_graph(study: Study, reach: Mapping[str, int] | None = None) -> Graph:
    """The cells of a study, each found by the digest of what it is made of.

    `reach` is how many of the study's seeds each arm has; without it all have all of them. What reads the runs of
    several arms has the seeds that all of these have. Raises GoodhartError for models or data that cannot be found.
    """
    return _Builder(study, reach or {}).graph()


class _Builder:
    """Makes the cells of one study; a cell that two arms need is one cell."""

    def __init__(self, study: Study, reach: Mapping[str, int]) -> None:
        self.study = study
        self.reach = reach
        self.tokenizer = find(study.policy)
        self.small = {"max_response": study.task.max_response}
        self.lowered = {"precision": study.precision} if study.precision == "bfloat16" else {}
        self.prompts, people, tests = data_cells(study, self.tokenizer)
        own = self._sft(study.policy, study.sft)
        self.pairs, self.test_pairs = people or self._pool(own), tests or self._test_pool(own)
        self.golden = self._preference("golden", study.golden, self.pairs)
        labels, proxy = self._supervision(study.labels, study.proxy, own)
        inputs = {"prompts": self.prompts, "sft": own, "labels": labels}
        self.golden_policy = self._run_cell(study.golden_policy, 0, {**inputs, "judge": self.golden}, GOLDEN_POLICY)
        opponents = self._opponents(own, labels, proxy, study.proxy)
        self.trunks = {"": Trunk(own, labels, self._test_labels(own), proxy, opponents, SFT)}
        for name, variant in study.variants.items():
            self.trunks[name] = self._trunk(name, variant)
        self.runs: dict[tuple[str, str, int], Cell] = {}

    def graph(self) -> Graph:
        """All of it."""
        measured = self._measure(SFT, self.trunks[""], self.trunks[""].sft, None, 0, [0])
        for trunk in self.trunks.values():
            if trunk.anchor != SFT:
                measured += self._measure(trunk.anchor, trunk, trunk.sft, None, 0, [0])
        baseline = self.study.golden_policy
        steps = baseline.checkpoint_steps()
        measured += self._measure(GOLDEN_POLICY, self.trunks[""], self.golden_policy, baseline, 0, steps)
        for name, arm in self.study.arms.items():
            for seed in self._seeds([name]):
                for setting, single in settings_of(arm):
                    run, steps = self._run(name, setting, single, seed), single.checkpoint_steps()
                    measured += self._measure(name, self.trunks[arm.variant], run, single, seed, steps)
        measured += self._best_of()
        return Graph(
            self.prompts,
            self.pairs,
            self.test_pairs,
            self.golden,
            self.golden_policy,
            self.trunks,
            self._qualities(),
            self.runs,
            measured,
            self._streams(),
        )

    def _seeds(self, arms: Iterable[str]) -> tuple[int, ...]:
        """The seeds that all of the arms have."""
        every = self.study.seeds
        return every[: min(self.reach.get(arm, len(every)) for arm in arms)]

    @property
    def panel(self) -> dict[str, int]:
        """The prompts that checkpoints are measured on."""
        task = self.study.task
        return {"validation": task.validation, "evaluation": task.evaluation, "train": task.train_evaluation}

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
            own = {"tokenizer": self.study.policy}
            return Cell("rule", {"rule": settings.rule, **common}, {"prompts": self.prompts}, f"{role} rule", own)
        spec: dict[str, Any] = {"preference": settings, "model": find(settings.model).digest, **common}
        places = {"model": settings.model, "tokenizer": self.study.policy}
        return Cell("preference", spec, {"prompts": self.prompts, "pairs": pairs}, f"{role} model", places)

    def _labels(self, labels: Labels, sft: Cell) -> Cell:
        inputs = {"prompts": self.prompts, "pairs": self.pairs, "golden": self.golden, "sft": sft}
        return Cell("labels", {"labels": labels}, inputs, f"{labels.number} golden labels")

    def _test_labels(self, sft: Cell) -> Cell:
        inputs = {"prompts": self.prompts, "tests": self.test_pairs, "golden": self.golden, "sft": sft}
        return Cell("test labels", {}, inputs, "golden labels of test pairs")

    def _supervision(self, labels: Labels, proxy: Preference, sft: Cell) -> tuple[Cell, Cell]:
        """The golden data set, and the proxy that learns from it."""
        data = self._labels(labels, sft)
        return data, self._preference("proxy", proxy, data)

    def _opponents(self, sft: Cell, labels: Cell, proxy: Cell, settings: Preference) -> Cell:
        measured = self.study.measurement
        numbers = {
            "golden": measured.opponents_of(self.study.golden.kind),
            "proxy": measured.opponents_of(settings.kind),
        }
        spec = {
            "step": self.study.golden_policy.checkpoint_steps()[-1],
            "panel": self.panel,
            "opponents": numbers,
            **self.small,
        }
        inputs = {"prompts": self.prompts, "sft": sft, "labels": labels, "golden": self.golden, "proxy": proxy}
        inputs |= {"golden_policy": self.golden_policy}
        return Cell("opponents", spec, inputs, "opponents", grows=(*PANEL, "opponents"))

    def _trunk(self, name: str, variant: Variant) -> Trunk:
        """Judge, baseline and opponents' responses are the study's; another policy has its own start and reference."""
        study, own = self.study, self.trunks[""]
        judge = variant.proxy or study.proxy
        labels, proxy = self._supervision(variant.labels or study.labels, judge, own.sft)
        opponents = self._opponents(own.sft, labels, proxy, judge)
        sft = self._sft(variant.policy or study.policy, variant.sft or study.sft)
        if sft.id == own.sft.id:
            return Trunk(own.sft, labels, own.tests, proxy, opponents, SFT)
        labels = self._labels(variant.labels or study.labels, sft)
        return Trunk(sft, labels, self._test_labels(sft), proxy, opponents, sft_of(name))

    def _run_cell(self, arm: Arm, seed: int, inputs: dict[str, Cell], label: str, **more: Any) -> Cell:
        spec = {"arm": arm, "seed": seed, **self.small, **self.lowered, **more}
        return Cell("run", spec, inputs, label, grows=LENGTH if arm.grows else ())

    def _run(self, name: str, setting: str, arm: Arm, seed: int) -> Cell:
        """The training run of an arm at one setting and seed, with the runs that it reads."""
        at = (name, setting, seed)
        if at not in self.runs:
            trunk = self.trunks[arm.variant]
            inputs = {"prompts": self.prompts, "sft": trunk.sft, "labels": trunk.labels}
            inputs |= self._sources(arm, setting, seed)
            more: dict[str, Any] = {}
            sizes = shares_of(arm).values() if arm.parts else ()
            parts = [self._at(self.study.arms[part], arm) for part in arm.parts]
            if parts:
                more["parts"] = [{"arm": part, "pairs": size} for part, size in zip(parts, sizes, strict=True)]
            for number, part in enumerate(parts):
                own = self._sources(part, setting, seed)
                inputs |= {f"part {number}/{key}": cell for key, cell in own.items()}
            self.runs[at] = self._run_cell(arm, seed, inputs, f"{name} {setting} seed {seed}", **more)
        return self.runs[at]

    @staticmethod
    def _at(arm: Arm, other: Arm) -> Arm:
        """The arm at another's beta and learning rate."""
        return replace(arm, beta=other.beta if arm.beta else (), lr=other.lr)

    def _sources(self, arm: Arm, setting: str, seed: int) -> dict[str, Cell]:
        """What a source reads: a policy its judge, a stream the run that it replays, samples their two writers."""
        if arm.source == "policy":
            return {"judge": self.trunks[arm.variant].proxy}
        if arm.source == "stream":
            return {"stream": self._run(arm.stream, setting, self._at(self.study.arms[arm.stream], arm), seed)}
        return {"written": self._written(arm, seed)} if arm.source == "samples" else {}

    def _written(self, arm: Arm, seed: int) -> Cell:
        trunk = self.trunks[arm.variant]
        inputs = {"prompts": self.prompts, "labels": trunk.labels, "golden": self.golden, "sft": trunk.sft}
        steps: list[int] = []
        for number, writer in enumerate(arm.writers):
            author, step = ("", 0) if writer == SFT_WRITER else written_by(writer)
            if author:
                setting, single = next(settings_of(self.study.arms[author]))
                inputs[f"writer {number}"] = self._run(author, setting, single, seed)
            steps.append(step)
        labels = self._label_settings(arm)
        spec = {"mode": labels.mode, "flip": labels.flip, "seed": seed, "steps": steps, **self.small}
        return Cell("written", spec, inputs, f"pairs {' against '.join(arm.writers)} seed {seed}")

    def _label_settings(self, arm: Arm) -> Labels:
        variant = self.study.variants.get(arm.variant)
        return (variant and variant.labels) or self.study.labels

    def _qualities(self) -> dict[str, Cell]:
        own = self.trunks[""]
        roles = {"golden": (self.golden, self.pairs, self.test_pairs), "proxy": (own.proxy, own.labels, own.tests)}
        for name, trunk in self.trunks.items():
            if trunk.proxy.id != own.proxy.id:
                roles[f"proxy ({name})"] = (trunk.proxy, trunk.opponents.inputs["labels"], own.tests)
        return {role: self._quality(role, *cells) for role, cells in roles.items()}

    def _quality(self, role: str, model: Cell, pairs: Cell, tests: Cell) -> Cell:
        inputs = {"prompts": self.prompts, "pairs": pairs, "tests": tests, "model": model}
        return Cell("quality", {}, inputs, f"quality of the {role} model")

    def _measure(
        self, name: str, trunk: Trunk, run: Cell, arm: Arm | None, seed: int, steps: list[int]
    ) -> list[Measured]:
        inputs = {
            "policy": run,
            "sft": trunk.sft,
            "prompts": self.prompts,
            "labels": trunk.labels,
            "tests": trunk.tests,
            "golden": self.golden,
            "proxy": trunk.proxy,
            "opponents": trunk.opponents,
        }
        setting = "" if arm is None else next(settings_of(arm))[0]
        beta = arm.beta[0] if arm is not None and arm.beta else None
        found: list[Measured] = []
        for step in steps:
            spec = {"step": step, "seed": 0, "pairs": PAIRS, "panel": self.panel, **self.small}
            spec |= {"responses": self.study.measurement.responses}
            label, grows = f"measure {run.label} step {step}", (*PANEL, "responses")
            cell = Cell("evaluation", spec, inputs, label, grows=grows, follows=("policy", "opponents"))
            lr = None if arm is None else arm.lr[0]
            found.append(Measured(cell, name, setting, beta, lr, seed, step, run=None if arm is None else run))
        return found

    def _streams(self) -> list[Streamed]:
        """The streams that a hypothesis asks about, each classified by all the arms that any contrast names."""
        contrasts = [c for h in self.study.hypotheses.values() for c in h.contrasts if c.stream]
        classifiers: dict[str, dict[str, None]] = {}
        for contrast in contrasts:
            named = [name for name in (contrast.first, contrast.second) if name != PROXY]
            classifiers.setdefault(contrast.stream, {}).update(dict.fromkeys(named))
        found: list[Streamed] = []
        for name, others in classifiers.items():
            arm = self.study.arms[name]
            for setting, single in settings_of(arm):
                for seed in self._seeds([name, *others]):
                    found.append(Streamed(self._stream(name, single, setting, seed, list(others)), name, setting, seed))
        return found

    def _stream(self, name: str, arm: Arm, setting: str, seed: int, others: list[str]) -> Cell:
        trunk = self.trunks[arm.variant]
        inputs = {"prompts": self.prompts, "golden": self.golden, "sft": trunk.sft}
        inputs["stream"] = self._run(name, setting, arm, seed)
        last: dict[str, int] = {}
        for other in others:
            single = dict(settings_of(self.study.arms[other])).get(setting)
            if single is not None:
                inputs[f"classifier {other}"] = self._run(other, setting, single, seed)
                last[other] = single.checkpoint_steps()[-1]
        spec = {"pairs": STREAM_PAIRS, "steps": arm.checkpoint_steps(), "last": last, **self.small, **self.lowered}
        return Cell("stream", spec, inputs, f"classify the stream of {name} {setting} seed {seed}")

    def _best_of(self) -> list[Measured]:
        """The rows of best-of-n, one arm for each judge; its step is n."""
        best, own = self.study.best_of, self.trunks[""]
        if not best.samples:
            return []
        inputs = {"sft": own.sft, "prompts": self.prompts, "labels": own.labels, "golden": self.golden}
        inputs |= {"proxy": own.proxy, "opponents": own.opponents}
        found: list[Measured] = []
        for seed in self.study.seeds[: max(len(self._seeds([best_of_arm(judge)])) for judge in best.judges)]:
            spec = {"best_of": best, "seed": seed, "panel": self.panel, **self.small}
            cell = Cell("best of n", spec, inputs, f"best of n seed {seed}")
            found += [
                Measured(
                    cell, best_of_arm(judge), "best of n", None, None, seed, n, rows=f"{judge}-{n}.parquet", pairs=""
                )
                for judge in best.judges
                for n in best.n
            ]
        return found


def anchors(study: Study, graph: Graph) -> dict[str, str]:
    """The name of the SFT policy that each arm starts from."""
    own = {name: graph.trunks[arm.variant].anchor for name, arm in study.arms.items()}
    return {name: own.get(name, SFT) for name in study.all_arms}
