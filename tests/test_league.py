"""Leagues: values over one range of KL, confidence sets of ranks, what is not ranked, and how all of it is shown."""

import csv
import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from goodhart import forecasts, variances
from goodhart.alignment.methods import METHODS
from goodhart.analysis.crossfit import Term, curve
from goodhart.analysis.envelope import hull
from goodhart.analysis.gap import Range, budgets
from goodhart.analysis.hypotheses import Contrast, League
from goodhart.analysis.league import Means, Statistics, better, pairwise, rank, rank_sets
from goodhart.analysis.study_tables import Tables
from goodhart.analysis.table import SFT, Checkpoint, Matrix, clouds, read
from goodhart.errors import GoodhartError
from goodhart.evaluation.schema import PAIR_ROWS, STREAM_ROWS
from goodhart.randomness import stream
from goodhart.recipes.arm import settings_of
from goodhart.report import league_figure
from goodhart.report.findings import analyse
from goodhart.report.league import league_said, title_of
from goodhart.report.report import write_report
from goodhart.report.terminal import terminal_table
from goodhart.studies.spec import read_study
from made_rows import noiseless
from micro_study import write_micro_study
from synthetic_study import Made, make_study

BEST = "best of n by proxy"
EVIL = '<script>alert("x")</script>'
STEPS = (0.4, 1.5, 4.5)
"""KL of the checkpoints of a made-up run, nats."""


def tables_of(matrix, resamples=40, untrained=()):
    none = (PAIR_ROWS.empty_table(), {}, STREAM_ROWS.empty_table())
    return Tables({"held_out": matrix}, *none, resamples=resamples, untrained=untrained)


def made(heights, seed=0, prompts=40, seeds=(0, 1, 2), tau=0.02, noise=0.3, order=None):
    """Win rates of height x sqrt(KL) above .3, with effects of prompts and of seeds, the latter of deviation tau.

    An arm's numbers are its own: they do not depend on which arms there are, nor on their order.
    """
    easy = 0.1 * stream(seed, "easy").normal(size=prompts)
    checkpoints, kl, win = [Checkpoint(SFT, "", None, None, 0, 0)], [np.zeros(prompts)], [0.3 + easy]
    for arm in order or heights:
        for s in seeds:
            rng = stream(seed, "arm", arm, s)
            effect = tau * rng.normal()
            for step, budget in enumerate(STEPS, 1):
                checkpoints.append(Checkpoint(arm, "beta=0.1 lr=0.0001", 0.1, 1e-4, s, step))
                kl.append(budget * (1 + 0.1 * rng.normal(size=prompts)))
                win.append(0.3 + heights[arm] * budget**0.5 + effect + easy + noise * rng.normal(size=prompts))
    columns = {"kl": np.stack(kl), "golden_vs_policy": np.stack(win)}
    return Matrix("held_out", tuple(checkpoints), tuple(map(str, range(prompts))), columns)


def league(heights, baseline="", budget=(1.0, 4.0)):
    return League(baseline or next(iter(heights)), budget, tuple(heights))


def sets(found):
    return {place.method: place.ranks for place in found.places}


def test_an_order_with_large_differences_is_found_exactly():
    heights = {"d": 0.0, "a": 0.3, "c": 0.1, "b": 0.2}
    found = rank(tables_of(made(heights, tau=0.005, noise=0.05)), league(heights, "c"))
    assert [place.method for place in found.places] == ["a", "b", "c", "d"]
    assert sets(found) == {"a": (1, 1), "b": (2, 2), "c": (3, 3), "d": (4, 4)}
    leads = {place.method: place.lead for place in found.places}
    assert leads["c"] is None
    for arm in "abd":
        assert np.sign(leads[arm].found.estimate) == (1 if arm < "c" else -1)
        assert leads[arm].p <= leads[arm].adjusted <= 0.05
    assert found.unranked == ()
    assert league_said(found) == (
        "4 of 4 methods span KL 1 to 4 nats in every seed and are ranked by their mean golden win rate over it. With "
        "95% for all ranks at once, the best is a; 6 of 6 pairs are told apart."
    )


