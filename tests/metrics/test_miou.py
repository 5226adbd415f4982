"""The papers' scores by hand, against the public formula written out, and merged."""

import json

import numpy as np
import pytest

from diffground.metrics.miou import Confusion

CLASSES = ("background", "cat", "dog", "cow", "hen")


def images(seed: int, count: int):
    """Predictions and truths with unsure pixels, one class predicted that is nowhere true."""
    rng = np.random.default_rng(seed)
    truths = [rng.integers(0, 1 + n % 4, (6, 7)).astype(np.uint8) for n in range(count)]
    for truth in truths:
        truth[rng.random(truth.shape) < 0.2] = 255
    return [(rng.integers(0, 5, (6, 7)).astype(np.uint8), truth) for truth in truths]


def test_by_hand():
    confusion = Confusion(CLASSES)
    truth = np.array([[0, 0, 0, 1, 1, 255]], np.uint8)
    confusion.update(np.array([[0, 0, 2, 1, 0, 4]], np.uint8), truth)
    result = confusion.result()
    # background 2 of 3 + 1, cat 1 of 2; the dog is predicted but nowhere true: left out
    assert result["miou"] == pytest.approx(100 * (2 / 4 + 1 / 2) / 2)
    assert result["iou"] == {"background": 50, "cat": 50, "dog": None, "cow": None, "hen": None}
    assert result["pixel_accuracy"] == pytest.approx(60)
    assert result["mean_accuracy"] == pytest.approx(100 * (2 / 3 + 1 / 2) / 2)
    assert result["fwiou"] == pytest.approx(50)
    assert result["images"] == 1 and set(result["by_classes"]) == {"1"}
    assert json.loads(json.dumps(result)) == result


@pytest.mark.parametrize("seed", range(4))
def test_against_the_formula_on_all_pixels(seed):
    pairs = images(seed, 9)
    confusion = Confusion(CLASSES)
    for prediction, truth in pairs:
        confusion.update(prediction, truth)
    predicted, true = (np.concatenate([pair[i].ravel() for pair in pairs]) for i in (0, 1))
    known = true != 255
    hist = np.zeros((5, 5))
    np.add.at(hist, (true[known], predicted[known]), 1)
    present = hist.sum(1) > 0
    iou = np.diag(hist) / (hist.sum(1) + hist.sum(0) - np.diag(hist))
    result = confusion.result()
    assert not present[4] and iou[4] == 0  # the case where the conventions differ
    assert result["miou"] == pytest.approx(100 * np.nanmean(iou[present]))
    assert result["pixel_accuracy"] == pytest.approx(100 * np.diag(hist).sum() / hist.sum())
    accuracy = np.diag(hist)[present] / hist.sum(1)[present]
    assert result["mean_accuracy"] == pytest.approx(100 * accuracy.mean())
    share = hist.sum(1)[present] / hist.sum()
    assert result["fwiou"] == pytest.approx(100 * (share * iou[present]).sum())


def test_buckets_are_the_images_with_so_many_classes():
    pairs = images(0, 12)
    confusion = Confusion(CLASSES)
    for prediction, truth in pairs:
        confusion.update(prediction, truth)
    result = confusion.result()
    assert sum(bucket["images"] for bucket in result["by_classes"].values()) == 12
    for name, bucket in result["by_classes"].items():
        alone = Confusion(CLASSES)
        for prediction, truth in pairs:
            if len(set(truth.ravel().tolist()) - {0, 255}) == int(name):
                alone.update(prediction, truth)
        assert bucket["miou"] == pytest.approx(alone.result()["miou"])
        assert bucket["images"] == alone.result()["images"]


def test_merging_is_the_whole():
    pairs = images(1, 10)
    whole, left, right = Confusion(CLASSES), Confusion(CLASSES), Confusion(CLASSES)
    for number, pair in enumerate(pairs):
        whole.update(*pair)
        (left if number % 3 else right).update(*pair)
    left.merge(right)
    assert left.result() == whole.result()
    with pytest.raises(ValueError, match="differ"):
        left.merge(Confusion(CLASSES[:3]))


def test_refusals():
    truth, half = np.array([[1, 1]], np.uint8), np.array([[1, 255]], np.uint8)
    confusion = Confusion(CLASSES)
    with pytest.raises(ValueError, match="predicted label 255"):
        confusion.update(half, truth)
    with pytest.raises(ValueError, match="target label 5"):
        confusion.update(truth, np.full((1, 2), 5, np.uint8))
    with pytest.raises(ValueError, match="shapes differ"):
        confusion.update(half, truth.T)
    empty = confusion.result()
    assert empty["miou"] is None and empty["images"] == 0 and empty["by_classes"] == {}
