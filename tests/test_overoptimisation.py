"""Curves along sqrt(KL): exact where the data are, silent where they do not bend, and covering in simulation."""

import dataclasses
import io

import numpy as np
import pytest
from matplotlib.image import imread
from scipy import optimize

from goodhart.analysis.bend import BEST_OF_N, RL, STRAIGHT, Candidate, basis, candidate, peak_position, solve
from goodhart.analysis.overoptimisation import _replicates, overoptimisation, track
from goodhart.analysis.table import SFT, Checkpoint, Matrix
from goodhart.randomness import stream
from goodhart.report.findings import analyse
from goodhart.report.overoptimisation_figure import along_kl, overoptimisation_grid, overoptimisation_picture
from synthetic_study import Made, make_study

MEASURE = "golden_vs_policy"
SHAPES = {
    STRAIGHT: lambda d: 0.3 + 0.07 * d,
    BEST_OF_N: lambda d: 0.3 + d * (0.3 - 0.08 * d),
    RL: lambda d: 0.3 + d * (0.2 - 0.15 * np.log(np.maximum(d, 1e-9))),
}
TRUE = {BEST_OF_N: (0.3, 0.08), RL: (0.2, 0.15)}
PEAKS = {BEST_OF_N: 0.3 / 0.16, RL: np.exp(0.2 / 0.15 - 1)}


def checkpoints(runs, steps):
    start = Checkpoint(SFT, "", None, None, 0, 0)
    return start, *(
        Checkpoint("online", f"beta={r // 2}", 0.1, 1e-4, r % 2, s + 1) for r in range(runs) for s in range(steps)
    )


def distances(runs, steps):
    return np.array(
        [0.0, *(np.sqrt(9 * (s + 1) / steps) * (0.8 + 0.1 * (r % 3)) for r in range(runs) for s in range(steps))]
    )


def exact(shape, runs=3, steps=4, prompts=5, anchored=True):
    """Every prompt has the same KL and value, those of the shape."""
    d, names = distances(runs, steps), checkpoints(runs, steps)
    first = 0 if anchored else 1
    kl, value = (np.repeat(column[first:, None], prompts, axis=1) for column in (d**2, shape(d)))
    return Matrix("held_out", names[first:], tuple(f"p{i}" for i in range(prompts)), {"kl": kl, MEASURE: value})


def noisy(shape, rng, runs=6, steps=4, prompts=128):
    """Wins and losses with effects of prompts, shared by all checkpoints, and of runs."""
    d, names = distances(runs, steps), checkpoints(runs, steps)
    easy = 0.15 * rng.normal(size=prompts)
    effect = np.concatenate([[0.0], np.repeat(0.02 * rng.normal(size=runs), steps)])
    kl = d[:, None] ** 2 * (1 + 0.3 * rng.normal(size=(len(d), prompts)))
    chance = np.clip((shape(d) + effect)[:, None] + easy, 0, 1)
    value = (rng.random(chance.shape) < chance).astype(float)
    return Matrix("held_out", names, tuple(f"p{i:03d}" for i in range(prompts)), {"kl": kl, MEASURE: value})


@pytest.mark.parametrize("anchored", [True, False])
@pytest.mark.parametrize("form", [BEST_OF_N, RL])
def test_noiseless_curves_give_back_their_parameters(form, anchored):
    found = overoptimisation(exact(SHAPES[form], anchored=anchored), "online", MEASURE, 50)
    best = found.fits[0]
    assert best.curve.form == form
    assert (best.alpha.estimate, best.beta.estimate) == pytest.approx(TRUE[form], abs=1e-9)
    assert best.curve.start == pytest.approx(0.3, abs=1e-9)
    assert best.peak.estimate == pytest.approx(PEAKS[form], abs=1e-7)
    assert (best.beta.low, best.beta.high) == pytest.approx((TRUE[form][1],) * 2, abs=1e-9)
    assert best.curve.error == pytest.approx(0.0, abs=1e-9)
    d = np.array([0.0, 0.7, 2.0])
    np.testing.assert_allclose(best.curve.at(d), SHAPES[form](d), atol=1e-7)


@pytest.mark.parametrize("anchored", [True, False])
def test_straight_data_have_no_bend(anchored):
    found = overoptimisation(exact(SHAPES[STRAIGHT], anchored=anchored), "online", MEASURE, 50)
    assert (found.fits, found.reason) == ((), "no bend seen: the straight line predicts as well")
    assert (found.straight.start, found.straight.slope) == pytest.approx((0.3, 0.07))


