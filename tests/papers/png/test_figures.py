"""Figure 6 and the overlays of an evaluation say whose pictures they are."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_png
from recipes import recipe

from diffground.papers.png import figures
from diffground.papers.png.keys import PngConfig
from diffground.reporting.overlays import Comparison


@pytest.mark.parametrize(
    ("scale", "words"), [("mini", "Mini world: predictions"), ("paper", "The paper's scale: pred")]
)
def test_the_scale_stands_above_and_the_yardstick_below(monkeypatch, scale, words):
    lines = {}

    def sheet(*arguments, heading, footnote):
        lines.update(heading=heading, footnote=footnote)
        return np.zeros((1, 1, 3), np.uint8)

    monkeypatch.setattr("diffground.reporting.overlays.sheet", sheet)
    masks = np.ones((1, 8, 8), bool)
    panels = {"ground truth": masks, "prediction": masks}
    row = Comparison(np.zeros((8, 8, 3), np.uint8), "A bear.", [(2, 6)], panels)
    config = {
        "scale": scale,
        "precision": "float32",
        "data": {"image_size": 64},
        "model": tiny_png.MODEL,
    }
    train = {"max_steps": 1, "batch_size": 1, "learning_rate": 1.0}
    figures.compared([row], recipe(PngConfig, **(config | {"train": train})))
    assert lines["heading"].startswith(words)
    assert lines["footnote"].endswith("Numbers: IoU, protocol original.")
