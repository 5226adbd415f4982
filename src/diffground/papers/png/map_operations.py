"""Small operations on stacks of maps ``(..., K, h, w)`` shared by the PNG modules."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor


def resize_maps(maps: Tensor, size: Sequence[int]) -> Tensor:
    """``(B, K, h, w)`` resized to ``size``: bilinear, low-passed where it shrinks."""
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    return F.interpolate(maps, size=(size[0], size[1]), mode="bilinear", antialias=True)


def open_rows(blocked: Tensor) -> Tensor:
    """A bool mask (..., N), True where not to look; a row that blocks everything blocks nothing."""
    return blocked & ~blocked.all(-1, keepdim=True)
