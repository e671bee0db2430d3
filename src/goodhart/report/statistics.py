"""The analysis as tables."""

from __future__ import annotations

import numpy as np

from goodhart.analysis.classification import Estimate
from goodhart.analysis.gap import Gap, SettingGap
from goodhart.report.findings import BASELINES, MAIN, Findings, spoken
from goodhart.report.grid import NONE, Grid, interval, number
from goodhart.report.verdict import MEASURES, kl_range, spelled, spelled_kl, spelled_share, verdict

_SPLITS = {"held_out": "held-out", "train": "training"}


def gap_grid(findings: Findings, split: str) -> Grid:
    """The gap at matched KL of the first arm to every other by every measure, on the prompts of a split."""
    rows = [
        (f"{result.gap.first} − {result.gap.second}", words, *_gap_cells(result.gap))
        for measure, words in MEASURES.items()
        for result in findings.comparisons(measure, split)
    ]
    title = f"Gap at matched KL, averaged over the range, {_SPLITS[split]} prompts"
    note = (
        "The study's answer is in the first line for each two arms, golden against the golden policy; the other "
        "measures are its context, and among so many intervals some miss the truth by chance."
    )
    note += _between_seeds(findings, split) + _lost(findings, split)
    return Grid(title, ("arms", "measure", "gap [95%]", "range", "meaning"), tuple(rows), note)


def _between_seeds(findings: Findings, split: str) -> str:
    measure = findings.summary.measures.get((split, MAIN))
    if measure is None or measure.prior.freedom == 0:
        return ""
    spread = number(float(np.sqrt(measure.prior.variance)), 3)
    return (
        f" Over all trained arms an envelope's golden win rate has a standard deviation of {spread} between seeds; "
        "each interval joins its own arms' seeds with that."
    )


def _gap_cells(gap: Gap) -> tuple[str, str, str]:
    if gap.mean is None:
        return NONE, "no KL in common", "nothing is claimed"
    return spelled(gap.mean, sign=True), kl_range(gap), verdict(gap.mean, gap.first, gap.second)


def _lost(findings: Findings, split: str) -> str:
    result = findings.comparisons(MAIN, split)
    checkpoints = sum(c.left_out_checkpoints for c in result)
    prompts = max((c.left_out_prompts for c in result), default=0)
    if not checkpoints and not prompts:
        return ""
    return f" Left out because not all seeds or arms have them: {checkpoints} checkpoints, {prompts} prompts."


def setting_grid(findings: Findings) -> Grid:
    """The gap at each β and learning rate that both arms have."""
    rows: list[tuple[str, ...]] = []
    for result in findings.comparisons(MAIN):
        arms = f"{result.gap.first} − {result.gap.second}"
        rows += [(arms, *_setting_row(each)) for each in result.settings.each]
        if result.settings.mean:
            rows.append((f"{arms}, mean", NONE, spelled(result.settings.mean, sign=True), "each its own range"))
    note = (
        "Golden win rate against the golden policy. Both arms at the same setting (β, the learning rate and what "
        "else is swept), compared at the same KL along their own trajectories; nothing is selected. A difference here "
        "that is not there at matched KL is an effect of the setting."
    )
    return Grid("Gap at equal setting", ("arms", "setting", "gap [95%]", "range"), tuple(rows), note)


def _setting_row(each: SettingGap) -> tuple[str, str, str]:
    gap = each.gap
    result, where = (spelled(gap.mean, sign=True), kl_range(gap)) if gap.mean else (NONE, "no KL in common")
    return each.setting, result, where


