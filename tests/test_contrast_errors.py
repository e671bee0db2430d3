"""The standard errors of contrasts that have formulas of their own, worked by hand on a few numbers."""

import numpy as np
import pyarrow as pa
import pytest

from goodhart.analysis.contrasts import estimate
from goodhart.analysis.crossfit import Draws
from goodhart.analysis.study_tables import Tables
from made_rows import TWO, noiseless, row, rows_of
from test_contrasts import classified, contrast, streamed, tables_of


def stream_interval(proxy, online):
    answers = {"proxy": proxy, "online": online}
    tables = tables_of(noiseless(TWO), streams=streamed(answers))
    return estimate(tables, contrast("stream accuracy", "proxy", "online", stream="online"))


def test_the_error_along_a_stream_is_that_of_its_prompts_where_seeds_agree():
    """Differences (.5, 0, 1) and (0, -.5, 1): variance 11/30 over 6, more than (1/3)^2 / 2 over 2 between the seeds.

    That two seeds agree is no evidence that seeds do: they leave one degree of freedom, whatever they show.
    """
    found = stream_interval([[1, 1, 1, 0], [1, 0.5, 1, 1]], [[0, 1, 0, 0], [1, 1, 0, 1]])
    assert found.interval.se == pytest.approx(np.sqrt(11 / 180))
    assert (found.interval.freedom, found.interval.seeds, found.interval.prompts) == (1.0, 2, 6)
    assert found.over == "6 pairs along the stream"


def test_the_error_along_a_stream_is_that_between_the_seeds_where_they_differ_more():
    """Differences (1, 1, 1), (0, 0, 0), (-1, 0, -2): means 1, 0, -1 have variance 1, over 3; all have 1, over 9."""
    found = stream_interval([[1, 1, 1], [0, 0, 0], [0, 0, 0]], [[0, 0, 0], [0, 0, 0], [1, 0, 2]]).interval
    assert found.estimate == 0.0
    assert found.se == pytest.approx(np.sqrt(1 / 3))
    assert (found.freedom, found.seeds, found.prompts) == (2.0, 3, 9)


def test_one_seed_along_a_stream_has_the_error_of_its_prompts():
    """Differences (1, 0, -1): variance 1, over 3."""
    found = stream_interval([[1, 0, 0]], [[0, 0, 1]]).interval
    assert (found.se, found.freedom, found.seeds) == (pytest.approx(np.sqrt(1 / 3)), 2.0, 1)


def test_two_prompts_are_enough_for_an_error_along_a_stream_and_one_is_not():
    found = stream_interval([[1, 0]], [[0, 0]]).interval
    assert (found.estimate, found.se) == (0.5, pytest.approx(0.5))
    assert stream_interval([[1]], [[0]]).interval is None


def test_prompts_that_differ_make_the_best_possible_uncertain():
    """One checkpoint, two seeds alike: the mean of 4 drawn of (0, .2, .6, 1) over .5, its variance doubled (S/(S-1)).

    The values' variance about their mean of .45 is .1475, over 4 prompts; the bootstrap's is the same.
    """
    values = (0.0, 0.2, 0.6, 1.0)
    rows = [row("sft", None, 0, 0, p, 0.0, 0.4) for p in range(4)]
    for seed in (0, 1):
        rows += [row("online", 0.1, seed, 1, p, 1.0, value) for p, value in enumerate(values)]
        rows += [row("offline", 0.1, seed, 1, p, 1.0, 0.5) for p in range(4)]
    found = estimate(tables_of(rows_of(rows), resamples=4000), contrast("best possible"))
    assert found.interval.estimate == pytest.approx(0.45 / 0.5 - 1)
    assert found.interval.se == pytest.approx(np.sqrt(2 * 0.1475 / 4) / 0.5, rel=0.03)
    assert (found.interval.freedom, found.interval.seeds, found.interval.prompts) == (1.0, 2, 4)
    assert found.over == "90% quantile over checkpoints"


def test_the_best_possible_of_one_seed_is_not_told():
    found = estimate(tables_of(noiseless(TWO, seeds=(3,))), contrast("best possible"))
    assert found.interval is None
    assert "two seeds" in found.over


def test_one_prompt_in_common_is_no_number():
    found = estimate(tables_of(noiseless(TWO, prompts=1)), contrast("peak"))
    assert (found.interval, found.over) == (None, "nothing is measured in common")
    assert estimate(tables_of(noiseless(TWO, prompts=2)), contrast("peak")).interval.prompts == 2


