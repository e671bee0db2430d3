"""From a study to its cells."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from goodhart.analysis.hypotheses import PROXY
from goodhart.cells.cell import Cell
from goodhart.models.checkpoint import find
from goodhart.recipes.arm import SFT_WRITER, Arm, settings_of, written_by
from goodhart.recipes.settings import Labels
from goodhart.recipes.slots import START, inputs_of
from goodhart.studies.arms import shares_of
from goodhart.studies.plan import GOLDEN_POLICY, SFT, Graph, Measured, Streamed, Trunk
from goodhart.studies.spec import Study, best_of_arm
from goodhart.studies.tabular import tabular_graph
from goodhart.studies.trunks import PANEL, Trunks

PAIRS = 128
"""Pairs of each split that every checkpoint classifies."""
BEST_OF = "best of n"
"""The setting of best-of-n among those of a table."""
APART = 2**40
"""Between the seeds of the runs that one seed of an arm has."""
STREAM_PAIRS = 64
"""Pairs before each checkpoint of a stream that are classified (arXiv 2405.08448, figure 6)."""


def build_graph(study: Study, reach: Mapping[str, int] | None = None) -> Graph:
    """The cells of a study, each found by the digest of what it is made of.

    `reach` is how many of the study's seeds each arm has; without it all have all of them. What reads the runs of
    several arms has the seeds that all of these have. Raises GoodhartError for models or data that cannot be found.
    """
    if study.world:
        return tabular_graph(study, study.world, reach or {})
    return _Builder(study, reach or {}).graph()


class _Builder:
    """Makes the cells of one study; a cell that two arms need is one cell."""

    def __init__(self, study: Study, reach: Mapping[str, int]) -> None:
        self.study = study
        self.reach = reach
        self.base = Trunks(study)
        self.small, self.lowered = self.base.small, self.base.lowered
        self.prompts, self.trunks = self.base.prompts, self.base.all()
        self.runs: dict[tuple[str, str, int], Cell] = {}

    def graph(self) -> Graph:
        """All of it."""
        plain = self.trunks[""]
        starts = {trunk.anchor: trunk for trunk in reversed(self.trunks.values())}
        measured = [
            item for name in (SFT, *(n for n in starts if n != SFT)) for item in self._start(name, starts[name])
        ]
        baseline = self.study.golden_policy
        steps = baseline.checkpoint_steps()
        setting = next(settings_of(baseline))[0]
        measured += self._measure(GOLDEN_POLICY, plain, plain.golden_policy, baseline, 0, steps, setting)
        for name, arm in self.study.arms.items():
            for seed in self._seeds([name]):
                for setting, single in settings_of(arm):
                    run = self._run(name, setting, single, seed)
                    trunk = self.trunks[arm.variant]
                    measured += self._measure(name, trunk, run, single, seed, single.kept, setting)
        measured += self._best_of()
        return Graph(
            self.prompts,
            self.base.pairs,
            self.base.test_pairs,
            self.trunks,
            self._qualities(),
            self.runs,
            measured,
            self._streams(),
        )

    def _start(self, name: str, trunk: Trunk) -> list[Measured]:
        return self._measure(name, trunk, trunk.sft, None, 0, [0])

    def _seeds(self, arms: Iterable[str]) -> tuple[int, ...]:
        """The seeds that all of the arms have."""
        every, named = self.study.seeds, self.study.arms
        numbers = (1 if arm in named and named[arm].checkpoint else self.reach.get(arm, len(every)) for arm in arms)
        return every[: min(numbers)]

    def _run(self, name: str, setting: str, arm: Arm, seed: int) -> Cell:
        """The training run of an arm at one setting and seed, or what its runs are merged to."""
        at, label = (name, setting, seed), f"{name} {setting} seed {seed}"
        if at not in self.runs and arm.checkpoint:
            self.runs[at] = self._adopted(name, arm)
        if at not in self.runs:
            several = arm.method.merge != "none"
            self.runs[at] = (
                self._merged(arm, setting, seed, label) if several else self._single(arm, setting, seed, label)
            )
        return self.runs[at]

    def _adopted(self, name: str, arm: Arm) -> Cell:
        """Finished policies under the digests of their files, which have no seed."""
        models = [find(checkpoint).digest for checkpoint in arm.checkpoint]
        places = {f"models.{number}": checkpoint for number, checkpoint in enumerate(arm.checkpoint)}
        return Cell("adopted", {"models": models}, {"sft": self.trunks[arm.variant].sft}, name, places)

    def _single(self, arm: Arm, setting: str, seed: int, label: str, draws: int = 0, start: Cell | None = None) -> Cell:
        """A run with the runs that it reads; `draws` names its random numbers where a seed has several runs."""
        trunk = self.trunks[arm.variant]
        inputs = {"prompts": self.prompts, "sft": trunk.sft, "labels": trunk.labels}
        inputs |= inputs_of(arm, setting, seed, self) | ({START: start} if start else {})
        more: dict[str, Any] = {}
        if arm.start and start is None:
            author, step = written_by(arm.start)
            first, single = next(settings_of(self.study.arms[author]))
            inputs[START], more["begin"] = self._run(author, first, single, seed), f"step-{step}"
        sizes = shares_of(arm).values() if arm.parts else ()
        parts = [self._at(self.study.arms[part], arm) for part in arm.parts]
        if parts:
            more["parts"] = [{"arm": part, "pairs": size} for part, size in zip(parts, sizes, strict=True)]
        for number, part in enumerate(parts):
            given = inputs_of(part, setting, seed, self)
            inputs |= {f"part {number}/{key}": cell for key, cell in given.items()}
        return self.base.run(arm, seed + draws * APART, inputs, label, **more)

    def _merged(self, arm: Arm, setting: str, seed: int, label: str) -> Cell:
        """Rounds of runs from one start, each merged to the start of the next (WARP, arXiv 2406.16768)."""
        method, single, sft = (
            arm.method,
            replace(arm, checkpoints=1, spacing="even", first=0),
            self.trunks[arm.variant].sft,
        )
        spec = {"how": method.merge, "keep": method.parameters["keep"], "step": arm.steps}
        spec |= {"checkpoints": arm.checkpoints, **self.small}
        start: Cell | None = None
        for number in range(method.rounds):
            ends = {
                f"run {i:03d}": self._single(
                    single, setting, seed, f"{label} round {number + 1} run {i + 1}", number * method.runs + i, start
                )
                for i in range(method.runs)
            }
            inputs = {"sft": sft, **({START: start} if start else {}), **ends}
            start = Cell("merge", spec, inputs, f"{label} round {number + 1}")
        assert start is not None
        return start

    @staticmethod
    def _at(arm: Arm, other: Arm) -> Arm:
        """The arm at another's setting."""
        swept = {name: other.method.parameters.get(name, values[0]) for name, values in arm.sweep.items()}
        method = replace(arm.method, parameters={**arm.method.parameters, **swept})
        return replace(arm, method=method, beta=other.beta if arm.beta else (), lr=other.lr, sweep={})

    def judge(self, arm: Arm) -> Cell:
        """The proxy that labels what the arm samples."""
        return self.trunks[arm.variant].proxy

    def recorded(self, arm: Arm, setting: str, seed: int) -> Cell:
        """The run whose stream the arm replays."""
        return self._run(arm.stream, setting, self._at(self.study.arms[arm.stream], arm), seed)

    def external(self, arm: Arm) -> Cell:
        """The SFT policy of another variant."""
        return self.trunks[arm.method.external].sft

    def written(self, arm: Arm, seed: int) -> Cell:
        """The pairs that the arm's two writers wrote."""
        trunk = self.trunks[arm.variant]
        inputs = {"prompts": self.prompts, "labels": trunk.labels, "golden": trunk.golden, "sft": trunk.sft}
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
        plain = self.trunks[""]
        pairs, tests = self.base.pairs, self.base.test_pairs
        roles = {"golden": (plain.golden, pairs, tests), "proxy": (plain.proxy, plain.labels, plain.tests)}
        for name, trunk in self.trunks.items():
            if trunk.golden.id not in {model.id for model, _, _ in roles.values()}:
                roles[f"golden ({name})"] = (trunk.golden, pairs, tests)
            if trunk.proxy.id != plain.proxy.id:
                roles[f"proxy ({name})"] = (trunk.proxy, trunk.opponents.inputs["labels"], self.base.tests_of(trunk))
        return {role: self._quality(role, *cells) for role, cells in roles.items()}

    def _quality(self, role: str, model: Cell, pairs: Cell, tests: Cell) -> Cell:
        inputs = {"prompts": self.prompts, "pairs": pairs, "tests": tests, "model": model}
        return Cell("quality", {}, inputs, f"quality of the {role} model")

    def _measure(
        self, name: str, trunk: Trunk, run: Cell, arm: Arm | None, seed: int, steps: list[int], setting: str = ""
    ) -> list[Measured]:
        inputs = {
            "policy": run,
            "sft": trunk.sft,
            "prompts": self.prompts,
            "labels": trunk.labels,
            "tests": trunk.tests,
            "golden": trunk.golden,
            "proxy": trunk.proxy,
            "opponents": trunk.opponents,
        }
        beta = arm.beta[0] if arm is not None and arm.beta else None
        measured: list[Measured] = []
        for step in steps:
            spec = {"step": step, "seed": 0, "pairs": PAIRS, "panel": self.base.panel, **self.small}
            spec |= {"responses": self.study.measurement.responses}
            label, grows = f"measure {run.label} step {step}", (*PANEL, "responses")
            cell = Cell("evaluation", spec, inputs, label, grows=grows, follows=("policy", "opponents"))
            lr = arm.lr[0] if arm is not None and arm.lr else None
            measured.append(Measured(cell, name, setting, beta, lr, seed, step, run=None if arm is None else run))
        return measured

    def _streams(self) -> list[Streamed]:
        """The streams that a hypothesis asks about, each classified by all the arms that any contrast names."""
        contrasts = [c for h in self.study.hypotheses.values() for c in h.contrasts if c.stream]
        classifiers: dict[str, dict[str, None]] = {}
        for contrast in contrasts:
            named = [name for name in (contrast.first, contrast.second) if name != PROXY]
            classifiers.setdefault(contrast.stream, {}).update(dict.fromkeys(named))
        streamed: list[Streamed] = []
        for name, others in classifiers.items():
            arm = self.study.arms[name]
            for setting, single in settings_of(arm):
                for seed in self._seeds([name, *others]):
                    streamed.append(
                        Streamed(self._stream(name, single, setting, seed, list(others)), name, setting, seed)
                    )
        return streamed

    def _stream(self, name: str, arm: Arm, setting: str, seed: int, others: list[str]) -> Cell:
        trunk = self.trunks[arm.variant]
        inputs = {"prompts": self.prompts, "golden": trunk.golden, "sft": trunk.sft}
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
        best, plain = self.study.best_of, self.trunks[""]
        if not best.samples:
            return []
        inputs = {"sft": plain.sft, "prompts": self.prompts, "labels": plain.labels, "golden": plain.golden}
        inputs |= {"proxy": plain.proxy, "opponents": plain.opponents}
        measured: list[Measured] = []
        for seed in self.study.seeds[: max(len(self._seeds([best_of_arm(judge)])) for judge in best.judges)]:
            spec = {"best_of": best, "seed": seed, "panel": self.base.panel, **self.small}
            cell = Cell("best of n", spec, inputs, f"best of n seed {seed}")
            measured += [
                Measured(
                    cell, best_of_arm(judge), "best of n", None, None, seed, n, rows=f"{judge}-{n}.parquet", pairs=""
                )
                for judge in best.judges
                for n in best.n
            ]
        return measured


def anchors(study: Study, graph: Graph) -> dict[str, str]:
    """The name of the SFT policy that each arm starts from."""
    by_arm = {name: graph.trunks[arm.variant].anchor for name, arm in study.arms.items()}
    return {name: by_arm.get(name, SFT) for name in study.all_arms}
