"""Figure 6 and the overlays of an evaluation say whose pictures they are."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_png

from diffground.papers.png.evaluate import Prediction
from diffground.papers.png.figures import draw_comparison


@pytest.mark.parametrize(
    ("scale", "words"), [("mini", "Mini world: predictions"), ("paper", "The paper's scale: pred")]
)
def test_the_scale_stands_above_and_the_yardstick_below(monkeypatch, scale, words):
    lines = {}

    def sheet(*arguments, heading, footnote):
        lines.update(heading=heading, footnote=footnote)
        return np.zeros((1, 1, 3), np.uint8)

    monkeypatch.setattr("diffground.reporting.overlays.sheet", sheet)
    sample = tiny_png.samples()[0]
    truth = np.ones((len(sample.phrases), *sample.size), bool)
    prob = np.ones((len(sample.phrases), 8, 8), np.float32)
    found = Prediction(sample, prob, truth, np.ones(len(sample.phrases)))
    png = tiny_png.config(scale=scale)
    draw_comparison([found], png)
    assert lines["heading"].startswith(words)
    assert lines["footnote"].endswith("Numbers: IoU, protocol original.")
    assert draw_comparison([], png).getextrema() == ((255, 255),) * 3, "nothing, on a white page"
