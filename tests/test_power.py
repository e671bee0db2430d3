"""Forecasts by hand, in limits, and against data with known variances."""

import json
from dataclasses import fields, replace

import numpy as np
import pytest
from scipy import stats

from goodhart import forecasts, variances
from goodhart.analysis import noise
from goodhart.analysis.contrasts import estimate
from goodhart.analysis.hypotheses import Contrast, Hypothesis, Looks
from goodhart.analysis.interval import around
from goodhart.analysis.noise import by_statistic, finished_contrasts
from goodhart.analysis.power import Design, Variances, excess, forecast, key, known, visible, visible_at
from goodhart.analysis.study_tables import Tables
from goodhart.analysis.table import read
from goodhart.evaluation.schema import PAIR_ROWS, STREAM_ROWS
from goodhart.studies.spec import Study
from made_rows import row, rows_of
from tiny_arms import arm

PLAIN = Variances(seeds=0.0004, prompts=0.01, interaction=0.1, responses=0.08)
GAP = Contrast("gap at equal KL", "a", "b")


def test_the_smallest_effect_is_the_sum_of_two_quantiles():
    assert visible_at(0.02, 1e7) == pytest.approx((1.95996 + 0.84162) * 0.02, rel=1e-4)
    assert visible_at(0.02, 8.0, 0.01) == pytest.approx((stats.t.ppf(0.995, 8) + stats.t.ppf(0.8, 8)) * 0.02)
    at = around(0.3, 0.02, 8.0, seeds=3, prompts=20)
    assert visible(at) == visible(replace(at, estimate=-5.0)) == visible_at(0.02, 8.0)


def test_a_test_has_the_power_that_is_said():
    """With a variance that is estimated with 12 degrees of freedom; the sum of quantiles is an approximation."""
    rng, size = np.random.default_rng(0), 200_000
    z = visible_at(1.0, 12.0) + rng.normal(size=size)
    t = z / np.sqrt(rng.chisquare(12, size) / 12)
    assert (t > stats.t.ppf(0.975, 12)).mean() == pytest.approx(0.8, abs=0.01)


def test_without_an_excess_the_variance_is_the_sum_of_its_parts(monkeypatch):
    """Two arms' runs, the prompts, and a seed's noise on a prompt with two responses."""
    monkeypatch.setattr("goodhart.analysis.power.excess", lambda own, prior: 1.0)
    made = forecast(PLAIN, Design(5, 256, 2, 2))
    flat = 0.01 / 256 + (0.1 + 0.08 / 2) / (5 * 256)
    assert made.se**2 == pytest.approx(2 * 0.0004 / 5 + flat)
    side = (0.0004 + 0.14 / 512) / 5
    assert made.freedom == pytest.approx(made.se**4 / (2 * side**2 / (2 + 4) + flat**2 / 255))
    two = forecast(PLAIN, Design(5, 256, 2, 2), differences=2)
    assert two.se**2 == pytest.approx(2 * made.se**2)


@pytest.mark.parametrize(("own", "prior"), [(2, 2.0), (4, 2.0), (7, 0.0)])
def test_the_excess_is_the_mean_of_what_the_rule_makes_of_a_variance(own, prior):
    x = np.random.default_rng(0).chisquare(own, 400_000) / own
    assert excess(own, prior) == pytest.approx(np.maximum(x, (prior + own * x) / (prior + own)).mean(), abs=0.004)


def test_more_of_anything_shows_more_and_nothing_beats_the_prompts():
    start = Design(3, 256, 2, 4)
    seen = forecast(PLAIN, start).visible()
    for change in ({"seeds": 5}, {"prompts": 512}, {"responses": 4}):
        assert forecast(PLAIN, replace(start, **change)).visible() < seen
    assert forecast(PLAIN, Design(100_000, 256, 4, 4)).se == pytest.approx(np.sqrt(0.01 / 256), rel=0.01)
    assert forecast(replace(PLAIN, factor=4.0), start).se == pytest.approx(2 * forecast(PLAIN, start).se)
    one = forecast(PLAIN, replace(start, seeds=1))
    assert (one.se**2, one.freedom) == (pytest.approx((0.01 + 0.14) / 256), 255)


def test_a_gap_at_equal_compute_has_the_noise_of_one_at_equal_kl():
    entries = {key(GAP): PLAIN}
    assert known(entries, replace(GAP, statistic="gap at equal pairs")) == PLAIN
    assert known(entries, replace(GAP, measure="hidden")) is None
    assert known(entries, replace(GAP, statistic="peak")) is None


def world(responses, seeds=12, prompts=100, run=0.05, mixed=0.2, response=0.3, prompt=0.15):
    """One checkpoint of each of two arms: effects of runs, of prompts on each arm, of both, and of responses."""
    rng, rows = np.random.default_rng(3), []
    of_prompt = prompt * rng.normal(size=(2, prompts))
    for i, each in enumerate("ab"):
        for seed in range(seeds):
            level = 0.5 + run * rng.normal()
            for p in range(prompts):
                own = level + of_prompt[i, p] + mixed * rng.normal()
                rows += [
                    row(each, 0.1, seed, 1, p, 1.0, own + response * rng.normal(), sample=k) for k in range(responses)
                ]
    return rows


def tables_of(rows):
    matrices = {split: read(rows_of(rows), split) for split in ("held_out", "train")}
    return Tables(matrices, PAIR_ROWS.empty_table(), {}, STREAM_ROWS.empty_table(), 40)


