"""The paper's figure beside a study's: drawn from the paper's dots, saying what has no counterpart."""

import io

import numpy as np
import pytest
from matplotlib.image import imread

from goodhart.errors import GoodhartError
from goodhart.paper.points import series
from goodhart.report import paper_figure, theme
from goodhart.report.findings import analyse
from goodhart.report.paper_figure import paper_picture
from synthetic_study import Made, make_study

BOTH = {"online": "online", "offline": "offline"}
WITH_SHUFFLED = {**BOTH, "offline_Donline_shuffled": "shuffled"}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    made = Made(prompts=12, train_prompts=4, pairs=8, steps=(20, 40))
    return analyse(make_study(tmp_path_factory.mktemp("study") / "small", made))


@pytest.mark.parametrize("panels", [("summ",), ("summ", "help", "arena")])
def test_it_renders_every_panel_with_the_papers_dots_and_our_checkpoints(found, monkeypatch, panels):
    real, figures = theme.png, []
    monkeypatch.setattr(theme, "png", lambda figure, resolution: figures.append(figure) or real(figure, resolution))
    picture = paper_picture(found, "fig1", panels, BOTH, resolution=40)
    assert imread(io.BytesIO(picture.drawing.png))[..., :3].std() > 0.01
    axes = figures[0].get_axes()
    assert [a.get_title(loc="left") for a in axes[:-1]] == [paper_figure.TASKS[panel] for panel in panels]
    for panel, drawn in zip(panels, axes, strict=False):
        for name, line in zip(BOTH, drawn.get_lines(), strict=True):
            dots = series("fig1", panel, name)
            np.testing.assert_allclose(line.get_xydata(), np.stack([np.exp(dots.x), dots.y], axis=1))
    runs = [line for line in axes[-1].get_lines() if len(line.get_xdata()) == 2 and line.get_marker() in ("o", "s")]
    assert len(runs) == 2 * 2 * 2  # arms, settings, seeds: each run has its two checkpoints joined
    assert axes[-1].get_ylim() != axes[0].get_ylim()


def test_the_legend_explains_the_fillings_and_is_not_cut_off(found, monkeypatch):
    real, figures = theme.png, []
    monkeypatch.setattr(theme, "png", lambda figure, resolution: figures.append(figure) or real(figure, resolution))
    scaled = {"online_XL": "online", "tandem_XL": "an arm of a name that is long", "offline_XL": "offline"}
    for figure, matched in (("fig1", BOTH), ("fig10", scaled)):
        paper_picture(found, figure, ("summ",), matched, resolution=40)
        (legend,) = figures[-1].legends
        names = [text.get_text() for text in legend.get_texts()]
        assert {"beta=0.1 lr=0.0002 (right)", "beta=0.03 lr=0.0002 (right)", "golden policy (right)"} <= set(names)
        box = legend.get_window_extent()
        assert 0 <= box.x0 < box.x1 <= figures[-1].bbox.width


def test_the_caption_says_where_the_dots_are_from_and_what_cannot_be_compared(found):
    picture = paper_picture(found, "fig1", ("summ",), BOTH, resolution=40)
    assert (picture.name, picture.title) == ("paper-fig1", "Beside the paper's Figure 1")
    for wanted in ("arXiv 2405.08448", "read off its figure", "±0.003", "neither KL nor win rate can be compared"):
        assert wanted in picture.caption
    assert "Missing" not in picture.caption
    assert "not drawn" not in picture.caption


def test_arms_that_one_side_lacks_are_said(found):
    picture = paper_picture(found, "fig4", ("help", "harm"), WITH_SHUFFLED, resolution=40)
    assert "Missing on the right: “offline, shuffled online stream”" in picture.caption
    assert "no arm “shuffled”" in picture.caption
    part = paper_picture(found, "fig4", ("help",), {"online": "online"}, resolution=40).caption
    assert "Of the paper's figure not drawn: “offline, shuffled online stream” and “offline”." in part
    assert "Of this study not drawn: “offline”." in part


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        (("fig4", ("help",), {"online": "online", "offline": "online"}), "'online' is matched with two"),
        (("fig4", ("help",), {"ppo": "online"}), "ppo"),
        (("fig4", ("chess",), BOTH), "chess"),
        (("fig7", ("help",), BOTH), "not log KL"),
    ],
)
def test_what_cannot_be_drawn_is_a_fault(found, asked, named):
    with pytest.raises(GoodhartError, match=named):
        paper_picture(found, *asked, resolution=40)