def test_the_peak_is_the_maximum_of_the_curve():
    for form, (alpha, beta) in TRUE.items():
        curve = Candidate(form, 0.3, alpha, beta, 0.0, 0.0)
        top = optimize.minimize_scalar(lambda d, c=curve: -c.at(np.array([d]))[0], bounds=(0.1, 6), method="bounded").x
        assert float(peak_position(form, np.array(alpha), np.array(beta))) == pytest.approx(top, abs=1e-4)
        assert float(peak_position(form, np.array(alpha), np.array(-beta))) == np.inf


@pytest.mark.parametrize(
    ("shape", "remark"),
    [
        (lambda d: 0.3 + d * (0.3 - 0.03 * d), "turns at d = 5, outside of the checkpoints"),
        (lambda d: 0.3 + d * (0.01 + 0.03 * d), "bends upwards"),
    ],
)
def test_a_peak_that_no_checkpoint_surrounds_is_not_claimed(shape, remark):
    best = overoptimisation(exact(shape), "online", MEASURE, 50).fits[0]
    assert best.curve.form == BEST_OF_N
    assert (best.peak, best.remark) == (None, remark)


def test_too_few_points_give_a_reason_and_no_fit():
    reasons = [
        overoptimisation(exact(SHAPES[RL], **size), arm, MEASURE, 20)
        for size, arm in (
            ({}, "offline"),
            ({"runs": 2}, "online"),
            ({"steps": 1}, "online"),
            ({"prompts": 1}, "online"),
        )
    ]
    assert [found.reason for found in reasons] == [
        "no trained checkpoint",
        "2 of the 3 runs that leaving one out needs",
        "3 of the 6 checkpoints that a curve needs",
        "no two prompts on which all checkpoints are measured",
    ]
    assert all(not found.fits and not found.candidates and found.straight is None for found in reasons)


def test_prompts_that_a_checkpoint_lacks_are_left_out_everywhere():
    matrix = exact(SHAPES[RL], prompts=6)
    value = matrix.columns[MEASURE].copy()
    value[3, 0], value[0, 1] = np.nan, np.nan  # a checkpoint's and the SFT policy's
    found = track(dataclasses.replace(matrix, columns={"kl": matrix.columns["kl"], MEASURE: value}), "online", MEASURE)
    assert found.value.shape == (12, 4)
    assert found.start.shape == (4,)


def test_least_squares_are_weighted_and_tell_what_they_cannot_know():
    rng = stream(0, "test/bend")
    d, y, w = rng.random(9) * 3, rng.random(9), rng.integers(1, 4, 9).astype(float)
    columns = basis(RL, d, free=True)
    repeated = np.repeat(np.arange(9), w.astype(int))
    expected = np.linalg.lstsq(columns[repeated], y[repeated], rcond=None)[0]
    np.testing.assert_allclose(solve(columns, y, w), expected)
    assert np.isnan(solve(basis(RL, np.full(9, 2.0), free=False), y, w)).all()


def test_error_and_aicc_are_those_of_the_plain_formulas():
    rng = stream(0, "test/left out")
    d, run, w = np.sort(rng.random(12) * 3), np.resize([0, 1, 2], 12), 1 + rng.random(12)
    y = 0.2 + 0.1 * d + 0.02 * rng.normal(size=12)
    found = candidate(BEST_OF_N, d, y, w, run, 0.2)
    squares = 0.0
    for left in range(3):
        own = run == left
        root = np.sqrt(w[~own])
        fit = np.linalg.lstsq(root[:, None] * np.stack([d, -d * d], 1)[~own], root * (y[~own] - 0.2), rcond=None)[0]
        squares += (w[own] * (y[own] - 0.2 - d[own] * (fit[0] - fit[1] * d[own])) ** 2).sum()
    assert found.error == pytest.approx(np.sqrt(squares / w.sum()))
    rss = (w / w.mean() * (y - found.at(d)) ** 2).sum()
    assert found.aicc == pytest.approx(12 * np.log(rss / 12) + 2 * 3 + 2 * 3 * 4 / (12 - 3 - 1))


