"""Features of regions: the mean of a grid of features over each of several masks.

``N`` masks · ``C`` channels · ``h, w`` the grid · ``H, W`` pixels of the image
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional


def coverage(masks: NDArray[np.bool_], size: tuple[int, int]) -> Tensor:
    """How much of each cell of an (h, w) grid over the image each mask (N, H, W) fills: in [0, 1].

    Float (N, h, w): the mean over the pixels under a cell, so that none is lost.
    """
    pixels = torch.from_numpy(np.ascontiguousarray(masks)).float()
    return functional.adaptive_avg_pool2d(pixels[:, None], size)[:, 0]


def pooled(features: Tensor, masks: NDArray[np.bool_]) -> Tensor:
    """The mean feature (N, C) of each mask (N, H, W), cells weighted by how much of them it fills.

    ``features`` (C, h, w) lie over the whole image. An empty mask has zeros.
    """
    weights = coverage(masks, (features.shape[-2], features.shape[-1])).to(features).flatten(1)
    total = weights.sum(1, keepdim=True)
    return (weights @ features.flatten(1).T) / total.clamp_min(1e-8)
