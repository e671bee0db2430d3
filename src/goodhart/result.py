"""What a study found, for Python and notebooks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float

from goodhart.analysis.crossfit import Curve
from goodhart.analysis.frontier import Peak
from goodhart.analysis.gap import Range
from goodhart.analysis.interval import Interval
from goodhart.analysis.rulings import Ruling
from goodhart.analysis.study_tables import Tables
from goodhart.analysis.summary import ArmFrontier, measure_summary
from goodhart.analysis.table import MEASURES
from goodhart.errors import GoodhartError
from goodhart.randomness import permutation
from goodhart.report.contents import Contents, read_contents
from goodhart.report.findings import MAIN, Findings, analysed, tables_of
from goodhart.report.hypotheses import ruling_line
from goodhart.report.verdict import gap_line, spelled_kl, spelled_share

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, repr=False)
class Frontier:
    """The best that an arm reaches within each KL budget, with the checkpoints that it is made of."""

    arm: str
    measure: str
    curve: Curve | None
    """The envelope; None where one seed and prompt are all that there is."""
    peak: Peak | None
    checkpoints: pa.Table
    """setting, seed, step, kl and value with their 95% intervals."""

    @classmethod
    def of(cls, frontier: ArmFrontier, measure: str) -> Frontier:
        """The same as the report has it."""
        rows = [
            {
                "setting": at.checkpoint.setting,
                "seed": at.checkpoint.seed,
                "step": at.checkpoint.step,
                **{f"kl{end}": value for end, value in _ends(at.kl).items()},
                **{f"value{end}": value for end, value in _ends(at.value).items()},
            }
            for at in frontier.checkpoints
        ]
        return cls(frontier.arm, measure, frontier.envelope, frontier.peak, pa.Table.from_pylist(rows))

    @property
    def kl(self) -> Float[np.ndarray, " budget"]:
        """KL budgets in nats."""
        return self._curve.budgets

    @property
    def value(self) -> Float[np.ndarray, " budget"]:
        """The envelope at each budget."""
        return np.array([at.estimate for at in self._curve.pointwise])

    @property
    def low(self) -> Float[np.ndarray, " budget"]:
        """The lower end of the band that contains the whole curve with 95%."""
        return self._curve.simultaneous.low

    @property
    def high(self) -> Float[np.ndarray, " budget"]:
        """Its upper end."""
        return self._curve.simultaneous.high

    @property
    def _curve(self) -> Curve:
        if self.curve is None:
            raise GoodhartError(f"{self.arm!r} was measured on too little for a curve", "look at its checkpoints")
        return self.curve

    def __repr__(self) -> str:
        if self.peak is None or self.curve is None:
            return f"<{self.arm}, {self.measure}: {len(self.checkpoints)} checkpoints>"
        reached = f"KL {self.kl[0]:.1f} to {self.kl[-1]:.1f} nats"
        peak = f"{spelled_share(self.peak.value)} at KL {spelled_kl(self.peak.kl)}"
        return f"<{self.arm}, {self.measure}: peak {peak}; {len(self.checkpoints)} checkpoints over {reached}>"


@dataclass(frozen=True, repr=False)
class Gap:
    """First arm less second at equal KL."""

    first: str
    second: str
    measure: str
    interval: Interval | None
    """Of the mean over the common range; None where there is no such range."""
    equal_setting: Interval | None
    """The same at equal settings, without choosing the best."""
    common: Range
    """The KL in nats that both reached."""
    curve: Curve | None
    line: str
    """All of it in words."""

    def __repr__(self) -> str:
        return f"<{self.line}>"


@dataclass(frozen=True, repr=False)
class Result:
    """A study's folder: its tables as Arrow, and everything that its report says."""

    folder: Path

    @cached_property
    def contents(self) -> Contents:
        """The tables and the record; read when they are first asked for."""
        return read_contents(self.folder)

    @cached_property
    def findings(self) -> Findings:
        """What the report is made from; computed when it is first asked for."""
        return analysed(self.contents)

    @property
    def name(self) -> str:
        """The study's name."""
        return self.contents.name

    @property
    def arms(self) -> tuple[str, ...]:
        """In the order of the study file, then best-of-n."""
        return self.contents.arms

    @property
    def rows(self) -> pa.Table:
        """One row for each response to each prompt by each checkpoint (docs: cells)."""
        return self.contents.rows

    @property
    def pairs(self) -> pa.Table:
        """One row for each pair of the data and each checkpoint that classified it."""
        return self.contents.pairs

    @property
    def record(self) -> dict[str, Any]:
        """Settings, versions, machine, cost, the judges' quality, and the cells with their digests."""
        return self.contents.record

    @property
    def report(self) -> Path:
        """The page, made if it is not there yet."""
        from goodhart.report.report import write_report

        page = self.folder / "report.html"
        return page if page.is_file() else write_report(self.folder, self.findings)

    def beside(self, *others: Result, into: str | Path) -> Path:
        """One page of this study and others, as `goodhart report A B` makes it, in a folder; returns the page's path.

        Raises GoodhartError for a study that is laid beside itself, or beside none.
        """
        from goodhart.report.side_by_side import distinct, write_side_by_side

        results = {each.folder.resolve(): each for each in (self, *others)}
        labels = distinct([each.folder for each in (self, *others)])
        return write_side_by_side({label: results[place].findings for label, place in labels.items()}, Path(into))

    @property
    def unfinished(self) -> dict[str, Any]:
        """What the study lacks: `missing` cells of `total`, those that `failed` and why, arms it is `without`."""
        return self.contents.unfinished

    @property
    def rulings(self) -> tuple[Ruling, ...]:
        """The study's hypotheses with the contrasts that decide them."""
        return self.findings.rulings

    @property
    def verdicts(self) -> dict[str, str]:
        """The verdict on each hypothesis: supported, contradicted, no difference, undecided."""
        return {ruling.name: ruling.verdict for ruling in self.rulings}

    def frontier(self, arm: str, measure: str = MAIN) -> Frontier:
        """An arm's measure against KL on held-out prompts. Raises GoodhartError for an arm or measure it has not."""
        self._known(arm, measure)
        frontier = self.findings.frontier(measure, arm)
        if frontier is None or not frontier.checkpoints:
            raise GoodhartError(f"{arm!r} was not measured by {measure}", "take another measure")
        return Frontier.of(frontier, measure)

    def gap(self, first: str, second: str, measure: str = MAIN) -> Gap:
        """First arm less second at equal KL on held-out prompts.

        Raises GoodhartError for an arm or measure that the study has not, and for an arm against itself.
        """
        for arm in (first, second):
            self._known(arm, measure)
        if first == second:
            raise GoodhartError(f"{first!r} is compared with itself", f"its arms are: {', '.join(self.arms)}")
        gap = self._gap(first, second, measure)
        if gap is None:
            for arm in (first, second):
                if not self.frontier(arm, measure).checkpoints.num_rows:
                    raise GoodhartError(f"{arm!r} was not measured by {measure}", "take another measure")
            raise GoodhartError(f"{first!r} and {second!r} have no seed or no prompt in common", "take other arms")
        return gap

    def gaps(self, first: str, second: str) -> tuple[Gap, ...]:
        """The same by every measure that both arms have, the main one first. Raises GoodhartError as `gap` does."""
        others = (self._gap(first, second, measure) for measure in MEASURES if measure != MAIN)
        return (self.gap(first, second), *(gap for gap in others if gap))

    def _gap(self, first: str, second: str, measure: str) -> Gap | None:
        every = measure_summary(self._tables, measure, (first, second))
        if not every.comparisons or not all(arm.checkpoints for arm in every.arms):
            return None
        (comparison,) = every.comparisons
        gap = comparison.gap
        return Gap(first, second, measure, gap.mean, comparison.settings.mean, gap.common, gap.curve, gap_line(gap))

    @cached_property
    def _tables(self) -> Tables:
        return tables_of(self.contents)

    def samples(self, arm: str, prompts: int = 5, seed: int = 0) -> pa.Table:
        """What an arm's last checkpoint wrote to a few held-out prompts, chosen by a keyed shuffle.

        Of its first setting and first seed; `seed` is of the shuffle. Raises GoodhartError for an arm it has not.
        """
        self._known(arm, MAIN)
        of_arm = self.rows.filter((pc.field("arm") == arm) & (pc.field("split") == "held_out"))
        setting = of_arm.column("setting")[0].as_py()
        of_arm = of_arm.filter(pc.field("setting") == setting)
        of_arm = of_arm.filter(pc.field("seed") == min(of_arm.column("seed").to_pylist()))
        step = max(of_arm.column("step").to_pylist())
        last = of_arm.filter((pc.field("step") == step) & (pc.field("sample") == 0)).sort_by("prompt")
        chosen = permutation(len(last), seed, "result/samples")[:prompts]
        texts = {row["prompt"]: row["text"] for row in self.contents.prompts.to_pylist()}
        kept = ["setting", "seed", "step", "text", "tokens", "kl", "golden_vs_sft", "golden_vs_policy"]
        rows = last.take(pa.array(chosen)).to_pylist()
        return pa.Table.from_pylist(
            [{"prompt": texts.get(row["prompt"], row["prompt"]), **{name: row[name] for name in kept}} for row in rows]
        )

    @property
    def plot(self) -> Plots:
        """Figures on the caller's own axes."""
        return Plots(self)

    def __repr__(self) -> str:
        lines = [ruling_line(ruling) for ruling in self.rulings]
        lines = lines or [gap_line(comparison.gap) for comparison in self.findings.comparisons(MAIN)]
        return "\n".join([f"<study {self.name}, {len(self.arms)} arms, in {self.folder}>", *lines])

    def _repr_html_(self) -> str:
        from goodhart.report.page import framed
        from goodhart.report.report import first_page

        return framed(first_page(self.findings))

    def _known(self, arm: str, measure: str) -> None:
        if arm not in self.arms:
            raise GoodhartError(f"study {self.name!r} has no arm {arm!r}", f"its arms are: {', '.join(self.arms)}")
        if measure not in MEASURES:
            raise GoodhartError(f"there is no measure {measure!r}", f"the measures are: {', '.join(MEASURES)}")