def test_methods_that_are_the_same_may_have_every_rank():
    found = rank(tables_of(made(dict.fromkeys("abcde", 0.1))), league(dict.fromkeys("abcde", 0.1)))
    assert set(sets(found).values()) == {(1, 5)}
    assert all(place.lead is None or place.lead.adjusted > 0.05 for place in found.places)


def test_numbers_that_are_exactly_equal_are_no_evidence():
    curves = {arm: {0.1: [(0.5, 0.5), (4.5, 0.7)]} for arm in "abc"}
    found = rank(tables_of(read(noiseless(curves), "held_out")), league(curves))
    assert set(sets(found).values()) == {(1, 3)}
    assert [place.lead.p for place in found.places if place.lead] == [1.0, 1.0]


def test_without_any_noise_a_test_is_certain_or_knows_nothing():
    found = Statistics(np.array([0.1, 0.0, -0.1]), np.zeros(3), np.full(3, 5.0), seeds=2, prompts=6)
    assert found.above().tolist() == [0.0, 0.5, 1.0]


def test_a_value_is_the_mean_of_the_frontier_over_the_range():
    """Without noise: from SFT at (0, .4) over (2, .6) to (4, .7); the point (.5, .41) lies below the first chord."""
    curves = {"a": {0.1: [(0.5, 0.41), (2.0, 0.6), (4.0, 0.7)]}, "b": {0.1: [(1.0, 0.4), (4.0, 0.4)]}}
    found = rank(tables_of(read(noiseless(curves), "held_out")), league(curves, "b", (1.0, 3.5)))
    first, second = found.places
    # .5 to .6 over one nat, .6 to .675 over one and a half
    assert first.value.estimate == pytest.approx((0.55 * 1 + 0.6375 * 1.5) / 2.5, abs=1e-12)
    assert first.end.estimate == pytest.approx(0.675, abs=1e-12)
    assert (second.method, second.value.estimate) == ("b", pytest.approx(0.4, abs=1e-12))
    assert first.lead.found.estimate == pytest.approx(first.value.estimate - 0.4, abs=1e-12)


def test_intervals_are_those_of_the_frontier_and_the_gap():
    heights = {"a": 0.12, "b": 0.1, "c": 0.05}
    tables = tables_of(made(heights), 200)
    places = {place.method: place for place in rank(tables, league(heights, "c")).places}
    known, grid = tables.prior("held_out", "golden_vs_policy", hull), budgets(Range(1.0, 4.0))
    found = clouds(tables.matrix("held_out"), ["a", "c"], "golden_vs_policy")
    terms = {arm: Term(cloud, hull, np.arange(len(cloud.points)), grid, 1.0) for arm, cloud in found.arms.items()}
    alone = curve([terms["a"]], tables.draws(found), known).mean
    gap = curve([terms["a"], replace(terms["c"], weight=-1.0)], tables.draws(found), known).mean
    assert places["a"].value.estimate == pytest.approx(alone.estimate, rel=1e-12)
    assert places["a"].value.se == pytest.approx(alone.se, rel=1e-9)
    lead = places["a"].lead.found
    assert (lead.estimate, lead.freedom) == (pytest.approx(gap.estimate, rel=1e-9), pytest.approx(gap.freedom))
    assert lead.se == pytest.approx(gap.se, rel=0.1), "only what a gap's own share of new seeds adds differs"
    assert lead.se < 0.9 * np.hypot(places["a"].value.se, places["c"].value.se), "differences are paired by prompt"


def test_differences_add_up():
    heights = {"a": 0.12, "b": 0.1, "c": 0.05}
    tables = tables_of(made(heights))
    by = {base: {p.method: p for p in rank(tables, league(heights, base)).places} for base in "bc"}
    direct = by["c"]["a"].lead.found.estimate
    assert direct == pytest.approx(by["b"]["a"].lead.found.estimate + by["c"]["b"].lead.found.estimate, abs=1e-12)
    assert direct == pytest.approx(by["c"]["a"].value.estimate - by["c"]["c"].value.estimate, abs=1e-12)


