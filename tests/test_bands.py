"""What the report says and draws of intervals: the band of a whole curve, and how much seeds differ."""

import dataclasses

import numpy as np
import pytest
from matplotlib.figure import Figure

from goodhart.analysis.crossfit import Band, Curve
from goodhart.analysis.interval import NO_PRIOR, Interval, Prior
from goodhart.report.findings import analyse
from goodhart.report.frontier_figure import draw_curve
from goodhart.report.statistics import gap_grid
from goodhart.report.theme import styles
from synthetic_study import Made, make_study

AT = Interval(0.9, 0.85, 0.95, 0.02, 9.0, 3, 24)
CURVE = Curve(np.array([1.0, 2.0]), (AT, AT), Band(np.array([0.7, -0.2]), np.array([1.1, 1.2])), AT)


@pytest.mark.parametrize(("ends", "low", "high"), [({}, -0.2, 1.2), ({"floor": 0.0, "ceiling": 1.0}, 0.0, 1.0)])
def test_the_band_that_is_drawn_is_that_of_the_whole_curve_cut_at_what_can_be(ends, low, high):
    panel = Figure().add_subplot()
    draw_curve(panel, CURVE, styles(["arm"])["arm"], **ends)
    (band,) = panel.collections
    heights = {float(x): sorted(y for at, y in band.get_paths()[0].vertices if at == x) for x in (1.0, 2.0)}
    assert (heights[1.0][0], heights[1.0][-1]) == pytest.approx((0.7, min(high, 1.1)))
    assert (heights[2.0][0], heights[2.0][-1]) == pytest.approx((low, high))
    (line,) = panel.lines
    assert list(line.get_ydata()) == [0.9, 0.9]


def test_the_table_of_gaps_says_how_much_seeds_differ(tmp_path):
    found = analyse(make_study(tmp_path / "study", Made()))
    measures, key = found.summary.measures, ("held_out", "golden_vs_policy")
    assert measures[key].prior.freedom == 1.0

    def note(prior):
        changed = {**measures, key: dataclasses.replace(measures[key], prior=prior)}
        return gap_grid(
            dataclasses.replace(found, summary=dataclasses.replace(found.summary, measures=changed)), key[0]
        ).note

    assert "standard deviation of 0.030 between seeds" in note(Prior(0.0009, 0.5, 2.0))
    assert "between seeds" not in note(NO_PRIOR)