@dataclass(frozen=True)
class Plots:
    """The report's figures, drawn onto axes of the caller's."""

    result: Result

    def frontier(self, ax: Axes | None = None, arms: list[str] | None = None, measure: str = MAIN) -> Axes:
        """Checkpoints and envelopes of some arms, by default those of the report's figure; returns the axes."""
        from goodhart.report import frontier_figure, theme

        findings, axes = self.result.findings, _axes(ax)
        shown = list(arms) if arms is not None else list(findings.shown)
        for arm in shown:
            self.result._known(arm, measure)  # pyright: ignore[reportPrivateUsage]
        look = theme.styles(shown)
        for arm in shown:
            frontier_figure.draw_arm(axes, findings, measure, arm, look[arm])
            axes.plot(
                [], [], color=look[arm].colour, ls=look[arm].line, marker=look[arm].marker, label=theme.shown(arm)
            )
        frontier_figure.draw_baselines(axes, findings, measure)
        axes.set_ylabel(frontier_figure.LABELS[measure])
        frontier_figure.kl_axes([axes])
        axes.legend(frameon=False)
        return axes

    def gap(self, first: str, second: str, ax: Axes | None = None, measure: str = MAIN) -> Axes:
        """The difference between two arms along KL, with the band that contains all of it; returns the axes.

        Raises GoodhartError for arms that have no KL in common.
        """
        from goodhart.report import frontier_figure, theme

        gap, axes = self.result.gap(first, second, measure), _axes(ax)
        if gap.curve is None:
            raise GoodhartError(gap.line, "take arms whose ranges of KL meet")
        axes.axhline(0.0, color=theme.REFERENCE, lw=1, ls=":")
        style = theme.styles([first])[first]
        frontier_figure.draw_curve(axes, gap.curve, style)
        axes.set_ylabel(f"{theme.shown(first)} − {theme.shown(second)}")
        frontier_figure.kl_axes([axes])
        return axes


def _axes(ax: Axes | None) -> Axes:
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    _, axes = plt.subplots(figsize=(6.0, 4.0), layout="constrained")
    return axes


def _ends(interval: Interval) -> dict[str, float]:
    return {"": interval.estimate, "_low": interval.low, "_high": interval.high}