def test_the_order_of_the_methods_changes_nothing():
    heights = {"d": 0.02, "a": 0.12, "c": 0.05, "b": 0.1}
    there = rank(tables_of(made(heights)), league(heights, "c"))
    back = rank(tables_of(made(heights, order=list(heights)[::-1])), league(dict(reversed(heights.items())), "c"))
    assert there.places == back.places


def test_every_rank_is_in_its_set_as_often_as_it_is_said():
    """Six methods that are alike, a better one and a worse one: all sets at once, and not so without a correction."""
    heights = dict(zip("abcdefgh", (0.0, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.35), strict=True))
    value = np.array(list(heights.values()))
    lowest = 1 + (value[None] > value[:, None]).sum(axis=1)
    highest = len(value) - (value[None] < value[:, None]).sum(axis=1)
    held = plain = told = 0
    for world in range(WORLDS):
        tables = tables_of(made(heights, world, prompts=24), 20)
        ranks = sets(rank(tables, league(heights)))
        held += all(ranks[arm][0] <= lowest[i] and highest[i] <= ranks[arm][1] for i, arm in enumerate(heights))
        told += ranks["h"][0] < ranks["a"][0] or ranks["h"][1] < ranks["a"][1]
        every = uncorrected(tables, heights)
        plain += all(every[i][0] <= lowest[i] and highest[i] <= every[i][1] for i in range(len(value)))
    assert held / WORLDS >= 0.95 - 2.33 * (0.05 * 0.95 / WORLDS) ** 0.5
    assert plain / WORLDS < 0.85, "sets without a correction would pass as well"
    assert told / WORLDS > 0.5, "sets that always hold every rank would pass as well"


WORLDS = 100


def uncorrected(tables, heights):
    """Rank sets from 5% for each comparison alone."""
    found = clouds(tables.matrix("held_out"), list(heights), "golden_vs_policy")
    means = np.stack([cloud.value[cloud.trained].mean(axis=0) for cloud in found.arms.values()])
    p = pairwise(Means(means, np.zeros((len(means), 2)), np.zeros(len(means))), tables.prior(*_KNOWN))
    return rank_sets(p <= 0.05)


_KNOWN = ("held_out", "golden_vs_policy", hull)


def test_sets_of_ranks_count_what_is_better_and_what_is_worse():
    wins = np.zeros((4, 4), dtype=bool)
    wins[0, 2] = wins[0, 3] = wins[1, 3] = True
    assert rank_sets(wins) == [(1, 2), (1, 3), (2, 4), (3, 4)]
    assert rank_sets(np.zeros((1, 1), dtype=bool)) == [(1, 1)]


def test_holm_counts_every_ordered_pair():
    """Three methods, six tests: .05 / 6 for the smallest p, then .05 / 5."""
    p = np.ones((3, 3))
    p[0, 1], p[0, 2] = 0.05 / 6, 0.05 / 5
    expected = np.zeros((3, 3), dtype=bool)
    expected[0, 1:] = True
    np.testing.assert_array_equal(better(p), expected)
    p[0, 1] += 1e-6
    assert not better(p).any(), "the first is not rejected, and so none behind it is"


def short(matrix, arm, keep):
    """The matrix without an arm's checkpoints that `keep` does not keep."""
    kept = [i for i, at in enumerate(matrix.checkpoints) if at.arm != arm or keep(at)]
    columns = {name: column[kept] for name, column in matrix.columns.items()}
    return replace(matrix, checkpoints=tuple(matrix.checkpoints[i] for i in kept), columns=columns)


@pytest.mark.parametrize(
    ("keep", "why", "reached"),
    [
        (lambda at: at.step < 3, "in some seed it does not reach KL 4", True),
        (lambda at: at.step > 1, "in some seed its first checkpoint is beyond KL 1", True),
        (lambda at: at.seed != 1, "it has the seeds 0, 2 of 0, 1, 2", True),
        (lambda _: False, "nothing of it is measured", False),
    ],
)
def test_what_does_not_span_the_range_is_listed_and_not_ranked(keep, why, reached):
    heights = {"a": 0.3, "b": 0.2, "short": 0.4}
    matrix = short(made(heights, tau=0.005, noise=0.05), "short", keep)
    found = rank(tables_of(matrix), league(heights, "a"))
    (left,) = found.unranked
    assert (left.method, left.why) == ("short", why)
    assert (left.reached is not None) == (left.peak is not None) == reached
    assert sets(found) == {"a": (1, 1), "b": (2, 2)}, "ranks count the ranked alone"


