"""A league's methods by what they win over its range of KL."""

from __future__ import annotations

from matplotlib.axes import Axes

from goodhart.analysis.league import Place, Standings
from goodhart.report import theme
from goodhart.report.findings import Findings
from goodhart.report.league import budget_said, ranks_said
from goodhart.report.svg import titled_bar
from goodhart.report.theme import Picture, Style, shown
from goodhart.report.verdict import spelled_share

_OWN, _GIVEN = "learns from what the policy writes", "learns from given data"
_LOOKS = {
    _OWN: (Style(theme.BLUE, "o", "-"), theme.BLUE),
    _GIVEN: (Style(theme.VERMILLION, "s", "-"), "white"),
}
"""By who writes the responses that a method learns from: its marks and their filling."""


def league_picture(findings: Findings, standings: Standings, resolution: int) -> Picture:
    """Values with their intervals, the greatest first, and the confidence sets of the ranks beside them."""
    with theme.canvas(9.6, 1.5 + 0.23 * len(standings.places)) as figure:
        axes = figure.subplots()
        for words in _LOOKS:
            own = [(y, place) for y, place in enumerate(standings.places) if _writes(findings, place) == words]
            if own:
                _draw(axes, own, words)
        for y, place in enumerate(standings.places):
            axes.text(1.01, y, ranks_said(place), transform=axes.get_yaxis_transform(), va="center", fontsize=8)
        axes.text(1.01, -1.0, "rank", transform=axes.get_yaxis_transform(), va="center", fontsize=8, fontweight="bold")
        baseline = [place for place in standings.places if place.method == standings.league.baseline]
        for place in baseline:
            axes.axvline(place.value.estimate, color=theme.REFERENCE, lw=1, ls=(0, (4, 3)), zorder=1)
        axes.set_yticks(range(len(standings.places)), [shown(place.method) for place in standings.places], fontsize=8)
        axes.set_ylim(len(standings.places) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel(f"golden win rate against the golden policy, mean over {budget_said(standings)}")
        theme.legend_above(figure, axes)
        drawn = theme.drawn(figure, resolution)
    caption = (
        "Each method's mean golden win rate over the same range of KL, with its 95% interval, the greatest first; "
        "beside it the confidence set of its rank, all of which hold at once with 95%. Two methods whose intervals "
        "overlap may still be told apart, because differences are taken on the same prompts and seeds."
    )
    if baseline:
        caption += f" Dashed: the baseline, {shown(standings.league.baseline)}."
    if standings.unranked:
        caption += f" Not drawn, because not ranked: {len(standings.unranked)}."
    return Picture("league", f"Methods over {budget_said(standings)}", caption, drawn)


def _writes(findings: Findings, place: Place) -> str:
    own = findings.contents.record["study"]["arms"][place.method]["source"] == "policy"
    return _OWN if own else _GIVEN


def _draw(axes: Axes, own: list[tuple[int, Place]], words: str) -> None:
    style, fill = _LOOKS[words]
    x = [place.value.estimate for _, place in own]
    spread = [
        [place.value.estimate - place.value.low for _, place in own],
        [place.value.high - place.value.estimate for _, place in own],
    ]
    bars = axes.errorbar(
        x, [y for y, _ in own], xerr=spread, color=style.colour, marker=style.marker, ls="", capsize=2.5, lw=1.4,
        markersize=5, markerfacecolor=fill, label=words, zorder=2,
    )  # fmt: skip
    said = (f"mean golden win rate {spelled_share(place.value)}\nrank {ranks_said(place)}" for _, place in own)
    titled_bar(bars, [f"{place.method}\n{each}" for (_, place), each in zip(own, said, strict=True)])