def peak_grid(findings: Findings) -> Grid:
    """Every arm's peak by every measure."""
    rows: list[tuple[str, ...]] = []
    for measure, words in MEASURES.items():
        for arm in findings.contents.arms:
            result = findings.frontier(measure, arm)
            if result and result.peak:
                peak = result.peak
                where = f"{peak.point.setting}, step {peak.point.step}"
                rows.append((arm, words, where, spelled_share(peak.value), number(peak.apparent), spelled_kl(peak.kl)))
    note = (
        "Held-out prompts. Value: on other seeds and prompts than those that picked the checkpoint. Highest mean: on "
        "all of them; picking the best of a sweep makes it too high."
    )
    header = ("arm", "measure", "where", "value [95%]", "highest mean", "KL [95%], nats")
    return Grid("Peaks", header, tuple(rows), note)


def correlation_grid(findings: Findings) -> Grid:
    """Spearman's correlation of accuracy and win rate."""
    rows = [
        (c.arm, _SPLITS[c.split], interval(c.estimate, c.low, c.high, 2, True), str(c.checkpoints), str(c.runs))
        for c in findings.summary.correlations
    ]
    note = (
        "t intervals with the standard error of a bootstrap over whole runs, since the checkpoints of one run resemble "
        "each other; no interval below three runs."
    )
    header = ("arm", "pairs", "Spearman's ρ [95%]", "checkpoints", "runs")
    return Grid("Accuracy on golden pairs against golden win rate", header, tuple(rows), note)


def classification_grid(findings: Findings) -> Grid:
    """Every checkpoint as a classifier."""
    rows = [
        (
            c.checkpoint.arm, c.checkpoint.setting, _SPLITS[c.split], str(c.checkpoint.seed), str(c.checkpoint.step),
            _spread(c.accuracy, 3), _spread(c.winner_shift, 2), _spread(c.loser_shift, 2), str(c.pairs), str(c.ties),
        )
        for c in findings.summary.classification
        if c.checkpoint.step > 0
    ]  # fmt: skip
    header = ("arm", "setting", "pairs", "seed", "step", "accuracy", "winner shift", "loser shift", "number", "ties")
    note = "± one standard error, clustered by prompt. Shifts: mean log policy − log SFT, nats."
    return Grid("Classification, every checkpoint", header, tuple(rows), note)


def diagnostics_grid(findings: Findings, *, last: bool) -> Grid:
    """What the responses are like: of the last checkpoints alone, or of all."""
    kl = _kl(findings)
    rows: list[tuple[str, ...]] = []
    for arm in (*findings.contents.arms, *BASELINES):
        own = findings.diagnostics(arm)
        final = max((d.checkpoint.step for d in own), default=0)
        rows += [
            (
                spoken(arm), d.checkpoint.setting, str(d.checkpoint.seed), str(d.checkpoint.step),
                number(kl.get(d.checkpoint), 1), _spread(d.tokens, 1), _spread(d.ended, 3), _spread(d.entropy, 2),
                number(d.unique), _spread(d.proxy_less_golden_vs_policy, 3, sign=True),
            )
            for d in own
            if d.checkpoint.step == final or not last
        ]  # fmt: skip
    header = (
        "arm", "setting", "seed", "step", "KL", "length", "ended", "entropy", "unique", "proxy − golden"
    )  # fmt: skip
    note = (
        "Held-out prompts, ± one standard error. KL in nats; length in tokens; ended: share that wrote the end token "
        "before the cap; entropy of the next token in nats; unique: distinct responses over all; proxy − golden: how "
        "much more often the proxy sees a win against the golden policy."
    )
    title = "Responses of the last checkpoints" if last else "Responses, every checkpoint"
    return Grid(title, header, tuple(rows), note)


def _kl(findings: Findings) -> dict[object, float]:
    fronts = [findings.frontier(MAIN, arm) for arm in findings.contents.arms]
    result = [at for front in fronts if front for at in front.checkpoints]
    result += [at for at in (findings.start(MAIN), findings.golden_policy.get(MAIN)) if at]
    return {at.checkpoint: at.kl.estimate for at in result}


def _spread(estimate: Estimate, digits: int, *, sign: bool = False) -> str:
    spread = f" ± {number(estimate.se, digits)}" if np.isfinite(estimate.se) else ""
    return number(estimate.mean, digits, sign) + spread
