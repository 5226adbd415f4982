"""The uncertain pixels of Figure 4, and its picture."""

import numpy as np

from diffground.io.labels import colour_map
from diffground.masks.uncertainty import label_picture, uncertain


def test_paper_looks_at_the_border_between_two_labels():
    # three labels, five pixels: the best two are 0.6, 0.04, 0.06 and 0 apart; then all are low
    scores = np.array([[[0.8, 0.50, 0.50, 0.3, 0.0]], [[0.2, 0.46, 0.10, 0.3, 0.1]]])
    scores = np.concatenate([scores, [[[0.1, 0.0, 0.44, 0.2, 0.02]]]])
    assert uncertain(scores, "paper").tolist() == [[False, True, False, True, False]]
    assert not uncertain(scores[:1], "paper").any()  # nothing to be confused with


def test_official_looks_at_the_likeliest_label():
    posterior = np.array([[[0.96, 0.5, 0.05]], [[0.04, 0.5, 0.95]]], np.float32)
    assert uncertain(posterior, "official").tolist() == [[False, True, False]]


def test_uncertain_pixels_are_white():
    labels = np.array([[0, 3, 255]], np.uint8)
    assert label_picture(labels).tolist() == [[[0, 0, 0], [128, 128, 0], [255, 255, 255]]]
    assert (colour_map()[0] == 0).all()  # the table itself is as it was