def test_the_order_of_checkpoints_and_prompts_does_not_matter():
    matrix = noisy(SHAPES[RL], stream(0, "test/order"))
    rows, columns = (stream(1, "test/order", n).permutation(n) for n in map(len, (matrix.checkpoints, matrix.prompts)))
    other = Matrix(
        "held_out",
        tuple(matrix.checkpoints[i] for i in rows),
        tuple(matrix.prompts[i] for i in columns),
        {name: column[rows][:, columns] for name, column in matrix.columns.items()},
    )
    one, two = (overoptimisation(each, "online", MEASURE, 60) for each in (matrix, other))
    assert one.candidates == two.candidates
    assert one.fits == two.fits
    assert one.fits


@pytest.mark.parametrize("form", [BEST_OF_N, RL])
def test_intervals_of_the_bend_cover_and_a_clear_bend_is_seen(form):
    seen = covered = 0
    for i in range(25):
        found = overoptimisation(noisy(SHAPES[form], stream(i, "test/cover", form)), "online", MEASURE, 100, i)
        fit = next((fit for fit in found.fits if fit.curve.form == form), None)
        seen += fit is not None
        beta = np.quantile(_replicates(found.track, form, 100, i)[:, 1], [0.025, 0.975])
        covered += beta[0] <= TRUE[form][1] <= beta[1]
    assert seen >= 23
    assert covered >= 22


def test_a_straight_line_is_seldom_taken_for_a_bend_though_its_start_is_measured():
    reported = tempted = 0
    for i in range(40):
        found = overoptimisation(noisy(SHAPES[STRAIGHT], stream(i, "test/straight")), "online", MEASURE, 100, i)
        line = found.straight
        reported += bool(found.fits)
        tempted += any(each.error < line.error and each.aicc < line.aicc for each in found.candidates)
    assert reported <= 3
    assert tempted > reported  # the error of the start alone looks like a bend


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    made = Made(prompts=64, train_prompts=4, pairs=8, seeds=(0, 1, 2), heights=(0.45, 0.18), betas=(0.1,))
    return along_kl(analyse(make_study(tmp_path_factory.mktemp("study") / "along", made)))


def test_the_figure_and_the_table_have_every_arm_by_every_measure(study):
    pairs = [(each.track.arm, each.track.measure) for each in study]
    names = ("proxy_vs_policy", "golden_vs_policy", "hidden")
    assert pairs == [(arm, name) for arm in ("online", "offline") for name in names]
    picture = overoptimisation_picture(study, 40)
    assert imread(io.BytesIO(picture.drawing.png))[..., :3].std() > 0.01
    assert picture.name == "over-optimisation"
    grid = overoptimisation_grid(study)
    assert {row[0] for row in grid.rows} == {"online", "offline"}
    assert all(len(row) == len(grid.header) for row in grid.rows)
    for each in study:
        own = [row for row in grid.rows if row[0] == each.track.arm and row[1].startswith(each.track.measure[:5])]
        assert len(own) == max(1, len(each.fits))
        assert [row[3] for row in own] == ([fit.curve.form for fit in each.fits] or ["–"])
        assert each.fits or own[0][-1] == each.reason
    golden = next(each for each in study if each.track.measure == "golden_vs_policy")
    assert golden.fits
    assert "nan" not in str(grid.rows)


def test_a_peak_is_said_to_be_decided_only_if_its_interval_is_within_the_checkpoints():
    found = overoptimisation(exact(SHAPES[BEST_OF_N]), "online", MEASURE, 50)
    decided = overoptimisation_grid([found]).rows[0]
    assert decided[-1] == "turns down at KL 3.5 nats"
    assert decided[-2].startswith("1.88 [")
    fit = found.fits[0]
    open_ended = dataclasses.replace(fit, peak=dataclasses.replace(fit.peak, high=np.inf))
    row = overoptimisation_grid([dataclasses.replace(found, fits=(open_ended,))]).rows[0]
    assert "undecided" in row[-1]
    assert row[-2].endswith("beyond]")


def test_without_a_hidden_measure_there_is_one_column(tmp_path):
    made = Made(prompts=12, train_prompts=4, pairs=8, steps=(20,), hidden=False, seeds=(0,))
    every = along_kl(analyse(make_study(tmp_path / "people", made)))
    assert {each.track.measure for each in every} == {"proxy_vs_policy", "golden_vs_policy"}
    assert all("of the 3 runs" in each.reason for each in every)
    assert imread(io.BytesIO(overoptimisation_picture(every, 40).drawing.png))[..., :3].std() > 0.01
