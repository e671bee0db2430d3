"""The report's sentences, numbers and marks."""

import dataclasses
import html
import io
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from goodhart.analysis.crossfit import Band, Curve
from goodhart.analysis.gap import Gap, Range, SettingGaps
from goodhart.analysis.interval import Interval
from goodhart.cells.registry import RECIPES
from goodhart.output import json_data
from goodhart.report.cost import STAGES, cost_grid, shares
from goodhart.report.findings import analyse
from goodhart.report.grid import Grid, duration, flattened, interval, number
from goodhart.report.judges import doubts, measured, quality_grid, rules_said
from goodhart.report.provenance import cell_grid, data_grids, settings_grid
from goodhart.report.report import write_report
from goodhart.report.terminal import terminal_table
from goodhart.report.theme import canvas, png, shown, styles
from goodhart.report.verdict import answer, gap_line, spelled_share, verdict
from synthetic_study import Made, cells, judged, make_study, record


def found(estimate, low, high, seeds=2):
    return Interval(estimate, low, high, (high - low) / 4, 9.0, seeds, 24)


def gap_of(mean):
    reach = Range(1.0, 9.0) if mean else Range(9.0, 1.0)
    curve = Curve(np.array([2.0, 6.0]), (mean, mean), Band(np.zeros(2), np.ones(2)), mean) if mean else None
    return Gap("online", "offline", "golden_vs_policy", reach, curve)


# a standard error of .05 with 9 degrees of freedom, (2.2622 + .8834) times
UNDECIDED = "interval contains 0: undecided, could have seen a difference of 0.157 with 80% power"


@pytest.mark.parametrize(
    ("low", "high", "meaning"),
    [(0.01, 0.1, "online is ahead"), (-0.1, -0.01, "offline is ahead"), (-0.1, 0.1, UNDECIDED)],
)
def test_the_verdict_follows_the_interval(low, high, meaning):
    mean = found((low + high) / 2, low, high)
    assert verdict(mean, "online", "offline") == meaning
    assert gap_line(gap_of(mean)).endswith(meaning)


@pytest.mark.parametrize("edge", [(0.0, 0.1), (-0.1, 0.0)])
def test_an_interval_that_touches_zero_decides_nothing(edge):
    assert "undecided" in verdict(found(0.05, *edge), "online", "offline")


def test_the_answer_names_interval_range_and_winner():
    first, *others = answer(gap_of(found(-0.0812, -0.12, -0.041)), SettingGaps((), found(0.01, -0.02, 0.04)))
    text = " ".join([first, *others])
    assert "offline wins more often than online: −0.081 [−0.120, −0.041]" in first
    assert "−0.081 [−0.120, −0.041]" in text
    assert "1.0 to 9.0 nats" in text
    assert "offline wins more often than online" in text
    assert "+0.010 [−0.020, +0.040]" in text
    assert "seeds and prompts" in text
    assert any("prompts only" in each for each in answer(gap_of(found(0.1, 0.05, 0.15, seeds=1)), None))


def test_the_answer_says_what_could_have_been_seen_whatever_came_out():
    for low, high, words in ((0.01, 0.1, "online wins"), (-0.1, 0.1, "undecided whether online or offline")):
        first, *others = answer(gap_of(found(0.05, low, high)), None)
        assert words in first
        size = (high - low) / 4 * 3.1456  # t quantiles of 9 degrees of freedom: 2.2622 + .8834
        assert f"The study could have seen a difference of {size:.3f} with 80% power." in others


def test_without_a_common_range_nothing_is_claimed():
    assert "cannot compare" in answer(gap_of(None), SettingGaps((), None))[0]
    assert "nothing is claimed" in gap_line(gap_of(None))


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_numbers_have_a_true_minus_sign_and_no_nan(value):
    text = number(value)
    assert "-" not in text
    assert (text == "–") == (not math.isfinite(value))


def test_intervals_of_shares_stay_between_0_and_1():
    assert spelled_share(found(0.9, 0.7, 1.1)) == "0.900 [0.700, 1.000]"
    assert spelled_share(found(0.1, -0.1, 0.3)) == "0.100 [0.000, 0.300]"
    assert interval(0.5, math.nan, math.nan) == "0.500"


def test_columns_of_numbers_are_told_from_text():
    rows = (("a", "0.531 [−0.335, +0.727]", "1,024", "–", "KL 1 to 2"), ("3", "+1 ± 2", "7", "2e−05", "4"))
    assert Grid("", ("",) * 5, rows).numeric == (False, True, True, True, False)


