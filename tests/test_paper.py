"""The published points: complete, in range, and giving the peaks and ends that a reader of the figures writes down."""

import numpy as np
import pytest

from goodhart.errors import GoodhartError
from goodhart.paper.points import LOG_KL_ERROR, TASKS, WIN_RATE_ERROR, figures, names, panels, series
from goodhart.paper.results import LOW_BUDGET, best_within, fall, peak, result, results

EVERY = [(figure, panel, name) for figure in figures() for panel in panels(figure) for name in names(figure, panel)]
SHUFFLED = "offline_Donline_shuffled"

# Win rate at the peak, then log KL there; written down from the figures by eye, apart from the dots.
PEAKS = {
    ("gap", "summ"): {"online": (0.436, 2.51), "offline": (0.094, 2.05)},
    ("gap", "help"): {"online": (0.531, 2.14), "offline": (0.145, 1.68)},
    ("gap", "arena"): {"online": (0.441, 2.20), "offline": (0.302, 1.81)},
    ("gap", "harm"): {"online": (0.414, 1.81), "offline": (0.268, 1.87)},
    ("H1 coverage", "summ"): {SHUFFLED: (0.126, 2.56)},
    ("H1 coverage", "help"): {SHUFFLED: (0.176, 1.89)},
    ("H1 coverage", "arena"): {SHUFFLED: (0.389, 2.30)},
    ("H1 coverage", "harm"): {SHUFFLED: (0.249, 2.08)},
    ("H4 non-contrastive loss", "summ"): {"online_Bo2": (0.458, 2.39)},
    ("H4 non-contrastive loss", "help"): {"online_Bo2": (0.481, 1.98)},
    ("H4 non-contrastive loss", "arena"): {"online_Bo2": (0.526, 2.38), "offline_Bo2": (0.683, 2.27)},
}
WIN_RATES = {
    ("H1 shuffle window", "help"): {"no_shuffle": 0.382, "every_4": 0.388, "every_500": 0.311, "uniform": 0.174},
    ("H2 data quality", "summ"): {"D_4k_vs_4k": 0.028, "D_golden": 0.093},
    ("H2 data quality", "help"): {"D_4k_vs_4k": 0.052, "D_golden": 0.144},
    ("H2 data quality", "arena"): {"D_4k_vs_4k": 0.090},
    ("H4 non-contrastive loss", "summ"): {"offline_Bo2": 0.037},
    ("H4 non-contrastive loss", "help"): {"offline_Bo2": 0.129},
    ("H5 policy scale", "summ"): {"online_XL": 0.589, "tandem_XL": 0.281, "offline_XL": 0.117},
    ("H5 policy scale", "help"): {"online_XL": 0.648, "tandem_XL": 0.436, "offline_XL": 0.203},
    ("H5 policy scale", "arena"): {"online_XL": 0.400, "tandem_XL": 0.349, "offline_XL": 0.448},
    ("S6 data ablation", "summ"): {"D_golden": 0.093, "D_sft_vs_800": 0.182, "D_800_vs_4k": 0.003},
    ("S6 data ablation", "help"): {"D_golden": 0.145, "D_sft_vs_800": 0.119, "D_800_vs_4k": 0.009},
    ("S6 data ablation", "arena"): {"D_sft_vs_800": 0.204, "D_800_vs_4k": 0.083},
}
ENDS = {
    ("H3c accuracy over training", "accuracy at the last step", 0.002): {
        "summ": {"offline": 0.680, "online": 0.480, SHUFFLED: 0.502},
        "help": {"offline": 0.674, "online": 0.467, SHUFFLED: 0.537},
        "arena": {"offline": 0.648, "online": 0.514, SHUFFLED: 0.531},
    },
    ("H3d winner log-probability", "winner shift at the last step, nats", 1.0): {
        "summ": {"offline": -252, "online": -117, SHUFFLED: -43},
        "help": {"offline": -185, "online": -81, SHUFFLED: -53},
        "arena": {"offline": -114, "online": -43, SHUFFLED: -48},
    },
}


def test_every_point_is_possible():
    assert sum(len(series(*at).x) for at in EVERY) == 1424
    assert figures() == ("fig1", *(f"fig{i}" for i in range(4, 14)))
    for at in EVERY:
        dots = series(*at)
        assert len(dots.x)
        assert np.isfinite(dots.x).all()
        assert np.isfinite(dots.y).all()
        assert (np.diff(dots.x) >= 0).all()
        if dots.y_unit in ("win rate", "accuracy"):
            assert ((dots.y >= -WIN_RATE_ERROR) & (dots.y <= 1)).all(), at
        assert dots.panel.split("_")[0] in TASKS


def test_kl_is_in_nats_and_only_where_the_axis_is_kl():
    dots = series("fig1", "summ", "online")
    assert dots.kl[0] == pytest.approx(np.exp(1.369))
    with pytest.raises(GoodhartError, match="not log KL"):
        _ = series("fig6", "summ", "proxy_pm").kl


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        (("fig2", "summ", "online"), "fig2"),
        (("fig1", "chess", "online"), "chess"),
        (("fig1", "summ", "ppo"), "ppo.*known: .*offline"),
    ],
)
def test_an_unknown_name_is_a_fault_that_lists_the_known_ones(asked, named):
    with pytest.raises(GoodhartError, match=named):
        series(*asked)