def test_one_seed_that_stops_early_is_enough_not_to_be_ranked():
    heights = {"a": 0.3, "b": 0.2}
    matrix = made(heights)
    kl = matrix.columns["kl"].copy()
    kl[[at.arm == "b" and at.seed == 2 and at.step == 3 for at in matrix.checkpoints]] = 3.9
    found = rank(tables_of(replace(matrix, columns={**matrix.columns, "kl": kl})), league(heights, "b"))
    (left,) = found.unranked
    assert (left.method, left.why) == ("b", "in some seed it does not reach KL 4")
    assert left.reached.high == pytest.approx(3.9)
    (place,) = found.places
    assert (place.ranks, place.lead) == ((1, 1), None), "there is no difference to a baseline that is not ranked"


def test_a_league_of_which_nothing_is_ranked_says_so():
    heights = {"a": 0.3, "b": 0.2}
    found = rank(tables_of(made(heights)), league(heights, budget=(1.0, 50.0)))
    assert not found.places
    assert len(found.unranked) == 2
    assert league_said(found) == "No method spans KL 1 to 50 nats in every seed, so none is ranked."


def test_with_one_seed_intervals_cover_prompts_alone():
    heights = {"a": 0.3, "b": 0.0}
    found = rank(tables_of(made(heights, seeds=(4,), noise=0.1)), league(heights, "b"))
    assert found.seeds == (4,)
    assert {place.value.over for place in found.places} == {"prompts only"}
    assert sets(found) == {"a": (1, 1), "b": (2, 2)}


def test_best_of_n_is_set_against_methods_where_it_reaches():
    curves = {"a": {0.1: [(0.5, 0.45), (4.0, 0.8)]}, "b": {0.1: [(0.5, 0.5), (4.0, 0.6)]}, BEST: {0.1: [(0.5, 0.5), (2.0, 0.6)]}}  # fmt: skip  # noqa: E501
    methods = {"a": 0, "b": 0}
    matrix = read(noiseless(curves), "held_out")
    found = rank(tables_of(matrix, untrained=(BEST,)), league(methods), BEST)
    assert (found.shared, found.best_of_n) == (Range(1.0, 2.0), BEST)
    over = {place.method: place.over_best_of_n.estimate for place in found.places}
    # at KL 1.5 on average: a .4 + .1 x 1.5, b .5 + .1 x 1 / 3.5, best-of-n .5 + .1 x 1 / 1.5
    assert over["a"] == pytest.approx(0.55 - 0.5 - 0.1 / 1.5, abs=1e-12)
    assert over["b"] == pytest.approx(0.1 / 3.5 - 0.1 / 1.5, abs=1e-12)
    assert set(sets(found)) == {"a", "b"}
    without = rank(tables_of(matrix, untrained=(BEST,)), league(methods))
    assert without.shared is None
    assert all(place.over_best_of_n is None for place in without.places)
    assert [place.value for place in without.places] == [place.value for place in found.places]


