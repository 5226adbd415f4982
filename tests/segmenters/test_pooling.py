"""Means of features over masks."""

from __future__ import annotations

import numpy as np
import torch

from diffground.segmenters.pooling import coverage, pooled


def test_a_cell_counts_by_how_much_of_it_is_in_the_mask() -> None:
    masks = np.zeros((2, 4, 8), bool)
    masks[0, :2, :2] = True  # the first cell of a 2 x 4 grid
    masks[0, 0, 2] = True  # and a quarter of the second
    assert torch.equal(coverage(masks, (2, 4))[0], torch.tensor([[1, 0.25, 0, 0], [0, 0, 0, 0]]))
    features = torch.arange(16.0).view(2, 2, 4)
    found = pooled(features, masks)
    torch.testing.assert_close(found[0], torch.tensor([0.2, 8.2]))  # (1·0 + ¼·1) / 1¼
    assert torch.equal(found[1], torch.zeros(2)), "an empty mask has no features"


def test_no_pixel_is_lost_where_cells_do_not_divide_the_image() -> None:
    masks = np.zeros((1, 7, 10), bool)
    masks[0, 6, 9] = True
    assert coverage(masks, (2, 3)).sum() > 0
    everything = np.ones((1, 7, 10), bool)
    assert torch.equal(coverage(everything, (2, 3)), torch.ones(1, 2, 3))