def test_durations():
    assert [duration(s) for s in (1.0, 300.0, 10800.0)] == ["1.0 s", "5.0 min", "3.0 h"]


def test_every_setting_is_listed():
    study = record(Made(), "name")["study"]

    def leaves(tree):
        return sum(leaves(value) if isinstance(value, dict) and value else 1 for value in tree.values())

    rows = dict(settings_grid(study).rows)
    assert len(rows) == leaves(study)
    assert rows["arms.online.beta"] == "0.1, 0.03"
    assert rows["golden_policy.labeller"] == "golden"
    assert dict(flattened({"a": {}, "b": {"c": True}})) == {"a": "{}", "b.c": "yes"}


def test_cost_counts_every_second_once():
    made = cells(Made(arms=("online", "odd lr=1 seed 2")))
    parts = shares(made)
    assert sum(part.total for part in parts) == pytest.approx(sum(cell["seconds"] for cell in made))
    assert sum(part.cells for part in parts) == len(made)
    assert {"runs: online", "runs: odd lr=1 seed 2", "measuring"} <= {part.group for part in parts}
    online = next(part for part in parts if part.group == "runs: online")
    assert online.seconds["generate"] == pytest.approx(4 * 12.0)
    assert online.tokens == 4 * 35_000
    assert online.use == pytest.approx(0.4)
    assert next(part for part in parts if part.group == "data").use is None
    grid = cost_grid(parts)
    assert {len(row) for row in grid.rows} == {len(grid.header)} == {len(STAGES) + 5}


def test_a_part_of_the_cost_is_named_by_the_arm_and_not_by_what_a_label_looks_like():
    """An arm may be called as if it had a setting; a label may be worded anew."""
    cell = {"kind": "run", "label": "worded anew", "stages": {}, "seconds": 1.0}
    names = ["odd lr=1 seed 2", "online"]
    assert [part.group for part in shares([{**cell, "arm": name} for name in names])] == [f"runs: {n}" for n in names]
    assert [part.group for part in shares([cell])] == ["runs: worded anew"]


def test_every_kind_of_cell_has_its_part():
    parts = {kind: shares([{"kind": kind, "label": "x", "stages": {}, "seconds": 1.0}])[0].group for kind in RECIPES}
    runs = {kind for kind, part in parts.items() if part.startswith("runs: ")}
    assert runs == {"run", "merge", "adopted", "tabular run"}


def test_the_four_numbers_of_the_golden_model_are_shown():
    made = record(Made(), "name")
    names = set(measured(made, "golden"))
    assert {"held-out initial pairs", "probe: own prompt over another", "probe: human line over sample"} <= names
    assert {f"probe: sample over {n}" for n in ("repetition", "fixed line", "empty")} <= names
    assert len(quality_grid(made).rows) == len(names) + len(measured(made, "proxy"))


def test_what_was_left_out_is_counted():
    text = str(data_grids(record(Made(), "name")["data"]))
    for wanted in ("no body", "23,017", "human line longer than 24 tokens", "2,080", "pandas", "12 ties"):
        assert wanted in text
    people = str(data_grids(record(Made(hidden=False), "name")["data"]))
    assert "chosen/rejected" in people


def test_every_file_of_every_cell_has_its_digest():
    made = cells(Made())
    grid = cell_grid(made)
    assert len(grid.rows) == len(made)
    assert all("abababababababab  model/weights.safetensors" in row[2] for row in grid.rows)


def test_json_has_no_nan_and_keeps_keys():
    mean = dataclasses.replace(found(0.1, 0.0, 0.2), se=math.nan)
    plain = json_data(
        {("held_out", "hidden"): Curve(np.array([1.0, math.inf]), (mean,), Band(np.zeros(1), np.ones(1)), mean)}
    )
    assert plain["held_out/hidden"]["budgets"] == [1.0, None]
    assert plain["held_out/hidden"]["mean"]["se"] is None
    assert plain["held_out/hidden"]["mean"]["estimate"] == 0.1


def test_arms_differ_in_more_than_colour():
    looks = list(styles([f"arm {i}" for i in range(12)]).values())
    assert len({(look.colour, look.marker) for look in looks}) == 12
    assert len({look.marker for look in looks[:6]}) == len({look.colour for look in looks[:6]}) == 6
    assert len({str(look.line) for look in looks[:4]}) == 4


@given(st.text(min_size=1))
def test_names_in_figures_are_short_and_never_dropped(name):
    assert len(shown(name)) <= 33
    assert not shown(name).startswith("_")