def test_accuracy_is_over_the_seeds_that_both_arms_have():
    margins = {"online": [[2.0, -1.0, 3.0], [0.5, 4.0, 2.0]], "offline": [[-2.0, -1.0, 3.0], [9.0, 9.0, 9.0]]}
    pairs = classified("train", margins)
    for arm in ("offline", "online"):
        # seed 1 is left to the other arm alone
        left = [r for r in pairs.to_pylist() if not (r["arm"] == arm and r["seed"] == 1)]
        tables = tables_of(noiseless(TWO), pairs=pa.Table.from_pylist(left, schema=pairs.schema))
        found = estimate(tables, contrast("winner shift", split="train")).interval
        assert (found.estimate, found.seeds) == (pytest.approx(4 / 3), 1), arm


def test_pairs_of_one_prompt_in_common_are_too_few():
    pairs = classified("train", {"online": [[2.0, -1.0, 3.0]] * 2, "offline": [[-2.0, -1.0, 3.0]] * 2})
    for kept, prompts in ((("q0",), None), (("q0", "q1"), 2)):
        left = pa.Table.from_pylist([r for r in pairs.to_pylist() if r["prompt"] in kept], schema=pairs.schema)
        found = estimate(tables_of(noiseless(TWO), pairs=left), contrast("winner shift", split="train"))
        assert (found.interval and found.interval.prompts) == prompts


def test_the_error_of_the_best_possible_is_that_of_its_replicates_alone(monkeypatch):
    """Two replicates have drawn the first prompt 4 times, and the last: ratios less 1 -1 and 1, variance 2, doubled."""
    rows = [row("sft", None, 0, 0, p, 0.0, 0.4) for p in range(4)]
    for seed in (0, 1):
        rows += [row("online", 0.1, seed, 1, p, 1.0, value) for p, value in enumerate((0.0, 0.2, 0.6, 1.0))]
        rows += [row("offline", 0.1, seed, 1, p, 1.0, 0.5) for p in range(4)]
    drawn = Draws(np.arange(4), np.array([[4.0, 0, 0, 0], [0, 0, 0, 4.0]]), np.zeros((2, 2, 2)))
    monkeypatch.setattr(Tables, "draws", lambda tables, found: drawn)
    found = estimate(tables_of(rows_of(rows)), contrast("best possible")).interval
    assert (found.estimate, found.se) == pytest.approx((-0.1, 2.0))


def test_two_seeds_along_a_stream_that_contradict_each_other():
    """Means of 1 and -1 have variance 2, over 2; all six have 6/5, over 6."""
    found = stream_interval([[1, 1, 1], [0, 0, 0]], [[0, 0, 0], [1, 1, 1]]).interval
    assert (found.estimate, found.se, found.freedom) == (0.0, pytest.approx(1.0), 1.0)


def test_what_was_not_trained_is_no_arm_to_classify_by():
    pairs = classified("train", {"online": [[2.0, -1.0, 3.0]] * 2, "offline": [[-2.0, -1.0, 3.0]] * 2})
    start = [{**r, "arm": "start", "step": 0} for r in pairs.to_pylist() if r["arm"] == "online"]
    tables = tables_of(noiseless(TWO), pairs=pa.Table.from_pylist(pairs.to_pylist() + start, schema=pairs.schema))
    assert estimate(tables, contrast("winner shift", "online", "start", split="train")).interval is None
    assert estimate(tables, contrast("winner shift", "online", "offline", split="train")).interval is not None


def test_an_arm_that_wins_so_rarely_that_a_replicate_has_none_of_it_has_no_ratio():
    rows = [row("sft", None, 0, 0, p, 0.0, 0.4) for p in range(4)]
    for seed in (0, 1):
        rows += [row("online", 0.1, seed, 1, p, 1.0, 0.5) for p in range(4)]
        rows += [row("offline", 0.1, seed, 1, p, 1.0, float(p == 0)) for p in range(4)]
    found = estimate(tables_of(rows_of(rows)), contrast("best possible"))
    assert found.interval is None
    assert "offline wins nothing" in found.over


def test_the_error_of_an_accuracy_rests_on_the_seeds_of_all_arms():
    """Shifts by seed: variances 2 and 0 of two seeds each, n = 0; a third arm of 0 makes tau^2 (2 + 0 + 0) / 3, g = 2.

    s = max(2, (2 * 2/3 + 2) / 3) and (2 * 2/3 + 0) / 3, V = (2 + 4/9) / 2; no prompt differs.
    """
    margins = {"online": [[1.0] * 3, [3.0] * 3], "offline": [[1.0] * 3] * 2, "other": [[2.0] * 3] * 2}
    arms = tuple(margins)
    found = estimate(
        tables_of(noiseless(TWO), pairs=classified("train", margins, arms)), contrast("winner shift", split="train")
    ).interval
    assert (found.estimate, found.se) == (1.0, pytest.approx(np.sqrt(11 / 9)))
    assert found.freedom == pytest.approx((22 / 9) ** 2 / ((4 + 16 / 81) / 3))
