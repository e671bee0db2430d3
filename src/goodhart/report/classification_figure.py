"""The policy as a classifier: accuracy against what it generates, and where the log-probabilities go."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes

from goodhart.analysis.classification import Classification
from goodhart.analysis.interval import Interval
from goodhart.report import marks, theme
from goodhart.report.findings import MAIN, Findings
from goodhart.report.grid import interval, number
from goodhart.report.svg import titled
from goodhart.report.theme import Picture, shown
from goodhart.report.verdict import spelled_share

_SPLITS = {"train": "pairs that offline arms train on", "held_out": "pairs that nobody trains on"}


def accuracy_picture(findings: Findings, resolution: int) -> Picture:
    """Accuracy on golden pairs against golden win rate, a mark for each checkpoint."""
    arms = findings.shown
    frontiers = [findings.frontier(MAIN, arm) for arm in arms]
    rates = {at.checkpoint: at.value for f in frontiers if f for at in f.checkpoints}
    splits = [split for split in _SPLITS if any(c.split == split for c in findings.summary.classification)]
    with theme.canvas(9.6, 3.9) as figure:
        axes = figure.subplots(1, max(1, len(splits)), squeeze=False)[0]
        for panel, split in zip(axes, splits, strict=False):
            for arm, style in theme.styles(arms).items():
                own = [c for c in findings.summary.classification if c.split == split and c.checkpoint.arm == arm]
                both = [(c, rates[c.checkpoint]) for c in own if c.checkpoint in rates]
                (line,) = panel.plot(
                    [c.accuracy.mean for c, _ in both], [rate.estimate for _, rate in both], style.marker,
                    color=style.colour, ms=6, mec="white", mew=0.5, label=shown(arm),
                )  # fmt: skip
                titled(line, each=[_classified(c, rate) for c, rate in both])
            panel.axvline(0.5, color=theme.REFERENCE, lw=1, ls=":")
            panel.set_title(f"{_SPLITS[split]}\n{_correlation(findings, split)}", fontsize=9)
            panel.set_xlabel("accuracy on golden pairs (chance: 0.5)")
            panel.set_ylabel("golden win rate\nagainst the golden policy")
        theme.legend_above(figure, axes[0])
        drawn = theme.drawn(figure, resolution)
    caption = (
        "Does a policy that classifies golden pairs well also write well? Each mark is a checkpoint: the share of "
        "pairs where the golden winner has the larger log-ratio, against its golden win rate on held-out prompts."
    )
    return Picture("classification", "Classification against generation", caption, drawn)


def _classified(given: Classification, rate: Interval) -> str:
    accuracy = f"{number(given.accuracy.mean)} ± {number(given.accuracy.se)} (standard error)"
    return f"{marks.named(given.checkpoint)}\naccuracy {accuracy}\ngolden win rate {spelled_share(rate)}"


def _correlation(findings: Findings, split: str) -> str:
    result = next((c for c in findings.summary.correlations if c.arm == "all arms" and c.split == split), None)
    return (
        ""
        if result is None
        else f"Spearman's ρ, all arms: {interval(result.estimate, result.low, result.high, 2, True)}"
    )


def shift_picture(findings: Findings, resolution: int) -> Picture:
    """How far the log-probabilities of golden winners and losers move from SFT's along training."""
    arms = findings.shown
    split = next((s for s in _SPLITS if any(c.split == s for c in findings.summary.classification)), "train")
    columns = min(4, len(arms))
    rows = -(-len(arms) // columns)
    with theme.canvas(9.6, 0.6 + 2.9 * rows) as figure:
        grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
        axes = list(grid.flat)
        for spare in axes[len(arms) :]:
            spare.remove()
        for panel, arm in zip(axes, arms, strict=False):
            own = [c for c in findings.summary.classification if c.checkpoint.arm == arm and c.split == split]
            _draw_shifts(panel, own)
            panel.set_title(shown(arm))
            panel.set_xlabel("optimiser steps")
        for panel in grid[:, 0]:
            panel.set_ylabel("log policy − log SFT\n(nats per response)")
        theme.legend_above(figure, axes[0])
        drawn = theme.drawn(figure, resolution)
    caption = (
        f"Mean log-ratio of golden winners and losers on the {_SPLITS[split]}, token sums, a line for each setting and "
        "seed. Below 0 a response has become less likely than under SFT; a loss of the difference can be lowered while "
        "both fall."
    )
    return Picture("shifts", "Log-probabilities of winners and losers", caption, drawn)


def _draw_shifts(panel: Axes, own: Sequence[Classification]) -> None:
    runs: dict[tuple[str, int], list[Classification]] = {}
    for result in own:
        runs.setdefault((result.checkpoint.setting, result.checkpoint.seed), []).append(result)
    panel.axhline(0, color=theme.INK, lw=1)
    for place, run in enumerate(runs.values()):
        ordered = sorted(run, key=lambda c: c.checkpoint.step)
        steps = [0, *(c.checkpoint.step for c in ordered)]
        winner, loser = [0.0, *(c.winner_shift.mean for c in ordered)], [0.0, *(c.loser_shift.mean for c in ordered)]
        first = place == 0
        drawn = panel.plot(
            steps, winner, "o-", color=theme.GREEN, ms=4, lw=1.2, label="golden winners" if first else None
        )
        drawn += panel.plot(
            steps, loser, "s--", color=theme.PURPLE, ms=4, lw=1.2, mfc="white", label="golden losers" if first else None
        )
        for line, who, shifts in zip(drawn, ("winners", "losers"), (winner, loser), strict=True):
            each = [f"step {at}: golden {who} {number(v, 1, True)} nats" for at, v in zip(steps, shifts, strict=True)]
            run_of = marks.run_named(ordered[0].checkpoint)
            titled(line, run_of, [f"{run_of}, {words}" for words in each])
