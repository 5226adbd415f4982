"""IoU of masks, against counts written out."""

import numpy as np

from diffground.metrics.iou import mask_iou, pairwise_iou


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
