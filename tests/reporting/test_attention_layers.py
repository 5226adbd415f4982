"""Figure 5: each pixel in the colour of the phrase that it attends to most."""

import numpy as np
import pytest

from diffground.reporting.attention_layers import LayerRow, attended, attention_layers
from diffground.reporting.overlays import palette
from diffground.reporting.sheet import MARGIN

CAPTION = "A bear near the tree."
SPANS = [(2, 6), (16, 20)]
SIDE, PANEL = 128, 256


def scores(grid):
    """Scores (2, h, w) with which each cell attends to the phrase that ``grid`` names."""
    grid = np.array(grid)
    return np.stack([np.where(grid == phrase, 1.5, -3.0) for phrase in range(2)])


def row(**changes):
    truth = np.zeros((2, SIDE, SIDE), bool)
    truth[0, :, :64] = True
    given = {
        "image": np.full((SIDE, SIDE, 3), 128, np.uint8),
        "caption": CAPTION,
        "spans": SPANS,
        "layers": [("L = 1, 2 x 2", scores([[0, 1], [1, 1]])), ("L = 2, 1 x 2", scores([[1, 0]]))],
        "truth": truth,
    }
    return LayerRow(**{**given, **changes})


def panels(page, columns):
    """The panels of a page with one row, which ends with them and a margin."""
    top = page.shape[0] - MARGIN - PANEL
    lefts = [MARGIN + column * (PANEL + MARGIN) for column in range(columns)]
    return [page[top : top + PANEL, left : left + PANEL].astype(int) for left in lefts]


def nearest(pixel):
    """The phrase whose colour tints a pixel of the grey image; None if it is grey."""
    if np.ptp(pixel) == 0:
        return None
    return int(np.argmin([np.abs(pixel - np.array(colour)).sum() for colour in palette(2)]))


def test_each_pixel_has_the_colour_of_the_phrase_it_attends_to():
    page = attention_layers([row()], scale="mini", panel=PANEL)
    assert page.dtype == np.uint8 and page.shape[1] == 4 * PANEL + 5 * MARGIN
    image, first, second, truth = panels(page, 4)
    assert (image == 128).all()
    corners = [(64, 64), (64, 192), (192, 64), (192, 192)]
    assert [nearest(first[at]) for at in corners] == [0, 1, 1, 1]
    assert [nearest(second[at]) for at in corners] == [1, 0, 1, 0]
    assert [nearest(truth[at]) for at in corners] == [0, None, 0, None]
    # cells end where they end: nothing is smoothed
    assert nearest(first[64, 127]) == 0 and nearest(first[64, 128]) == 1


def test_the_caption_stands_above_in_the_same_colours():
    page = attention_layers([row()], scale="mini", panel=PANEL)
    above = page[: page.shape[0] - MARGIN - PANEL].reshape(-1, 3)
    for colour in palette(2):
        assert (above == colour).all(1).sum() > 20
    two = attention_layers([row(), row()], scale="mini", panel=PANEL)
    assert two.shape[0] > page.shape[0] + PANEL


def test_the_scale_is_said():
    mini, paper = (attention_layers([row()], scale=scale) for scale in ("mini", "paper"))
    rows = min(len(mini), len(paper))
    changed = (mini[:rows] != paper[:rows]).any((1, 2)).nonzero()[0]
    assert changed.size and changed[0] < 3 * MARGIN, "in the first line"


def test_softmax_over_phrases_keeps_the_winner():
    random = np.random.default_rng(0).normal(size=(5, 4, 6))
    softmax = np.exp(random) / np.exp(random).sum(0)
    masks = attended(random, (8, 12))
    assert masks.dtype == bool and masks.shape == (5, 8, 12) and (masks.sum(0) == 1).all()
    expected = softmax.argmax(0).repeat(2, axis=0).repeat(2, axis=1)
    np.testing.assert_array_equal(masks.argmax(0), expected)
    assert (attended(np.zeros((300, 2, 2)), (3, 3))[0]).all()  # the first of equals


def test_without_a_truth_there_is_no_column_for_it():
    page = attention_layers([row(truth=None)], scale="mini", panel=PANEL)
    assert page.shape[1] == 3 * PANEL + 4 * MARGIN


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no narrative"),
        ([row(), row(truth=None)], "not all rows"),
        ([row(), row(layers=row().layers[:1])], "not all rows"),
        ([row(layers=[("L = 1", np.zeros((3, 2, 2)))])], "L = 1: scores .* for 2 phrases"),
        ([row(layers=[("L = 1", np.full((2, 2, 2), np.nan))])], "not finite"),
        ([row(truth=np.zeros((2, 4, 4), bool))], "truth"),
    ],
)
def test_what_does_not_fit_is_refused(rows, message):
    with pytest.raises(ValueError, match=message):
        attention_layers(rows, scale="mini")