ARM = {"beta": [0.1], "lr": [0.01], "steps": 4, "batch": 8, "checkpoints": 2}
ARMS = {"online": ARM, "offline": {**ARM, "source": "data", "labeller": "data"}}


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"baseline": "onlin"}, r"league.baseline is 'onlin', which is not ranked; name one of: offline, online"),
        (
            {"baseline": "online", "methods": ["offline", "x"]},
            r"league.methods names 'x', which is no arm.*: offline, o",
        ),
        ({"baseline": "online", "methods": [BEST, "online"]}, r"names 'best of n by proxy', which is no arm"),
        ({"baseline": "online", "methods": ["online"]}, r"league.methods is \['online'\]; name at least two arms"),
        ({"baseline": "online", "methods": ["online", "online"]}, r"each once"),
        ({"baseline": "online", "budget": [4.0, 1.0]}, r"league.budget is \[4.0, 1.0\]; give the low and the high end"),
        ({"baseline": "online", "budget": [1.0]}, r"league.budget is \[1.0\]"),
        ({"baseline": "online", "budget": [-1.0, 2.0]}, r"league.budget\[0\].*0 or more"),
        ({"baseline": "online", "budgets": [1.0, 2.0]}, r"unknown key 'league.budgets'; did you mean 'budget'"),
        ({"budget": [1.0, 2.0]}, r"key 'league.baseline' is missing"),
    ],
)
def test_a_section_without_meaning_is_an_error_that_names_the_remedy(tmp_path, section, message):
    path = write_micro_study(tmp_path, arms=ARMS, hypotheses={}, axes={}, league=section)
    with pytest.raises(GoodhartError, match=message):
        read_study(str(path), [])


def test_a_league_is_of_one_judge_and_of_seeds_that_stand_beforehand(tmp_path):
    rule = {"golden": {"kind": "rule", "rule": {"reward": "length", "target": 2}}}
    judged = {**ARMS, "other": {**ARM, "variant": "short"}}
    given = {"arms": judged, "variants": {"short": rule}, "hypotheses": {}, "axes": {}}
    path = write_micro_study(tmp_path, **given, league={"baseline": "online"})
    with pytest.raises(GoodhartError, match="ranks 'other' and 'online', which have different judges"):
        read_study(str(path), [])
    named = {"baseline": "online", "methods": ["online", "offline"]}
    study = read_study(str(write_micro_study(tmp_path, **given, league=named)), [])
    assert study.league.methods == ("online", "offline")
    looks = {"seeds": [2, 3], "shares": [0.5, 0.5]}
    path = write_micro_study(tmp_path, **given, league=named, looks=looks, seeds=[0, 1, 2])
    with pytest.raises(GoodhartError, match="a league and looks"):
        read_study(str(path), [])


def test_the_league_that_ships_has_every_method_with_the_same_tuning():
    study = read_study("league", [])
    assert {name: arm.method.name for name, arm in study.arms.items()} == {name: name for name in METHODS}
    assert {name: [each.lr[0] for _, each in settings_of(arm)] for name, arm in study.arms.items()} == {
        name: [1e-4, 2e-4, 4e-4] for name in METHODS
    }
    assert study.league == League("online-ipo", (1.0, 4.0))
    assert next(iter(study.arms)) == study.league.baseline, "the first arm is what figures set the others against"
    assert not {0, 1, 2} & set(study.seeds), "these were looked at"
    assert {arm.batch for arm in study.arms.values()} == {32}


def test_the_forecast_says_what_the_ranks_can_show():
    study, noise = read_study("league", []), variances.shipped()
    seen = forecasts.ranking_sees(study, study.league, noise)
    alone = forecasts.visible_in(study, Contrast("gap at equal KL", "dpo", "ipo"), noise, 0.05)
    assert 0.11 < seen < 0.13, "docs/league.md says so"
    assert seen > 2 * alone
    assert f"two of 46 methods apart in its ranks where their means differ by {seen:.3f}" in "\n".join(
        forecasts.preface(forecasts.forecast_of(study, noise, noise, lambda _: 1.0))
    )
    fewer = replace(study.league, methods=("online-ipo", "dpo"))
    assert forecasts.ranking_sees(study, fewer, noise) == pytest.approx(alone), "one difference, either way"


NAMES = ("online", "offline", EVIL, "[red]$\\frac{1}{2}$[/red]", "short", BEST)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    heights, reach = (0.35, 0.1, 0.3, 0.25, 0.2, 0.2), (6.0, 6.0, 6.0, 6.0, 1.0, 1.5)
    section = {"baseline": "online", "budget": [2.0, 4.0], "methods": []}
    study = Made(NAMES, heights, reach, (0.0,) * 6, seeds=(0, 1, 2), best_of_n=True, league=section, train_prompts=2)
    path = make_study(tmp_path_factory.mktemp("league"), replace(study, pairs=4))
    record = json.loads((path / "record.json").read_text())
    record["study"]["arms"]["online"]["name"] = "online-ipo"
    record["study"]["arms"]["offline"]["source"] = "data"
    (path / "record.json").write_text(json.dumps(record))
    return path


