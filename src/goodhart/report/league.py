"""The ranking of a league as tables and sentences."""

from __future__ import annotations

from goodhart.alignment.methods import METHODS
from goodhart.analysis.gap import Range
from goodhart.analysis.league import Place, Standings, Unranked
from goodhart.report.findings import Findings
from goodhart.report.grid import NONE, Grid, listed, number
from goodhart.report.verdict import spelled, spelled_share

_FEW = 8
"""So many names are read in a sentence."""


def league_said(standings: Standings) -> str:
    """Who may be the best, and how many pairs are told apart."""
    ranked, every = len(standings.places), len(standings.places) + len(standings.unranked)
    if not ranked:
        return f"No method spans {budget_said(standings)} in every seed, so none is ranked."
    first = [place.method for place in standings.places if place.ranks[0] == 1]
    if len(first) == 1:
        best = f"the best is {first[0]}"
    elif len(first) <= _FEW:
        best = f"the best is one of {listed(first)}"
    else:
        best = f"the best is one of {len(first)}"
    apart = sum(place.ranks[0] - 1 for place in standings.places)
    return (
        f"{ranked} of {every} methods span {budget_said(standings)} in every seed and are ranked by their mean golden "
        f"win rate over it. With 95% for all ranks at once, {best}; {apart:,} of {ranked * (ranked - 1) // 2:,} pairs "
        "are told apart."
    )


def budget_said(standings: Standings) -> str:
    """The league's range of KL."""
    low, high = standings.league.budget
    return f"KL {low:g} to {high:g} nats"


def ranks_said(place: Place) -> str:
    """The confidence set of a rank."""
    low, high = place.ranks
    return str(low) if low == high else f"{low}–{high}"


def title_of(findings: Findings, arm: str) -> str:
    """The title of an arm's method; a dash for one that is no row of the table."""
    row = METHODS.get(str(findings.contents.record["study"]["arms"][arm].get("name", "")))
    return row.title if row else NONE


def league_grid(findings: Findings, standings: Standings) -> Grid:
    """Every ranked method, the greatest mean first."""
    high = standings.league.budget[1]
    header = (
        *("rank", "method", "title", "mean win rate [95%]", f"at KL {high:g}"),
        *(f"less {standings.league.baseline} [95%]", "Holm p", "less best of n [95%]", "seconds", "labels"),
    )
    rows = tuple(_row(findings, place) for place in standings.places)
    return Grid(f"Methods over {budget_said(standings)}", header, rows, _note(standings)).filled


def _row(findings: Findings, place: Place) -> tuple[str, ...]:
    lead = place.lead
    return (
        *(ranks_said(place), place.method, title_of(findings, place.method)),
        *(spelled_share(place.value), number(place.end.estimate)),
        *((spelled(lead.found, sign=True), number(lead.adjusted)) if lead else (NONE, NONE)),
        spelled(place.over_best_of_n, sign=True) if place.over_best_of_n else NONE,
        *(_seconds(findings, place.method), _labels(findings, place.method)),
    )


def _seconds(findings: Findings, arm: str) -> str:
    """Of process time, the mean over the arm's runs; a dash where they count as another arm's, whose cells they are."""
    cells = [cell for cell in findings.contents.record["cells"] if cell.get("arm") == arm]
    runs = {(at.setting, at.seed) for at in findings.tables.budgets if at.arm == arm}
    return f"{sum(float(cell['seconds']) for cell in cells) / len(runs):.0f}" if cells and runs else NONE


def _labels(findings: Findings, arm: str) -> str:
    own = [spent["labels"] for at, spent in findings.tables.budgets.items() if at.arm == arm]
    return f"{max(own):,.0f}" if own else NONE


def _note(standings: Standings) -> str:
    said = (
        f"Golden win rate against the golden policy on {standings.prompts:,} held-out prompts, "
        f"{len(standings.seeds)} seeds. Mean: of the method's cross-fitted envelope over the range, the same for all. "
        "Rank: its confidence set; all of them hold at once with 95%, by Holm’s method over all one-sided comparisons, "
        "which is conservative. Intervals are those of single numbers. Holm p: two-sided, over all methods but the "
        "baseline, at most 0.05 for a difference that is claimed. Seconds: process time of one training run, without "
        "what it starts from. Labels: golden labels that its supervision rests on."
    )
    if standings.shared:
        said += f" Best of n: by the proxy, over {_range_said(standings.shared)}, which it reaches too."
    if standings.left_out_prompts:
        said += f" Left out because not all methods have them: {standings.left_out_prompts:,} prompts."
    return said


def _range_said(given: Range) -> str:
    return f"KL {number(given.low, 1)} to {number(given.high, 1)} nats"


def unranked_grid(standings: Standings) -> Grid:
    """Every method that is not ranked, and why."""
    header = ("method", "why", "KL in every seed", "peak at any KL [95%]")
    rows = tuple((each.method, each.why, _reached(each), _peak(each)) for each in standings.unranked)
    note = "No rank is claimed of these, and they are not among those that ranks count."
    return Grid("Not ranked", header, rows, note)


def _reached(each: Unranked) -> str:
    if each.reached is None:
        return NONE
    return _range_said(each.reached) if not each.reached.empty else f"{_range_said(each.reached)}: none in common"


def _peak(each: Unranked) -> str:
    return spelled_share(each.peak) if each.peak else NONE


def short_grid(standings: Standings) -> Grid:
    """The ranking for a terminal of 80 columns."""
    rows = tuple(
        (
            *(ranks_said(place), place.method, spelled_share(place.value)),
            *((spelled(place.lead.found, sign=True), number(place.lead.adjusted)) if place.lead else (NONE, NONE)),
        )
        for place in standings.places
    )
    title = f"Methods over {budget_said(standings)}; baseline: {standings.league.baseline}"
    return Grid(title, ("rank", "method", "mean win rate", "less baseline", "Holm p"), rows)


def unranked_lines(standings: Standings) -> list[str]:
    """Each method that is not ranked in one line, and what the ranking says."""
    left = [
        f"not ranked: {each.method}: {each.why}"
        + (f" (every seed has {_reached(each)}; peak {_peak(each)})" if each.reached else "")
        for each in standings.unranked
    ]
    return [*left, league_said(standings)]