@pytest.fixture(scope="module")
def measured():
    rows = world(responses=3)
    single = [tables_of([r for r in rows if r["sample"] == k]) for k in range(3)]
    (each,) = finished_contrasts(tables_of(rows), [replace(GAP, statistic="peak")], single)
    return each


def test_the_parts_of_known_noise_are_found_again(measured):
    """Of a difference of two arms: .0025 each, 2 x .0225, 2 x .04, 2 x .09."""
    parts = measured.variances
    assert measured.design == Design(12, 100, 3, 2)
    assert parts.seeds == pytest.approx(0.0025, rel=0.5)
    assert parts.prompts == pytest.approx(0.045, rel=0.35)
    assert parts.interaction == pytest.approx(0.08, rel=0.2)
    assert parts.responses == pytest.approx(0.18, rel=0.1)


def test_with_one_response_the_interaction_holds_it():
    (each,) = finished_contrasts(tables_of(world(responses=1)), [replace(GAP, statistic="peak")], [])
    assert each.variances.responses == 0.0
    assert each.variances.interaction == pytest.approx(0.26, rel=0.1)


def test_the_forecast_of_a_studys_own_design_is_what_was_found(measured):
    own = by_statistic([measured])
    assert measured.ratio(own[key(measured.contrast)]) == pytest.approx(1.0)
    assert 0.8 < measured.ratio(replace(own[key(measured.contrast)], factor=1.0)) < 1.25


def test_of_a_statistic_without_parts_the_seeds_have_all(monkeypatch):
    tables = tables_of(world(responses=1, seeds=3, prompts=8))
    (each,) = finished_contrasts(tables, [replace(GAP, statistic="best possible")], [])
    se = estimate(tables, each.contrast).interval.se
    assert each.variances == Variances(se**2 * 3 / 2, 0.0, 0.0, 0.0)
    made = noise.by_statistic([each])
    assert forecast(made[key(each.contrast)], each.design).se == pytest.approx(se)


def test_one_seed_says_nothing_of_seeds():
    assert finished_contrasts(tables_of(world(responses=1, seeds=1, prompts=8)), [GAP], []) == []


def test_the_shipped_noise_can_be_read_and_is_of_what_studies_ask():
    shipped = variances.shipped()
    for statistic in ("gap at equal KL", "gap at equal setting", "peak"):
        assert known(shipped.variances, replace(GAP, statistic=statistic)) is not None
    read_again = json.loads(variances.SHIPPED.read_text())
    assert set(read_again["variances"][key(GAP)]) == {field.name for field in fields(Variances)}


NOISE = variances.Known({key(GAP): PLAIN}, "made up", single=False)
STUDY = Study("s", arms={"on": arm(), "off": arm(source="data", labeller="data"), "late": arm()}, seeds=(4, 7, 9))


def test_a_study_without_hypotheses_asks_the_first_arm_against_each_other():
    assert [c.arms for c in forecasts.deciding(STUDY)] == [("on", "off"), ("on", "late")]
    assert forecasts.errors(STUDY) == (pytest.approx(0.05), pytest.approx(0.025))
    beside = replace(GAP, decides=False)
    said = replace(STUDY, hypotheses={"H": Hypothesis("So.", (GAP, beside))})
    assert forecasts.deciding(said) == [GAP]


def test_with_looks_the_last_one_has_its_share_and_its_seeds():
    looks = replace(STUDY, seeds=tuple(range(8)), looks=Looks())
    assert forecasts.design_of(looks).seeds == 8
    assert forecasts.errors(looks) == (pytest.approx(0.03), pytest.approx(0.015))


def test_other_sizes_have_their_own_numbers_and_cost():
    grid = forecasts.design_grid(
        forecasts.sizes_of(STUDY, NOISE, lambda study: len(study.seeds) * study.task.evaluation / 100)
    )
    assert grid is not None
    sizes = [tuple(int(each) for each in r[:3]) for r in grid.rows]
    own = forecasts.design_of(STUDY)
    assert (own.seeds, own.prompts, own.responses) in sizes
    assert {size[0] for size in sizes} == {3, 5, 8}
    assert {size[1] for size in sizes} == {256, 512, 1024}
    assert [r[-1] for r, size in zip(grid.rows, sizes, strict=True) if size == (3, 512, own.responses)] == [
        "as written"
    ]
    for r, (seeds, prompts, responses) in zip(grid.rows, sizes, strict=True):
        made = forecast(PLAIN, Design(seeds, prompts, responses, 3))
        assert r[3:6] == (f"{made.visible():.3f}", f"{made.visible(0.025):.3f}", f"{seeds * prompts / 100:.1f}")
    assert forecasts.sizes_of(STUDY, replace(NOISE, variances={}), lambda study: 1.0) is None


def test_more_seeds_keep_those_that_the_study_has():
    assert forecasts.resized(STUDY, 5, 64, 1).seeds == (4, 7, 9, 0, 1)
    assert forecasts.resized(STUDY, 2, 64, 1).seeds == (4, 7)
    assert forecasts.resized(STUDY, 2, 64, 1).task.evaluation == 64


def test_what_is_not_known_is_a_dash():
    asked = replace(STUDY, hypotheses={"H": Hypothesis("So.", (GAP, replace(GAP, statistic="correlation")))})
    grid = forecasts.contrast_grid(forecasts.seen_by(asked, NOISE))
    assert grid.rows[1][1:] == ("–", "–")
    assert grid.rows[0][1] != "–"