@pytest.fixture(scope="module")
def findings(folder):
    return analyse(folder)


@pytest.fixture(scope="module")
def page(folder, findings):
    return write_report(folder, findings, resolution=30).read_text(encoding="utf-8")


def cells(page, caption):
    """The header and the rows of a table of the page."""
    (table,) = [each for each in re.findall(r"<table>.*?</table>", page, re.S) if caption in each]
    return [re.findall(r"<t[hd][^>]*>(?:<bdi>)?(.*?)(?:</bdi>)?</t[hd]>", row) for row in table.split("<tr>")[1:]]


def test_the_report_has_the_ranking(page, folder, findings):
    header, *rows = cells(page, "Methods over KL 2 to 4 nats")
    assert header == [
        *("rank", "method", "title", "mean win rate [95%]", "at KL 4", "less online [95%]", "Holm p"),
        *("less best of n [95%]", "seconds", "labels"),
    ]
    assert [row[1] for row in rows] == [escaped(place.method) for place in findings.league.places]
    (own,) = [row for row in rows if row[1] == "online"]
    assert own[2] == "online IPO"
    assert own[5:7] == ["–", "–"]
    # 12 + 5 + 4 + 14 seconds of stages and 1.5 of its clock, for each of six runs
    assert own[8:] == ["36", "1,024"]
    (left,) = cells(page, "Not ranked")[1:]
    assert left[:2] == ["short", "in some seed it does not reach KL 4"]
    assert (folder / "figures" / "league.png").is_file()
    said = escaped(league_said(findings.league))
    assert page.index(said) < page.index("That is the golden win rate"), "the ranking is the answer"
    summary = json.loads((folder / "summary.json").read_text())["league"]
    assert [place["ranks"] for place in summary["places"]] == [list(place.ranks) for place in findings.league.places]


def escaped(name):
    return name.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&#34;")


def test_hostile_names_stay_text(page, findings):
    assert EVIL not in page
    assert escaped(EVIL) in page
    assert title_of(findings, EVIL) == "–"


def printed(findings, width=80):
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(terminal_table(findings))
    return console.export_text()


def test_the_terminal_prints_it_in_80_columns(findings):
    text = printed(findings)
    assert "Methods over KL 2 to 4 nats; baseline: online" in text
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    lines = printed(findings, 200).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("rank"))
    (own,) = [place for place in findings.league.places if place.method == "online"]
    low, high = own.ranks
    value = f"{own.value.estimate:.3f}"
    assert any(re.match(rf" *{low}(–{high})? +online +{value} ", line) for line in lines[start:])
    assert "[red]" in text, "names are no markup"
    assert "not ranked: short: in some seed it does not reach KL 4" in text


def test_the_figure_names_every_method_and_its_ranks(findings, monkeypatch):
    texts = []
    before = league_figure.Axes.text
    monkeypatch.setattr(league_figure.Axes, "text", lambda self, x, y, s, **k: (texts.append((y, s)), before(self, x, y, s, **k))[1])  # fmt: skip  # noqa: E501
    picture = league_figure.league_picture(findings, findings.league, 30)
    ranks = [f"{low}–{high}" if low < high else str(low) for low, high in (p.ranks for p in findings.league.places)]
    assert texts == [*enumerate(ranks), (-1.0, "rank")]
    assert "Dashed: the baseline, online." in picture.caption
    assert "not ranked: 1." in picture.caption


def test_a_study_without_a_league_has_no_trace_of_one(tmp_path):
    folder = make_study(tmp_path / "plain", Made(prompts=12, train_prompts=2, pairs=4))
    found = analyse(folder)
    assert found.league is None
    page = write_report(folder, found, resolution=30).read_text(encoding="utf-8")
    assert 'id="league"' not in page
    assert "baseline:" not in printed(found)
    assert list(csv.reader(io.StringIO((folder / "checkpoints.csv").read_text())))