def test_the_same_figure_has_the_same_bytes():
    def drawn():
        with canvas(2.0, 1.0) as figure:
            figure.subplots().set_title("$x_1 = \\frac{$ 中")  # broken mathematics and a missing glyph
            return png(figure, 40)

    assert drawn() == drawn()


def test_a_column_in_which_no_row_has_anything_is_left_out():
    grid = Grid("t", ("arm", "peak", "reason"), (("a", "–", "none"), ("b", "–", "–")), "note").filled
    assert (grid.header, grid.rows, grid.note) == (("arm", "reason"), (("a", "none"), ("b", "–")), "note")
    assert Grid("t", ("arm", "peak"), ()).filled.header == ("arm", "peak")


def poor(role, **found):
    """The record of a study of which one model was measured to be so."""
    made = record(Made(), "study")
    return {**made, role: {**made[role], "test": {**made[role]["test"], **found}}}


CHANCE = {"accuracy": 0.49, "low": 0.447, "high": 0.533}


def test_a_judge_that_can_judge_is_not_doubted():
    assert doubts(record(Made(), "study")) == []
    assert doubts(poor("proxy", low=0.501, flips=0.24)) == []


@pytest.mark.parametrize(
    ("role", "found", "words"),
    [
        ("golden", CHANCE, ("every golden win rate", "0.490 [0.447, 0.533]", "512 held-out", "not told from chance")),
        ("proxy", CHANCE, ("what online arms learn", "the proxy model", "0.490 [0.447, 0.533]")),
        ("golden", {"flips": 0.36}, ("the golden model: 36% of its verdicts flip",)),
        ("golden", {"accuracy": 0.3, "low": 0.26, "high": 0.34}, ("worse than chance",)),
        ("proxy", {**CHANCE, "flips": 0.36}, ("0.490", "and 36% of its verdicts")),
    ],
)
def test_a_judge_at_chance_is_said_with_its_numbers(role, found, words):
    (sentence,) = doubts(poor(role, **found))
    assert sentence.startswith("Warning: ")
    for word in words:
        assert word in sentence


def test_the_proxy_of_a_variant_is_doubted_too():
    made = record(Made(), "study")
    found = doubts({**made, "variants": {"proxy (few)": {"test": {**judged(0.49), "flips": 0.1}}}})
    assert ["the proxy (few) model" in sentence for sentence in found] == [True]


def test_the_golden_judge_of_a_variant_is_doubted_unless_it_is_a_rule():
    made = record(Made(), "study")
    at_chance = {"test": {**judged(0.49), "flips": 0.1}}
    (sentence,) = doubts({**made, "variants": {"golden (other)": at_chance}})
    assert "every golden win rate of its variant rests on a poor judge, the golden (other) model" in sentence
    assert doubts({**made, "variants": {"golden (other)": {**at_chance, "rule": LENGTH}}}) == []


LENGTH = {"reward": "length", "noise": 0, "scale": 4.0}


def test_a_rule_is_said_once_with_all_judges_that_are_it():
    rule = {"rule": LENGTH, "meaning": "a line of 2 words", "prompts with several lines": 0}
    noisy = {**rule, "rule": {**LENGTH, "noise": 0.5}}
    variants = {"golden (short)": rule, "proxy (short, few)": noisy, "proxy (short, many)": noisy}
    alone, several = rules_said({**record(Made(), "study"), "variants": variants})
    assert alone.startswith(
        "The golden (short) judge is a rule and was not trained: it rewards a line of 2 words; of two"
    )
    assert several.startswith(
        "The judges proxy (short, few) and proxy (short, many) are one and the same rule, which was not trained: it "
        "rewards a line of 2 words, each score with an error of standard deviation 0.5 that stays; of two"
    )
    assert "hidden measure" not in alone + several
    similar = {**rule, "rule": {**LENGTH, "reward": "similarity"}}
    (said,) = rules_said({**record(Made(), "study"), "variants": {"golden (short)": similar}})
    assert said.endswith("so that golden is exploited cannot be seen.")


def test_a_poor_judge_is_said_in_the_terminal_and_in_the_answer(tmp_path):
    folder = make_study(tmp_path / "study")
    path = folder / "record.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "golden": poor("golden", **CHANCE)["golden"]}))
    found = analyse(folder)
    out = io.StringIO()
    Console(file=out, width=400).print(terminal_table(found))
    (sentence,) = doubts(found.contents.record)
    assert sentence in out.getvalue()
    page = write_report(folder, found, resolution=30).read_text()
    answer = html.unescape(page[page.index('id="answer"') : page.index("<nav")])
    assert sentence in answer
