"""mIoU against counts written out, and its independence of how images are split."""

import numpy as np
import pytest

from diffground.metrics.iou import ConfusionMatrix, mask_iou, pairwise_iou

CLASSES = ("background", "cat", "dog", "cow")


def test_mask_iou_by_hand():
    a = np.zeros((4, 2, 4), bool)
    b = np.zeros((4, 2, 4), bool)
    a[0, 0], b[0, :, 0] = True, True  # 1 of 4 + 2 - 1
    a[1], b[1] = True, True
    a[2] = True  # nothing there
    np.testing.assert_allclose(mask_iou(a, b), [1 / 5, 1, 0, 0])  # the last: 0/0


def test_pairwise_agrees_with_mask_iou():
    rng = np.random.default_rng(0)
    a, b = rng.random((5, 9, 7)) < 0.4, rng.random((3, 9, 7)) < 0.6
    table = pairwise_iou(a, b)
    for n in range(5):
        expected = mask_iou(np.repeat(a[n : n + 1], 3, axis=0), b)
        np.testing.assert_allclose(table[n], expected)
    assert pairwise_iou(a[:0], b).shape == (0, 3)
    crowd = pairwise_iou(a, b, np.array([False, True, False]))
    np.testing.assert_allclose(crowd[:, 1], (a & b[1]).sum((1, 2)) / a.sum((1, 2)))
    np.testing.assert_allclose(crowd[:, ::2], table[:, ::2])


def test_confusion_matrix_by_hand():
    target = np.array([[0, 0, 1, 1, 255, 255]], np.uint8)
    predicted = np.array([[0, 1, 1, 2, 3, 255]], np.uint8)
    matrix = ConfusionMatrix(CLASSES)
    matrix.update(predicted, target)
    np.testing.assert_allclose(matrix.iou(), [1 / 2, 1 / 3, 0, np.nan])  # cow: ignored pixel only
    assert matrix.miou() == pytest.approx((1 / 2 + 1 / 3) / 3)
    assert matrix.pixel_accuracy() == 0.5
    result = matrix.result()
    assert result["iou/background"] == 50 and result["iou/cow"] is None


@pytest.mark.parametrize(("unsure", "iou"), [("ignore", 1.0), ("wrong", 0.5)])
def test_unsure_predictions(unsure, iou):
    target, predicted = np.array([[1, 1]], np.uint8), np.array([[1, 255]], np.uint8)
    matrix = ConfusionMatrix(CLASSES, unsure=unsure)
    matrix.update(predicted, target)
    assert matrix.iou()[1] == iou
    with pytest.raises(ValueError, match="predicted label 255"):
        ConfusionMatrix(CLASSES).update(predicted, target)


@pytest.mark.parametrize("seed", range(5))
def test_dataset_miou_is_of_all_pixels_however_they_come(seed):
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, 4, (6, 8, 9)).astype(np.uint8)
    targets[rng.random(targets.shape) < 0.2] = 255
    predicted = rng.integers(0, 4, (6, 8, 9)).astype(np.uint8)
    whole, left, right = (ConfusionMatrix(CLASSES) for _ in range(3))
    whole.update(predicted, targets)
    for n in range(6):
        (left if n % 2 else right).update(predicted[n], targets[n])
    left.merge(right)
    assert (left.counts == whole.counts).all()
    known = targets != 255
    for label in range(4):
        a, b = (predicted == label) & known, (targets == label) & known
        assert whole.iou()[label] == pytest.approx((a & b).sum() / (a | b).sum())


def test_refusals():
    matrix = ConfusionMatrix(CLASSES)
    assert matrix.miou() is None and matrix.result()["miou"] is None
    with pytest.raises(ValueError, match="target label 4"):
        matrix.update(np.zeros((1, 1), np.uint8), np.full((1, 1), 4, np.uint8))
    with pytest.raises(ValueError, match="shapes"):
        matrix.update(np.zeros((1, 2), np.uint8), np.zeros((2, 1), np.uint8))
    with pytest.raises(ValueError, match="differ"):
        matrix.merge(ConfusionMatrix(CLASSES[:2]))
