"""Each arm at its peak, and the two baselines: the short result of a study."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from goodhart.analysis.diagnostics import Diagnostics
from goodhart.analysis.frontier import CheckpointPoint
from goodhart.analysis.interval import Interval
from goodhart.analysis.table import SFT
from goodhart.report.findings import BASELINES, GOLDEN_POLICY, MAIN, Findings, spoken
from goodhart.report.grid import NONE, Grid, number
from goodhart.report.verdict import spelled_share


@dataclass(frozen=True)
class Headline:
    """One policy: golden win rate, its KL (nats), and the other measures of the same checkpoint; None: not measured."""

    arm: str
    golden: Interval | None
    kl: float | None
    vs_sft: Interval | None
    hidden: Interval | None
    length: float | None
    where: str


def headlines(findings: Findings) -> list[Headline]:
    """The arms in the order of the study file, then the baselines."""
    arms = [_of_arm(findings, arm) for arm in findings.contents.arms]
    return [*arms, *(_of_baseline(findings, arm) for arm in BASELINES)]


def _of_arm(findings: Findings, arm: str) -> Headline:
    result = findings.frontier(MAIN, arm)
    if result is None or result.peak is None:
        return Headline(arm, None, None, None, None, None, "not measured")
    point = result.peak.point
    sft, hidden = (findings.at(name, arm, point) for name in ("golden_vs_sft", "hidden"))
    length = _length(findings.diagnostics(arm, point))
    where = f"{point.setting}, step {point.step}"
    return Headline(arm, result.peak.value, result.peak.kl.estimate, sft, hidden, length, where)


def _of_baseline(findings: Findings, arm: str) -> Headline:
    def of(measure: str) -> CheckpointPoint | None:
        return findings.golden_policy.get(measure) if arm == GOLDEN_POLICY else findings.start(measure)

    main, sft, hidden = (of(name) for name in (MAIN, "golden_vs_sft", "hidden"))
    own = findings.diagnostics(arm)
    last = max((d.checkpoint.step for d in own), default=0)
    return Headline(
        spoken(arm),
        main.value if main else None,
        main.kl.estimate if main else None,
        sft.value if sft else None,
        hidden.value if hidden else None,
        _length([d for d in own if d.checkpoint.step == last]),
        "start and reference" if arm == SFT else "baseline of the win rates",
    )


def _length(diagnostics: list[Diagnostics]) -> float | None:
    return float(np.mean([d.tokens.mean for d in diagnostics])) if diagnostics else None


def headline_grid(findings: Findings) -> Grid:
    """The headlines as a table."""
    rows = [
        (
            line.arm,
            *(spelled_share(line.golden) if line.golden else NONE, number(line.kl, 1)),
            *(spelled_share(result) if result else NONE for result in (line.vs_sft, line.hidden)),
            *(number(line.length, 1), line.where),
        )
        for line in headlines(findings)
    ]
    header = ("arm", "peak golden win rate", "at KL", "win rate vs SFT", "hidden measure", "length", "where")
    note = (
        "Held-out prompts, 95% intervals. Peak: the arm's checkpoint of highest golden win rate against the golden "
        "policy; its value is taken on other seeds and prompts than those that picked it. The other columns are of the "
        "same checkpoint, means over seeds; length in tokens, KL in nats. Baselines have one checkpoint each."
    )
    return Grid("Each arm at its peak", header, tuple(rows), note)
