"""What a gap means in words, with its interval and its KL range."""

from __future__ import annotations

from collections.abc import Sequence

from goodhart.analysis.gap import Gap, SettingGaps
from goodhart.analysis.interval import Interval
from goodhart.analysis.power import visible
from goodhart.report.grid import interval, number

MEASURES = {
    "golden_vs_policy": "golden win rate against the golden policy",
    "golden_vs_sft": "golden win rate against SFT",
    "proxy_vs_policy": "proxy win rate against the golden policy",
    "proxy_vs_sft": "proxy win rate against SFT",
    "hidden": "hidden measure",
}
"""The measures in words."""


def spelled(given: Interval, digits: int = 3, sign: bool = False) -> str:
    """`estimate [low, high]`."""
    return interval(given.estimate, given.low, given.high, digits, sign)


def spelled_share(given: Interval) -> str:
    """The same for a number between 0 and 1, its interval cut there."""
    return interval(given.estimate, max(0.0, given.low), min(1.0, given.high))


def spelled_kl(given: Interval) -> str:
    """The same for a KL in nats, its interval cut at 0."""
    return interval(given.estimate, max(0.0, given.low), given.high, 1)


def verdict(given: Interval, first: str, second: str) -> str:
    """Which arm is ahead, if the interval says so."""
    if given.low > 0:
        return f"{first} is ahead"
    if given.high < 0:
        return f"{second} is ahead"
    return f"interval contains 0: undecided, {could_see(visible(given))}"


def could_see(size: float, digits: int = 3) -> str:
    """What an undecided comparison would have shown, had it been there."""
    return f"could have seen a difference of {number(size, digits)} with 80% power"


def kl_range(gap: Gap) -> str:
    """The range over which the gap is claimed."""
    return f"KL {number(gap.common.low, 1)} to {number(gap.common.high, 1)} nats"


def gap_line(gap: Gap) -> str:
    """The gap at matched KL in one line."""
    if gap.mean is None:
        return f"{gap.first} − {gap.second}: the arms have no KL in common, so nothing is claimed"
    return (
        f"{gap.first} − {gap.second} at matched KL: {spelled(gap.mean, sign=True)} over {kl_range(gap)}; "
        f"{verdict(gap.mean, gap.first, gap.second)}"
    )


def answer(gap: Gap, settings: SettingGaps | None) -> tuple[str, ...]:
    """The study's answer in a sentence, then what it is over, what could have been seen, and at equal setting."""
    if gap.mean is None:
        return (
            f"The checkpoints of {gap.first} and {gap.second} have no KL in common (on held-out prompts), so this "
            "study cannot compare them at the same KL budget.",
            "The frontiers show each arm over its own range.",
        )
    measure = MEASURES.get(gap.measure, gap.measure)
    over = (
        f"That is the {measure} of {gap.first} less that of {gap.second} on held-out prompts, the mean over "
        f"{kl_range(gap)}, with its 95% interval over {gap.mean.over}."
    )
    power = f"The study {could_see(visible(gap.mean))}."
    return (_meaning(gap.mean, gap), over, power, _same_setting(settings))


def _meaning(given: Interval, gap: Gap) -> str:
    size = f"{spelled(given, sign=True)} in golden win rate"
    if given.low > 0 or given.high < 0:
        winner, loser = (gap.first, gap.second) if given.low > 0 else (gap.second, gap.first)
        return f"At the same KL {winner} wins more often than {loser}: {size}."
    return f"At the same KL it is undecided whether {gap.first} or {gap.second} wins more often: {size}."


def _same_setting(settings: SettingGaps | None) -> str:
    if settings is None or settings.mean is None:
        return "No setting of the sweep is shared with a common KL range, so there is no gap at equal setting."
    return f"At equal β and learning rate, without choosing the best, it is {spelled(settings.mean, sign=True)}."


def seeds_note(seeds: Sequence[int]) -> str:
    """A warning where the intervals cover the prompts alone."""
    if len(seeds) == 1:
        return "Only one seed was run: intervals cover the variation between prompts, not between training runs."
    return ""
