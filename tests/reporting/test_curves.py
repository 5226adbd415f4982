"""Figures hold the numbers they were given."""

import numpy as np
import pytest
from matplotlib import pyplot

from diffground.metrics.average_recall import AverageRecall
from diffground.reporting.curves import figure_pixels, recall_curves, training_curve

THRESHOLDS = np.linspace(0, 1, 101)


def recall(seed, plurals=True):
    """An AverageRecall of random phrases."""
    rng = np.random.default_rng(seed)
    result = AverageRecall("ppmn")
    for index in range(50):
        plural = plurals and index % 5 == 0
        result.update((0, index), rng.random(), thing=index % 2 == 0, plural=plural)
    return result


def test_recall_curves_follow_the_papers_panels():
    models = {"baseline": recall(0), "full": recall(1)}
    figure = recall_curves(models, "mini")
    overall, things, plurals = figure.axes
    assert [len(axis.get_lines()) for axis in figure.axes] == [2, 4, 4]
    line = overall.get_lines()[1]
    np.testing.assert_allclose(line.get_ydata(), models["full"].curve(THRESHOLDS)["overall"])
    assert line.get_label() == f"full: {models['full'].result()['overall']:.1f}"
    labels = [line.get_label().split(":")[0] for line in plurals.get_lines()]
    groups = ("singulars", "plurals")
    assert labels == [f"{name}, {group}" for group in groups for name in models]
    assert "ppmn" in figure.get_suptitle() and "mini world" in figure.get_suptitle()


def test_held_out_nouns_have_a_panel_of_their_own():
    held = AverageRecall()
    for index in range(8):
        held.update((0, index), index / 8, thing=True, plural=False, held_out=index < 3)
    *_, nouns = recall_curves({"m": held}, "mini").axes
    assert [line.get_label() for line in nouns.get_lines()] == [
        f"m, seen nouns: {100 * 25 / 40:.1f}",
        f"m, held-out nouns: {100 * 3 / 24:.1f}",
    ]


def test_a_group_without_a_phrase_has_no_line():
    figure = recall_curves({"m": recall(0, plurals=False)}, "paper")
    assert [len(axis.get_lines()) for axis in figure.axes] == [1, 2, 1]


def test_training_curve_smooths_without_bias():
    series = [(step, 2.0 + (-1) ** step) for step in range(400)]
    figure = training_curve({"loss": series}, title="run")
    raw, smooth = figure.axes[0].get_lines()
    assert np.ptp(raw.get_ydata()) == 2 and len(smooth.get_ydata()) == 400
    assert np.abs(smooth.get_ydata()[20:-20] - 2).max() < 0.1
    rising = training_curve({"loss": [(s, 1.0 + s) for s in range(400)]}).axes[0].get_lines()[1]
    np.testing.assert_allclose(rising.get_ydata(), 1.0 + np.arange(400))  # a line stays a line


@pytest.mark.parametrize(("values", "scale"), [([1.0, 0.1], "log"), ([1.0, -0.1], "linear"),
                                              ([], "linear")])  # fmt: skip
def test_the_loss_axis_is_logarithmic_where_it_can_be(values, scale):
    figure = training_curve({"loss": list(enumerate(values))})
    assert figure.axes[0].get_yscale() == scale
    figure_pixels(figure, dpi=40)


def test_figures_are_drawn_alike_and_leave_no_global_state():
    def draw():
        return figure_pixels(recall_curves({"m": recall(0)}, "mini"), dpi=50)

    first, second = draw(), draw()
    assert (first == second).all() and first.shape[1] == 650
    assert pyplot.get_fignums() == []