def test_points_that_are_shared_cannot_be_changed():
    with pytest.raises(ValueError, match="read-only"):
        series("fig1", "summ", "online").y[0] = 1.0


def test_peaks_are_those_of_the_figures():
    for (name, task), expected in PEAKS.items():
        for each, (rate, log_kl) in expected.items():
            found = result(name)
            assert found.value(task, each, "peak win rate") == pytest.approx(rate, abs=WIN_RATE_ERROR), (name, task)
            at = found.value(task, each, "KL at the peak, nats")
            assert np.log(at) == pytest.approx(log_kl, abs=LOG_KL_ERROR), (name, task)
    for (name, task), rates in WIN_RATES.items():
        for each, rate in rates.items():
            assert result(name).value(task, each, "peak win rate") == pytest.approx(rate, abs=WIN_RATE_ERROR)


def test_ends_of_training_are_those_of_the_figures():
    for (name, quantity, error), tasks in ENDS.items():
        for task, expected in tasks.items():
            for each, value in expected.items():
                assert result(name).value(task, each, quantity) == pytest.approx(value, abs=error), (name, task, each)


def test_shares_of_the_best_are_those_of_the_figure():
    expected = {
        "summ": {SHUFFLED: (0.23, 0.48, 0.86), "offline": (0.18, 0.19, 0.16)},
        "help": {SHUFFLED: (0.31, 0.67, 0.73), "offline": (0.24, 0.31, 0.33)},
        "arena": {SHUFFLED: (0.89, 0.87, 0.83), "offline": (0.73, 1.12, 0.84)},
    }
    found = result("H5 policy scale")
    for task, methods in expected.items():
        for method, shares in methods.items():
            read = [n.value for n in found.numbers if (n.task, n.series) == (task, method) and "share" in n.quantity]
            assert read == pytest.approx(shares, abs=0.006)


def test_the_default_runs_reach_what_the_classification_figure_shows():
    assert series("fig7", "summ", "online").y.max() == pytest.approx(0.403, abs=WIN_RATE_ERROR)
    assert series("fig7", "help", "online").y.max() == pytest.approx(0.420, abs=WIN_RATE_ERROR)
    assert series("fig7", "arena", "online").y.max() == pytest.approx(0.382, abs=WIN_RATE_ERROR)


def test_statements_hold_of_their_numbers():
    gap = result("gap")
    low = f"highest win rate within {LOW_BUDGET:g} nats"
    for task in TASKS:
        assert gap.value(task, "online", "peak win rate") > gap.value(task, "offline", "peak win rate")
        ahead = gap.value(task, "online", low) > gap.value(task, "offline", low)
        assert ahead == (task != "arena")
        for method in ("online", "offline"):
            assert result("over-optimisation").value(task, method, "fall after the peak") > 2 * WIN_RATE_ERROR
    arms = result("H4 non-contrastive loss")
    for task in ("summ", "help", "arena"):
        ahead = arms.value(task, "online_Bo2", "peak win rate") > arms.value(task, "offline_Bo2", "peak win rate")
        assert ahead == (task != "arena")
        judge = result("H3a proxy against policies")
        proxy, *policies = (
            judge.value(task, name, "mean accuracy") for name in ("proxy_pm", "online@4k", "offline@4k")
        )
        assert proxy > max(policies)
        assert judge.value(task, "proxy_pm", "last accuracy") < judge.value(task, "proxy_pm", "first accuracy")
        assert result("H3b accuracy against win rate").value(task, "online", "Spearman's correlation") < -0.5
        shift = {n.series: n.value for n in result("H3d winner log-probability").numbers if n.task == task}
        assert min(shift, key=shift.get) == "offline"
        assert max(shift.values()) < 0
        data = {n.series: n.value for n in result("S6 data ablation").numbers if n.task == task and "win" in n.quantity}
        assert data["D_800_vs_4k"] == min(data.values())
        assert (data["D_sft_vs_800"] > data["D_golden"]) == (task == "summ")


def test_peak_fall_and_budget_of_one_frontier():
    dots = series("fig10", "arena", "online_XL")
    best = peak(dots)
    assert best.win_rate == dots.y.max()
    assert fall(dots) == pytest.approx(0.400 - 0.151, abs=2 * WIN_RATE_ERROR)
    assert fall(series("fig13", "help", "no_shuffle")) == 0.0
    assert best_within(dots, best.kl) == best.win_rate
    assert best_within(dots, best.kl - 1e-6) < best.win_rate
    assert np.isnan(best_within(dots, 0.0))


def test_results_have_unique_names_sources_and_finite_numbers():
    found = results()
    assert len({each.name for each in found}) == len(found) == 12
    for each in found:
        assert "Figure" in each.source
        assert each.numbers
        assert all(np.isfinite(number.value) for number in each.numbers)
    with pytest.raises(GoodhartError, match="H9"):
        result("H9")
    with pytest.raises(GoodhartError, match="peak win rate"):
        result("gap").value("summ", "online", "accuracy")
