"""The row Mask R-CNN: a detector's instances, and what of them looks like the item."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from recipes import recipe
from scene_of_squares import BLUE, MASKS, RED, pictures, query, scene

from diffground.foundation.config import FoundationRecipe
from diffground.foundation.segmenter import build_segmenter, image_processor
from diffground.papers.personalized.baselines.config import DetectorConfig
from diffground.papers.personalized.baselines.detector import DetectorFeatures
from diffground.segmenters.instance import InstanceSegmenter


@pytest.fixture(scope="module")
def segmenter() -> InstanceSegmenter:
    """Random, so that it finds something of every kind everywhere."""
    torch.manual_seed(0)
    settings = recipe(FoundationRecipe).segmenter.model_copy(
        update={"stem": 8, "channels": (8, 8, 16, 16), "width": 32, "heads": 2, "queries": 6}
    )
    return InstanceSegmenter(build_segmenter(settings), image_processor(64), Path("random"))


def test_segments_are_instances_that_share_no_pixel(segmenter: InstanceSegmenter) -> None:
    names = {"mug": tuple(segmenter.labels.values())}
    row = DetectorFeatures(segmenter, DetectorConfig(names=names, threshold=0.0))
    asked = [query("mug01", ())]
    found = row.segments(scene(), asked, item="s", seed=0)
    raw = segmenter([scene()], threshold=0.0)[0].masks
    assert found.dtype == bool and found.shape[1:] == (64, 112) and len(found)
    assert found.sum(0).max() == 1 and found.any((1, 2)).all()
    assert np.array_equal(found.any(0), raw.any(0))
    assert np.array_equal(found[0], raw[raw.any((1, 2))][0]), "the surest keeps all of its pixels"


def test_a_scene_without_the_class(segmenter: InstanceSegmenter) -> None:
    row = DetectorFeatures(segmenter, DetectorConfig(names={"mug": ("unicorn",)}, threshold=0.0))
    asked = [query("mug01", ())]
    none = row.segments(scene(), asked, item="s", seed=0)
    assert none.shape == (0, 64, 112)
    assert row.relevance(scene(), none, asked, item="s", seed=0).shape == (1, 0)


def test_the_item_is_what_has_its_features(segmenter: InstanceSegmenter, tmp_path: Path) -> None:
    names = {"mug": tuple(segmenter.labels.values())}
    row = DetectorFeatures(segmenter, DetectorConfig(names=names, threshold=0.0))
    # Where the detector sees the item in its pictures is the detector's; here it is in the middle.
    square = np.zeros((1, 64, 64), bool)
    square[0, 20:52, 12:52] = True
    row._instances = lambda image, word: square  # type: ignore[method-assign]
    asked = [query("red", pictures(tmp_path, RED)), query("blue", pictures(tmp_path, BLUE))]
    table = row.relevance(scene(), MASKS, asked, item="s", seed=0)
    assert table.shape == (2, 2) and np.abs(table).max() <= 1 + 1e-6
    assert table.argmax(1).tolist() == [0, 1]


def test_an_item_that_is_never_found_is_like_nothing(
    segmenter: InstanceSegmenter, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    row = DetectorFeatures(segmenter, DetectorConfig(names={"mug": ("unicorn",)}))
    asked = [query("red", pictures(tmp_path, RED))]
    with caplog.at_level(logging.WARNING):
        table = row.relevance(scene(), MASKS, asked, item="s", seed=0)
    assert not table.any()
    assert "the detector finds no mug in" in caplog.text
