"""mIoU by class and by image, by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest

from diffground.metrics.class_masks import ClassMasks


def mask(*cells: int) -> np.ndarray:
    """2 x 5 pixels, of which some are in it."""
    flat = np.zeros(10, bool)
    flat[list(cells)] = True
    return flat.reshape(2, 5)


def test_both_mious_by_hand() -> None:
    scores = ClassMasks()
    # cat: 2 of 4, dog: 1 of 1; the image's mean is 0.75
    scores.update(
        ["cat", "dog"],
        np.array([mask(0, 1, 2), mask(9)]),
        np.array([mask(1, 2, 3), mask(9)]),
    )
    # cat again: 0 of 6; the image's mean is 0
    scores.update(["cat"], np.array([mask(0, 1, 2)]), np.array([mask(5, 6, 7)]))
    found = scores.result()
    assert found["image"] == pytest.approx(100 * (0.75 + 0) / 2)
    assert found["iou"] == {"cat": pytest.approx(100 * 2 / 10), "dog": pytest.approx(100)}
    assert found["class"] == pytest.approx(100 * (0.2 + 1) / 2)
    assert (found["images"], found["masks"]) == (2, 3)
    json.dumps(found, allow_nan=False)


def test_absent_classes_are_counted_by_themselves() -> None:
    scores = ClassMasks()
    truth = np.array([mask(0), mask(), mask()])
    scores.update(["cat", "dog", "cow"], np.array([mask(0), mask(1, 2), mask()]), truth)
    found = scores.result()
    assert found["class"] == found["image"] == 100  # the cat alone
    assert found["absent"] == {"asked": 2, "found": 50.0, "area": pytest.approx(10.0)}
    only = ClassMasks()
    only.update(["dog"], np.array([mask()]), np.array([mask()]))
    assert only.result()["class"] is only.result()["image"] is None
    assert only.result()["absent"] == {"asked": 1, "found": 0.0, "area": 0.0}


def test_nothing_measured_is_nothing() -> None:
    found = ClassMasks().result()
    assert (found["class"], found["image"], found["iou"]) == (None, None, {})
